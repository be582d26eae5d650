"""The same result whatever happens: kills, stops, full disks, damaged and foreign checkpoints."""

import hashlib
import json
import os
import queue
import re
import shutil
import signal
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import message_rows, number_rows, write_csv
from processes import fork
from safetensors.torch import load_file, save_file
from transformers import BertForSequenceClassification

from hf_transfer import Failure, InputError, SpeechRecognition, TextClassification, finetune
from hf_transfer.errors import Interrupted
from hf_transfer.training import checkpoints, resuming

pytestmark = pytest.mark.usefixtures("lean")

STEP = "transformers.trainer:Trainer.training_step"
EVALUATION = "hf_transfer.training.trainer:TransferTrainer.evaluation_loop"
SEALING = "hashlib:file_digest"  # the files of a checkpoint are there, its manifest is not
SAVING = "torch:save"  # the weights of a checkpoint are there, its optimizer is not
ROTATION = "hf_transfer.training.trainer_checkpoints:remove_old_checkpoints"  # the new one is in place, the old too
RESULT = "hf_transfer.result_writing:_write_model"
CARD = "hf_transfer.result_writing:model_card"  # the weights of the result are written, the card is not
# Two evaluations and checkpoints an epoch of 8 steps, logs between them; augmentation and dropout draw at random.
OFTEN = {"num_train_epochs": 2.0, "per_device_train_batch_size": 8, "eval_strategy": "steps", "eval_steps": 3,
         "save_strategy": "steps", "save_steps": 3, "logging_steps": 2, "learning_rate": 1e-3, "seed": 3,
         "per_device_eval_batch_size": 8, "report_to": "none", "disable_tqdm": True}  # fmt: skip


@pytest.fixture(scope="module")
def never_stopped(tmp_path_factory):
    """Runs that never stopped, by their model and settings: each is trained once."""
    done = {}

    def get(model, settings):
        key = model, *((name, value) for name, value in settings.items() if name != "train_file")
        key += tuple(Path(settings[name]).read_bytes() for name in ("train_file",) if name in settings)
        if key not in done:
            done[key] = run_of(tmp_path_factory.mktemp("never") / "out", model, settings)
        return done[key]

    return get


@pytest.fixture
def texts(tmp_path):
    return {"train_file": str(write_csv(tmp_path / "m.csv", message_rows(100)))}


@pytest.fixture
def numbers(tmp_path):
    file = write_csv(tmp_path / "n.csv", number_rows(100, 1000, 50_000))
    return {"train_file": str(file), "problem_type": "regression", "metric_for_best_model": "mean_squared_error",
            "load_best_model_at_end": True}  # fmt: skip


@pytest.fixture
def clips(accents):
    return {"dataset_name": str(accents), "validation_size": 0.2, "speed_perturbation": 0.2, "noise_probability": 0.5,
            "mask_time_prob": 0.2}  # fmt: skip


def run_of(output, model, settings):
    speech = "dataset_name" in settings
    own = ("speed_perturbation", "noise_probability", "mask_time_prob", "problem_type")
    task = (SpeechRecognition if speech else TextClassification)(
        **{key: settings[key] for key in own if key in settings}
    )
    others = {key: value for key, value in settings.items() if key not in own}
    return finetune(task, output_dir=str(output), model_name_or_path=str(model), **others)


def leave_unfinished(output, model, settings):
    """A run that has trained, and ends before anything is written."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hf_transfer.result_writing.model_card", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run_of(output, model, settings)


def as_flags(settings):
    return [f"--{key}={value}" for key, value in settings.items()]


def weights_of(folder):
    (file,) = folder.glob("*model.safetensors")
    return load_file(file)


def history_of(report):
    """Without the last entry, the summary of the steps since the run was started or resumed, and without clocks."""
    return [
        {key: value for key, value in entry.items() if not key.endswith(("runtime", "per_second"))}
        for entry in report["history"]
        if "train_runtime" not in entry
    ]


@pytest.mark.parametrize(
    ("task", "method", "where", "call"),
    [
        ("text", {"method": "full"}, SAVING, 4),
        ("text", {"method": "lora"}, EVALUATION, 3),
        ("text", {"method": "frozen"}, STEP, 7),
        ("text", {"method": "frozen", "trainable_layers": 1}, SEALING, 15),
        ("text", {"method": "scratch"}, ROTATION, 3),
        ("number", {"method": "lora", "head_first": True}, CARD, 1),
        ("speech", {"method": "full"}, STEP, 8),
        ("speech", {"method": "lora"}, SEALING, 15),
        ("speech", {"method": "frozen", "trainable_layers": 1}, EVALUATION, 4),
        ("speech", {"method": "scratch"}, RESULT, 1),
    ],
)
def test_a_killed_run_goes_on_as_if_it_had_not_been(
    tiny, speech_model, texts, numbers, clips, never_stopped, tmp_path, task, method, where, call
):
    model = speech_model() if task == "speech" else tiny()
    settings = {"text": texts, "number": numbers, "speech": clips}[task]
    settings = {**OFTEN, **settings, **method}
    never = never_stopped(model, settings)
    recipe = "recipes/accent.py" if task == "speech" else "recipes/spam.py"
    killed = fork("tests/killed.py", where, call, recipe, "--model_name_or_path", model, "--output_dir",
                  tmp_path / "out", *as_flags(settings))  # fmt: skip
    assert killed.returncode == -9, killed.stderr
    assert not (tmp_path / "out").exists()
    assert (tmp_path / "out.partial").is_dir()
    resumed = run_of(tmp_path / "out", model, {**settings, "resume_from_checkpoint": "true"})
    before, after = weights_of(never.folder), weights_of(tmp_path / "out")
    assert before.keys() == after.keys()
    for name, value in before.items():
        assert torch.equal(value, after[name]), name
    assert history_of(resumed.report) == history_of(never.report)
    assert resumed.report["metrics"] == never.report["metrics"]
    assert not (tmp_path / "out.partial").exists()


# --- checkpoints ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def left(tiny, never_stopped, tmp_path_factory):
    """A run that never stopped, and the folder of one that ended, as by a full disk, after its second checkpoint."""
    place = tmp_path_factory.mktemp("left")
    settings = {**OFTEN, "train_file": str(write_csv(place / "m.csv", message_rows(100))), "method": "full"}
    never = never_stopped(tiny(), settings)
    with pytest.MonkeyPatch.context() as patch:
        honest, calls = checkpoints.finish_checkpoint, []

        def full_disk(*args):
            calls.append(args)
            if len(calls) > 2:
                raise OSError(28, "No space left on device")
            return honest(*args)

        patch.setattr("hf_transfer.training.trainer_checkpoints.finish_checkpoint", full_disk)
        with pytest.raises(
            Failure, match=r"No space left on device. The last good checkpoint is .*checkpoint-6. Make"
        ):
            run_of(place / "out", tiny(), settings)
    assert sorted(path.name for path in (place / "out.partial").iterdir() if not path.name.startswith(".")) == [
        "checkpoint-3", "checkpoint-6"
    ]  # fmt: skip
    return never, place / "out.partial"


@pytest.fixture
def never(left):
    """A run that never stopped."""
    return left[0]


@pytest.fixture
def unfinished(left, texts, tmp_path):
    """The same run unfinished, in this test's folder; the arguments that go on with it."""
    shutil.copytree(left[1], tmp_path / "out.partial")
    return {**OFTEN, **texts, "method": "full", "resume_from_checkpoint": "true"}


def test_the_manifest_tells_every_file(unfinished, tmp_path):
    for step in (3, 6):
        folder = tmp_path / "out.partial" / f"checkpoint-{step}"
        told = json.loads((folder / "manifest.json").read_text())
        assert set(told["files"]) == {path.name for path in folder.iterdir()} - {"manifest.json"}
        assert {"model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth"} <= set(told["files"])
        assert told["run"]["arguments"]["seed"] == 3
        assert not (folder / "training_args.bin").exists()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: (folder / "optimizer.pt").unlink(), "optimizer.pt: No such file"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"x"), "model.safetensors has 1 bytes, and"),
        (lambda folder: _flip(folder / "model.safetensors"), "model.safetensors has changed since it was written"),
        (lambda folder: (folder / "manifest.json").unlink(), "manifest.json: No such file"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "manifest.json cannot be read"),
    ],
)
def test_a_damaged_checkpoint_is_passed_over(tiny, unfinished, never, tmp_path, caplog, damage, said):
    damage(tmp_path / "out.partial" / "checkpoint-6")
    with caplog.at_level("INFO", "hf_transfer"):
        resumed = run_of(tmp_path / "out", tiny(), unfinished)
    assert f"checkpoint-6 is skipped: {said}" in caplog.text
    assert "Resuming from" in caplog.text
    assert "checkpoint-3." in caplog.text
    for name, value in weights_of(never.folder).items():
        assert torch.equal(value, weights_of(tmp_path / "out")[name]), name
    assert history_of(resumed.report) == history_of(never.report)


def _flip(file):
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def test_only_damaged_checkpoints_are_said(tiny, unfinished, tmp_path):
    for step in (3, 6):
        (tmp_path / "out.partial" / f"checkpoint-{step}" / "optimizer.pt").unlink()
    with pytest.raises(InputError, match=r"No checkpoint in .* is complete. Remove that folder to start"):
        run_of(tmp_path / "out", tiny(), unfinished)


def test_a_checkpoint_of_other_data_or_arguments_is_refused_unless_told(tiny, unfinished, tmp_path, caplog):
    with pytest.raises(InputError, match=r"weight_decay None, not 0.1.*--resume_despite_changes"):
        run_of(tmp_path / "out", tiny(), unfinished | {"weight_decay": 0.1})
    with pytest.raises(InputError, match="examples per step 8, not 4"):
        run_of(tmp_path / "out", tiny(), unfinished | {"per_device_train_batch_size": 4})
    rows = message_rows(100)
    rows[0]["text"] += " more"
    write_csv(tmp_path / "m.csv", rows)
    with pytest.raises(InputError, match="was written by a run with other examples, labels or splits"):
        run_of(tmp_path / "out", tiny(), unfinished)
    assert (tmp_path / "out.partial" / "checkpoint-6").is_dir()
    run_of(tmp_path / "out", tiny(), unfinished | {"resume_despite_changes": True})
    assert (tmp_path / "out" / "report.json").is_file()


def test_a_step_may_be_divided_otherwise(tiny, unfinished, never, tmp_path):
    divided = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    run_of(tmp_path / "out", tiny(), unfinished | divided)
    for name, value in weights_of(never.folder).items():
        torch.testing.assert_close(value, weights_of(tmp_path / "out")[name], atol=1e-5, rtol=0, msg=name)


def test_malicious_optimizer_state_is_not_run(tiny, unfinished, tmp_path):
    """A pickle that would make a file when loaded, in a checkpoint whose manifest agrees with it."""

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "owned"),)

    folder = tmp_path / "out.partial" / "checkpoint-6"
    for name in ("optimizer.pt", "rng_state.pth"):
        torch.save({"python": Evil()}, folder / name)
        manifest = json.loads((folder / "manifest.json").read_text())
        content = (folder / name).read_bytes()
        manifest["files"][name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        (folder / "manifest.json").write_text(json.dumps(manifest))
        with pytest.raises(Failure, match="cannot be loaded"):
            run_of(tmp_path / "out", tiny(), unfinished)
        assert not (tmp_path / "owned").exists()


def test_patience_survives_a_kill(tiny, texts, tmp_path):
    """Evaluations that cannot get better: the loss does not change."""
    settings = {**OFTEN, **texts, "method": "full", "learning_rate": 0.0, "num_train_epochs": 50.0,
                "early_stopping_patience": 3}  # fmt: skip
    never = run_of(tmp_path / "never", tiny(), settings).report
    assert never["training"]["steps"] == 12  # the first evaluation is the best, three more are not better
    # The second is killed as it writes its result: the patience had run out before.
    for name, where, call in (("steps", STEP, 11), ("end", RESULT, 1)):
        killed = fork("tests/killed.py", where, call, "recipes/spam.py", "--model_name_or_path", tiny(),
                      "--output_dir", tmp_path / name, *as_flags(settings))  # fmt: skip
        assert killed.returncode == -9, killed.stderr
        resumed = run_of(tmp_path / name, tiny(), settings | {"resume_from_checkpoint": "true"}).report
        assert resumed["training"]["steps"] == 12
        assert history_of(resumed) == history_of(never)


@pytest.mark.parametrize(
    ("settings", "where", "call"),
    [
        ({"eval_strategy": "epoch", "save_strategy": "epoch"}, "training_step", 5),  # in the middle of an epoch
        ({"eval_strategy": "epoch", "save_strategy": "epoch"}, "training_step", 8),  # at its end
        ({"save_strategy": "no", "eval_strategy": "no"}, "evaluation_loop", 2),  # after the last step
        ({}, "training_step", 7),
    ],
)
def test_a_stopped_run_goes_on_as_if_it_had_not_been(
    tiny, texts, never_stopped, tmp_path, monkeypatch, settings, where, call
):
    from hf_transfer.training.trainer import TransferTrainer

    settings = {**OFTEN, **texts, "method": "full", **settings}
    never = never_stopped(tiny(), settings)
    honest, calls = getattr(TransferTrainer, where), []

    def stopping(self, *args, **kwargs):
        calls.append(args)
        if len(calls) == call:
            os.kill(os.getpid(), signal.SIGTERM)
        return honest(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(TransferTrainer, where, stopping)
        with pytest.raises(Interrupted):
            run_of(tmp_path / "out", tiny(), settings)
    assert list((tmp_path / "out.partial").glob("checkpoint-*"))
    resumed = run_of(tmp_path / "out", tiny(), {**settings, "resume_from_checkpoint": "true"})
    for name, value in weights_of(never.folder).items():
        assert torch.equal(value, weights_of(tmp_path / "out")[name]), name
    assert history_of(resumed.report) == history_of(never.report)


def test_a_run_stopped_after_its_last_step_takes_no_more(tiny, texts, tmp_path):
    settings = {**OFTEN, **texts, "method": "full", "max_steps": 13, "save_steps": 13}
    never = run_of(tmp_path / "never", tiny(), settings)
    leave_unfinished(tmp_path / "out", tiny(), settings)
    resumed = run_of(tmp_path / "out", tiny(), {**settings, "resume_from_checkpoint": "true"})
    assert resumed.report["training"]["steps"] == 13
    # Nothing was left to train, and what it took is known nevertheless.
    took = [run.report["training"]["seconds"] for run in (never, resumed)]
    assert 0.2 * took[0] < took[1] < 5 * took[0] + 1
    assert resumed.report["seconds"]["total"] > resumed.report["seconds"]["training"] > took[1] - 0.1
    assert history_of(resumed.report) == history_of(never.report)


def test_a_checkpoint_of_a_head_alone_is_a_model_like_any_other(tiny, texts, tmp_path):
    """It is trained on inputs of another scale; who loads the checkpoint knows nothing of that."""
    settings = {**OFTEN, **texts, "method": "frozen", "max_steps": 13, "save_steps": 13}
    leave_unfinished(tmp_path / "out", tiny(), settings)
    kept = load_file(tmp_path / "out.partial" / "checkpoint-13" / "model.safetensors")
    run_of(tmp_path / "out", tiny(), {**settings, "resume_from_checkpoint": "true"})
    delivered = weights_of(tmp_path / "out")
    assert kept.keys() == delivered.keys()
    for name, value in delivered.items():
        torch.testing.assert_close(kept[name], value, atol=1e-6, rtol=0, msg=name)


def test_a_checkpoint_of_another_base_model_is_refused(tiny, texts, tmp_path):
    """The folder has the name that it had, and other weights."""
    base = shutil.copytree(tiny(), tmp_path / "base")
    settings = {**OFTEN, **texts, "method": "lora"}
    leave_unfinished(tmp_path / "out", base, settings)
    weights = load_file(base / "model.safetensors")
    name = next(name for name in weights if name.endswith("query.weight"))
    save_file({**weights, name: weights[name] + 0.01}, base / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match="other weights of the base model"):
        run_of(tmp_path / "out", base, {**settings, "resume_from_checkpoint": "true"})


def test_a_head_goes_on_in_the_coordinates_of_its_checkpoint(tiny, texts, never_stopped, tmp_path):
    """Other texts have another mean and spread; with no step left to take, they change nothing."""
    settings = {**OFTEN, **texts, "method": "frozen"}
    never = never_stopped(tiny(), settings)
    leave_unfinished(tmp_path / "out", tiny(), settings)
    others = write_csv(tmp_path / "others.csv", [{**row, "text": row["text"] * 2} for row in message_rows(90)])
    changes = {"train_file": str(others), "resume_from_checkpoint": "true", "resume_despite_changes": True,
               "max_steps": never.report["training"]["steps"]}  # fmt: skip
    run_of(tmp_path / "out", tiny(), {**settings, **changes})
    expected, found = (load_file(place / "model.safetensors") for place in (never.folder, tmp_path / "out"))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-6, rtol=1e-6, msg=name)


def test_weights_alone_are_nothing_to_go_on_from(tiny, texts, tmp_path):
    settings = {**OFTEN, **texts, "save_only_model": True}
    leave_unfinished(tmp_path / "out", tiny(), settings)
    with pytest.raises(InputError, match="is complete"):
        run_of(tmp_path / "out", tiny(), {**settings, "resume_from_checkpoint": "true"})


def test_the_head_is_fitted_first_under_early_stopping_too(tiny, texts, tmp_path):
    settings = {**OFTEN, **texts, "head_first": True, "early_stopping_patience": 2}
    assert run_of(tmp_path / "out", tiny(), settings).report["metrics"]


def test_a_run_that_goes_back_leaves_no_checkpoints_of_what_it_left(tiny, unfinished, tmp_path):
    """From the first checkpoint on at another evaluation, so that the weights of step 6 have another optimizer."""
    work = tmp_path / "out.partial"
    old = (work / "checkpoint-6" / "manifest.json").read_bytes()
    shutil.copytree(work / "checkpoint-6", work / "checkpoint-9")
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "hf_transfer.training.trainer_checkpoints.remove_old_checkpoints", lambda *_: seen.append(names_in(work))
        )
        leave_unfinished(
            tmp_path / "out", tiny(),
            unfinished | {"resume_from_checkpoint": str(work / "checkpoint-3"), "num_train_epochs": 3.0},
        )  # fmt: skip
    assert seen[0] == ["checkpoint-3", "checkpoint-6"]
    assert (work / "checkpoint-6" / "manifest.json").read_bytes() != old
    assert "checkpoint-9" in seen[1]


def names_in(folder):
    return sorted(path.name for path in folder.glob("checkpoint-*"))


# --- sick runs --------------------------------------------------------------------------------------------------


def test_a_collapsed_classifier_is_stopped_unless_told(tiny, tmp_path):
    rows = [{"text": "the same words", "label": label} for label in ("ham", "spam")] * 60
    file = str(write_csv(tmp_path / "m.csv", rows))
    settings = {"train_file": file, "test_file": file, "logging_steps": 2, "num_train_epochs": 40.0,
                "per_device_train_batch_size": 16, "learning_rate": 0.0, "report_to": "none",
                "disable_tqdm": True}  # fmt: skip
    with pytest.raises(Failure, match=r"got the same label.*Lower --learning_rate.*--stop_when_sick false") as stopped:
        run_of(tmp_path / "out", tiny(), settings)
    assert not (tmp_path / "out").exists()
    step = int(re.search(r"step (\d+)", str(stopped.value))[1])
    run_of(tmp_path / "on", tiny(), settings | {"stop_when_sick": False, "max_steps": step + 10})


def test_a_model_that_gives_one_number_is_stopped(tiny, tmp_path):
    rows = [{"text": "the same words", "label": label} for label in (1.5, 2.5)] * 60
    settings = {"train_file": str(write_csv(tmp_path / "m.csv", rows)), "validation_size": 0.0,
                "test_file": str(write_csv(tmp_path / "t.csv", number_rows(10))), "logging_steps": 2,
                "num_train_epochs": 40.0, "per_device_train_batch_size": 16, "learning_rate": 0.0, "report_to": "none",
                "disable_tqdm": True, "problem_type": "regression"}  # fmt: skip
    with pytest.raises(Failure, match=r"got the same number.*Lower --learning_rate.*--stop_when_sick false"):
        run_of(tmp_path / "out", tiny(), settings)


def test_labels_far_from_the_others_are_no_divergence(tiny, tmp_path):
    """Batches are of texts of similar length: the last one holds all the labels that are large."""
    rows = [{"text": "see " * (12 if i % 8 else 1) + str(i), "label": 0.1 * (i % 5) + 1000 * (i % 8 == 0)}
            for i in range(64)]  # fmt: skip
    settings = {"train_file": str(write_csv(tmp_path / "m.csv", rows)), "validation_size": 0.0,
                "test_file": str(write_csv(tmp_path / "t.csv", number_rows(10))), "logging_steps": 1,
                "num_train_epochs": 1.0, "per_device_train_batch_size": 8, "learning_rate": 1e-6, "seed": 12,
                "report_to": "none", "disable_tqdm": True, "problem_type": "regression"}  # fmt: skip
    report = run_of(tmp_path / "out", tiny(), settings).report
    losses = [entry["loss"] for entry in report["history"] if "loss" in entry]
    assert losses[-1] > 3 * max(1.0, losses[0])  # which would be a divergence where labels are even


def test_a_few_steps_with_one_answer_are_no_collapse(tiny, tmp_path):
    rows = [{"text": "the same words", "label": label} for label in ("ham", "spam")] * 60
    file = str(write_csv(tmp_path / "m.csv", rows))
    settings = {"train_file": file, "test_file": file, "logging_steps": 1, "max_steps": 13,
                "learning_rate": 0.0, "report_to": "none", "disable_tqdm": True}  # fmt: skip
    run_of(tmp_path / "out", tiny(), settings)


def test_a_loss_far_above_its_beginning_is_stopped(tiny, texts, tmp_path):
    settings = {**OFTEN, **texts, "learning_rate": 1.0, "lr_scheduler_type": "constant", "num_train_epochs": 20.0}
    with pytest.raises(Failure, match=r"it started at.*The last good checkpoint is .*checkpoint-"):
        run_of(tmp_path / "out", tiny(), settings)
    assert list((tmp_path / "out.partial").glob("checkpoint-*"))


def test_a_short_run_that_diverged_is_not_delivered(tiny, texts, tmp_path):
    """Its loss is far above chance at the first log already, and still at the last."""
    settings = {**OFTEN, **texts, "learning_rate": 3.0, "lr_scheduler_type": "constant", "max_steps": 3,
                "logging_steps": 1, "save_strategy": "no"}  # fmt: skip
    with pytest.raises(Failure, match=r"guessing gives .*: training has diverged. Lower --learning_rate"):
        run_of(tmp_path / "out", tiny(), settings)
    assert not (tmp_path / "out").exists()
    run_of(tmp_path / "out", tiny(), {**settings, "stop_when_sick": False})


# --- memory -----------------------------------------------------------------------------------------------------


@pytest.fixture
def small_memory(monkeypatch):
    """A device on which no more than five examples fit in evaluation, and three in training after three steps."""
    honest, steps = BertForSequenceClassification.forward, []

    def forward(self, **inputs):
        size = len(inputs["attention_mask"])
        steps.extend([True] * (self.training and size == 8))
        if size > (5 if not self.training else 3 if len(steps) > 3 else 8):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB.")
        return honest(self, **inputs)

    monkeypatch.setattr(BertForSequenceClassification, "forward", forward)


def test_memory_that_is_full_is_said(tiny, texts, small_memory, tmp_path):
    with pytest.raises(Failure, match=r"Out of memory.*--auto_find_batch_size"):
        run_of(tmp_path / "out", tiny(), {**OFTEN, **texts})
    assert not (tmp_path / "out").exists()


def test_batches_that_fit_are_found_and_the_step_stays(tiny, texts, never, small_memory, tmp_path, caplog):
    settings = {**OFTEN, **texts, "auto_find_batch_size": True}
    with caplog.at_level("INFO", "hf_transfer"):
        found = run_of(tmp_path / "out", tiny(), settings)
    assert "Out of memory: the 8 examples of a step are divided into 3 micro-batches" in caplog.text
    assert "Out of memory: evaluation uses batches of 4 from now on" in caplog.text
    assert [entry["loss"] for entry in found.report["history"] if "loss" in entry] == pytest.approx(
        [entry["loss"] for entry in never.report["history"] if "loss" in entry], abs=1e-5
    )
    for name, value in weights_of(never.folder).items():
        torch.testing.assert_close(value, weights_of(tmp_path / "out")[name], atol=1e-5, rtol=0, msg=name)


def several_processes(monkeypatch, find):
    """What `agreed_checkpoint` gives or raises in each of two processes, as threads that hand on what is broadcast."""
    sent = queue.Queue()

    def broadcast(values):
        if threading.current_thread().name == "main":
            sent.put(list(values))
        else:
            values[:] = sent.get(timeout=10)

    monkeypatch.setattr(resuming, "broadcast_object_list", broadcast)
    outcomes = {}

    def process(rank):
        training = SimpleNamespace(process_index=rank, world_size=2)
        try:
            outcomes[rank] = resuming.agreed_checkpoint(training, find)
        except Exception as error:
            outcomes[rank] = error

    threads = [threading.Thread(target=process, args=[rank], name=("main", "other")[rank]) for rank in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes[0], outcomes[1]


@pytest.mark.parametrize(
    ("error", "elsewhere"),
    [(InputError("a"), InputError), (KeyError("a"), Failure), (OSError(5, "I/O"), Failure), (Failure("a"), Failure)],
    ids=lambda value: getattr(value, "__name__", type(value).__name__),
)
def test_whatever_the_main_process_meets_the_others_do_not_wait(monkeypatch, error, elsewhere):
    def find():
        raise error

    main, other = several_processes(monkeypatch, find)
    assert main is error
    assert type(other) is elsewhere
    assert str(error) in str(other)


@pytest.mark.parametrize("lacking", ["run", "arguments", "data", "examples_a_step", "files"])
def test_a_manifest_that_lacks_what_is_compared_is_passed_over_by_name(tmp_path, lacking, caplog):
    manifest = {"run": {"arguments": {}, "data": "a", "examples_a_step": 8}, "files": {}}
    for place in (manifest, manifest["run"]):
        place.pop(lacking, None)
    checkpoint = tmp_path / "checkpoint-3"
    checkpoint.mkdir()
    (checkpoint / "optimizer.pt").write_bytes(b"state")
    if "files" in manifest:
        digest = hashlib.sha256(b"state").hexdigest()
        manifest["files"]["optimizer.pt"] = {"bytes": 5, "sha256": digest}
    (checkpoint / checkpoints.MANIFEST).write_text(json.dumps(manifest))
    run = {"arguments": {}, "data": "a", "examples_a_step": 8, "base": "b"}
    for despite in (False, True):
        with (
            caplog.at_level("INFO", "hf_transfer"),
            pytest.raises(InputError, match=r"No checkpoint in .* is complete"),
        ):
            resuming.checkpoint_to_resume("true", tmp_path, run, despite=despite)
        assert f"{checkpoint} is skipped: manifest.json" in caplog.text
