"""The results of a study in words: learning curves, what pretraining is worth, what more labels would bring."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from hf_transfer.evaluation.learning_curve import FEWEST_DRAWS
from hf_transfer.evaluation.metric_format import format_metric


def summary(report: Mapping[str, Any], folder: Path) -> str:
    """Return the text summary of a study: its learning curves as a table, and sentences on them."""
    curves, as_text = report["curves"], partial(format_metric, metric=report["metric"])
    sizes = sorted({n for curve in curves.values() for n in curve["examples"]})
    rows = [("examples", *curves)]
    for n in sizes:
        cells = []
        for curve in curves.values():
            i = curve["examples"].index(n) if n in curve["examples"] else None
            cells.append(
                ""
                if i is None
                else "{} ({} to {})".format(*(as_text(curve[key][i]) for key in ("mean", "low", "high")))
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
    """Return sentences on the learning curves: first what pretraining is worth, then what more labels would bring."""
    lines = []
    for one in _one_size_by_method(report):
        if one["scratch_examples"] is None:
            lines.append(
                f"Training from scratch with up to {one['scratch_measured']:,} examples does not reach "
                f"{one['method']} with {one['examples']:,}."
            )
            continue
        comparison = "no better than" if one["scratch_examples"] < one["examples"] else "as good as"
        times = [f"{one[key]:.0f}" for key in ("training_seconds", "scratch_training_seconds")]
        time = f", in {times[0]} s of training instead of about {times[1]}"
        lines.append(
            f"{one['method']} with {one['examples']:,} examples is {comparison} training from scratch with "
            f"{from_scratch(one)}{'' if one['scratch_at_most'] or times[0] == times[1] else time}."
        )
    if lines and report["draws"] < FEWEST_DRAWS:
        number = "One draw" if report["draws"] == 1 else f"{report['draws']} draws"
        lines.append(f"{number} of each size: this may be due to chance.")
    for method, ahead in report["forecast"].items():
        shown = {key: format_metric(value, report["metric"]) for key, value in ahead.items()}
        interval = f"between {shown['low']} and {shown['high']}, " if "low" in ahead else ""
        lines.append(
            f"{method}: another {ahead['examples'] // 2:,} labels would probably bring {report['metric_name']} from "
            f"{shown['now']} to {shown['value']} ({interval}if the curve continues in the same way)."
        )
    return lines


def from_scratch(one: Mapping[str, Any]) -> str:
    """Return a phrase that says how many examples training from scratch needs to be as good as pretraining."""
    if one["scratch_examples"] is None:
        return f"more than {one['scratch_measured']:,}"
    return f"{one['scratch_examples']:,} or fewer" if one["scratch_at_most"] else f"about {one['scratch_examples']:,}"


def _one_size_by_method(report: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return for each method the figures of the largest size that training from scratch can equal.

    If there is none, they are of the smallest size.
    """
    chosen = []
    for method in dict.fromkeys(one["method"] for one in report["worth"]):
        sizes = [one for one in report["worth"] if one["method"] == method]
        equalled = [one for one in sizes if one["scratch_examples"] is not None]
        chosen.append(equalled[-1] if equalled else sizes[0])
    return chosen
