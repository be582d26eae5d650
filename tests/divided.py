"""Fine-tune with every method, with a step of eight examples divided among processes and micro-batches.

python tests/divided.py SETTINGS.json OUTPUT [METHOD ...], or the same under `accelerate launch`; one import for many
short runs.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import hf_transfer.result_writing
import hf_transfer.training.cost
import hf_transfer.training.speed.packed_layers
from hf_transfer import SpeechRecognition, TextClassification, finetune

TASKS: dict[str, Any] = {
    "text": TextClassification(),
    "number": TextClassification(problem_type="regression"),
    "speech": SpeechRecognition(),
}
STEP = 8
METHODS: list[dict[str, Any]] = [
    {"method": "full"},
    {"method": "lora"},
    {"method": "frozen", "trainable_layers": 1},
    {"method": "scratch"},
]
# Runs whose steps are divided into micro-batches too: one from scratch is divided as what is trained in full, and
# adapters of numbers and clips as those of texts.
ACCUMULATED = [("text", "lora"), *((task, method) for task in TASKS for method in ("full", "frozen"))]


def main(settings: Path, output: Path, *wanted: str) -> None:
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    # Neither page nor arithmetic is compared, and they are half of a tiny run; packing is left out of short ones.
    hf_transfer.result_writing._write_page = lambda *_: None
    hf_transfer.training.cost._flops_an_epoch = lambda *_: None
    hf_transfer.training.speed.packed_layers.STEPS_WORTH_TRYING = 0
    for task, own in json.loads(settings.read_text()).items():
        for method in METHODS:
            if wanted and method["method"] not in wanted:
                continue
            if task == "number" and method["method"] not in ("full", "lora"):
                continue  # the others' steps are those of texts with labels
            # What accumulation does alone, it does in two processes as well, and on two machines.
            accumulated = processes > 1 and not wanted and (task, method["method"]) in ACCUMULATED
            for accumulation in (1, 2) if accumulated else (1,):
                result = finetune(
                    TASKS[task], **own, **method,
                    per_device_train_batch_size=STEP // processes // accumulation,
                    gradient_accumulation_steps=accumulation,
                    output_dir=str(output / f"{task}-{method['method']}-{processes}-{accumulation}"),
                )  # fmt: skip
                assert "weights trained" in str(result)  # on every process


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
