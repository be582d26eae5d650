"""Timing several ways to do the same work: one after another, round after round, so that noise affects all alike."""

import argparse
import statistics
import time
from collections.abc import Callable, Mapping


def compare(runs: Mapping[str, Callable[[], object]], work: float, unit: str, rounds: int) -> None:
    """Time each function in `runs` once a round, and print their rates and how many times as fast the last one is.

    Args:
        runs: functions to time; the last one is this package's.
        work: amount of work that each of them does, in `unit`.
        unit: of the work.
        rounds: number of rounds.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - started)
    ours = list(seconds.values())[-1]
    for name, of_run in seconds.items():
        rates = sorted(work / each for each in of_run)
        ratios = sorted(theirs / mine for theirs, mine in zip(of_run, ours, strict=True))
        line = f"| {name} | {statistics.median(rates):.1f} ({rates[0]:.1f} to {rates[-1]:.1f}) {unit} a second |"
        if of_run is not ours:
            line += f" ours {statistics.median(ratios):.2f} x ({ratios[0]:.2f} to {ratios[-1]:.2f}) |"
        print(line, flush=True)


def argument_parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with the flags that all such benchmarks have: rounds, device and bf16."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--bf16", action="store_true")
    return parser
