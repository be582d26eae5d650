"""Charts as SVG that stands in a page: it takes the page's colours, light or dark, and needs nothing else."""

import functools
import pickle
import re
import warnings
import zlib
from collections.abc import Iterable, Mapping, Sequence
from io import StringIO
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator, ScalarFormatter

# Drawn in these, then replaced by the page's own: matplotlib knows no colour that depends on the reader.
INK, FAINT = "#010101", "#020202"
SERIES = ("#0a0001", "#0a0002", "#0a0003", "#0a0004", "#0a0005", "#0a0006")
IN_PAGE = {INK: "currentColor", FAINT: "var(--faint)"} | {
    colour: f"var(--series-{i})" for i, colour in enumerate(SERIES, start=1)
}
DASHES = ("-", "--", ":", "-.", (0, (5, 1)), (0, (1, 3)))
WIDTH = 4.6  # inches
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "hf_transfer",  # the same chart is the same file
    "font.size": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.6,
}


def _figure(height: float = 2.6, *, left: float = 0.55, bottom: float = 0.45) -> tuple[Figure, Axes]:
    """A figure and its axes, with margins in inches: to have them measured takes as long as all of the drawing."""
    figure = Figure(figsize=(WIDTH, height))
    figure.subplots_adjust(left / WIDTH, bottom / height, 1 - 0.12 / WIDTH, 1 - 0.1 / height)
    return figure, figure.add_subplot()


def _room_for(names: Iterable[str]) -> float:
    """Inches that the longest of such tick labels takes."""
    return 0.25 + 0.074 * max((len(name) for name in names), default=0)


def _svg(figure: Figure, label: str) -> Markup:
    """The figure's SVG: as wide as its place, colours and fonts from the page, ids of its own."""
    stream = StringIO()
    with warnings.catch_warnings():
        # Of the widths of letters that matplotlib's font lacks; the page's own font draws them.
        warnings.filterwarnings("ignore", message="Glyph")
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    own = zlib.crc32(text.encode())
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1))
    text = re.sub(r"<[^>]*>", lambda tag: _in_page(tag.group(), own), text)
    label = str(Markup.escape(label))
    return Markup(text.replace("<svg", f'<svg role="img" aria-label="{label}"', 1))


def _in_page(tag: str, own: int) -> str:
    """A tag with the page's fonts and colours, and ids that no other chart on it has."""
    tag = re.sub(r'(\bid="|url\(#|href="#)', rf"\1c{own}-", tag)
    tag = re.sub(r"font: (?:\w+ )?([\d.]+px)[^;\"]*", r"font-size: \1", tag)
    for drawn, shown in IN_PAGE.items():
        tag = tag.replace(drawn, shown)
    return tag


def _plain(text: Any, limit: int = 28) -> str:
    """A name from the data as matplotlib may draw it: no mathematics, one line, not too long."""
    one_line = " ".join(str(text).split())
    shown = one_line if len(one_line) <= limit else one_line[: limit - 1] + "…"
    return shown.replace("$", r"\$")


def _without_exponents(*axis: Axis) -> None:
    """Ticks of an axis with very large or small values as 50k, 3M or 0.0002: matplotlib's common factor is cut off."""

    def shown(value: float, _: Any) -> str:
        factor, letter = (1e6, "M") if abs(value) >= 1e6 else (1e3, "k") if abs(value) >= 1e4 else (1, "")
        return f"{value / factor:.5g}{letter}"

    for one in axis:
        largest = float(np.abs(one.get_view_interval()).max())
        if not 1e-3 <= largest < 1e4:
            one.set_major_formatter(FuncFormatter(shown))


def _with_style(draw: Any) -> Any:
    """A chart in `STYLE`, drawn once for the same values: a page and its copy for the Hub or a tracker share it."""

    @functools.lru_cache(maxsize=64)
    def drawn(pickled: bytes) -> Markup:
        args, kwargs = pickle.loads(pickled)
        with matplotlib.rc_context(STYLE):
            return draw(*args, **kwargs)

    return lambda *args, **kwargs: drawn(pickle.dumps((args, kwargs)))


@_with_style
def changes(rows: Sequence[Mapping[str, Any]], *, label: str, axis: str) -> Markup:
    """For each row a value before and one after with its interval, one above the other.

    Args:
        rows: with ``name``, ``before`` (or None), ``after``, and ``low`` and ``high`` (or None).
        label: what the chart shows, for readers who do not see it.
        axis: what the values are.
    """
    names = [_plain(row["name"]) for row in reversed(rows)]
    figure, axes = _figure(0.9 + 0.34 * len(rows), left=_room_for(names))
    for y, row in enumerate(reversed(rows)):
        if row["before"] is not None:
            axes.plot([row["before"], row["after"]], [y, y], color=FAINT, linewidth=1, zorder=1)
            axes.plot(row["before"], y, "o", color=INK, fillstyle="none", markersize=5, zorder=2)
        if row["low"] is not None:
            axes.plot([row["low"], row["high"]], [y, y], color=SERIES[0], linewidth=4, alpha=0.45, zorder=2)
        axes.plot(row["after"], y, "o", color=SERIES[0], markersize=5, zorder=3)
    _without_exponents(axes.xaxis)
    axes.set_yticks(range(len(rows)), names)
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.set_xlabel(_plain(axis, 60))
    axes.grid(axis="x", color=FAINT, linewidth=0.4)
    return _svg(figure, label)


@_with_style
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
    """Lines, perhaps with bands.

    Args:
        series: with ``name``, ``x``, ``y``, and perhaps ``low`` and ``high`` [points], ``markers``.
        label: what the chart shows, for readers who do not see it.
        x: what runs to the right.
        y: what runs upwards.
        point: one that is marked: where, and its name.
        diagonal: whether a line of x = y is drawn, to compare with.
        log_x: whether the axis to the right is logarithmic.
        unit_square: whether both axes go from 0 to 1.
    """
    turned = log_x and len({value for one in series for value in one["x"]}) > 6
    figure, axes = _figure(bottom=0.65 if turned else 0.45)
    if diagonal:
        axes.plot([0, 1], [0, 1], color=FAINT, linewidth=1)
    for i, one in enumerate(series):
        style: dict[str, Any] = {"color": SERIES[i % len(SERIES)], "linestyle": DASHES[i % len(DASHES)]}
        marked = one.get("markers") or len(one["x"]) == 1
        axes.plot(one["x"], one["y"], label=_plain(one["name"]), marker="o" if marked else "", markersize=3.5, **style)
        if one.get("low") is not None:
            axes.fill_between(one["x"], one["low"], one["high"], color=style["color"], alpha=0.15, linewidth=0)
    if point is not None:
        axes.plot(point[0], point[1], "o", color=INK, markersize=5)
        left = point[0] < sum(axes.get_xlim()) / 2  # its name has room on the other side
        axes.annotate(_plain(point[2], 40), point[:2], xytext=(6 if left else -6, -12), textcoords="offset points",
                      ha="left" if left else "right", fontsize=8)  # fmt: skip
    axes.set_xlabel(_plain(x, 60))
    axes.set_ylabel(_plain(y, 60))
    axes.grid(color=FAINT, linewidth=0.4)
    if unit_square:
        axes.set_xlim(0, 1.02)
        axes.set_ylim(0, 1.04)
    if log_x:
        axes.set_xscale("log")
        ticks = sorted({value for one in series for value in one["x"]})
        axes.xaxis.set_major_locator(LogLocator(2) if len(ticks) > 12 else matplotlib.ticker.FixedLocator(ticks))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.tick_params(axis="x", labelrotation=45 if turned else 0)
    if len(series) > 1:
        axes.legend()
    _without_exponents(axes.yaxis)
    return _svg(figure, label)


@_with_style
def matrix(counts: Sequence[Sequence[int]], names: Sequence[str], *, label: str, x: str, y: str) -> Markup:
    """Counts in a square, shaded by their share of the row.

    Args:
        counts: [rows, columns].
        names: of rows and of columns.
        label: what the chart shows, for readers who do not see it.
        x: what the columns are.
        y: what the rows are.
    """
    cells = np.asarray(counts, dtype=float)
    share = cells / np.maximum(cells.sum(axis=1, keepdims=True), 1)
    size, shown = len(names), [_plain(name, 14) for name in names]
    turned, room = size > 4, _room_for(shown)
    below = 0.35 + (room if turned else 0.2)
    figure, axes = _figure(max(1.4, 0.3 * size) + below + 0.1, left=0.2 + room, bottom=below)
    for row, column in np.ndindex(size, size):
        colour = SERIES[0] if row == column else SERIES[1]
        axes.add_patch(
            matplotlib.patches.Rectangle(
                (column - 0.5, row - 0.5),
                1,
                1,
                color=colour,
                alpha=0.08 + 0.6 * float(share[row, column]),
                linewidth=0,
            )
        )
        if size <= 12:
            axes.text(column, row, f"{int(cells[row, column])}", ha="center", va="center")
    axes.set_xticks(range(size), shown, rotation=60 if turned else 0)
    axes.set_yticks(range(size), shown)
    axes.set_xlim(-0.5, size - 0.5)
    axes.set_ylim(size - 0.5, -0.5)
    axes.set_xlabel(_plain(x, 60))
    axes.set_ylabel(_plain(y, 60))
    axes.tick_params(length=0)
    return _svg(figure, label)


@_with_style
def histogram(edges: Sequence[float], counts: Mapping[str, Sequence[int]], *, label: str, x: str) -> Markup:
    """Shares of each split by an amount.

    Args:
        edges: of the bins [bins + 1].
        counts: by split [bins].
        label: what the chart shows, for readers who do not see it.
        x: the amount.
    """
    figure, axes = _figure(2.0, left=0.5)
    for i, (name, values) in enumerate(counts.items()):
        share = np.asarray(values) / max(1, sum(values))
        style = DASHES[i % len(DASHES)]
        axes.stairs(share, edges, color=SERIES[i % len(SERIES)], linestyle=style, label=_plain(name), linewidth=1.4)
    axes.set_xlabel(_plain(x, 60))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0%}"))
    axes.xaxis.set_major_locator(MaxNLocator(6))
    _without_exponents(axes.xaxis)
    axes.legend()
    return _svg(figure, label)


@_with_style
def scatter(xs: Sequence[float], ys: Sequence[float], *, label: str, x: str, y: str) -> Markup:
    """Points, both axes of one scale, and the line of x = y.

    Args:
        xs: to the right [points].
        ys: upwards [points].
        label: what the chart shows, for readers who do not see it.
        x: what runs to the right.
        y: what runs upwards.
    """
    figure, axes = _figure(3.4, left=0.75)
    lowest, highest = min(*xs, *ys), max(*xs, *ys)
    room = 0.04 * (highest - lowest) or max(abs(highest), 1.0)
    ends = lowest - room, highest + room
    axes.plot(ends, ends, color=FAINT, linewidth=1)
    axes.plot(xs, ys, "o", color=SERIES[0], markersize=3.5, alpha=0.45, markeredgewidth=0)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(6))
    axes.set_xlim(ends)
    axes.set_ylim(ends)
    _without_exponents(axes.xaxis, axes.yaxis)
    axes.set_xlabel(_plain(x, 60))
    axes.set_ylabel(_plain(y, 60))
    axes.grid(color=FAINT, linewidth=0.4)
    return _svg(figure, label)


@_with_style
def bars(values: Mapping[str, float], *, label: str, x: str) -> Markup:
    """One bar a name.

    Args:
        values: by name.
        label: what the chart shows, for readers who do not see it.
        x: what they are.
    """
    names = list(values)[::-1]
    shown = [_plain(name) for name in names]
    figure, axes = _figure(0.7 + 0.26 * len(values), left=_room_for(shown))
    axes.barh(shown, [values[name] for name in names], color=SERIES[0], height=0.6)
    axes.set_xlabel(_plain(x, 60))
    axes.tick_params(axis="y", length=0)
    for y, name in enumerate(names):
        axes.text(
            values[name],
            y,
            f" {values[name]:.1f}" if values[name] >= 10 else f" {values[name]:.2g}",
            va="center",
            fontsize=8,
        )
    axes.margins(x=0.18)
    return _svg(figure, label)


@_with_style
def points(runs: Iterable[tuple[str, Mapping[str, Any]]], *, metric: str, label: str, x: str, y: str) -> Markup:
    """Each run's quality by its seconds of training.

    Args:
        runs: names, and runs as in ``comparison.json``.
        metric: that is shown.
        label: what the chart shows, for readers who do not see it.
        x: what runs to the right.
        y: what runs upwards.
    """
    figure, axes = _figure()
    longest = max(run["training_seconds"] for _, run in runs)
    for i, (name, run) in enumerate(runs):
        value, seconds = run["metrics"][metric], run["training_seconds"]
        inwards, side = (-1, "right") if seconds > longest / 2 else (1, "left")
        low, high = run["confidence"].get(metric, (value, value))
        axes.plot([seconds, seconds], [low, high], color=SERIES[i % len(SERIES)], linewidth=3, alpha=0.4)
        axes.plot(seconds, value, "o", color=SERIES[i % len(SERIES)], markersize=5)
        axes.annotate(_plain(name), (seconds, value), xytext=(6 * inwards, 4), textcoords="offset points", ha=side,
                      fontsize=8)  # fmt: skip
    axes.set_xlabel(_plain(x, 60))
    axes.set_ylabel(_plain(y, 60))
    axes.set_xlim(0, 1.05 * longest)
    axes.grid(color=FAINT, linewidth=0.4)
    return _svg(figure, label)
