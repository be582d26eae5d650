"""Trackers hear of a run once: its curves, its results before and after, its page without the examples."""

import json
import math
import os
import socket
import sys
import time

import numpy as np
import pytest
from conftest import message_rows, write_csv
from processes import fork, fork_joined
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers.integrations import TensorBoardCallback

from hf_transfer import Failure, InputError, TextClassification, finetune
from hf_transfer.arguments.parsing import parse_arguments
from hf_transfer.reporting.trackers import _writer, metrics

BOTH = ["tensorboard", "trackio"]
TOKEN = "hf_secret"


def events(folder):
    found = EventAccumulator(str(folder))
    found.Reload()
    return found


def scalars(folder):
    """What TensorBoard shows of a run: steps and values by tag."""
    found = events(folder)
    return {tag: [(e.step, e.value) for e in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def curve(report, key):
    """What TensorBoard is to show of the history: it keeps values in single precision."""
    return [(entry["step"], float(np.float32(entry[key]))) for entry in report["history"] if key in entry]


def text(folder, tag):
    (event,) = events(folder).Tensors(f"{tag}/text_summary")
    return event.tensor_proto.string_val[0].decode()


def trackio_runs(project):
    """The runs of a project: name, config and all that was logged."""
    import trackio
    from trackio.sqlite_storage import SQLiteStorage

    return [
        (run.name, run.config, SQLiteStorage.get_logs(project, run.name, run_id=run.id))
        for run in trackio.Api().runs(project)
    ]


def trackio_files():
    import trackio

    return [file for file in trackio.TRACKIO_DIR.rglob("*") if file.is_file()]


@pytest.fixture
def train(tiny, tmp_path):
    def run(**arguments):
        file = write_csv(tmp_path / "m.csv", message_rows(120))
        defaults = {"output_dir": str(tmp_path / "out"), "max_steps": 2, "logging_steps": 1, "disable_tqdm": True}
        return finetune(
            TextClassification(), train_file=str(file), model_name_or_path=str(tiny()), **{**defaults, **arguments}
        )

    return run


@pytest.fixture(scope="module")
def tracked(tiny, tmp_path_factory):
    """A run without trackers and the same with two: the processes, and the folder of their outputs."""
    place = tmp_path_factory.mktemp("tracked")
    rows = [{**row, "channel": ("sms", "chat", "mail")[i // 2 % 3]} for i, row in enumerate(message_rows(240))]
    common = ("recipes/spam.py", "--train_file", write_csv(place / "m.csv", rows), "--model_name_or_path", tiny(),
              "--group_column_name", "channel", "--source_group", "mail", "--max_steps", 20, "--eval_strategy",
              "steps", "--hub_token", TOKEN)  # fmt: skip
    done = {
        "plain": fork(*common, "--output_dir", place / "plain"),
        "both": fork(*common, "--output_dir", place / "both", "--report_to", *BOTH, "--project", "tracked"),
    }
    for process in done.values():
        assert process.returncode == 0, process.stderr
    return done, place


def expected(report, when):
    """What trackers are promised of a report: metrics by name."""
    key, suffix = ("baseline", "_before") if when == "before" else ("metrics", "")
    return {
        **{f"{when}/{name}": value for name, value in report[key].items()},
        **{f"source/{when}/{name}": value for name, value in report["source"][key].items()},
        **{
            f"groups/{group}/{when}/{name}": report["groups"][group][name + suffix]
            for group in ("sms", "chat")
            for name in ("accuracy", "f1")
        },
    }


def test_a_tracked_run_differs_in_one_line_and_one_folder(tracked):
    done, place = tracked
    assert {f.name for f in (place / "both").iterdir()} == {f.name for f in (place / "plain").iterdir()} | {"runs"}
    weights = [(place / name / "model.safetensors").read_bytes() for name in ("plain", "both")]
    assert weights[0] == weights[1]
    said = set(done["both"].stderr.splitlines()) - set(done["plain"].stderr.splitlines())
    (line,) = said
    assert line == (
        f"Tracked as both: tensorboard --logdir {place / 'both.partial' / 'runs'} (in the end "
        f'{place / "both" / "runs"}); trackio show --project "tracked"'
    )
    assert done["both"].stdout.count("\n") == done["plain"].stdout.count("\n")
    assert not (place / "both.partial").exists()


def test_tensorboard_has_curves_and_results(tracked):
    _, place = tracked
    report = json.loads((place / "both" / "report.json").read_text())
    (run,) = (place / "both" / "runs").iterdir()
    assert run.name == "both"
    found = scalars(run)
    assert found["train/loss"] == curve(report, "loss")
    assert found["eval/f1"] == curve(report, "eval_f1")
    for when, step in (("before", 0), ("after", 20)):
        for name, value in expected(report, when).items():
            assert found.pop(name) == [(step, float(np.float32(value)))], name
    assert not [tag for tag in found if not tag.startswith(("train/", "eval/"))]
    results = text(run, "results")
    assert f"| accuracy | {report['baseline']['accuracy']:.3f} | {report['metrics']['accuracy']:.3f} |" in results
    assert "| sms |" in results
    assert str(place / "both" / "report.html") in results
    assert "| source_group | mail |" in text(run, "arguments")


def test_trackio_has_curves_results_and_the_page(tracked):
    _, place = tracked
    report = json.loads((place / "both" / "report.json").read_text())
    ((name, config, logs),) = trackio_runs("tracked")
    assert name == "both"
    assert config["source_group"] == "mail"
    assert config["learning_rate"] > 0
    losses = [(log["train/global_step"], log["train/loss"]) for log in logs if "train/loss" in log]
    assert losses == [(e["step"], e["loss"]) for e in report["history"] if "loss" in e]
    before, after = ([log for log in logs if f"{when}/f1" in log] for when in ("before", "after"))
    (before,), (after,) = before, after
    assert before["train/global_step"] == before["step"] == 0
    assert after["train/global_step"] == 20
    for when, log in (("before", before), ("after", after)):
        found = {key: value for key, value in log.items() if f"{when}/" in key}
        assert found == pytest.approx(expected(report, when))
    assert not [key for log in logs for key in log if key.startswith("test/")]
    (page,) = [file for file in trackio_files() if str(file).endswith(after["report"]["file_path"])]
    assert "<h1>both ·" in page.read_text()
    assert "<svg" in page.read_text()


def test_trackers_get_neither_tokens_nor_test_texts(tracked):
    _, place = tracked
    texts = [json.loads(line)["text"] for line in (place / "both" / "predictions.jsonl").open()]
    assert any(text in (place / "both" / "report.html").read_text() for text in texts)  # which has its examples
    given = [file for file in (place / "both" / "runs").rglob("*") if file.is_file()] + trackio_files()
    assert any(b"before/f1" in file.read_bytes() for file in given)
    for file in given:
        content = file.read_bytes()
        assert not [text for text in texts if text.encode() in content], file
        assert TOKEN.encode() not in content, file


def killed(where, call, tmp_path, model, *flags):
    """Kill a run of `train`'s, its file written already, when it calls a function for the n-th time."""
    done = fork("tests/killed.py", where, call, "recipes/spam.py", "--train_file", tmp_path / "m.csv",
                 "--model_name_or_path", model, "--output_dir", tmp_path / "out", "--logging_steps", 1,
                 "--save_strategy", "steps", *flags)  # fmt: skip
    assert done.returncode == -9, done.stderr


def test_tensorboard_does_not_show_that_a_run_was_killed(train, tiny, tmp_path):
    write_csv(tmp_path / "m.csv", message_rows(120))
    flags = ("--save_steps", 5, "--max_steps", 12, "--report_to", "tensorboard")
    killed("transformers.integrations:TensorBoardCallback.on_log", 9, tmp_path, tiny(), *flags)
    (run,) = (tmp_path / "out.partial" / "runs").iterdir()
    assert [step for step, _ in scalars(run)["train/loss"]] == [1, 2, 3, 4, 5, 6, 7, 8]  # to be watched already
    report = train(report_to="tensorboard", max_steps=12, resume_from_checkpoint="true").report
    (run,) = (tmp_path / "out" / "runs").iterdir()
    found = scalars(run)
    assert found["train/loss"] == curve(report, "loss")
    assert len(found["train/loss"]) == 12
    assert [step for step, _ in found["after/f1"]] == [12]
    assert not (tmp_path / "out.partial").exists()


def test_what_goes_on_is_read_after_what_was_written_in_the_same_second(tmp_path):
    """TensorBoard reads files in the order of their names: second, machine, process."""
    other = tmp_path / f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{2**31}.0"
    other.touch()
    _writer(tmp_path, purge_step=1).close()
    first, _ = sorted(tmp_path.iterdir())
    assert first == other


def test_a_killed_run_goes_on_in_the_same_run_of_trackio(train, tiny, tmp_path):
    write_csv(tmp_path / "m.csv", message_rows(120))
    # How far it gets in trackio's second is the machine's speed: it may be far enough to look collapsed.
    flags = ("--save_steps", 1, "--max_steps", 100000, "--report_to", "trackio", "--project", "killed",
             "--stop_when_sick", "false")  # fmt: skip
    killed("trackio.sqlite_storage:SQLiteStorage.bulk_log", 4, tmp_path, tiny(), *flags)
    newest = max(int(path.name.split("-")[1]) for path in (tmp_path / "out.partial").glob("checkpoint-*"))
    train(report_to="trackio", project="killed", max_steps=newest + 2, stop_when_sick=False,
          resume_from_checkpoint="true")  # fmt: skip
    ((name, _, logs),) = trackio_runs("killed")
    assert name == "out"
    steps = [log["train/global_step"] for log in logs if "train/loss" in log]
    assert steps[0] == 1
    assert steps[-2:] == [newest + 1, newest + 2]
    assert len([log for log in logs if "after/f1" in log]) == 1


def test_trackers_see_weights_that_are_not_computed(train, monkeypatch):
    """Those of them that count a model's weights do it when they begin."""
    begin, seen = TensorBoardCallback.on_train_begin, []

    def on_train_begin(self, args, state, control, **kwargs):
        seen.append(kwargs["model"].num_parameters())
        begin(self, args, state, control, **kwargs)

    monkeypatch.setattr(TensorBoardCallback, "on_train_begin", on_train_begin)
    report = train(method="frozen", report_to="tensorboard").report
    assert report["training"]["cached_activations"]
    assert seen == [report["parameters"]["total"]]


def test_a_new_run_of_an_old_name_is_a_run_of_its_own(train, tmp_path):
    for place in ("a", "b"):
        train(output_dir=str(tmp_path / place), report_to="trackio", project="twice", run_name="same")
    runs = trackio_runs("twice")
    assert [name for name, _, _ in runs] == ["same", "same"]
    assert [len([log for log in logs if "train/loss" in log]) for _, _, logs in runs] == [2, 2]


def test_the_name_of_a_run_is_no_path(train, tmp_path):
    train(report_to="tensorboard", run_name="../../lr 1e-3/b")
    assert [path.name for path in (tmp_path / "out" / "runs").iterdir()] == ["-..-lr-1e-3-b"]


def test_tensorboards_own_folder_is_used_where_it_is_set(train, tmp_path, monkeypatch):
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "logs"))
    train(report_to="tensorboard")
    assert not (tmp_path / "out" / "runs").exists()
    found = scalars(tmp_path / "logs")
    assert {"train/loss", "before/f1", "after/f1"} <= set(found)


@pytest.mark.parametrize(
    ("name", "module"), [("tensorboard", "torch.utils.tensorboard"), ("trackio", "trackio"), ("wandb", "wandb")]
)
def test_a_missing_package_is_said_before_anything_is_done(recipe, tiny, tmp_path, monkeypatch, name, module):
    monkeypatch.setitem(sys.modules, module, None)
    result = recipe("spam", "--train_file", write_csv(tmp_path / "m.csv", message_rows(60)), "--model_name_or_path",
                    tiny(), "--output_dir", tmp_path / "out", "--report_to", name)  # fmt: skip
    assert result.code == 2
    assert result.err == f"error: --report_to {name} needs a package that is missing: `pip install {name}`.\n"
    assert [file.name for file in tmp_path.iterdir()] == ["m.csv"]


def test_a_tracker_that_cannot_be_started_is_refused(train, tmp_path, monkeypatch):
    import trackio

    monkeypatch.setattr(trackio, "init", _failing)
    with pytest.raises(InputError, match="--report_to trackio: the tracker cannot be started: the server is away"):
        train(report_to=BOTH)
    assert [file.name for file in tmp_path.iterdir()] == ["m.csv"]


@pytest.fixture(scope="module")
def untracked(tiny, tmp_path_factory):
    """The report of a run of `train`'s without trackers."""
    place = tmp_path_factory.mktemp("untracked")
    return finetune(
        TextClassification(), train_file=str(write_csv(place / "m.csv", message_rows(120))), max_steps=2,
        model_name_or_path=str(tiny()), output_dir=str(place / "out"), logging_steps=1, disable_tqdm=True,
    ).report  # fmt: skip


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("trackio", "trackio.Html"),
        ("trackio", "trackio.run.Run.finish"),
        ("tensorboard", "hf_transfer.reporting.trackers._results"),
        ("tensorboard", "transformers.integrations.TensorBoardCallback.on_log"),
    ],
)
def test_a_tracker_that_fails_costs_a_line_and_not_the_run(
    train, untracked, tmp_path, monkeypatch, caplog, name, what
):
    import trackio  # noqa: F401 (to be patched)

    monkeypatch.setattr(what, _failing)
    report = train(report_to=BOTH, project=what).report
    assert report["metrics"] == untracked["metrics"]
    assert (tmp_path / "out" / "report.json").is_file()
    lines = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert [line for line in lines if "--report_to" in line] == [
        f"--report_to {name}: the server is away. The run goes on without it."
    ]
    if name == "trackio":
        assert "after/f1" in scalars(tmp_path / "out" / "runs" / "out")
    else:
        ((_, _, logs),) = trackio_runs(what)
        assert "after/f1" in logs[-1]


def _failing(*_, **__):
    raise OSError("the server is away")


def test_what_is_not_finite_is_left_out_and_no_tracker_stays_open(train, tmp_path, monkeypatch):
    import trackio

    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "logs"))
    with pytest.raises(Failure, match="diverged"):
        train(report_to=BOTH, project="sick", learning_rate=1e38, max_steps=6)
    found = scalars(tmp_path / "logs")
    assert len(found["train/learning_rate"]) > len(found["train/loss"]) > 0
    assert all(math.isfinite(value) for values in found.values() for _, value in values)
    assert trackio.context_vars.current_run.get() is None


def test_undefined_metrics_are_left_out():
    report = {
        "headline": ["wer"],
        "baseline": {"wer": 0.5, "cer": math.nan},
        "metrics": {"wer": math.inf, "cer": 0.1},
        "groups": {"north": {"wer": 0.2, "wer_before": math.nan}},
    }
    assert metrics(report, "before") == {"before/wer": 0.5}
    assert metrics(report, "after") == {"after/cer": 0.1, "groups/north/after/wer": 0.2}


def test_logs_stay_behind_when_an_adapter_is_merged(train, command, tmp_path):
    train(report_to="tensorboard", method="lora")
    assert command("merge", tmp_path / "out", tmp_path / "merged").code == 0
    assert (tmp_path / "merged" / "report.html").is_file()
    assert not (tmp_path / "merged" / "runs").exists()


def test_of_two_processes_one_tracks(tiny, tmp_path):
    done = fork_joined(
        "recipes/spam.py", "--train_file", write_csv(tmp_path / "m.csv", message_rows(60)), "--model_name_or_path",
        tiny(), "--output_dir", tmp_path / "out", "--max_steps", 3, "--logging_steps", 1, "--report_to", *BOTH,
        "--project", "two",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("Tracked as") == 1
    ((_, _, logs),) = trackio_runs("two")
    assert [log["train/global_step"] for log in logs if "train/loss" in log] == [1, 2, 3]
    found = scalars(tmp_path / "out" / "runs" / "out")
    assert [step for step, _ in found["train/loss"]] == [1, 2, 3]
    pids = {file.name.split(".")[-2] for file in (tmp_path / "out" / "runs" / "out").iterdir()}
    assert len(pids) == 1


@pytest.mark.parametrize(("flags", "names"), [([], set()), (["none"], set()), (BOTH, set(BOTH)), (["all"], set(BOTH))])
def test_several_trackers_or_all(tmp_path, flags, names):
    told = ["--report_to", *flags] if flags else []
    arguments = parse_arguments(
        TextClassification, ["--model_name_or_path", "m", "--output_dir", str(tmp_path / "out"), *told]
    )
    found = set(arguments.training.report_to)
    assert found >= names if flags == ["all"] else found == names


def test_trackio_lies_apart_from_the_users_own():
    import trackio

    assert str(trackio.TRACKIO_DIR) == os.environ["TRACKIO_DIR"]
