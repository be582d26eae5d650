"""The same result whatever happens: kills, stops, full disks, damaged and foreign checkpoints."""

import os
import subprocess
import sys

import pytest
import torch
from conftest import ROOT, message_rows, write_csv
from safetensors.torch import load_file

from hf_transfer import SpeechRecognition, TextClassification, finetune

STEP = "hf_transfer.training.trainer:TransferTrainer.compute_loss"
EVALUATION = "hf_transfer.training.trainer:TransferTrainer.evaluation_loop"
SEALING = "hashlib:file_digest"  # the files of a checkpoint are there, its manifest is not
SAVING = "torch:save"  # the weights of a checkpoint are there, its optimizer is not
ROTATION = "hf_transfer.training.trainer:rotate_checkpoints"  # the new one is in place, the old one too
RESULT = "hf_transfer.finetuning:_write_model"
CARD = "hf_transfer.finetuning:model_card"  # the weights of the result are written, the card is not
# Two evaluations and checkpoints an epoch of 8 steps, logs between them; augmentation and dropout draw at random.
OFTEN = {"num_train_epochs": 2.0, "per_device_train_batch_size": 8, "eval_strategy": "steps", "eval_steps": 3,
         "save_strategy": "steps", "save_steps": 3, "logging_steps": 2, "learning_rate": 1e-3, "seed": 3,
         "per_device_eval_batch_size": 8, "report_to": "none", "disable_tqdm": True}  # fmt: skip


@pytest.fixture
def texts(tmp_path):
    return {"train_file": str(write_csv(tmp_path / "m.csv", message_rows(100)))}


@pytest.fixture
def clips(accents):
    return {"dataset_name": str(accents), "validation_size": 0.2, "speed_perturbation": 0.2, "noise_probability": 0.5,
            "mask_time_prob": 0.2}  # fmt: skip


def run_of(output, model, settings):
    speech = "dataset_name" in settings
    own = ("speed_perturbation", "noise_probability", "mask_time_prob")
    task = SpeechRecognition(**{key: settings[key] for key in own}) if speech else TextClassification()
    others = {key: value for key, value in settings.items() if key not in own}
    return finetune(task, output_dir=str(output), model_name_or_path=str(model), **others)


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
        ("text", {"method": "full"}, STEP, 10),
        ("text", {"method": "lora"}, EVALUATION, 3),
        ("text", {"method": "frozen"}, SAVING, 4),
        ("text", {"method": "frozen", "trainable_layers": 1}, SEALING, 15),
        ("text", {"method": "scratch"}, ROTATION, 3),
        ("text", {"method": "lora", "head_first": True}, CARD, 1),
        ("speech", {"method": "full"}, STEP, 15),
        ("speech", {"method": "lora"}, SEALING, 15),
        ("speech", {"method": "frozen", "trainable_layers": 1}, EVALUATION, 4),
        ("speech", {"method": "scratch"}, RESULT, 1),
    ],
)
def test_a_killed_run_goes_on_as_if_it_had_not_been(
    tiny, speech_model, texts, clips, tmp_path, task, method, where, call
):
    model, settings = (tiny(), texts) if task == "text" else (speech_model(), clips)
    settings = {**OFTEN, **settings, **method}
    never = run_of(tmp_path / "never", model, settings)
    recipe = "recipes/spam.py" if task == "text" else "recipes/accent.py"
    accumulation = [] if task == "text" else ["--gradient_accumulation_steps", "1"]
    killed = subprocess.run(
        [sys.executable, "tests/killed.py", where, str(call), recipe, "--model_name_or_path", model, "--output_dir",
         tmp_path / "out", *as_flags(settings), *accumulation],
        cwd=ROOT, env={**os.environ}, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert killed.returncode == -9, killed.stderr
    assert not (tmp_path / "out").exists()
    assert (tmp_path / "out.partial").is_dir()
    resumed = run_of(tmp_path / "out", model, {**settings, "resume_from_checkpoint": "true"})
    before, after = weights_of(tmp_path / "never"), weights_of(tmp_path / "out")
    assert before.keys() == after.keys()
    for name, value in before.items():
        assert torch.equal(value, after[name]), name
    assert history_of(resumed.report) == history_of(never.report)
    assert resumed.report["metrics"] == never.report["metrics"]
    assert not (tmp_path / "out.partial").exists()
