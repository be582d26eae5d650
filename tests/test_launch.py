"""Several processes, started as a user starts them, give what one process gives."""

import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from conftest import ROOT, message_rows, number_rows, write_csv
from divided import ACCUMULATED
from processes import Forked, fork, fork_joined
from safetensors.torch import load_file

LAUNCH = [sys.executable, "-m", "accelerate.commands.launch"]


@pytest.fixture(scope="session")
def divided(tiny, speech_model, accents, tmp_path_factory):
    """Runs of every method, their steps divided in three ways: the folders that they left."""
    place = tmp_path_factory.mktemp("divided")
    common = {"num_train_epochs": 1.0, "learning_rate": 1e-3, "seed": 5, "logging_steps": 1, "report_to": "none",
              "per_device_eval_batch_size": 8, "disable_tqdm": True}  # fmt: skip
    rows = message_rows(80)  # 57 train: the last step has 1 for 4 pieces
    numbers = number_rows(80, 1000, 50_000)
    settings = {
        "text": {"train_file": str(write_csv(place / "m.csv", rows)), "model_name_or_path": str(tiny()), **common},
        "number": {
            "train_file": str(write_csv(place / "n.csv", numbers)),
            "model_name_or_path": str(tiny()),
            "validation_size": 0.1,
            **common,
        },
        "speech": {
            "dataset_name": str(accents),
            "model_name_or_path": str(speech_model()),
            **common,
        },
    }
    (place / "settings.json").write_text(json.dumps(settings))
    for processes in (1, 2):
        done = fork_joined("tests/divided.py", place / "settings.json", place / "out", processes=processes)
        assert done.returncode == 0, done.stderr
    return place / "out"


WATCHED = {"text": "commonest_prediction", "number": "prediction_spread", "speech": "blank_ratio"}


@pytest.mark.parametrize(
    ("task", "method"),
    [
        *itertools.product(["text", "speech"], ["full", "lora", "frozen", "scratch"]),
        *itertools.product(["number"], ["full", "lora"]),
    ],
)
def test_a_step_is_the_same_however_it_is_divided(divided, task, method):
    shares = []

    def result(processes, accumulation):
        folder = divided / f"{task}-{method}-{processes}-{accumulation}"
        report = json.loads((folder / "report.json").read_text())
        (weights,) = folder.glob("*model.safetensors")
        logged = [entry for entry in report["history"] if "loss" in entry]
        losses = [entry["loss"] for entry in logged]
        shares.append([entry.get(WATCHED[task], 0.0) for entry in logged])  # of one number there is no spread
        return report, losses, load_file(weights)

    report, losses, weights = result(1, 1)
    assert len(losses) == report["training"]["steps"] > 5
    for way in ((2, 1), (2, 2)) if (task, method) in ACCUMULATED else ((2, 1),):
        other_report, other_losses, other_weights = result(*way)
        assert other_losses == pytest.approx(losses, abs=1e-5, rel=1e-5), way
        assert shares[-1] == pytest.approx(shares[0], abs=1e-5), way
        assert other_weights.keys() == weights.keys()
        relative = 1e-5 if task == "number" else 0  # numbers, and the layer that makes them, are in a unit
        for key, value in weights.items():
            torch.testing.assert_close(other_weights[key], value, atol=1e-5, rtol=relative, msg=f"{way} {key}")
        assert other_report["metrics"] == pytest.approx(report["metrics"], abs=1e-5, rel=relative)
        assert other_report["baseline"] == pytest.approx(report["baseline"], abs=1e-5, rel=relative)
        assert other_report["training"]["steps"] == report["training"]["steps"]


@pytest.fixture
def two_hosts():
    """Two network namespaces, each with an address of its own, joined by a cable."""
    made = subprocess.run(["ip", "netns", "add", HOSTS[0]], capture_output=True, check=False) if _has_ip() else None
    if made is None or made.returncode:
        pytest.skip("needs the right to make network namespaces (ip netns add)")
    for command in (
        f"netns add {HOSTS[1]}",
        f"link add cable0 netns {HOSTS[0]} type veth peer name cable1 netns {HOSTS[1]}",
        *(f"-n {host} addr add 10.77.0.{i + 1}/24 dev cable{i}" for i, host in enumerate(HOSTS)),
        *(f"-n {host} link set cable{i} up" for i, host in enumerate(HOSTS)),
        *(f"-n {host} link set lo up" for host in HOSTS),
    ):
        subprocess.run(["ip", *command.split()], check=True)
    yield HOSTS
    for host in HOSTS:
        subprocess.run(["ip", "netns", "del", host], check=True)


HOSTS = "hf-transfer-a", "hf-transfer-b"


def _has_ip():
    return shutil.which("ip") is not None


# Runs a program in a network namespace.
INSIDE = """
import ctypes, os, runpy, sys
assert ctypes.CDLL(None).setns(os.open(sys.argv[1], os.O_RDONLY), 0) == 0
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_two_machines_give_the_weights_of_one(divided, two_hosts, tmp_path):
    running = [
        Forked(
            "-c", INSIDE, f"/run/netns/{host}", "tests/divided.py", divided.parent / "settings.json",
            tmp_path / "out", "full", "frozen", RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK="0", LOCAL_WORLD_SIZE="1",
            MASTER_ADDR="10.77.0.1", MASTER_PORT="29517", ACCELERATE_MIXED_PRECISION="no", OMP_NUM_THREADS="1",
            GLOO_SOCKET_IFNAME=f"cable{rank}",
        )
        for rank, host in enumerate(two_hosts)
    ]  # fmt: skip
    for process in running:
        done = process.finished()
        assert done.returncode == 0, done.stderr
    runs = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert len(runs) == 5
    for run in runs:
        (one,), (two,) = ((place / run).glob("*model.safetensors") for place in (divided, tmp_path / "out"))
        one, two = load_file(one), load_file(two)
        assert all(torch.equal(value, two[name]) for name, value in one.items()), run


def test_bad_input_is_said_once_by_several_processes(tmp_path):
    done = fork_joined("recipes/spam.py", "--train_file", tmp_path / "none.csv", "--model_name_or_path", "x",
                       "--output_dir", tmp_path / "out")  # fmt: skip
    assert done.returncode != 0
    assert done.stderr.count("no such file") == 1


def test_processes_that_are_not_joined_are_refused(tmp_path):
    """WORLD_SIZE says two, but nothing joins them: each would write the same folder."""
    done = fork("-c", "from hf_transfer.arguments import TransferTrainingArguments as A; import torch;"
                "torch.accelerator.is_available = lambda: True; A(output_dir='x')", WORLD_SIZE="2")  # fmt: skip
    assert "2 processes were started (WORLD_SIZE), but training sees 1" in done.stderr


def test_two_processes_stop_together_and_go_on_as_if_they_had_not(tiny, tmp_path):
    file = write_csv(tmp_path / "m.csv", message_rows(200))
    arguments = ["recipes/spam.py", "--train_file", file, "--model_name_or_path", tiny(), "--max_steps", 60,
                 "--save_strategy", "steps", "--save_steps", 10, "--per_device_train_batch_size", 4]  # fmt: skip
    never = fork_joined(*arguments, "--output_dir", tmp_path / "never")
    assert never.returncode == 0, never.stderr
    assert "the 2 processes train together on the CPU" in never.stderr
    assert never.stdout.count("The model is in") == 1  # one of them writes
    assert not (tmp_path / "never.partial").exists()
    running = subprocess.Popen(
        [*LAUNCH, "--multi_gpu", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no",
         "--num_processes", "2", "--main_process_port", "0", *map(str, arguments), "--output_dir", tmp_path / "out"],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    work = tmp_path / "out.partial"
    while not (work / "checkpoint-10").exists():
        assert running.poll() is None, running.stderr.read()
        time.sleep(0.02)
    running.send_signal(signal.SIGTERM)
    _, err = running.communicate(timeout=60)
    assert running.returncode != 0
    assert "Stopped by SIGTERM at step" in err
    newest = max(work.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    assert newest.name != "checkpoint-60"
    assert {"rng_state_0.pth", "rng_state_1.pth", "manifest.json"} <= {path.name for path in newest.iterdir()}
    # The main process decides from where: the other one sees no checkpoint that is complete.
    (tmp_path / "late.py").write_text(
        "import os, runpy, sys\nimport hf_transfer.training.resuming as resuming\n"
        "if os.environ['RANK'] == '1':\n    resuming.find_problem = lambda checkpoint: 'it shows late here'\n"
        "sys.argv = sys.argv[1:]\nrunpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    resumed = fork_joined(tmp_path / "late.py", *arguments, "--output_dir", tmp_path / "out",
                          "--resume_from_checkpoint", "true")  # fmt: skip
    assert resumed.returncode == 0, resumed.stderr
    assert f"Resuming from {newest}" in resumed.stderr
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("never", "out"))
    assert all(torch.equal(value, two[name]) for name, value in one.items())


def test_sharding_is_refused(tiny, recipe, tmp_path):
    """An FSDP config of accelerate's, as a user of several GPUs has it; the flag; DeepSpeed's."""
    file = write_csv(tmp_path / "m.csv", message_rows(80))
    (tmp_path / "fsdp.yaml").write_text(
        "compute_environment: LOCAL_MACHINE\ndistributed_type: FSDP\nnum_machines: 1\nnum_processes: 2\n"
        "machine_rank: 0\nmixed_precision: 'no'\nfsdp_config:\n  fsdp_version: 2\n"
        "  fsdp_auto_wrap_policy: TRANSFORMER_BASED_WRAP\n  fsdp_state_dict_type: FULL_STATE_DICT\n"
    )
    common = ["--train_file", file, "--model_name_or_path", tiny(), "--output_dir", tmp_path / "out"]
    # The launcher itself makes the variables that the processes are given; these are forked.
    told = subprocess.run(
        [*LAUNCH, "--config_file", tmp_path / "fsdp.yaml", "--num_processes", "1", "--no_python", "env"],
        cwd=ROOT, capture_output=True, text=True, timeout=120, check=True,
    ).stdout  # fmt: skip
    variables = dict(line.split("=", 1) for line in told.splitlines() if re.match("(ACCELERATE|FSDP)_", line))
    assert variables["ACCELERATE_USE_FSDP"] == "true"
    done = fork_joined("recipes/spam.py", *common, **variables)
    assert done.returncode != 0
    assert done.stderr.count("error: FSDP is not supported: it has not been tested") == 1
    for flag, value, says in (("fsdp", "full_shard", "FSDP"), ("deepspeed", "config.json", "DeepSpeed")):
        result = recipe("spam", *common, f"--{flag}", value)
        assert result.code == 2
        assert f"{says} is not supported" in result.err
