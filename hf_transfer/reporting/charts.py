"""The charts of a page, drawn with matplotlib: metrics before and after, curves, counts, distributions."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator, ScalarFormatter

from hf_transfer.reporting.svg import (
    FAINT,
    INK,
    SERIES,
    as_svg,
    in_page_style,
    label_width,
    new_figure,
    plain_text,
    set_axis_labels,
    set_short_ticks,
)

DASHES = ("-", "--", ":", "-.", (0, (5, 1)), (0, (1, 3)))


@in_page_style
def before_and_after(rows: Sequence[Mapping[str, Any]], *, label: str, axis: str) -> Markup:
    """Return an SVG chart of a value before and one after with its interval for each row, one below the other.

    Args:
        rows: with ``name``, ``before`` (or None), ``after``, and ``low`` and ``high`` (or None).
        label: what the chart shows, for screen readers.
        axis: what the values are.
    """
    names = [plain_text(row["name"]) for row in reversed(rows)]
    figure, axes = new_figure(0.9 + 0.34 * len(rows), left=label_width(names))
    for y, row in enumerate(reversed(rows)):
        if row["before"] is not None:
            axes.plot([row["before"], row["after"]], [y, y], color=FAINT, linewidth=1, zorder=1)
            axes.plot(row["before"], y, "o", color=INK, fillstyle="none", markersize=5, zorder=2)
        if row["low"] is not None:
            axes.plot([row["low"], row["high"]], [y, y], color=SERIES[0], linewidth=4, alpha=0.45, zorder=2)
        axes.plot(row["after"], y, "o", color=SERIES[0], markersize=5, zorder=3)
    set_short_ticks(axes.xaxis)
    axes.set_yticks(range(len(rows)), names)
    axes.set_ylim(-0.6, len(rows) - 0.4)
    set_axis_labels(axes, axis)
    axes.grid(axis="x", color=FAINT, linewidth=0.4)
    return as_svg(figure, label)


@in_page_style
def lines(
    series: Sequence[Mapping[str, Any]],
    *,
    label: str,
    x: str,
    y: str,
    point: tuple[float, float, str] | None = None,
    diagonal: bool = False,
    log_x: bool = False,
    unit_square: bool = False,
) -> Markup:
    """Return an SVG chart of lines, with bands around those that have ``low`` and ``high``.

    Args:
        series: with ``name``, ``x``, ``y``, and perhaps ``low`` and ``high`` [points], ``markers``.
        label: what the chart shows, for screen readers.
        x: what the horizontal axis shows.
        y: what the vertical axis shows.
        point: a point to mark, and its name: (x, y, name).
        diagonal: whether the line x = y is drawn, to compare with.
        log_x: whether the horizontal axis is logarithmic.
        unit_square: whether both axes go from 0 to 1.
    """
    x_values = sorted({value for one in series for value in one["x"]})
    rotated = log_x and len(x_values) > 6
    figure, axes = new_figure(bottom=0.65 if rotated else 0.45)
    if diagonal:
        axes.plot([0, 1], [0, 1], color=FAINT, linewidth=1)
    for i, one in enumerate(series):
        _draw_line(axes, one, SERIES[i % len(SERIES)], DASHES[i % len(DASHES)])
    if point is not None:
        _mark_point(axes, *point)
    set_axis_labels(axes, x, y)
    axes.grid(color=FAINT, linewidth=0.4)
    if unit_square:
        axes.set_xlim(0, 1.02)
        axes.set_ylim(0, 1.04)
    if log_x:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(2) if len(x_values) > 12 else FixedLocator(x_values))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.tick_params(axis="x", labelrotation=45 if rotated else 0)
    if len(series) > 1:
        axes.legend()
    set_short_ticks(axes.yaxis)
    return as_svg(figure, label)


def _draw_line(axes: Axes, one: Mapping[str, Any], colour: str, dashes: Any) -> None:
    marker = "o" if one.get("markers") or len(one["x"]) == 1 else ""
    axes.plot(one["x"], one["y"], label=plain_text(one["name"]), marker=marker, markersize=3.5, color=colour,
              linestyle=dashes)  # fmt: skip
    if one.get("low") is not None:
        axes.fill_between(one["x"], one["low"], one["high"], color=colour, alpha=0.15, linewidth=0)


def _mark_point(axes: Axes, x: float, y: float, name: str) -> None:
    axes.plot(x, y, "o", color=INK, markersize=5)
    is_left = x < sum(axes.get_xlim()) / 2  # then the name has room on the right
    axes.annotate(plain_text(name, 40), (x, y), xytext=(6 if is_left else -6, -12), textcoords="offset points",
                  ha="left" if is_left else "right", fontsize=8)  # fmt: skip


@in_page_style
def matrix(counts: Sequence[Sequence[int]], names: Sequence[str], *, label: str, x: str, y: str) -> Markup:
    """Return an SVG chart of a square of counts, shaded by their share of the row.

    Args:
        counts: [rows, columns].
        names: of the rows, which are also those of the columns.
        label: what the chart shows, for screen readers.
        x: what the columns are.
        y: what the rows are.
    """
    cells = np.asarray(counts, dtype=float)
    share = cells / np.maximum(cells.sum(axis=1, keepdims=True), 1)
    size, labels = len(names), [plain_text(name, 14) for name in names]
    rotated, width = size > 4, label_width(labels)
    bottom = 0.35 + (width if rotated else 0.2)
    figure, axes = new_figure(max(1.4, 0.3 * size) + bottom + 0.1, left=0.2 + width, bottom=bottom)
    for row, column in np.ndindex(size, size):
        colour = SERIES[0] if row == column else SERIES[1]
        shade = 0.08 + 0.6 * float(share[row, column])
        axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, color=colour, alpha=shade, linewidth=0))
        if size <= 12:
            axes.text(column, row, f"{int(cells[row, column])}", ha="center", va="center")
    axes.set_xticks(range(size), labels, rotation=60 if rotated else 0)
    axes.set_yticks(range(size), labels)
    axes.set_xlim(-0.5, size - 0.5)
    axes.set_ylim(size - 0.5, -0.5)
    set_axis_labels(axes, x, y)
    axes.tick_params(length=0)
    return as_svg(figure, label)


@in_page_style
def histogram(edges: Sequence[float], counts: Mapping[str, Sequence[int]], *, label: str, x: str) -> Markup:
    """Return an SVG chart of the distribution of an amount, as shares of each split.

    Args:
        edges: of the bins [bins + 1].
        counts: by split [bins].
        label: what the chart shows, for screen readers.
        x: the amount.
    """
    figure, axes = new_figure(2.0, left=0.5)
    for i, (name, values) in enumerate(counts.items()):
        share = np.asarray(values) / max(1, sum(values))
        dashes = DASHES[i % len(DASHES)]
        axes.stairs(
            share, edges, color=SERIES[i % len(SERIES)], linestyle=dashes, label=plain_text(name), linewidth=1.4
        )
    set_axis_labels(axes, x)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0%}"))
    axes.xaxis.set_major_locator(MaxNLocator(6))
    set_short_ticks(axes.xaxis)
    axes.legend()
    return as_svg(figure, label)


@in_page_style
def scatter(xs: Sequence[float], ys: Sequence[float], *, label: str, x: str, y: str) -> Markup:
    """Return an SVG chart of points and the line x = y, with the same scale on both axes.

    Args:
        xs: horizontal positions [points].
        ys: vertical positions [points].
        label: what the chart shows, for screen readers.
        x: what the horizontal axis shows.
        y: what the vertical axis shows.
    """
    figure, axes = new_figure(3.4, left=0.75)
    lowest, highest = min(*xs, *ys), max(*xs, *ys)
    margin = 0.04 * (highest - lowest) or max(abs(highest), 1.0)
    ends = lowest - margin, highest + margin
    axes.plot(ends, ends, color=FAINT, linewidth=1)
    axes.plot(xs, ys, "o", color=SERIES[0], markersize=3.5, alpha=0.45, markeredgewidth=0)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(6))
    axes.set_xlim(ends)
    axes.set_ylim(ends)
    set_short_ticks(axes.xaxis, axes.yaxis)
    set_axis_labels(axes, x, y)
    axes.grid(color=FAINT, linewidth=0.4)
    return as_svg(figure, label)


@in_page_style
def bars(values: Mapping[str, float], *, label: str, x: str) -> Markup:
    """Return an SVG chart with one horizontal bar for each name.

    Args:
        values: by name.
        label: what the chart shows, for screen readers.
        x: what the values are.
    """
    names = list(values)[::-1]
    labels = [plain_text(name) for name in names]
    figure, axes = new_figure(0.7 + 0.26 * len(values), left=label_width(labels))
    axes.barh(labels, [values[name] for name in names], color=SERIES[0], height=0.6)
    set_axis_labels(axes, x)
    axes.tick_params(axis="y", length=0)
    for y, name in enumerate(names):
        text = f" {values[name]:.1f}" if values[name] >= 10 else f" {values[name]:.2g}"
        axes.text(values[name], y, text, va="center", fontsize=8)
    axes.margins(x=0.18)
    return as_svg(figure, label)


@in_page_style
def quality_by_time(
    runs: Sequence[tuple[str, Mapping[str, Any]]], *, metric: str, label: str, x: str, y: str
) -> Markup:
    """Return an SVG chart of each run's metric, with its interval, by its seconds of training.

    Args:
        runs: names, and runs as in ``comparison.json``.
        metric: the metric that is shown.
        label: what the chart shows, for screen readers.
        x: what the horizontal axis shows.
        y: what the vertical axis shows.
    """
    figure, axes = new_figure()
    longest = max(run["training_seconds"] for _, run in runs)
    for i, (name, run) in enumerate(runs):
        value, seconds = run["metrics"][metric], run["training_seconds"]
        direction, side = (-1, "right") if seconds > longest / 2 else (1, "left")  # names stay inside the chart
        low, high = run["confidence"].get(metric, (value, value))
        axes.plot([seconds, seconds], [low, high], color=SERIES[i % len(SERIES)], linewidth=3, alpha=0.4)
        axes.plot(seconds, value, "o", color=SERIES[i % len(SERIES)], markersize=5)
        axes.annotate(plain_text(name), (seconds, value), xytext=(6 * direction, 4), textcoords="offset points",
                      ha=side, fontsize=8)  # fmt: skip
    set_axis_labels(axes, x, y)
    axes.set_xlim(0, 1.05 * longest)
    axes.grid(color=FAINT, linewidth=0.4)
    return as_svg(figure, label)
