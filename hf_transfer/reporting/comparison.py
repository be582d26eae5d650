"""A comparison of runs in words: which to take and why, and the table on the screen."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hf_transfer.evaluation.metric_format import format_interval, format_metric
from hf_transfer.reporting.report import format_duration


def reason(report: Mapping[str, Any]) -> str:
    """Why this one, in words; and whether it is better than no training."""
    untrained = report["untrained"].get(report["runs"][report["recommended"]]["model"])
    if report["runs"][report["recommended"]]["learned"] or untrained is None:
        return _why(report)
    shown = format_metric(untrained, report["metric"])
    return f"{_why(report)} But it is no better than before training ({shown}) beyond chance."


def _why(report: Mapping[str, Any]) -> str:
    runs, best, taken = report["runs"], report["best"], report["recommended"]
    name, metric = report["metric_name"], report["metric"]
    value = f"{name} {format_metric(runs[taken]['metrics'][metric], metric)}"
    if taken != best:
        ratio = runs[taken]["training_seconds"] / max(runs[best]["training_seconds"], 1e-9)
        error, top = (
            format_metric(runs[taken]["standard_error"], metric),
            format_metric(runs[best]["metrics"][metric], metric),
        )
        return (
            f"{value} is within a standard error ({error}) of the best ({best}, {top}), in {ratio:.2f} of its "
            f"training time. It trains {runs[taken]['trained_share']:.1%} of the weights ({best}: "
            f"{runs[best]['trained_share']:.1%}) and takes {size(runs[taken]['bytes'])} on disk "
            f"({size(runs[best]['bytes'])})."
        )
    others = {way: run for way, run in runs.items() if way != best}
    if not others:
        return f"{value}; there is nothing to compare it with."
    beyond = [way for way, run in others.items() if not run["against_best"][0] <= 0 <= run["against_best"][1]]
    unclear = [way for way in others if way not in beyond]
    said = [f"better than {', '.join(beyond)} beyond chance (95 %)"] if beyond else []
    behind = [
        f"{way} ({format_metric(runs[way]['difference'], metric, sign=True)}, standard error "
        f"{format_metric(runs[way]['standard_error'], metric)})"
        for way in unclear
    ]
    said += (
        [f"within chance of {', '.join(behind)}; no other is both cheaper to train and within a standard error"]
        if unclear
        else []
    )
    return f"{value} is the best: {'; '.join(said)}."


def _to(values: Sequence[float], metric: str, *, sign: bool = False) -> str:
    return " to ".join(format_metric(value, metric, sign=sign) for value in values)


def size(count: float) -> str:
    """Bytes as a person reads them."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def summary(report: Mapping[str, Any], folder: Path) -> str:
    """The comparison as a table, and which to take."""
    metric = report["metric"]
    source = all(run["source"] for run in report["runs"].values())
    head = ("", report["metric_name"], "95 % interval", "against the best", *(["source"] if source else []), "trained",
            "training", "whole run", "memory", "on disk")  # fmt: skip
    rows = [head]
    for way, run in report["runs"].items():
        rows.append((
            way + (" *" if way == report["recommended"] else ""), format_metric(run["metrics"][metric], metric),
            format_interval(run["confidence"].get(metric), metric),
            "best" if way == report["best"] else _to(run["against_best"], metric, sign=True),
            *([_to((run["source"]["before"], run["source"]["after"]), metric)] if source else []),
            f"{run['trained_share']:.1%}", format_duration(run["training_seconds"]), format_duration(run["seconds"]),
            size(run["peak_memory_bytes"]), size(run["bytes"]),
        ))  # fmt: skip
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    seeds = len(report["seeds"])
    lines += [f"{one['name']}, seed {one['seed']} failed: {one['why']}" for one in report["failed"]]
    lines += [
        f"Measured on {report['examples']['test']} test examples, {seeds} seed{'s' if seeds > 1 else ''} each."
        + (" How much seeds differ is not known." if seeds == 1 else ""),
        *(
            [
                f"A difference of {format_metric(report['detectable'], metric)} would be told from chance in four of "
                "five such comparisons."
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
