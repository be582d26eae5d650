"""What speech costs: memory of preprocessing, and audio seconds trained per second by a model of wav2vec2-base's size.

    python benchmarks/speech.py preprocessing --hours 1 10
    python benchmarks/speech.py training --seconds 5 --steps 10

Clips are noise and weights are random: neither changes the cost.
"""

import argparse
import csv
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

RATE = 16_000


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

    from hf_transfer.data.transcripts import build_tokenizer

    torch.manual_seed(0)
    tokenizer = build_tokenizer(["TURN THE LIGHT ON"])
    config = Wav2Vec2Config(
        vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, mask_time_prob=0.0, **changes
    )
    Wav2Vec2ForCTC(config).save_pretrained(folder)
    extractor = Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=False)
    Wav2Vec2Processor(feature_extractor=extractor, tokenizer=tokenizer).save_pretrained(folder)
    return folder


def preprocessing(hours: float) -> None:
    """Decode so many hours in this process, and print its peak memory."""
    from hf_transfer import SpeechRecognition
    from hf_transfer.arguments import DataArguments, ModelArguments
    from hf_transfer.data.splits import load_splits

    with tempfile.TemporaryDirectory() as name:
        import datasets

        datasets.config.HF_DATASETS_CACHE = Path(name) / "cache"
        model = write_model(Path(name) / "model", hidden_size=32, num_attention_heads=4, intermediate_size=64)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        data = DataArguments(train_file=str(write_clips(Path(name), int(hours * 720), 5.0)))
        SpeechRecognition().standardise(load_splits(data), data, ModelArguments(str(model)))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{hours:g} h of audio: peak memory {peak:.0f} MB, {peak - before:.0f} MB above the start")


def training(seconds: float, steps: int, batch_size: int, device: str) -> None:
    """Train a base-sized model for a few steps by each method, and print the audio seconds a second."""
    with tempfile.TemporaryDirectory() as name:
        table = write_clips(Path(name), 2 * batch_size * steps, seconds)
        model = write_model(Path(name) / "model")
        for method in ("full", "lora", "frozen"):
            output = Path(name) / method
            subprocess.run(
                [sys.executable, "recipes/accent.py", "--train_file", table, "--model_name_or_path", model, "--method",
                 method, "--output_dir", output, "--max_steps", str(steps), "--per_device_train_batch_size",
                 str(batch_size), "--test_size", "0.02", *(["--use_cpu"] if device == "cpu" else [])],
                check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                env={**os.environ, "HF_DATASETS_CACHE": f"{name}/cache"},
            )  # fmt: skip
            cost = json.loads((output / "report.json").read_text())["training"]
            rate = cost["samples_per_second"] * seconds
            print(f"{method}: {rate:.1f} s of audio a second, peak memory {cost['peak_memory_bytes'] / 1e9:.1f} GB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["preprocessing", "training"])
    parser.add_argument("--hours", type=float, nargs="+", default=[1, 10])
    parser.add_argument("--seconds", type=float, default=5.0, help="length of a clip in training")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--batch_size", type=int, default=4)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    arguments = parser.parse_args()
    if arguments.what == "training":
        training(arguments.seconds, arguments.steps, arguments.batch_size, arguments.device)
    elif len(arguments.hours) == 1:
        preprocessing(arguments.hours[0])
    else:  # each in a process of its own, as peaks add up
        for hours in arguments.hours:
            subprocess.run([sys.executable, __file__, "preprocessing", "--hours", str(hours)], check=True)


if __name__ == "__main__":
    main()
