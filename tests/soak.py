"""Kill runs at random moments, and compare what they lead to with runs that were never killed.

python tests/soak.py --kills 200

Each run is a forked process that is sent SIGKILL after a random time, then started again with
--resume_from_checkpoint true, until it ends by itself. Its weights and its history have to be those of a run that was
never killed, bit for bit.
"""

import argparse
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from conftest import build_model, message_rows, write_csv
from speech import build_speech_model, write_clips
from test_reliability import history_of, run_of, weights_of

from hf_transfer.reporting.output_folder import OutputFolder

METHODS: list[dict[str, Any]] = [
    {"method": "full"},
    {"method": "lora", "head_first": True},
    {"method": "frozen"},
    {"method": "frozen", "trainable_layers": 1},
    {"method": "scratch"},
]
OFTEN = {"num_train_epochs": 6.0, "per_device_train_batch_size": 8, "eval_strategy": "steps", "eval_steps": 4,
         "save_strategy": "steps", "save_steps": 4, "logging_steps": 3, "learning_rate": 1e-3, "seed": 3,
         "report_to": "none", "disable_tqdm": True, "resume_from_checkpoint": "true"}  # fmt: skip


def start(output: Path, model: Path, settings: dict[str, Any]) -> int:
    child = os.fork()
    if child == 0:
        code = 1
        try:
            run_of(output, model, settings)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return child


def finish(child: int) -> None:
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
        raise SystemExit("A run that was not killed has failed.")


def kill_after(child: int, seconds: float, work: Path) -> str | None:
    """Kill the run after so many seconds; in which phase it was, or None where it had ended before."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            if os.waitstatus_to_exitcode(status):
                raise SystemExit("A run that was not killed has failed.")
            return None
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    if (work / "result").exists():
        return "writing the result"
    if (work / "writing").exists():
        return "writing a checkpoint"
    return "training or evaluating" if any(work.glob("checkpoint-*")) else "before the first checkpoint"


def differs(never: Path, killed: Path) -> bool:
    before, after = weights_of(never), weights_of(killed)
    reports = [OutputFolder(path, resume=True).report() for path in (never, killed)]
    same = before.keys() == after.keys() and all(torch.equal(value, after[name]) for name, value in before.items())
    return not same or history_of(reports[0]) != history_of(reports[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng, phases, lost, runs = random.Random(args.seed), Counter(), 0, 0
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        os.environ["HF_DATASETS_CACHE"] = str(place / "cache")
        rows = write_clips(place / "clips", 48)
        write_csv(place / "clips" / "metadata.csv", rows)
        text = {"train_file": str(write_csv(place / "m.csv", message_rows(120)))}
        speech = {"dataset_name": str(place / "clips"), "validation_size": 0.2, "speed_perturbation": 0.2,
                  "noise_probability": 0.5, "mask_time_prob": 0.2}  # fmt: skip
        tasks = [
            (build_model(place / "bert", "bert"), text),
            (build_speech_model(place / "wav2vec2", "wav2vec2-layer"), speech),
        ]
        while sum(phases.values()) < args.kills:
            model, data = tasks[runs % len(tasks)]
            settings = {**OFTEN, **data, **METHODS[runs // len(tasks) % len(METHODS)], "seed": runs}
            never, killed = place / f"never{runs}", place / f"killed{runs}"
            began = time.perf_counter()
            finish(start(never, model, settings))
            longest = time.perf_counter() - began
            while not killed.exists():
                phase = kill_after(start(killed, model, settings), rng.uniform(0, longest), Path(f"{killed}.partial"))
                if phase is not None:
                    phases[phase] += 1
            runs += 1
            other = differs(never, killed)
            lost += other
            print(f"{sum(phases.values())} kills: {model.name}, {METHODS[(runs - 1) // len(tasks) % len(METHODS)]}, "
                  f"{'ANOTHER RESULT' if other else 'the same result'}", flush=True)  # fmt: skip
    print(f"{sum(phases.values())} kills in {runs} runs, {lost} of which ended otherwise than the one never killed.")
    for phase, count in phases.most_common():
        print(f"{count:5} {phase}")
    sys.exit(lost > 0)


if __name__ == "__main__":
    main()
