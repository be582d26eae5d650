"""Arguments: the same defaults however a run starts, and YAML in which values are what was written."""

import dataclasses
import json
import runpy
import sys

import pytest
import yaml
from conftest import ROOT, write_csv

import hf_transfer.finetuning
from hf_transfer import AudioClassification, InputError, SpeechRecognition, TextClassification, finetune
from hf_transfer.arguments.parsing import make_arguments, parse_arguments
from hf_transfer.comparing import compare
from hf_transfer.series import METHODS
from hf_transfer.studying import study

pytestmark = pytest.mark.usefixtures("lean")

RECIPES = {"spam": TextClassification, "sentiment": TextClassification, "accent": SpeechRecognition,
           "command": AudioClassification}  # fmt: skip


class Reached(Exception):
    """The run has its arguments."""


@pytest.fixture
def arguments_of(monkeypatch, tmp_path):
    """The arguments that a run begins with, however it is started."""
    seen = []

    def stop(arguments, *rest):
        seen.append(arguments)
        raise Reached

    monkeypatch.setattr(hf_transfer.finetuning, "prepare_run", stop)

    def started(start):
        with pytest.raises(Reached):
            start()
        (arguments,) = [seen.pop()]
        parts = (arguments.model, arguments.data, arguments.task, arguments.method, arguments.training)
        values = {key: value for part in parts for key, value in vars(part).items() if not key.startswith("_")}
        # What is a series' or a place's own.
        own = ("output_dir", "run_name", "split_seed", "validation_size", "distributed_state", "logging_dir",
               "deepspeed_plugin", "accelerator_config", "resume_from_checkpoint")  # fmt: skip
        return {key: value for key, value in values.items() if key not in own}

    return started


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("own", [{}, {"per_device_train_batch_size": 3, "weight_decay": 0.5}], ids=["defaults", "own"])
def test_recipe_python_comparison_and_study_run_with_the_same_arguments(
    arguments_of, monkeypatch, tmp_path, recipe, method, own
):
    task = RECIPES[recipe]
    given = {"model_name_or_path": "m", "train_file": "t.csv", **own}

    def by_recipe():
        flags = {**given, "method": method, "output_dir": tmp_path / "a"}
        argv = [word for key, value in flags.items() for word in (f"--{key}", str(value))]
        monkeypatch.setattr(sys, "argv", [recipe, *argv])
        runpy.run_path(str(ROOT / "recipes" / f"{recipe}.py"))["main"]()

    (tmp_path / "t.csv").write_text("text,label\n")
    monkeypatch.chdir(tmp_path)
    wanted = arguments_of(by_recipe)
    assert wanted["method"] == method
    assert {name: wanted[name] for name in own} == own
    (tmp_path / "c.yaml").write_text("".join(f"{key}: {value}\n" for key, value in given.items()))
    others = {
        "finetune": lambda: finetune(task(), method=method, output_dir=str(tmp_path / "b"), **given),
        "compare": lambda: compare(task(), methods=[method], seeds=1, output_dir=str(tmp_path / "c"), **given),
        "study": lambda: study(task(), methods=[method], output_dir=str(tmp_path / "d"), **given),
        "yaml": lambda: finetune(
            task(),
            parse_arguments(task, ["--config", "c.yaml", "--method", method, "--output_dir", str(tmp_path / "e")]),
        ),
    }
    for name, start in others.items():
        found = arguments_of(start)
        assert {key: (found[key], value) for key, value in wanted.items() if found[key] != value} == {}, name


def test_the_tasks_defaults_yield_and_are_written_down(tmp_path):
    """A value that is the library's default and not the task's survives arguments.yaml."""
    plain = make_arguments(SpeechRecognition(), {"model_name_or_path": "m", "output_dir": "x"})
    assert (plain.training.per_device_train_batch_size, plain.training.gradient_accumulation_steps) == (8, 2)
    once = make_arguments(
        SpeechRecognition(), {"model_name_or_path": "m", "output_dir": "x", "gradient_accumulation_steps": 1,
                              "per_device_eval_batch_size": 32, "per_device_train_batch_size": 16},
    )  # fmt: skip
    (tmp_path / "arguments.yaml").write_text(yaml.safe_dump(once.as_dict()))
    again = parse_arguments(SpeechRecognition, ["--config", str(tmp_path / "arguments.yaml")])
    assert again.as_dict() == once.as_dict()
    assert again.training.gradient_accumulation_steps == 1


@pytest.mark.parametrize(("name", "batch"), [("accent", "8"), ("spam", "16")])
def test_help_shows_the_tasks_defaults(recipe, monkeypatch, name, batch):
    monkeypatch.setenv("COLUMNS", "300")
    assert f"Examples per device and step. (default: {batch})" in recipe(name, "--help").out


# --- YAML -------------------------------------------------------------------------------------------------------

WORDS = ["yes", "No", "on", "OFF", "y", "n", "true", "False", "1.0", "010", "0x1F", "1_000", "1e3", ".5", "12:30:00",
         "2024-01-01", "2001-12-14t21:59:43.10-05:00", "null", "~", "None", "NaN", ".inf", "=", "-1", "+5",
         "'(none)'", "'no'", '"null"', "naïve ☕", "'- a'", "'a: b'", '"tab\\tbreak\\n"', "' yes '"]  # fmt: skip


def parsed(tmp_path, content, task=TextClassification, *flags):
    file = tmp_path / "c.yaml"
    file.write_text(f"model_name_or_path: m\noutput_dir: x\ntrain_file: a.csv\n{content}", encoding="utf-8")
    return parse_arguments(task, ["--config", str(file), *flags])


@pytest.mark.parametrize("written", WORDS)
def test_labels_groups_and_columns_are_what_was_written(tmp_path, written):
    meant = yaml.load(written, Loader=yaml.BaseLoader)
    names = ("positive_label", "label_column_name", "text_column_name", "group_column_name", "label_separator",
             "delimiter", "split_by")  # fmt: skip
    content = "".join(f"{name}: {written}\n" for name in names)
    content += f"target_group: [{written}, a]\ncolumn_names:\n- b\n- {written}\n"
    arguments = parsed(tmp_path, content)
    task, data = arguments.task, arguments.data
    found = [getattr(task if hasattr(task, name) else data, name) for name in names]
    found += [data.target_group[0], data.column_names[1]]
    assert found == [meant] * len(found)
    assert {type(value) for value in found} == {str}
    # What a run writes down is read back as it was.
    file = tmp_path / "arguments.yaml"
    file.write_text(yaml.safe_dump(arguments.as_dict(), sort_keys=False, allow_unicode=True), encoding="utf-8")
    again = parse_arguments(TextClassification, ["--config", str(file)])
    assert again.as_dict() == arguments.as_dict()
    assert (again.task, again.data) == (task, data)


def test_numbers_truth_values_and_nothing_are_what_yaml_says(tmp_path):
    content = """
bf16: off
fp16: no
deduplicate: On
stop_when_sick: false
eval_strategy: no
learning_rate: 1e-4
num_train_epochs: 1_0
seed: 7
method: lora
lora_alpha: 64
max_train_samples: null
max_eval_samples:
validation_file: ~
hub_model_id: null
report_to: none
threshold: 0.5
<<: {weight_decay: 0.25}
lr_scheduler_type: cosine_with_min_lr
lr_scheduler_kwargs: {min_lr: 1e-5, num_cycles: 0.5}
activation_checkpointing_kwargs:
  use_reentrant: no
"""
    arguments = parsed(tmp_path, content)
    training = arguments.training
    assert (training.bf16, training.fp16, training.stop_when_sick) == (False, False, False)
    assert training.eval_strategy.value == "no"
    assert (training.learning_rate, training.num_train_epochs, training.seed, training.weight_decay) == (
        1e-4,
        10,
        7,
        0.25,
    )
    assert training.lr_scheduler_kwargs == {"min_lr": 1e-5, "num_cycles": 0.5}
    assert training.activation_checkpointing_kwargs == {"use_reentrant": False}
    assert (training.report_to, training.hub_model_id) == ([], None)
    data = arguments.data
    assert (data.max_train_samples, data.max_eval_samples, data.validation_file) == (None, None, None)
    assert data.deduplicate is True
    assert arguments.task.threshold == "0.5"
    assert arguments.method.lora_alpha == 64
    file = tmp_path / "arguments.yaml"
    file.write_text(yaml.safe_dump(arguments.as_dict()), encoding="utf-8")
    again = parse_arguments(TextClassification, ["--config", str(file)])
    assert again.as_dict() == arguments.as_dict()
    assert [dataclasses.asdict(part) for part in (again.data, again.task)] == [
        dataclasses.asdict(part) for part in (data, arguments.task)
    ]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("test_size: [1, 2]", "test_size is a list; expected one value"),
        ("column_names: [[a, b]]", "expected a list of values"),
        ("seed: !!int word", "is not YAML: invalid literal"),
        ("seed: !!python/object/apply:os.getpid []", "is not YAML"),
        ("lr_scheduler_kwargs: &a {b: *a}", "a value holds itself"),
        ("no_stop_when_sick: true", "write stop_when_sick: false"),
        ("config: other.yaml", "a file of arguments cannot name another file"),
        ("deduplicate: perhaps", "--deduplicate"),
        ("on: 3", "Unknown argument --on in"),
        ("method: loar", "--method"),
    ],
)
def test_yaml_that_cannot_be_meant_is_refused(tmp_path, content, says):
    with pytest.raises(InputError, match=says):
        parsed(tmp_path, content)


def test_a_run_with_yes_and_no_as_labels_groups_and_columns(recipe, tiny, tmp_path):
    rows = [
        {"on": f"note {i}", "y": ["no", "yes"][i % 2], "off": ["010", "null", "1.0"][i // 2 % 3]} for i in range(90)
    ]
    write_csv(tmp_path / "m.csv", rows)
    (tmp_path / "c.yaml").write_text(
        f"model_name_or_path: {tiny()}\ntrain_file: {tmp_path}/m.csv\ntext_column_name: on\nlabel_column_name: y\n"
        "group_column_name: off\npositive_label: no\nsource_group: null\ntarget_group: [010, 1.0]\nmax_steps: 1\n"
    )
    result = recipe("spam", "--config", tmp_path / "c.yaml", "--output_dir", tmp_path / "out")
    assert result.code == 0, result.err
    again = recipe("spam", "--config", tmp_path / "out" / "arguments.yaml", "--output_dir", tmp_path / "again")
    assert again.code == 0, again.err
    reports = [json.loads((tmp_path / name / "report.json").read_text()) for name in ("out", "again")]
    for report in reports:
        assert report["data"]["labels"] == ["yes", "no"]
        assert set(report["groups"]) == {"010", "1.0"}
        assert set(report["source"]["groups"]) == {"null"}
    assert reports[0]["metrics"] == reports[1]["metrics"]
