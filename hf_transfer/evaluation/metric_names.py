"""What is known of a metric by its name: whether more of it is better, and the unit that it is in."""

import math

# Errors, losses and distances; of every other metric more is better.
LOWER_IS_BETTER = frozenset(
    {
        "loss", "wer", "cer", "mean_squared_error", "mean_absolute_error", "expected_calibration_error",
        "expected_calibration_error_uncalibrated",
    }
)  # fmt: skip
# In the unit of the labels, or its square; every other metric is a share or a correlation.
IN_LABEL_UNIT = frozenset({"mean_squared_error", "mean_absolute_error"})
CORRELATIONS = frozenset({"matthews_correlation", "spearman"})


def greater_is_better(metric: str) -> bool:
    """Whether more of a metric is better."""
    return metric not in LOWER_IS_BETTER


def limits(metric: str) -> tuple[float, float]:
    """The least and the greatest value that a metric can have."""
    if metric in IN_LABEL_UNIT or metric in ("loss", "wer", "cer"):  # there can be more errors than words
        return 0.0, math.inf
    return (-1.0, 1.0) if metric in CORRELATIONS else (0.0, 1.0)


def has_exact_ends(metric: str) -> bool:
    """Whether 0 and 1 mean none and all of the examples: not of what has a unit."""
    return metric not in IN_LABEL_UNIT


def limits_of_change(metric: str) -> tuple[float, float]:
    """The least and the greatest difference that two values of a metric can have."""
    low, high = limits(metric)
    return low - high, high - low


def unit_of(metric: str) -> str:
    """What metrics on one axis have in common: ``share``, or the metric's own name where it has a unit."""
    return metric if metric in IN_LABEL_UNIT else "share"
