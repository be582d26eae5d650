"""What a run leaves: exactly these files, a report and a card that agree with them, repeatable from its arguments."""

import contextlib
import json
import os
import re
import signal
import time
from pathlib import Path

import pytest
import torch
import yaml
from conftest import message_rows, write_csv
from filelock import FileLock
from processes import Forked
from safetensors.torch import load_file

from hf_transfer import Failure, InputError, TextClassification, finetune, load_finetuned
from hf_transfer.run_folders import write_run_marker
from hf_transfer.training.interruption import StopCallback

pytestmark = pytest.mark.usefixtures("lean")

STEPS = {"max_steps": 2, "disable_tqdm": True}
DOCUMENTS = {"README.md", "report.html", "report.json", "arguments.yaml", "predictions.jsonl", "config.json",
             "tokenizer.json", "tokenizer_config.json"}  # fmt: skip


@pytest.fixture
def train(tiny, tmp_path):
    def run(task=None, rows=None, **arguments):
        file = write_csv(tmp_path / "m.csv", rows or message_rows(300))
        defaults = {"model_name_or_path": str(tiny()), "output_dir": str(tmp_path / "out"), **STEPS}
        return finetune(task or TextClassification(), train_file=str(file), **{**defaults, **arguments})

    return run


@pytest.fixture(scope="module")
def finished(tiny, tmp_path_factory):
    """The arguments of a run of `train`'s that is finished; its report."""
    place = tmp_path_factory.mktemp("finished")
    told = {"model_name_or_path": str(tiny()), "output_dir": str(place / "out"), **STEPS,
            "train_file": str(write_csv(place / "m.csv", message_rows(300)))}  # fmt: skip
    return told, finetune(TextClassification(), **told).report


@pytest.mark.parametrize(
    ("method", "weights"),
    [
        ("full", {"model.safetensors"}),
        ("frozen", {"model.safetensors"}),
        ("scratch", {"model.safetensors"}),
        ("lora", {"adapter_model.safetensors", "adapter_config.json"}),
    ],
)
def test_exactly_these_files(train, tmp_path, method, weights, with_page):
    train(method=method)
    assert {path.name for path in (tmp_path / "out").iterdir()} == DOCUMENTS | weights
    assert not (tmp_path / "out.partial").exists()


@pytest.mark.parametrize(
    ("method", "head_first"), [("full", False), ("full", True), ("lora", False), ("lora", True), ("frozen", False)]
)
def test_bf16_is_trained_in_and_float32_is_measured_and_shipped(train, tmp_path, method, head_first):
    report = train(method=method, head_first=head_first, bf16=True).report
    assert report["parity"]["max_difference"] < 1e-5
    (weights,) = (tmp_path / "out").glob("*.safetensors")
    assert {value.dtype for value in load_file(weights).values()} == {torch.float32}
    records = [json.loads(line) for line in (tmp_path / "out" / "predictions.jsonl").open()]
    classify = load_finetuned(tmp_path / "out", device="cpu")
    for record, found in zip(records, classify([record["text"] for record in records], top_k=None), strict=True):
        assert {each["label"]: each["score"] for each in found} == pytest.approx(record["scores"], abs=1e-5)


def test_the_report_says_what_the_contract_promises(train, with_arithmetic):
    report = train(group_column_name="channel").report
    assert report["task"] == "text-classification"
    assert {"accuracy", "f1"} <= set(report["baseline"])
    assert {"accuracy", "f1"} <= set(report["metrics"])
    low, high = report["confidence"]["accuracy"]
    assert low <= report["metrics"]["accuracy"] <= high
    assert set(report["groups"]) == {"sms", "chat"}
    assert report["parameters"]["trainable"] == report["parameters"]["total"] > 10_000
    assert report["training"]["seconds"] > 0
    assert report["training"]["samples_per_second"] > 0
    assert report["training"]["real_tokens_per_second"] > report["training"]["samples_per_second"]
    assert 0 < report["training"]["flops_utilisation"] < 1
    assert report["parity"]["max_difference"] < 1e-5
    assert report["versions"]["transformers"]
    assert report["data"]["majority_class_rate"] == 0.5


def test_the_report_agrees_with_the_predictions(finished):
    told, report = finished
    folder = Path(told["output_dir"])
    written = json.loads((folder / "report.json").read_text())
    records = [json.loads(line) for line in (folder / "predictions.jsonl").open()]
    right = sum(record["label"] == record["prediction"] for record in records)
    assert written["metrics"]["accuracy"] == report["metrics"]["accuracy"] == pytest.approx(right / len(records))


def test_a_run_is_repeatable_from_its_arguments_alone(train, recipe, tmp_path):
    train(TextClassification(class_weights="balanced", threshold="best_f1"), method="lora", lora_r=4, seed=7,
          weight_decay=0.02, validation_size=0.3)  # fmt: skip
    told = yaml.safe_load((tmp_path / "out" / "arguments.yaml").read_text())
    assert told["class_weights"] == "balanced"
    assert told["weight_decay"] == 0.02
    result = recipe("spam", "--config", tmp_path / "out" / "arguments.yaml", "--output_dir", tmp_path / "again")
    assert result.code == 0, result.err
    assert (tmp_path / "again" / "predictions.jsonl").read_text() == (
        tmp_path / "out" / "predictions.jsonl"
    ).read_text()
    first, again = ((tmp_path / name / "adapter_model.safetensors").read_bytes() for name in ("out", "again"))
    assert first == again


def test_a_run_that_evaluates_is_repeatable_from_its_arguments_too(train, recipe, tmp_path, with_page):
    report = train(early_stopping_patience=1, metric_for_best_model="f1", num_train_epochs=2.0, max_steps=-1).report
    assert report["training"]["kept_step"] in [e["step"] for e in report["history"] if "eval_f1" in e]
    page = (tmp_path / "out" / "report.html").read_text()
    assert f"the weights are those of step {report['training']['kept_step']}," in page
    again = tmp_path / "again"
    result = recipe("spam", "--config", tmp_path / "out" / "arguments.yaml", "--output_dir", again)
    assert result.code == 0, result.err
    assert (again / "predictions.jsonl").read_text() == (tmp_path / "out" / "predictions.jsonl").read_text()


def test_the_card_shows_the_gain_and_how_to_use_it(train, tmp_path):
    train(method="lora", group_column_name="channel")
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    card = (tmp_path / "out" / "README.md").read_text()
    front, _, body = card.removeprefix("---\n").partition("\n---\n")
    metadata = yaml.safe_load(front)
    results = {m["type"]: m["value"] for m in metadata["model-index"][0]["results"][0]["metrics"]}
    assert results["accuracy"] == pytest.approx(report["metrics"]["accuracy"], abs=1e-5)
    assert metadata["library_name"] == "peft"
    low, high = report["confidence"]["accuracy"]
    before, after = report["baseline"]["accuracy"], report["metrics"]["accuracy"]
    assert f"| accuracy | {before:.3f} | {after:.3f} | [{low:.3f}, {high:.3f}] |" in body
    assert "| ham | 108 | 12 | 30 |" in body.replace("  ", " ")
    assert "| lora\\_r | 16 |" in body or "| lora_r | 16 |" in body
    assert f'load_finetuned("{tmp_path / "out"}")' in body
    assert "| chat |" in body


def test_labels_from_the_data_cannot_write_markup_into_the_card(train, tmp_path):
    evil = "<img src=x onerror=alert(1)> | [a](javascript:1)"
    rows = [{**row, "label": row["label"].replace("spam", evil)} for row in message_rows(60)]
    train(rows=rows)
    body = (tmp_path / "out" / "README.md").read_text().split("\n---\n", 1)[1]
    assert "<img" not in body
    assert "[a](" not in body
    assert "&lt;img" in body


def test_decisions_are_kept_and_used(train, command, tmp_path, caplog):
    train(TextClassification(max_false_positive_rate=0.1), validation_size=0.3, max_steps=30, learning_rate=1e-3)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    threshold = config["calibration"]["threshold"]
    expected = {"temperature": config["calibration"]["temperature"], "threshold": threshold, "fitted_on": 72}
    assert {name: report["decision"][name] for name in expected} == expected
    records = [json.loads(line) for line in (tmp_path / "out" / "predictions.jsonl").open()]
    assert all((r["scores"]["spam"] >= threshold) == (r["prediction"] == "spam") for r in records)
    ham = [record for record in records if record["label"] == "ham"]
    alarms = sum(record["prediction"] == "spam" for record in ham)
    assert (report["false_positives"]["count"], report["false_positives"]["of"]) == (alarms, len(ham))
    low, high = report["false_positives"]["interval"]
    assert low <= alarms / len(ham) <= high
    assert (
        f"{alarms} of {len(ham)} test examples of 'ham' are predicted as 'spam'"
        in (tmp_path / "out" / "README.md").read_text()
    )
    result = command("predict", tmp_path / "out", records[0]["text"], records[1]["text"])
    for line, record in zip(result.out.splitlines(), records, strict=False):
        found = json.loads(line)
        assert found["label"] == record["prediction"]
        assert found["scores"]["spam"] == pytest.approx(record["scores"]["spam"], abs=1e-5)


def test_a_limit_that_validation_cannot_show_is_refused_and_the_remedy_leads_on(train):
    """36 negatives, none of them above the threshold: the true rate may be 8 % nevertheless."""
    with pytest.raises(InputError, match=r"36 validation examples of 'ham' .* it takes 299\.") as refused:
        train(TextClassification(max_false_positive_rate=0.01), validation_size=0.3)
    enough = re.search(r"--max_false_positive_rate ([\d.]+), for which", str(refused.value))[1]
    assert float(enough) < 0.09
    train(TextClassification(max_false_positive_rate=float(enough)), validation_size=0.3, max_steps=1)


def test_what_flatters_or_narrows_the_result_is_on_the_page_and_the_card(train, tmp_path, with_page):
    rows = message_rows(120)
    train_rows = [
        *rows[:100],
        *({**row, "label": "spam"} for row in rows[:4:2]),
        {**rows[0], "text": "x y", "label": "odd"},
    ]
    train_rows.append({**rows[0], "text": "x z", "label": "odd"})
    test = write_csv(tmp_path / "test.csv", rows[90:])
    report = train(rows=train_rows, test_file=str(test), validation_size=0).report
    assert report["data"]["caveats"] == [
        "10 of 30 test examples occur in training as well: they do not show how the model does on new examples.",
        "No test example has the label 'odd': how well it is predicted is not measured.",
        "2 examples have different labels in different rows: no model can predict both.",
    ]
    page, card = ((tmp_path / "out" / name).read_text() for name in ("report.html", "README.md"))
    for caveat in report["data"]["caveats"]:
        assert caveat in page.replace("&#39;", "'")
        assert caveat in card


def test_the_result_is_on_the_disk_before_it_appears(train, tmp_path, monkeypatch, with_page):
    """Checkpoints are removed once it is there: a machine that loses its power then has one or the other."""
    original, synced, before = os.fsync, [], []

    def noted(descriptor):
        synced.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")))
        original(descriptor)

    def replace(source, place):
        if Path(place) == tmp_path / "out":
            before.extend(synced)
        rename(source, place)

    rename = os.replace
    monkeypatch.setattr(os, "fsync", noted)
    monkeypatch.setattr(os, "replace", replace)
    train()
    staged = {path.name for path in before if path.parent.name == "result"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == staged
    assert synced[-1] == tmp_path


@pytest.mark.parametrize("of_an_unused_token", [False, True])
def test_a_reloaded_model_that_differs_fails_the_run(train, tmp_path, monkeypatch, of_an_unused_token):
    """Also where no example shows it: the embedding of a token that is in none of them."""
    import hf_transfer.result_writing as run

    honest = run._write_model

    def damaged(folder, model, processor):
        import torch

        weight = model.bert.embeddings.word_embeddings.weight[1] if of_an_unused_token else model.classifier.bias
        with torch.no_grad():
            kept = weight.clone()
            weight.add_(0.5)
            honest(folder, model, processor)
            weight.copy_(kept)

    monkeypatch.setattr(run, "_write_model", damaged)
    with pytest.raises(Failure, match="differs from the trained one"):
        train()
    assert not (tmp_path / "out").exists()


def test_a_finished_run_has_nothing_to_resume(finished, recipe):
    told, _ = finished
    file = Path(told["output_dir"]) / "report.json"
    before = file.read_bytes()
    common = [f"--{name}={told[name]}" for name in ("train_file", "model_name_or_path", "output_dir")]
    result = recipe("spam", *common, "--resume_from_checkpoint", "true", "--max_steps", 2)
    assert result.code == 0
    assert "nothing to resume" in result.err
    assert file.read_bytes() == before
    with pytest.raises(InputError, match=r"is finished there \(max_steps 2, not 9"):
        finetune(TextClassification(), **told | {"max_steps": 9, "resume_from_checkpoint": "true"})


@pytest.mark.parametrize(
    ("method", "number"),
    [("full", signal.SIGTERM), ("full", signal.SIGINT), ("lora", signal.SIGTERM), ("frozen", signal.SIGTERM)],
)
def test_a_polite_stop_writes_a_checkpoint_and_the_run_goes_on(tiny, recipe, tmp_path, method, number):
    common = ("--train_file", write_csv(tmp_path / "m.csv", message_rows(200)), "--model_name_or_path", tiny(),
              "--output_dir", tmp_path / "out", "--method", method)  # fmt: skip
    running = Forked("recipes/spam.py", *common, "--num_train_epochs", "100000", "--save_strategy", "steps",
                     "--save_steps", "20")  # fmt: skip
    while not list((tmp_path / "out.partial").glob("checkpoint-*")):
        assert running.running(), running.said()
        time.sleep(0.1)
    running.send(number)
    stopped = running.finished()
    assert stopped.returncode == 128 + number, stopped.stderr
    assert "Continue with --resume_from_checkpoint true" in stopped.stderr
    assert not (tmp_path / "out").exists()
    refused = recipe("spam", *common)
    assert refused.code == 2
    assert "there is an unfinished run in" in refused.err
    newest = max(int(path.name.split("-")[1]) for path in (tmp_path / "out.partial").glob("checkpoint-*"))
    resumed = recipe("spam", *common, "--resume_from_checkpoint", "true", "--max_steps", newest + 5)
    assert resumed.code == 0, resumed.err
    assert f"checkpoint-{newest}" in resumed.err
    assert json.loads((tmp_path / "out" / "report.json").read_text())["training"]["steps"] == newest + 5
    assert not (tmp_path / "out.partial").exists()


def test_a_finished_run_of_other_arguments_is_not_taken_for_this_one(finished, recipe):
    told, _ = finished
    common = [f"--{name}={told[name]}" for name in ("train_file", "model_name_or_path", "output_dir")]
    result = recipe("spam", *common, "--method", "lora", "--max_steps", 2, "--resume_from_checkpoint", "true")
    assert result.code == 2
    assert "a run with other arguments is finished there (method 'full', not 'lora')" in result.err
    result = recipe("spam", *common, "--resume_from_checkpoint", "false")
    assert result.code == 2
    assert "the folder exists and holds" in result.err


@contextlib.contextmanager
def stopped_at(step):
    """End the run inside the block at a step, before it could write a checkpoint there; expects that it ends so."""

    def stop(self, args, state, control, **_):
        if state.global_step == step:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StopCallback, "on_step_end", stop)
        with pytest.raises(KeyboardInterrupt):
            yield


def test_a_resumed_run_ends_with_the_weights_of_one_that_never_stopped(train, tmp_path):
    settings = {"method": "frozen", "trainable_layers": 1, "max_steps": 12, "save_strategy": "steps", "save_steps": 5}
    train(output_dir=str(tmp_path / "whole"), **settings | {"save_strategy": "no"})
    with stopped_at(7):
        train(**settings)
    checkpoint = load_file(tmp_path / "out.partial" / "checkpoint-5" / "model.safetensors")
    train(resume_from_checkpoint="true", **settings)
    whole, resumed = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "out"))
    assert checkpoint.keys() == whole.keys()  # what was not computed is in it as well
    for name, value in whole.items():
        assert torch.equal(value, resumed[name]), name


@pytest.mark.parametrize("flags", [{"gradient_checkpointing": True}, {"neftune_noise_alpha": 5.0}])
def test_flags_that_reach_into_the_trunk_turn_the_cache_off(train, flags):
    report = train(method="frozen", trainable_layers=1, **flags).report
    assert report["training"]["cached_activations"] is False


def test_a_threshold_is_obeyed_everywhere(train, command, tmp_path):
    """One of the two thresholds turns over the likeliest label of any text."""
    text = "see you at dinner"
    for threshold, label in (("0.01", "spam"), ("0.99", "ham")):
        output = tmp_path / label
        report = train(TextClassification(threshold=threshold), learning_rate=1e-5, output_dir=str(output)).report
        assert report["metrics"]["recall"] == (1.0 if label == "spam" else 0.0)
        pipe = load_finetuned(output)
        assert pipe(text)[0]["label"] == label
        assert pipe(text, top_k=1)[0]["label"] == label
        found = json.loads(command("predict", output, text).out)
        assert found["label"] == label
        assert found["score"] == pytest.approx(found["scores"][label])


def test_a_folder_that_nothing_can_replace_is_refused_before_training(train, tmp_path, monkeypatch):
    monkeypatch.chdir(_made(tmp_path / "here"))
    with pytest.raises(InputError, match="cannot be replaced by the result"):
        train(output_dir=".")
    (tmp_path / "link").symlink_to(_made(tmp_path / "elsewhere"))
    train(output_dir=str(tmp_path / "link"))
    assert (tmp_path / "elsewhere" / "report.json").is_file()


@pytest.mark.parametrize(
    ("flag", "value"),
    [("dataloader_drop_last", True), ("bf16_full_eval", True), ("do_eval", True), ("remove_unused_columns", False),
     ("include_for_metrics", ["loss"])],
)  # fmt: skip
def test_flags_that_would_change_nothing_are_refused(train, flag, value):
    with pytest.raises(InputError, match=f"--{flag} has no effect here"):
        train(**{flag: value})


def test_workers_are_started_as_asked(train, monkeypatch):
    import torch.utils.data

    seen, honest = [], torch.utils.data.DataLoader.__init__

    def loader(self, *args, **kwargs):
        seen.append(str(kwargs["multiprocessing_context"]))
        honest(self, *args, **kwargs)

    monkeypatch.setattr(torch.utils.data.DataLoader, "__init__", loader)
    train(dataloader_num_workers=1, dataloader_multiprocessing_context="fork", max_steps=1)
    assert set(seen) == {"fork"}


def test_a_refused_run_leaves_the_folder_to_the_next(train, tmp_path):
    try:
        train(learning_rate=1e38, max_steps=6)
    except Failure:
        train()  # while the error is still at hand, as in a notebook
    assert (tmp_path / "out" / "report.json").is_file()


def test_two_runs_at_once_do_not_share_a_folder(train, tmp_path):
    write_run_marker(_made(tmp_path / "out.partial"))
    with FileLock(tmp_path / "out.partial" / ".lock"):
        for checkpoint in (False, True):
            if checkpoint:
                _made(tmp_path / "out.partial" / "checkpoint-5")
            with pytest.raises(InputError, match="another run is writing there"):
                train()
        assert (tmp_path / "out.partial").is_dir()  # the other run's


def _made(folder):
    folder.mkdir()
    return folder


def test_diverged_training_is_said_and_not_written(train, tmp_path):
    with pytest.raises(Failure, match=r"[Tt]raining (has )?diverged"):
        train(learning_rate=1e38, max_steps=6)
    assert not (tmp_path / "out").exists()


def test_paths_may_be_path_objects(train, tiny, tmp_path):
    result = train(model_name_or_path=tiny(), output_dir=tmp_path / "out")
    assert result.folder == tmp_path / "out"


def test_an_unfinished_run_is_not_continued_with_other_arguments(train, tmp_path):
    with stopped_at(3):
        train(max_steps=6, save_strategy="steps", save_steps=2)
    with pytest.raises(InputError, match=r"was written by a run with seed 42, not 7; other examples"):
        train(max_steps=6, seed=7, resume_from_checkpoint="true")
    assert (tmp_path / "out.partial" / "checkpoint-2").is_dir()


def test_the_result_can_be_read_by_those_whom_the_umask_lets_in(train, tmp_path):
    train()
    assert {oct(file.stat().st_mode & 0o777) for file in (tmp_path / "out").iterdir()} == {oct(0o666 & ~_umask())}


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_the_card_of_a_control_does_not_say_that_it_was_pretrained(train, tmp_path):
    train(method="scratch")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "trained for text-classification from random weights" in card
    assert '"Before" is the same architecture with random weights' in card


def test_the_card_does_not_tell_where_folders_lie(train, tmp_path):
    train()
    assert str(tmp_path.parent) not in (tmp_path / "out" / "README.md").read_text().replace(str(tmp_path / "out"), "")


def test_a_handful_of_test_examples_tells_nothing(train):
    assert "too few to tell" in str(train(rows=message_rows(12)))
