"""Cost of speech: memory and time of preprocessing, and speed of training a model of wav2vec2-base's size.

    python benchmarks/speech.py preprocessing --hours 1 10
    python benchmarks/speech.py again --hours 1
    python benchmarks/speech.py training --method full

The clips are noise and the weights are random, which does not change the cost. Training alternates with transformers'
Trainer, set up as run_speech_recognition_ctc.py does by default; ours starts with an empty cache of activations.
"""

import argparse
import csv
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from alternating import argument_parser, compare

RATE = 16_000


def write_clips_of(folder: Path, lengths: list[float]) -> Path:
    """Write clips of the given lengths in seconds to a folder, and return the path of the table that lists them."""
    import numpy as np
    import soundfile

    (folder / "clips").mkdir()
    with (folder / "clips.csv").open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["path", "sentence"])
        for i, seconds in enumerate(lengths):
            samples = np.random.default_rng(i).normal(scale=0.1, size=int(seconds * RATE))
            soundfile.write(folder / "clips" / f"{i}.flac", samples, RATE)
            table.writerow([f"{i}.flac", "TURN THE LIGHT ON"])
    return folder / "clips.csv"


def write_clips(folder: Path, count: int, seconds: float) -> Path:
    """Write `count` clips, one file under many names, and return the path of the table that lists them."""
    import numpy as np
    import soundfile

    (folder / "clips").mkdir()
    first = folder / "clips" / "0.flac"
    soundfile.write(first, np.random.default_rng(0).normal(scale=0.1, size=int(seconds * RATE)), RATE)
    with (folder / "clips.csv").open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["path", "sentence"])
        for i in range(count):
            if i:
                os.link(first, folder / "clips" / f"{i}.flac")
            table.writerow([f"{i}.flac", "TURN THE LIGHT ON"])
    return folder / "clips.csv"


def write_model(folder: Path, **changes: int) -> Path:
    """Write a random CTC model of the size of wav2vec2-base and its processor to a folder; return the folder."""
    import torch
    from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2ForCTC, Wav2Vec2Processor

    from hf_transfer.targets.transcripts.letters import build_tokenizer

    torch.manual_seed(0)
    tokenizer = build_tokenizer(["TURN THE LIGHT ON"])
    # run_speech_recognition_ctc.py has no dropout by default. Its SpecAugment is left out.
    no_dropout = dict.fromkeys(("hidden_dropout", "attention_dropout", "activation_dropout", "feat_proj_dropout",
                          "final_dropout", "layerdrop", "mask_time_prob"), 0.0)  # fmt: skip
    config = Wav2Vec2Config(vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, **no_dropout, **changes)
    Wav2Vec2ForCTC(config).save_pretrained(folder)
    extractor = Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=False)
    Wav2Vec2Processor(feature_extractor=extractor, tokenizer=tokenizer).save_pretrained(folder)
    return folder


def decode(file: Path, model: Path) -> None:
    """Decode the clips of a table, as a run with this model does."""
    from hf_transfer import SpeechRecognition
    from hf_transfer.arguments import DataArguments, ModelArguments
    from hf_transfer.data.loading import load_splits

    data = DataArguments(train_file=str(file))
    SpeechRecognition().read(load_splits(data), data, ModelArguments(str(model)))


def preprocessing(hours: float) -> None:
    """Decode this many hours of audio in this process, and print its peak memory in MB."""
    import datasets

    with tempfile.TemporaryDirectory() as name:
        datasets.config.HF_DATASETS_CACHE = Path(name) / "cache"
        model = write_model(Path(name) / "model", hidden_size=32, num_attention_heads=4, intermediate_size=64)
        file = write_clips(Path(name), int(hours * 720), 5.0)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        decode(file, model)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{hours:g} h of audio: peak memory {peak:.0f} MB, {peak - before:.0f} MB above the start")


def again(hours: float) -> None:
    """Decode this many hours of audio twice, and print the seconds; the second time reads the cache."""
    import datasets

    with tempfile.TemporaryDirectory() as name:
        datasets.config.HF_DATASETS_CACHE = Path(name) / "cache"
        model = write_model(Path(name) / "model", hidden_size=32, num_attention_heads=4, intermediate_size=64)
        file = write_clips(Path(name), int(hours * 720), 5.0)
        seconds = []
        for _ in range(2):
            started = time.perf_counter()
            decode(file, model)
            seconds.append(time.perf_counter() - started)
    print(f"{hours:g} h of audio: {seconds[0]:.2f} s, again {seconds[1]:.2f} s ({seconds[1] / seconds[0]:.3f})")


class StockExamples:
    """Dataset of run_speech_recognition_ctc.py, whose inputs are arrays, padded to the longest of a batch."""

    def __init__(self, processor: Any, table: list[dict[str, str]], folder: Path):
        import soundfile

        self.processor = processor
        self.rows = [
            {
                "input_values": processor(soundfile.read(folder / row["path"])[0], sampling_rate=RATE).input_values[0],
                "labels": processor.tokenizer(row["sentence"]).input_ids,
            }
            for row in table
        ]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> dict[str, Any]:
        return self.rows[i]

    def collate(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        batch = self.processor.feature_extractor.pad(
            [{"input_values": row["input_values"]} for row in rows], padding=True, return_tensors="pt"
        )
        labels = self.processor.tokenizer.pad([{"input_ids": row["labels"]} for row in rows], return_tensors="pt")
        return {**batch, "labels": labels["input_ids"].masked_fill(labels["attention_mask"].ne(1), -100)}


def training(args: argparse.Namespace) -> None:
    """Train a base-sized model by one method, as the example script and as finetune() do, and print both speeds."""
    import datasets

    from hf_transfer.models import quiet

    settings = {"num_train_epochs": float(args.epochs), "per_device_train_batch_size": args.batch_size,
                "save_strategy": "no", "report_to": "none", "disable_tqdm": True, "logging_steps": 50,
                "learning_rate": 1e-5, "use_cpu": args.device == "cpu", "bf16": args.bf16}  # fmt: skip
    with tempfile.TemporaryDirectory() as name, quiet():
        folder = Path(name)
        datasets.config.HF_DATASETS_CACHE = folder / "cache"
        lengths = [1 + 14 * i / (args.clips - 1) for i in range(args.clips)]
        file = write_clips_of(folder, lengths)
        write_model(folder / "model")
        ours = our_training(args, folder, file, settings)
        stock = stock_training(args, folder, file, settings)
        compare({"stock": stock, "ours": ours}, sum(lengths) * args.epochs, "s of audio", args.rounds)
        cost = ours()
        print(
            f"ours, once more: {cost['flops_utilisation']} of the rate of a matrix product, {cost['padding']} padding"
        )


def load_model(args: argparse.Namespace, folder: Path) -> tuple[Any, Any]:
    """Return the model in a folder, its weights set to trainable as the method needs it, and its anatomy."""
    import torch
    from transformers import AutoModelForCTC

    from hf_transfer.arguments import MethodArguments
    from hf_transfer.methods.anatomy import Anatomy
    from hf_transfer.methods.trainable import apply_method

    model = AutoModelForCTC.from_pretrained(folder / "model", dtype=torch.float32)
    model.freeze_feature_encoder()
    anatomy = Anatomy.of(model, [])
    method = MethodArguments(args.method, trainable_layers=args.trainable_layers)
    return apply_method(model, anatomy, method, revision="main"), anatomy


def stock_training(
    args: argparse.Namespace, folder: Path, file: Path, settings: dict[str, Any]
) -> Callable[[], object]:
    """Return the `train` method of transformers' Trainer for the clips of a table."""
    from transformers import Trainer, TrainingArguments, Wav2Vec2Processor

    with file.open() as stream:
        table = list(csv.DictReader(stream))
    examples = StockExamples(Wav2Vec2Processor.from_pretrained(folder / "model"), table, folder / "clips")
    model, _ = load_model(args, folder)
    return Trainer(
        model, TrainingArguments(str(folder), **settings), train_dataset=examples, data_collator=examples.collate
    ).train


def our_training(
    args: argparse.Namespace, folder: Path, file: Path, settings: dict[str, Any]
) -> Callable[[], dict[str, Any]]:
    """Return a function that trains as finetune() does, with an empty cache of activations, and returns the cost."""
    import datasets

    from hf_transfer import SpeechRecognition
    from hf_transfer.arguments import (
        Arguments,
        DataArguments,
        MethodArguments,
        ModelArguments,
        TransferTrainingArguments,
    )
    from hf_transfer.data.loading import load_splits
    from hf_transfer.training.activations.precomputed import precompute
    from hf_transfer.training.default_settings import fill_in_training_defaults
    from hf_transfer.training.fit import PreparedData, fit, make_trainer

    task = SpeechRecognition(speed_perturbation=0.0)
    method = MethodArguments(args.method, trainable_layers=args.trainable_layers)
    arguments = Arguments(task, ModelArguments(str(folder / "model")), DataArguments(train_file=str(file)), method,
                          TransferTrainingArguments(str(folder), **settings))  # fmt: skip
    splits, *_ = task.read(load_splits(arguments.data), arguments.data, arguments.model)
    processor = task.load_processor(arguments.model, splits)
    splits["test"] = splits["train"]
    model, anatomy = load_model(args, folder)
    splits, inputs = task.model_inputs(splits, processor, model, seed=0)
    fill_in_training_defaults(arguments, model.config, args.clips)
    trainer = make_trainer(PreparedData(arguments, processor, splits, inputs), model, folder)

    def run() -> dict[str, Any]:
        activations = Path(datasets.config.HF_DATASETS_CACHE) / "hf_transfer_activations"
        shutil.rmtree(activations, ignore_errors=True)
        precomputed = precompute(trainer, anatomy, method, {"train": inputs["train"]})
        return fit(trainer, anatomy, method, precomputed, None)

    return run


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("measure", choices=["preprocessing", "again", "training"])
    parser.add_argument("--hours", type=float, nargs="+", default=[1, 10])
    parser.add_argument("--method", choices=["full", "lora", "frozen"], default="full")
    parser.add_argument("--trainable_layers", type=int, default=0)
    parser.add_argument("--clips", type=int, default=16, help="number of clips, of 1 to 15 seconds")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch_size", type=int, default=8, help="default: that of TrainingArguments")
    args = parser.parse_args()
    if args.measure == "training":
        training(args)
    elif args.measure == "again":
        again(args.hours[0])
    elif len(args.hours) == 1:
        preprocessing(args.hours[0])
    else:  # each in its own process, so that each has its own peak memory
        for hours in args.hours:
            subprocess.run([sys.executable, __file__, "preprocessing", "--hours", str(hours)], check=True)


if __name__ == "__main__":
    main()
