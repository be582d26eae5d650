"""Metrics as text: proportions with three decimals, values with a unit with four significant digits."""

import math
from collections.abc import Sequence

from hf_transfer.evaluation.metric_names import IN_LABEL_UNIT

SIGNIFICANT_DIGITS = 4
# Numbers from ten to this power on, and those below ten to the other, are written with an exponent.
LARGEST_POWER, SMALLEST_POWER = 7, -5


def format_metric(value: float | None, metric: str, digits: int = 3, *, sign: bool = False) -> str:
    """Return a value of a metric, or a difference of two, as text; a dash for None, NaN and infinity.

    Args:
        value: the number.
        metric: the name of the metric.
        digits: the number of decimals, for a proportion or a correlation.
        sign: whether a plus is written before positive numbers.
    """
    if value is None or not math.isfinite(value):
        return "–"
    plus = "+" if sign else ""
    if metric not in IN_LABEL_UNIT:
        return f"{value:{plus}.{digits}f}"
    power = math.floor(math.log10(abs(value))) if value else 0
    if not SMALLEST_POWER <= power < LARGEST_POWER:
        return f"{value:{plus}.{SIGNIFICANT_DIGITS - 1}e}"
    return f"{value:{plus}.{max(0, SIGNIFICANT_DIGITS - 1 - power)}f}"


def format_interval(ends: Sequence[float | None] | None, metric: str, digits: int = 3, *, sign: bool = False) -> str:
    """Return the interval ``[low, high]`` of a metric as text, or an empty string without an interval."""
    return f"[{', '.join(format_metric(end, metric, digits, sign=sign) for end in ends)}]" if ends else ""
