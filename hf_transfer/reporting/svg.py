"""matplotlib figures as SVG inside a page: in the page's fonts and colours, light or dark, with nothing to load."""

import functools
import pickle
import re
import warnings
import zlib
from collections.abc import Callable, Iterable
from io import StringIO
from typing import Any, ParamSpec

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

# Placeholder colours: matplotlib cannot draw in "the colour of the page's text", so charts are drawn in these, and
# `IN_PAGE` replaces them with CSS colours afterwards.
INK, FAINT = "#010101", "#020202"
SERIES = ("#0a0001", "#0a0002", "#0a0003", "#0a0004", "#0a0005", "#0a0006")
IN_PAGE = {INK: "currentColor", FAINT: "var(--faint)"} | {
    colour: f"var(--series-{i})" for i, colour in enumerate(SERIES, start=1)
}
WIDTH = 4.6  # inches
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "hf_transfer",  # the same chart gives the same SVG
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

P = ParamSpec("P")


def in_page_style(draw: Callable[P, Markup]) -> Callable[P, Markup]:
    """Return a chart function that draws in `STYLE`, and only once for equal arguments (a decorator).

    A page and its copies for the Hub and for trackers share the drawing.
    """

    @functools.lru_cache(maxsize=64)
    def draw_pickled(pickled: bytes) -> Markup:
        args, kwargs = pickle.loads(pickled)
        with matplotlib.rc_context(STYLE):
            return draw(*args, **kwargs)

    @functools.wraps(draw)
    def draw_once(*args: P.args, **kwargs: P.kwargs) -> Markup:
        return draw_pickled(pickle.dumps((args, kwargs)))

    return draw_once


def new_figure(height: float = 2.6, *, left: float = 0.55, bottom: float = 0.45) -> tuple[Figure, Axes]:
    """Return a new matplotlib figure of the page's width, and its axes.

    Args:
        height: of the figure, in inches.
        left: margin for the labels of the vertical axis, in inches. To let matplotlib measure the labels instead
            takes as long as all of the drawing.
        bottom: margin for the labels of the horizontal axis, in inches.
    """
    figure = Figure(figsize=(WIDTH, height))
    figure.subplots_adjust(left / WIDTH, bottom / height, 1 - 0.12 / WIDTH, 1 - 0.1 / height)
    return figure, figure.add_subplot()


def label_width(labels: Iterable[str]) -> float:
    """Return the width in inches of the longest of some tick labels, by its number of characters."""
    return 0.25 + 0.074 * max((len(label) for label in labels), default=0)


def as_svg(figure: Figure, description: str) -> Markup:
    """Return a figure as an ``<svg>`` element: as wide as its place, in the page's colours and fonts.

    Args:
        figure: drawn in the placeholder colours.
        description: what the chart shows, for screen readers.
    """
    stream = StringIO()
    with warnings.catch_warnings():
        # matplotlib measures letters that its font lacks; the page's own font draws them.
        warnings.filterwarnings("ignore", message="Glyph")
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    checksum = zlib.crc32(text.encode())
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1))
    text = re.sub(r"<[^>]*>", lambda tag: _tag_in_page(tag.group(), checksum), text)
    description = str(Markup.escape(description))
    return Markup(text.replace("<svg", f'<svg role="img" aria-label="{description}"', 1))


def _tag_in_page(tag: str, checksum: int) -> str:
    """Return an SVG tag with the page's fonts and colours, and ids that no other chart has.

    `checksum` makes the ids differ.
    """
    tag = re.sub(r'(\bid="|url\(#|href="#)', rf"\1c{checksum}-", tag)
    tag = re.sub(r"font: (?:\w+ )?([\d.]+px)[^;\"]*", r"font-size: \1", tag)
    for placeholder, colour in IN_PAGE.items():
        tag = tag.replace(placeholder, colour)
    return tag


def plain_text(text: Any, limit: int = 28) -> str:
    """Return a text from the data as matplotlib may draw it: no mathematics, one line, at most `limit` characters."""
    one_line = " ".join(str(text).split())
    shown = one_line if len(one_line) <= limit else one_line[: limit - 1] + "…"
    return shown.replace("$", r"\$")


def set_axis_labels(axes: Axes, x: str, y: str = "") -> None:
    """Write beside the axes of a chart what they show."""
    axes.set_xlabel(plain_text(x, 60))
    axes.set_ylabel(plain_text(y, 60))


def set_short_ticks(*axes: Axis) -> None:
    """Set the tick labels of axes with very large or small numbers to 50k, 3M or 0.0002.

    matplotlib would write a common factor, such as 1e6, in a corner that is cut off here.
    """

    def short_number(value: float, _: Any) -> str:
        factor, letter = (1e6, "M") if abs(value) >= 1e6 else (1e3, "k") if abs(value) >= 1e4 else (1, "")
        return f"{value / factor:.5g}{letter}"

    for axis in axes:
        largest = float(np.abs(axis.get_view_interval()).max())
        if not 1e-3 <= largest < 1e4:
            axis.set_major_formatter(FuncFormatter(short_number))
