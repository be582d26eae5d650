"""Several processes, started as a user starts them, give what one process gives."""

import json
import os
import subprocess
import sys

import pytest
import torch
from conftest import ROOT, build_model, message_rows, write_csv
from safetensors.torch import load_file


def launch(*arguments, processes=1):
    """Run a recipe under `accelerate launch`."""
    several = ["--multi_gpu", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    return subprocess.run(
        [sys.executable, "-m", "accelerate.commands.launch", *(several if processes > 1 else ["--cpu"]),
         "--num_processes", str(processes), "--main_process_port", "0", *map(str, arguments)],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("method", ["full", "lora", "frozen", "scratch"])
def test_two_processes_give_the_weights_and_metrics_of_one(tmp_path, method):
    model = build_model(tmp_path / "model", "bert")
    file = write_csv(tmp_path / "m.csv", message_rows(80))  # 57 train: the last step has 1 for 4 pieces
    arguments = ["recipes/spam.py", "--train_file", file, "--model_name_or_path", model, "--method", method,
                 "--num_train_epochs", 2, "--learning_rate", 1e-3, "--seed", 5]  # fmt: skip
    one = launch(*arguments, "--per_device_train_batch_size", 8, "--output_dir", tmp_path / "one")
    assert one.returncode == 0, one.stderr
    two = launch(*arguments, "--per_device_train_batch_size", 2, "--gradient_accumulation_steps", 2,
                 "--output_dir", tmp_path / "two", processes=2)  # fmt: skip
    assert two.returncode == 0, two.stderr
    assert "the 2 processes are joined on the CPU" in two.stderr
    assert two.stdout.count("The model lies in") == 1
    name = "adapter_model.safetensors" if method == "lora" else "model.safetensors"
    first, second = load_file(tmp_path / "one" / name), load_file(tmp_path / "two" / name)
    assert first.keys() == second.keys()
    for key in first:
        torch.testing.assert_close(first[key], second[key], atol=1e-5, rtol=0, msg=key)
    reports = [json.loads((tmp_path / folder / "report.json").read_text()) for folder in ("one", "two")]
    assert reports[0]["metrics"] == pytest.approx(reports[1]["metrics"], abs=1e-5)
    assert reports[0]["baseline"] == pytest.approx(reports[1]["baseline"], abs=1e-5)
    assert reports[0]["training"]["steps"] == reports[1]["training"]["steps"]
    assert not (tmp_path / "two.partial").exists()


def test_bad_input_is_said_once_by_several_processes(tmp_path):
    done = launch("recipes/spam.py", "--train_file", tmp_path / "none.csv", "--model_name_or_path", "x",
                  "--output_dir", tmp_path / "out", processes=2)  # fmt: skip
    assert done.returncode != 0
    assert done.stderr.count("no such file") == 1


def test_processes_that_are_not_joined_are_refused(tmp_path):
    """WORLD_SIZE says two, but nothing joins them: each would write the same folder."""
    done = subprocess.run(
        [sys.executable, "-c", "from hf_transfer.arguments import TransferTrainingArguments as A; import torch;"
         "torch.accelerator.is_available = lambda: True; A(output_dir='x')"],
        cwd=ROOT, env={**os.environ, "WORLD_SIZE": "2", "CUDA_VISIBLE_DEVICES": ""}, capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip
    assert "2 processes were started (WORLD_SIZE) but training sees 1" in done.stderr
