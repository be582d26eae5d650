"""What is known of a metric by its name: whether more of it is better, and the unit that it is in."""

# Errors, losses and distances; of every other metric more is better.
LOWER_IS_BETTER = frozenset(
    {
        "loss", "wer", "cer", "mean_squared_error", "mean_absolute_error", "expected_calibration_error",
        "expected_calibration_error_uncalibrated",
    }
)  # fmt: skip
# In the unit of the labels, or its square; every other metric is a share or a correlation.
IN_LABEL_UNIT = frozenset({"mean_squared_error", "mean_absolute_error"})


def greater_is_better(metric: str) -> bool:
    """Whether more of a metric is better."""
    return metric not in LOWER_IS_BETTER


def unit_of(metric: str) -> str:
    """What metrics on one axis have in common: ``share``, or the metric's own name where it has a unit."""
    return metric if metric in IN_LABEL_UNIT else "share"
