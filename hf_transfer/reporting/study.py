"""A study of learning curves in words: a table of sizes, what more labels would bring, what pretraining was worth."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from hf_transfer.evaluation.learning_curve import FEWEST_DRAWS
from hf_transfer.evaluation.metric_format import format_metric


def summary(report: Mapping[str, Any], folder: Path) -> str:
    """The curves as a table, and what follows from them."""
    curves, shown = report["curves"], partial(format_metric, metric=report["metric"])
    sizes = sorted({n for curve in curves.values() for n in curve["examples"]})
    rows = [("examples", *curves)]
    for n in sizes:
        cells = []
        for curve in curves.values():
            i = curve["examples"].index(n) if n in curve["examples"] else None
            cells.append(
                "" if i is None else "{} ({} to {})".format(*(shown(curve[key][i]) for key in ("mean", "low", "high")))
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
        if one["scratch_examples"] is None:
            found.append(
                f"Training from scratch does not reach what {one['method']} reaches with {one['examples']:,} "
                f"examples, with as many as {one['scratch_measured']:,}."
            )
            continue
        only = "no better than" if one["scratch_examples"] < one["examples"] else "as good as"
        times = [f"{one[key]:.0f}" for key in ("training_seconds", "scratch_training_seconds")]
        took = f", in {times[0]} s of training instead of about {times[1]}"
        found.append(
            f"{one['method']} with {one['examples']:,} examples is {only} training from scratch with "
            f"{from_scratch(one)}{'' if one['scratch_at_most'] or times[0] == times[1] else took}."
        )
    if found and report["draws"] < FEWEST_DRAWS:
        number = "One draw" if report["draws"] == 1 else f"{report['draws']} draws"
        found.append(f"{number} of each size: chance may have decided this.")
    for method, ahead in report["forecast"].items():
        shown = {key: format_metric(value, report["metric"]) for key, value in ahead.items()}
        between = f"between {shown['low']} and {shown['high']}, " if "low" in ahead else ""
        found.append(
            f"{method}: another {ahead['examples'] // 2:,} labels would probably bring {report['metric_name']} from "
            f"{shown['now']} to {shown['value']} ({between}if the curve goes on as it did)."
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
