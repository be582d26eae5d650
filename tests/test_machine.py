"""What the machine does to a run: streams that cannot print, caches that cannot be written, disks that are full."""

import contextlib
import io
import json
import logging
import os
import pwd
import sys
from pathlib import Path

import datasets
import evaluate
import pytest
from conftest import message_rows, write_csv
from processes import start

from hf_transfer import Failure, InputError, TextClassification, finetune
from hf_transfer.arguments.parsing import parse_arguments
from hf_transfer.caches import ensure_writable_caches
from hf_transfer.errors import disk_error_message, short_path
from hf_transfer.fsync import fsync_path

pytestmark = pytest.mark.usefixtures("lean")


@pytest.fixture
def train(tiny, tmp_path, caplog):
    caplog.set_level(logging.INFO)

    def run(task=None, **arguments):
        file = write_csv(tmp_path / "m.csv", message_rows(60))
        defaults = {"model_name_or_path": str(tiny()), "output_dir": str(tmp_path / "out"), "max_steps": 2,
                    "train_file": str(file), "disable_tqdm": True}  # fmt: skip
        return finetune(task or TextClassification(), **{**defaults, **arguments})

    return run


# --- standard streams -----------------------------------------------------------------------------------------------

SHOWN = "from hf_transfer.errors import *; run_command(lambda: show('done 🎉'))"
PRINTED = "import sys; from hf_transfer.errors import *; run_command(lambda: sys.stdout.write('done 🎉\\n'))"
FAILED = "from hf_transfer.errors import *\ndef main(): raise InputError('wrong: 🎉')\nrun_command(main)"


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "ascii"])
def test_letters_that_a_terminal_cannot_print_are_escaped(encoding):
    done = start("-c", SHOWN, PYTHONIOENCODING=encoding, PYTHONUTF8="0")
    assert (done.returncode, done.stdout, done.stderr) == (0, "done \\U0001f389\n", "")
    done = start("-c", FAILED, PYTHONIOENCODING=encoding, PYTHONUTF8="0")
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "error: wrong: \\U0001f389\n")


@pytest.mark.parametrize(
    ("program", "streams", "code", "says"),
    [
        (
            SHOWN,
            "> /dev/full",
            0,
            "The command is finished, but its result could not be printed: No space left on device.",
        ),
        (PRINTED, "> /dev/full", 1, "error: standard output could not be written: No space left on device."),
        (SHOWN, ">&-", 0, ""),
        (SHOWN, "2>&-", 0, ""),
        (SHOWN, "2> /dev/full", 0, ""),
        (FAILED, "2> /dev/full", 2, ""),
        (FAILED, "<&- >&- 2>&-", 2, ""),
    ],
)
def test_streams_that_are_closed_or_full_change_no_result(program, streams, code, says):
    shell = 'program=$1; streams=$2; shift 2; eval "exec $streams"; exec "$@" -c "$program"'
    done = start("-c", "import subprocess, sys; print(r := subprocess.run(sys.argv[1:]).returncode)",
                 "sh", "-c", shell, "sh", program, streams, sys.executable, PYTHONUNBUFFERED="")  # fmt: skip
    assert done.stdout.splitlines()[-1] == str(code)
    assert done.stderr.startswith(says)
    assert len(done.stderr.splitlines()) == bool(says)


def test_json_on_a_stream_without_all_letters_is_ascii(train, command, monkeypatch):
    folder = train().folder
    stream = io.TextIOWrapper(io.BytesIO(), "cp1252")
    monkeypatch.setattr(sys, "stdout", stream)
    result = command("predict", folder, "free prize 🎉 é")
    assert result.code == 0, result.err
    written = stream.buffer.getvalue().decode("ascii")
    assert json.loads(written)["text"] == "free prize 🎉 é"


# --- caches ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def caches(monkeypatch, tmp_path):
    """Where the libraries' caches are said to be: a folder below a file, as a home that is /dev/null."""
    (tmp_path / "null").write_text("")
    for config, name in ((datasets.config, "HF_DATASETS_CACHE"), (evaluate.config, "HF_METRICS_CACHE")):
        monkeypatch.setattr(config, name, tmp_path / "null" / ".cache" / name)
    return tmp_path / "null"


def test_a_cache_that_cannot_be_written_costs_a_line(train, caches, caplog):
    report = train(method="frozen").report
    assert report["training"]["cached_activations"]
    lines = [text for text in caplog.messages if "cannot be written" in text]
    assert len(lines) == 1
    assert "(Not a directory)" in lines[0]
    assert "Set HF_HOME to a writable folder" in lines[0]
    assert caches.read_text() == ""


def test_without_a_home_folder_nothing_is_looked_for_there(monkeypatch, tmp_path, caplog):
    """A user without an entry in passwd, as in a container: libraries take ~ for the name of a folder."""
    caplog.set_level(logging.INFO)

    def nobody(_):
        raise KeyError

    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", Path("~/.cache/huggingface/datasets"))
    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", Path("~/.cache/huggingface/metrics"))
    with pytest.raises(RuntimeError):
        Path.home()
    assert short_path("/srv/x") == "/srv/x"
    ensure_writable_caches()
    assert "there is no home folder" in caplog.text
    assert datasets.config.HF_DATASETS_CACHE.is_absolute()
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_sentence_however_it_is_wrapped(train, monkeypatch):
    """The system's own error, in one of a library's."""

    def full(*_, **__):
        try:
            with open("/dev/full", "w") as stream:
                stream.write("x")
        except OSError as error:
            raise datasets.exceptions.DatasetGenerationError("An error occurred") from error

    monkeypatch.setattr("hf_transfer.preparation.load_splits", full)
    with pytest.raises(Failure, match=r"^The disk is full.*HF_HOME for caches.*No checkpoint has been written\.$"):
        train()
    done = start("-c", "from hf_transfer.errors import *\n"
                 "def main():\n  with open('/dev/full', 'w') as s: s.write('x')\nrun_command(main)")  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("error: The disk is full")
    assert len(done.stderr.splitlines()) == 1
    assert disk_error_message(ValueError("of another kind")) is None


def test_a_folder_that_takes_no_fsync_is_no_failure(monkeypatch, tmp_path):
    """As on some network file systems: EINVAL."""

    def refused(_):
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(os, "fsync", refused)
    fsync_path(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(OSError, match="Invalid argument"):
        fsync_path(tmp_path / "file")


# --- arguments that change nothing, and runs that learn nothing ----------------------------------------------------


@pytest.mark.parametrize("method", ["full", "frozen", "scratch"])
@pytest.mark.parametrize(("name", "value"), [("lora_r", 16), ("lora_alpha", 8), ("lora_dropout", 0.1),
                                             ("lora_variant", "dora")])  # fmt: skip
def test_settings_of_lora_are_refused_with_other_methods(train, method, name, value):
    with pytest.raises(InputError, match=f"--{name} belongs to --method lora, not to {method}"):
        train(method=method, **{name: value})


def test_a_method_by_flag_leaves_the_settings_of_the_files_method_aside(tmp_path):
    file = tmp_path / "c.yaml"
    common = ["--config", str(file), "--model_name_or_path", "m", "--output_dir", "x", "--train_file", "t.csv"]
    file.write_text("method: lora\nlora_r: 4\n")
    assert parse_arguments(TextClassification, common).method.lora_r == 4
    assert parse_arguments(TextClassification, [*common, "--method", "full"]).method.lora_r is None
    file.write_text("method: frozen\nlora_r: 4\n")
    with pytest.raises(InputError, match="--lora_r belongs to"):
        parse_arguments(TextClassification, common)
    file.write_text("method: frozen\nlora_r: 16\nlora_alpha: 32\nlora_dropout: 0.0\nlora_variant: lora\n")
    assert parse_arguments(TextClassification, common).method.method == "frozen"  # as it was written out once


def test_a_revision_belongs_to_the_model_and_the_data_that_it_is_of(tmp_path):
    file = tmp_path / "arguments.yaml"
    file.write_text(f"model_name_or_path: a/b\nmodel_revision: {'c' * 40}\ndataset_name: d/e\n"
                    f"dataset_revision: {'f' * 40}\noutput_dir: x\n")  # fmt: skip
    same = parse_arguments(TextClassification, ["--config", str(file)])
    assert (same.model.model_revision, same.data.dataset_revision) == ("c" * 40, "f" * 40)
    other = parse_arguments(
        TextClassification, ["--config", str(file), "--model_name_or_path", "g/h", "--dataset_name", "i/j"]
    )
    assert (other.model.model_revision, other.data.dataset_revision) == ("main", None)
    with pytest.raises(InputError, match="--dataset_revision belongs to a dataset on the Hub"):
        parse_arguments(TextClassification, ["--model_name_or_path", "m", "--output_dir", "x", "--train_file", "t.csv",
                                             "--dataset_revision", "main"])  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "arguments", "says"),
    [
        ({"max_length": 5000}, {}, r"--max_length 5000 is more than the model takes"),
        ({}, {"metric_for_best_model": "acuracy"}, r"--metric_for_best_model acuracy: .* Did you mean accuracy\?"),
        ({}, {"metric_for_best_model": "eval_f1_sms"}, r"--metric_for_best_model f1_sms"),
    ],
)
def test_what_no_data_can_make_right_is_refused_before_they_are_read(train, settings, arguments, says):
    with pytest.raises(InputError, match=says):
        train(TextClassification(**settings), train_file="nowhere.csv", **arguments)


def test_every_metric_that_is_measured_may_choose(train):
    rows = train(group_column_name="channel").report
    assert set(rows["metrics"]) <= set(TextClassification().target.metrics)


def test_one_epoch_and_one_step_are_not_several(train, caplog):
    train(max_steps=-1, num_train_epochs=1.0, per_device_train_batch_size=64)
    assert "1 epoch of 1 step at a learning rate" in caplog.text


@pytest.mark.parametrize("method", ["frozen", "full"])
@pytest.mark.parametrize("steps", [3, 12])
def test_a_learning_rate_beyond_all_measure_does_not_end_without_a_word(train, caplog, method, steps):
    failed = ""
    with contextlib.suppress(Failure):
        try:
            train(method=method, learning_rate=1e10, max_steps=steps)
        except Failure as error:
            failed = str(error)
            raise
    assert "Lower --learning_rate" in failed + caplog.text


def test_a_sound_run_gets_no_such_remark(train, tmp_path, caplog):
    for method in ("frozen", "full"):
        train(method=method, output_dir=str(tmp_path / method), max_steps=12)
    assert "learning_rate (it was" not in caplog.text


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["env", "x"], "Unexpected 'x': env takes no inputs and no flags. See hf-transfer env --help."),
        (["merge", "a", "b", "c"], "Unexpected 'c': merge takes two folders, one to read and one to write."),
        (["push", "a", "b"], "Unexpected 'b': push takes one folder, and the repository by --hub_model_id."),
        (["evaluate", "a", "b", "--test_file", "c"], "Unexpected 'b': evaluate takes one model, and its data by"),
    ],
)
def test_a_command_says_what_it_takes(command, arguments, says):
    result = command(*arguments)
    assert result.code == 2
    assert says in result.err
