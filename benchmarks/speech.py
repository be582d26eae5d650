"""What speech costs: memory and time of preprocessing, and training a model of wav2vec2-base's size.

    python benchmarks/speech.py preprocessing --hours 1 10
    python benchmarks/speech.py again --hours 1
    python benchmarks/speech.py training --method full

Clips are noise and weights are random: neither changes the cost. Training alternates with transformers' Trainer, set
up as run_speech_recognition_ctc.py does by default; ours begins with an empty cache of activations.
"""

import csv
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from alternating import compare, parser

RATE = 16_000


def write_clips_of(folder: Path, lengths: list[float]) -> Path:
    """A table of clips of so many seconds each."""
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
    """A table of `count` clips: one file under many names, each decoded for itself."""
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
    """A wav2vec2 of base size with random weights, and a vocabulary."""
    import torch
    from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2ForCTC, Wav2Vec2Processor

    from hf_transfer.targets.transcripts.letters import build_tokenizer

    torch.manual_seed(0)
    tokenizer = build_tokenizer(["TURN THE LIGHT ON"])
    # Regularised as run_speech_recognition_ctc.py does by default: not at all, but for its SpecAugment, left out here.
    none = dict.fromkeys(("hidden_dropout", "attention_dropout", "activation_dropout", "feat_proj_dropout",
                          "final_dropout", "layerdrop", "mask_time_prob"), 0.0)  # fmt: skip
    config = Wav2Vec2Config(vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, **none, **changes)
    Wav2Vec2ForCTC(config).save_pretrained(folder)
    extractor = Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=False)
    Wav2Vec2Processor(feature_extractor=extractor, tokenizer=tokenizer).save_pretrained(folder)
    return folder


def preprocessing(hours: float) -> None:
    """Decode so many hours in this process, and print its peak memory."""
    from hf_transfer import SpeechRecognition
    from hf_transfer.arguments import DataArguments, ModelArguments
    from hf_transfer.data.loading import load_splits

    with tempfile.TemporaryDirectory() as name:
        import datasets

        datasets.config.HF_DATASETS_CACHE = Path(name) / "cache"
        model = write_model(Path(name) / "model", hidden_size=32, num_attention_heads=4, intermediate_size=64)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        data = DataArguments(train_file=str(write_clips(Path(name), int(hours * 720), 5.0)))
        SpeechRecognition().read(load_splits(data), data, ModelArguments(str(model)))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{hours:g} h of audio: peak memory {peak:.0f} MB, {peak - before:.0f} MB above the start")


def again(hours: float) -> None:
    """Decode so many hours twice, and print how long each took."""
    from hf_transfer import SpeechRecognition
    from hf_transfer.arguments import DataArguments, ModelArguments
    from hf_transfer.data.loading import load_splits

    with tempfile.TemporaryDirectory() as name:
        import datasets

        datasets.config.HF_DATASETS_CACHE = Path(name) / "cache"
        model = write_model(Path(name) / "model", hidden_size=32, num_attention_heads=4, intermediate_size=64)
        data = DataArguments(train_file=str(write_clips(Path(name), int(hours * 720), 5.0)))
        took = []
        for _ in range(2):
            began = time.perf_counter()
            SpeechRecognition().read(load_splits(data), data, ModelArguments(str(model)))
            took.append(time.perf_counter() - began)
    print(f"{hours:g} h of audio: {took[0]:.2f} s, again {took[1]:.2f} s ({took[1] / took[0]:.3f})")


class Stock:
    """run_speech_recognition_ctc.py's data: inputs as arrays, padded to the longest of a batch."""

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


def training(asked: Any) -> None:
    """Train a base-sized model by one method, as the example script does and as finetune() does."""
    import datasets
    import torch
    from transformers import AutoModelForCTC, Trainer, TrainingArguments

    from hf_transfer import SpeechRecognition
    from hf_transfer.arguments import (
        Arguments,
        DataArguments,
        MethodArguments,
        ModelArguments,
        TransferTrainingArguments,
    )  # fmt: skip
    from hf_transfer.data.loading import load_splits
    from hf_transfer.methods.anatomy import Anatomy
    from hf_transfer.methods.trainable import apply_method
    from hf_transfer.models import quiet
    from hf_transfer.training.activations.precomputed import precompute
    from hf_transfer.training.fit import PreparedData, fill_in_training_defaults, fit, make_trainer

    method = MethodArguments(asked.method, trainable_layers=asked.trainable_layers)
    settings = {"num_train_epochs": float(asked.epochs), "per_device_train_batch_size": asked.batch_size,
                "save_strategy": "no", "report_to": "none", "disable_tqdm": True, "logging_steps": 50,
                "learning_rate": 1e-5, "use_cpu": asked.device == "cpu", "bf16": asked.bf16}  # fmt: skip
    with tempfile.TemporaryDirectory() as name, quiet():
        datasets.config.HF_DATASETS_CACHE = Path(name) / "cache"
        lengths = [1 + 14 * i / (asked.clips - 1) for i in range(asked.clips)]
        file = write_clips_of(Path(name), lengths)
        folder = write_model(Path(name) / "model")
        task = SpeechRecognition(speed_perturbation=0.0)
        arguments = Arguments(task, ModelArguments(str(folder)), DataArguments(train_file=str(file)), method,
                              TransferTrainingArguments(name, **settings))  # fmt: skip
        splits, *_ = task.read(load_splits(arguments.data), arguments.data, arguments.model)
        processor = task.load_processor(arguments.model, splits)
        splits["test"] = splits["train"]

        def model() -> tuple[Any, Any]:
            loaded = AutoModelForCTC.from_pretrained(folder, dtype=torch.float32)
            loaded.freeze_feature_encoder()
            anatomy = Anatomy.of(loaded, [])
            return apply_method(loaded, anatomy, method, revision="main"), anatomy

        table = list(csv.DictReader(file.open()))
        examples = Stock(processor, table, Path(name) / "clips")
        stock = Trainer(
            model()[0], TrainingArguments(name, **settings), train_dataset=examples, data_collator=examples.collate
        )
        ours, anatomy = model()
        splits, inputs = task.model_inputs(splits, processor, ours, seed=0)
        fill_in_training_defaults(arguments, ours.config, asked.clips)
        trainer = make_trainer(PreparedData(arguments, processor, splits, inputs), ours, Path(name))

        def run() -> Any:
            shutil.rmtree(Path(datasets.config.HF_DATASETS_CACHE) / "hf_transfer_activations", ignore_errors=True)
            precomputed = precompute(trainer, anatomy, method, {"train": inputs["train"]})
            return fit(trainer, anatomy, method, precomputed, None)

        compare({"stock": stock.train, "ours": run}, sum(lengths) * asked.epochs, "s of audio", asked.rounds)
        cost = run()
        print(
            f"ours, once more: {cost['flops_utilisation']} of the rate of a matrix product, {cost['padding']} padding"
        )


def main() -> None:
    flags = parser(__doc__)
    flags.add_argument("what", choices=["preprocessing", "again", "training"])
    flags.add_argument("--hours", type=float, nargs="+", default=[1, 10])
    flags.add_argument("--method", choices=["full", "lora", "frozen"], default="full")
    flags.add_argument("--trainable_layers", type=int, default=0)
    flags.add_argument("--clips", type=int, default=16, help="of 1 to 15 seconds")
    flags.add_argument("--epochs", type=int, default=2)
    flags.add_argument("--batch_size", type=int, default=8, help="default: that of TrainingArguments")
    asked = flags.parse_args()
    if asked.what == "training":
        training(asked)
    elif asked.what == "again":
        again(asked.hours[0])
    elif len(asked.hours) == 1:
        preprocessing(asked.hours[0])
    else:  # each in a process of its own, as peaks add up
        for hours in asked.hours:
            subprocess.run([sys.executable, __file__, "preprocessing", "--hours", str(hours)], check=True)


if __name__ == "__main__":
    main()
