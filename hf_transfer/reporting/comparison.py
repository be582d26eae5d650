"""The results of a comparison in words: the recommended run and why, and the table on the screen."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hf_transfer.evaluation.metric_format import format_interval, format_metric
from hf_transfer.reporting.report import format_duration


def reason(report: Mapping[str, Any]) -> str:
    """Return the reason for which a run is recommended, and a warning if it is no better than the untrained model."""
    untrained = report["untrained"].get(report["runs"][report["recommended"]]["model"])
    if report["runs"][report["recommended"]]["learned"] or untrained is None:
        return _why_recommended(report)
    before = format_metric(untrained, report["metric"])
    return f"{_why_recommended(report)} But it is not significantly better than before training ({before})."


def _why_recommended(report: Mapping[str, Any]) -> str:
    runs, best, recommended = report["runs"], report["best"], report["recommended"]
    name, metric = report["metric_name"], report["metric"]
    value = f"{name} {format_metric(runs[recommended]['metrics'][metric], metric)}"
    if recommended != best:
        ratio = runs[recommended]["training_seconds"] / max(runs[best]["training_seconds"], 1e-9)
        error, top = (
            format_metric(runs[recommended]["standard_error"], metric),
            format_metric(runs[best]["metrics"][metric], metric),
        )
        return (
            f"{value} is within one standard error ({error}) of the best ({best}, {top}), and takes {ratio:.2f} times "
            f"its training time. It trains {runs[recommended]['trained_share']:.1%} of the weights ({best}: "
            f"{runs[best]['trained_share']:.1%}) and takes {format_size(runs[recommended]['bytes'])} on disk "
            f"({format_size(runs[best]['bytes'])})."
        )
    others = {name: run for name, run in runs.items() if name != best}
    if not others:
        return f"{value}; there is nothing to compare it with."
    worse = [other for other, run in others.items() if not run["against_best"][0] <= 0 <= run["against_best"][1]]
    unclear = [
        f"{other} ({format_metric(run['difference'], metric, sign=True)}, standard error "
        f"{format_metric(run['standard_error'], metric)})"
        for other, run in others.items()
        if other not in worse
    ]
    clauses = []
    if worse:
        clauses.append(f"significantly better than {', '.join(worse)} (95 %)")
    if unclear:
        clauses.append(
            f"not significantly better than {', '.join(unclear)}; no other is both cheaper to train and within one "
            "standard error"
        )
    return f"{value} is the best: {'; '.join(clauses)}."


def _joined(values: Sequence[float], metric: str, *, sign: bool = False) -> str:
    """Return the values of a metric as text with "to" between them."""
    return " to ".join(format_metric(value, metric, sign=sign) for value in values)


def format_size(size: float) -> str:
    """Return a number of bytes as text in MB or GB."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def summary(report: Mapping[str, Any], folder: Path) -> str:
    """Return the text summary of a comparison: its runs as a table, and the recommended run."""
    metric = report["metric"]
    source = all(run["source"] for run in report["runs"].values())
    header = ("", report["metric_name"], "95 % interval", "against the best", *(["source"] if source else []),
              "trained", "training", "whole run", "memory", "on disk")  # fmt: skip
    rows = [header]
    for name, run in report["runs"].items():
        rows.append((
            name + (" *" if name == report["recommended"] else ""), format_metric(run["metrics"][metric], metric),
            format_interval(run["confidence"].get(metric), metric),
            "best" if name == report["best"] else _joined(run["against_best"], metric, sign=True),
            *([_joined((run["source"]["before"], run["source"]["after"]), metric)] if source else []),
            f"{run['trained_share']:.1%}", format_duration(run["training_seconds"]), format_duration(run["seconds"]),
            format_size(run["peak_memory_bytes"]), format_size(run["bytes"]),
        ))  # fmt: skip
    widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    seeds = len(report["seeds"])
    lines += [f"{one['name']}, seed {one['seed']} failed: {one['why']}" for one in report["failed"]]
    lines += [
        f"Measured on {report['examples']['test']} test examples, {seeds} seed{'s' if seeds > 1 else ''} each."
        + (" How much the result depends on the seed is not known." if seeds == 1 else ""),
        *(
            [
                f"A difference of {format_metric(report['detectable'], metric)} would be significant in four of five "
                "such comparisons."
            ]
            if report["detectable"]
            else []
        ),
        *(
            f"Before training{' of ' + str(model) if len(report['untrained']) > 1 else ''}: "
            f"{format_metric(value, metric)}."
            for model, value in report["untrained"].items()
            if value is not None
        ),
        f"* Take {report['recommended']}: {report['reason']}",
        f"The page is {folder / 'report.html'}.",
    ]
    return "\n".join(lines)
