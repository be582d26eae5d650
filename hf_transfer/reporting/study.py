"""A study of learning curves in words: a table of sizes, what more labels would bring, what pretraining was worth."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def summary(report: Mapping[str, Any], folder: Path) -> str:
    """The curves as a table, and what follows from them."""
    curves = report["curves"]
    sizes = sorted({n for curve in curves.values() for n in curve["examples"]})
    rows = [("examples", *curves)]
    for n in sizes:
        cells = []
        for curve in curves.values():
            i = curve["examples"].index(n) if n in curve["examples"] else None
            cells.append(
                "" if i is None else f"{curve['mean'][i]:.3f} ({curve['low'][i]:.3f} to {curve['high'][i]:.3f})"
            )
        rows.append((str(n), *cells))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        f"{report['metric_name']} on {report['test_examples']} test examples: mean of {report['draws']} draws (lowest "
        "to highest)"
    ]
    lines += ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines += [f"{one['method']} on {one['size'] or 'all'} failed: {one['failed']}" for one in report["failed"]]
    return "\n".join([*lines, *sentences(report), f"The page is {folder / 'report.html'}."])


def sentences(report: Mapping[str, Any]) -> list[str]:
    """What the curves say."""
    found = []
    for one in worth_telling(report):
        said = f"{one['method']} with {one['examples']:,} examples is as good as training from scratch with "
        known = one["scratch_examples"] is not None and not one["scratch_at_most"]
        times = (
            f", in {one['training_seconds']:.0f} s of training instead of about {one['scratch_training_seconds']:.0f}"
            if known
            else ""
        )
        found.append(f"{said}{from_scratch(one)}{times}.")
    for method, ahead in report["forecast"].items():
        between = f"between {ahead['low']:.3f} and {ahead['high']:.3f}, " if "low" in ahead else ""
        found.append(
            f"{method}: another {ahead['examples'] // 2:,} labels would probably bring {report['metric_name']} from "
            f"{ahead['now']:.3f} to {ahead['value']:.3f} ({between}if the curve goes on as it did)."
        )
    return found


def from_scratch(one: Mapping[str, Any]) -> str:
    """How many examples training from scratch takes to be as good, as far as it was measured."""
    if one["scratch_examples"] is None:
        return f"more than {one['scratch_measured']:,}"
    return f"{one['scratch_examples']:,} or fewer" if one["scratch_at_most"] else f"about {one['scratch_examples']:,}"


def worth_telling(report: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """For each method one size: the largest that training from scratch still equals, or else the smallest."""
    told = []
    for method in dict.fromkeys(one["method"] for one in report["worth"]):
        own = [one for one in report["worth"] if one["method"] == method]
        equalled = [one for one in own if one["scratch_examples"] is not None]
        told.append((equalled or own)[-1 if equalled else 0])
    return told
