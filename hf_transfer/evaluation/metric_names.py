"""Properties of metrics by name: whether a greater value is better, their limits and their unit."""

import math

# Errors, losses and distances. Of every other metric, a greater value is better.
LOWER_IS_BETTER = frozenset(
    {
        "loss", "wer", "cer", "mean_squared_error", "mean_absolute_error", "expected_calibration_error",
        "expected_calibration_error_uncalibrated",
    }
)  # fmt: skip
# In the unit of the labels, or in its square. Every other metric is a proportion or a correlation.
IN_LABEL_UNIT = frozenset({"mean_squared_error", "mean_absolute_error"})
CORRELATIONS = frozenset({"matthews_correlation", "spearman"})


def greater_is_better(metric: str) -> bool:
    """Return whether a greater value of a metric is better."""
    return metric not in LOWER_IS_BETTER


def limits(metric: str) -> tuple[float, float]:
    """Return the lowest and the highest value that a metric can have."""
    if metric in IN_LABEL_UNIT or metric in ("loss", "wer", "cer"):  # there can be more errors than words
        return 0.0, math.inf
    return (-1.0, 1.0) if metric in CORRELATIONS else (0.0, 1.0)


def has_exact_limits(metric: str) -> bool:
    """Return whether a metric's values of 0 and 1 mean no and all examples, as for a proportion."""
    return metric not in IN_LABEL_UNIT


def limits_of_difference(metric: str) -> tuple[float, float]:
    """Return the lowest and the highest difference that two values of a metric can have."""
    low, high = limits(metric)
    return low - high, high - low


def unit_of(metric: str) -> str:
    """Return the unit by which charts of metrics share an axis: ``share``, or the metric's name if it has a unit."""
    return metric if metric in IN_LABEL_UNIT else "share"
