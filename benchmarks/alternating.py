"""Ways of doing the same work, one after another, round after round: noise of the machine meets all of them."""

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any


def compare(ways: Mapping[str, Callable[[], Any]], work: float, unit: str, rounds: int) -> None:
    """Time each of `ways` once a round, and print the rates and how much faster the last of them is.

    Args:
        ways: what to time; the last is ours.
        work: that each of them does, in `unit`.
        unit: of the work.
        rounds: how often.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, run in ways.items():
            began = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - began)
    ours = list(seconds.values())[-1]
    for name, found in seconds.items():
        rates = sorted(work / each for each in found)
        ratios = sorted(theirs / mine for theirs, mine in zip(found, ours, strict=True))
        line = f"| {name} | {statistics.median(rates):.1f} ({rates[0]:.1f} to {rates[-1]:.1f}) {unit} a second |"
        if found is not ours:
            line += f" ours {statistics.median(ratios):.2f} x ({ratios[0]:.2f} to {ratios[-1]:.2f}) |"
        print(line, flush=True)


def parser(description: str | None) -> argparse.ArgumentParser:
    """With what all of them take."""
    found = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--rounds", type=int, default=5)
    found.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    found.add_argument("--bf16", action="store_true")
    return found
