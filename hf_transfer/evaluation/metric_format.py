"""Metrics as they are shown: shares with three decimals, what has a unit with four significant digits."""

import math
from typing import Any

from hf_transfer.evaluation.metric_names import IN_LABEL_UNIT

SIGNIFICANT = 4
# Beyond these powers of ten, digits are counted with difficulty.
LARGEST, SMALLEST = 7, -5


def format_metric(value: Any, metric: str, digits: int = 3, *, sign: bool = False) -> str:
    """A value of a metric, or a difference of two; a dash for what is not there or is no number.

    Args:
        value: a number, or None.
        metric: its name.
        digits: behind the point, of a share or a correlation.
        sign: whether a plus is written.
    """
    if value is None or not math.isfinite(value):
        return "–"
    plus = "+" if sign else ""
    if metric not in IN_LABEL_UNIT:
        return f"{value:{plus}.{digits}f}"
    power = math.floor(math.log10(abs(value))) if value else 0
    if not SMALLEST <= power < LARGEST:
        return f"{value:{plus}.{SIGNIFICANT - 1}e}"
    return f"{value:{plus}.{max(0, SIGNIFICANT - 1 - power)}f}"


def format_interval(ends: Any, metric: str, digits: int = 3, *, sign: bool = False) -> str:
    """``[low, high]`` of a metric, or nothing."""
    return f"[{', '.join(format_metric(end, metric, digits, sign=sign) for end in ends)}]" if ends else ""
