"""Signals at every moment of a run: in its imports, in each evaluation, once and twice."""

import os
import re
import signal
import time

import pytest
from conftest import ROOT, build_model, message_rows, number_rows, write_csv
from processes import Forked, start
from safetensors.torch import load_file
from transformers.trainer_callback import CallbackHandler

from hf_transfer import TextClassification, finetune
from hf_transfer.errors import Interrupted
from hf_transfer.reporting import output_folder
from hf_transfer.studying import study

pytestmark = pytest.mark.usefixtures("lean")


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """A run with dropout that evaluates in the middle of an epoch, and keeps no checkpoint by itself."""
    place = tmp_path_factory.mktemp("interrupted")
    return {
        "train_file": str(write_csv(place / "m.csv", message_rows(80))),
        "model_name_or_path": str(build_model(place / "model", "bert", hidden_dropout_prob=0.2)),
        "max_steps": 4, "per_device_train_batch_size": 16, "per_device_eval_batch_size": 4, "eval_strategy": "steps",
        "eval_steps": 2, "save_strategy": "no", "logging_steps": 1, "validation_size": 0.15, "disable_tqdm": True,
    }  # fmt: skip


def run(folder, settings, monkeypatch, signal_at=None):
    """A run's report and the step of every batch that it has measured; SIGTERM comes at one of these."""
    measured, honest = [], CallbackHandler.on_prediction_step

    def noted(self, args, state, control):
        measured.append(state.global_step)
        if len(measured) == signal_at:
            os.kill(os.getpid(), signal.SIGTERM)
        return honest(self, args, state, control)

    with monkeypatch.context() as patch:
        patch.setattr(CallbackHandler, "on_prediction_step", noted)
        if signal_at is None:
            return finetune(TextClassification(), **settings, output_dir=str(folder)).report, measured
        with pytest.raises(Interrupted, match="SIGTERM"):
            finetune(TextClassification(), **settings, output_dir=str(folder))
    return None, measured


def history(report):
    return [{key: value for key, value in entry.items() if not re.search("runtime|per_second|time", key)}
            for entry in report["history"] if "train_loss" not in entry]  # fmt: skip


@pytest.mark.parametrize("method", ["full", "frozen"])
def test_a_signal_in_an_evaluation_ends_within_a_batch_and_nothing_is_lost(settings, tmp_path, monkeypatch, method):
    settings = {**settings, "method": method}
    whole, measured = run(tmp_path / "whole", settings, monkeypatch)
    before, middle, after = measured.count(0), measured.count(2), measured.count(4)
    assert min(before, middle) >= 3
    moments = {
        "before": 1,
        "validation": before + 2,
        "last validation": before + middle + 1,
        "after": before + middle + after,
    }
    for moment, batch in moments.items():
        folder = tmp_path / moment.replace(" ", "-")
        report, measured = run(folder, settings, monkeypatch, signal_at=batch)
        assert report is None
        assert len(measured) == batch, moment
        assert not folder.exists()
        step = {"before": None, "validation": 2}.get(moment, 4)
        work = folder.with_name(f"{folder.name}.partial")
        assert [path.name for path in work.glob("checkpoint-*")] == ([f"checkpoint-{step}"] if step else [])
        report, _ = run(folder, {**settings, "resume_from_checkpoint": "true"}, monkeypatch)
        assert history(report) == history(whole), moment
        assert report["metrics"] == whole["metrics"]
        ours, theirs = (load_file(place / "model.safetensors") for place in (folder, tmp_path / "whole"))
        assert all(ours[name].equal(theirs[name]) for name in theirs), moment


@pytest.mark.parametrize(
    ("moment", "method"),
    [
        ("finetuning.measure_before_and_after", "full"),
        ("result_writing._write_model", "lora"),
        ("result_writing.model_card", "frozen"),
    ],
)
def test_a_number_is_finished_once_wherever_the_run_is_stopped(settings, tmp_path, monkeypatch, method, moment):
    """The head is written in the unit of the labels in the end: a checkpoint is from before that."""
    rows = number_rows(80, unit=1000.0, zero=50_000.0)
    settings = {**settings, "train_file": str(write_csv(tmp_path / "n.csv", rows)), "method": method,
                "eval_strategy": "no"}  # fmt: skip
    task = TextClassification(problem_type="regression")
    whole = finetune(task, **settings, output_dir=str(tmp_path / "whole")).report
    with monkeypatch.context() as patch:
        patch.setattr(f"hf_transfer.{moment}", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(Interrupted, match="SIGTERM"):
            finetune(task, **settings, output_dir=str(tmp_path / "out"))
    again = finetune(task, **settings, output_dir=str(tmp_path / "out"), resume_from_checkpoint="true").report
    assert again["metrics"] == whole["metrics"]
    name = "adapter_model.safetensors" if method == "lora" else "model.safetensors"
    ours, theirs = (load_file(tmp_path / run / name) for run in ("out", "whole"))
    assert all(ours[name].equal(theirs[name]) for name in theirs)


def test_a_signal_behind_the_result_leaves_nothing_to_go_on_with(settings, tmp_path, monkeypatch, caplog):
    honest = output_folder.remove_entries

    def stopped(*arguments):
        honest(*arguments)
        monkeypatch.setattr(output_folder, "remove_entries", honest)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(output_folder, "remove_entries", stopped)
    with pytest.raises(Interrupted, match="SIGTERM"), caplog.at_level("INFO", "hf_transfer"):
        finetune(TextClassification(), **settings, output_dir=str(tmp_path / "out"))
    assert "the result is complete" in caplog.text
    assert "Go on with" not in caplog.text
    assert (tmp_path / "out" / "report.json").is_file()
    assert not (tmp_path / "out.partial").exists()


def test_a_signal_before_the_first_step_of_an_evaluation_leaves_its_early_stop(settings, tmp_path, monkeypatch):
    """The evaluation that is made up for is the one that ends training."""
    settings = {**settings, "learning_rate": 0.0, "early_stopping_patience": 1, "eval_steps": 1, "max_steps": 6,
                "save_strategy": "steps", "save_steps": 1}  # fmt: skip
    whole, measured = run(tmp_path / "whole", settings, monkeypatch)
    assert whole["training"]["steps"] == 2
    run(tmp_path / "out", settings, monkeypatch, signal_at=measured.count(0) + measured.count(1) + 1)
    again, _ = run(tmp_path / "out", {**settings, "resume_from_checkpoint": "true"}, monkeypatch)
    assert history(again) == history(whole)


# Sends a signal the moment that a module is looked for.
IN_IMPORTS = """
import os, runpy, signal, sys
name, number, program = sys.argv[1], int(sys.argv[2]), sys.argv[3]
class Signalling:
    def find_spec(self, wanted, *_):
        if wanted == name:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), number)
sys.meta_path.insert(0, Signalling())  # once: as somebody who waits for what comes of it
sys.argv = sys.argv[3:]
sys.path.insert(0, os.getcwd())
if program.endswith(".py"):
    runpy.run_path(program, run_name="__main__")
else:
    runpy.run_module(program, run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize(
    ("module", "number", "program"),
    [
        ("torch", signal.SIGINT, ["recipes/spam.py"]),
        ("yaml", signal.SIGINT, ["recipes/accent.py"]),
        ("yaml", signal.SIGTERM, ["recipes/sentiment.py"]),
        ("torch", signal.SIGINT, ["hf_transfer.cli", "env"]),
        ("numpy", signal.SIGTERM, ["hf_transfer.cli", "predict", "x", "a text"]),
    ],
)
def test_a_signal_in_the_imports_ends_quietly(module, number, program):
    done = start("-c", IN_IMPORTS, module, int(number), *program)
    assert done.returncode == 128 + number, done.stderr
    assert done.stdout == ""
    assert done.stderr == ""


def test_a_second_interrupt_ends_at_once_and_the_last_checkpoint_is_good(tiny, tmp_path):
    """The second comes while the checkpoint of the first is being written, which takes long here."""
    slow = tmp_path / "slow.py"
    slow.write_text(
        "import runpy, sys, time\n"
        "import hf_transfer.training.trainer_checkpoints as trainer\n"
        "honest = trainer.finish_checkpoint\n"
        "def finish_checkpoint(staged, folder, run):\n"
        "    if 'checkpoint-2' not in staged.name:\n"
        "        print('writing', staged.name, file=sys.stderr, flush=True)\n"
        "        time.sleep(200)\n"
        "    return honest(staged, folder, run)\n"
        "trainer.finish_checkpoint = finish_checkpoint\n"
        "runpy.run_path('recipes/spam.py', run_name='__main__')\n"
    )
    file = write_csv(tmp_path / "m.csv", message_rows(80))
    running = Forked(slow, "--train_file", file, "--model_name_or_path", tiny(), "--output_dir", tmp_path / "out",
                     "--num_train_epochs", "1000", "--save_strategy", "steps", "--save_steps", "2")  # fmt: skip
    wait_for(running, "writing checkpoint-4")
    running.send(signal.SIGINT)
    running.send(signal.SIGINT)  # as some launchers do: this is one
    time.sleep(0.5)
    assert running.running()
    running.send(signal.SIGINT)
    done = running.finished()
    assert done.returncode == 130
    assert "Stopped at once" in done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in (tmp_path / "out.partial").glob("checkpoint-*")] == ["checkpoint-2"]


def wait_for(running, text):
    while text not in running.said():
        assert running.running(), running.said()
        time.sleep(0.1)


def test_a_stopped_study_names_one_way_to_go_on(tiny, tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    file = write_csv(tmp_path / "m.csv", message_rows(80))
    honest, steps = CallbackHandler.on_step_begin, []

    def stopped(self, args, state, control):
        steps.append(state.global_step)
        if len(steps) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return honest(self, args, state, control)

    monkeypatch.setattr(CallbackHandler, "on_step_begin", stopped)
    with pytest.raises(Interrupted):
        study(TextClassification(), methods=["scratch"], sizes=[16], draws=1, train_file=str(file), max_steps=4,
              model_name_or_path=str(tiny()), output_dir=str(tmp_path / "studied"), disable_tqdm=True)  # fmt: skip
    assert "The same command continues the study" in caplog.text
    assert "--resume_from_checkpoint" not in caplog.text


def test_the_recipes_import_nothing_heavy_before_signals_are_followed():
    for recipe in sorted((ROOT / "recipes").glob("*.py")):
        done = start("-c", "import runpy, sys; runpy.run_path(sys.argv[1]); "
                     "assert not {'torch', 'numpy', 'transformers', 'yaml'} & set(sys.modules)", recipe)  # fmt: skip
        assert done.returncode == 0, done.stderr
