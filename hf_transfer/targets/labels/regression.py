"""Metrics of predicted numbers: mean squared error, mean absolute error, Spearman's correlation, and intervals.

The functions take one weight for each example, with any leading axes, so that the same code computes a metric and its
bootstrap distribution: a resample is a vector that says how often each example was drawn.
"""

from collections.abc import Callable, Sequence
from typing import Any

import datasets
import evaluate
import numpy as np
from numpy.typing import ArrayLike

from hf_transfer.data.units import resampling_units
from hf_transfer.evaluation.bootstrap import ResampledMetrics, bootstrap, paired_metrics, split_by_kind
from hf_transfer.evaluation.metrics import Array, MetricInMemory

# How many of the worst examples a report shows; how many points and bins its charts have.
MAX_WORST, MAX_POINTS, BINS = 10, 500, 24


def regression_metrics(references: Array, predictions: Array, weights: Array | None = None) -> dict[str, Array]:
    """Return every metric of predicted numbers by name, each [...], for weights of the examples [..., n].

    Args:
        references: true numbers [n].
        predictions: predicted numbers [n].
        weights: weights [..., n]; all 1 if None.
    """
    references, predictions = np.asarray(references, dtype=np.float64), np.asarray(predictions, dtype=np.float64)
    weights = np.ones(len(references)) if weights is None else np.asarray(weights, dtype=np.float64)
    error, total = predictions - references, weights.sum(axis=-1)
    return {
        "mean_squared_error": weights @ np.square(error) / total,
        "mean_absolute_error": weights @ np.abs(error) / total,
        "spearman": spearman(references, predictions, weights),
    }


def spearman(x: Array, y: Array, weights: Array) -> Array:
    """Return Spearman's rank correlation of weighted examples, [...], or NaN if all of `x` or of `y` are the same.

    It is Pearson's correlation of mid-ranks (Spearman 1904, https://doi.org/10.2307/1412159; ties as in scipy). An
    example of weight k counts as k tied examples.

    Args:
        x: numbers [n].
        y: numbers [n].
        weights: whole numbers [..., n].
    """
    total = weights.sum(axis=-1, keepdims=True)
    middle = (total + 1) / 2
    from_x, from_y = mid_ranks(x, weights) - middle, mid_ranks(y, weights) - middle
    variance_x = (weights * np.square(from_x)).sum(axis=-1)
    variance_y = (weights * np.square(from_y)).sum(axis=-1)
    covariance = (weights * from_x * from_y).sum(axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        correlation = covariance / np.sqrt(variance_x * variance_y)
    return np.where((variance_x > 0) & (variance_y > 0), np.clip(correlation, -1, 1), np.nan)


def mid_ranks(values: Array, weights: Array) -> Array:
    """Return the ranks of values, [..., n], counted from 1; tied values have the mean of their ranks.

    Args:
        values: numbers [n].
        weights: whole numbers [..., n]; an example of weight k counts as k tied examples.
    """
    order = np.argsort(values, kind="stable")
    starts = np.flatnonzero(np.append(True, np.diff(values[order]) != 0))
    tied = np.add.reduceat(weights[..., order], starts, axis=-1)
    ranks = np.cumsum(tied, axis=-1) - (tied - 1) / 2
    group = np.empty(len(values), dtype=np.int64)
    group[order] = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, len(values))))
    return ranks[..., group]


class _NumberMetric(MetricInMemory):
    """Metric of predicted numbers: ``compute(predictions=[n], references=[n])`` returns ``{name: value}``."""

    key = ""
    summary = ""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=self.summary,
            citation="",
            inputs_description="predictions: list of float; references: list of float.",
            features=datasets.Features(
                {"predictions": datasets.Value("float64"), "references": datasets.Value("float64")}
            ),
        )

    def _compute(self, predictions: ArrayLike, references: ArrayLike) -> dict:
        return {self.key: float(regression_metrics(np.asarray(references), np.asarray(predictions))[self.key])}


class MeanSquaredError(_NumberMetric):
    key, summary = "mean_squared_error", "Mean of the squared differences, in the unit of the numbers squared."


class MeanAbsoluteError(_NumberMetric):
    key, summary = "mean_absolute_error", "Mean distance of prediction and true number, in the unit of the numbers."


class Spearman(_NumberMetric):
    key, summary = "spearman", "Correlation of the ranks: 1 where the order is right; NaN where all are the same."


NUMBER_METRICS = (MeanSquaredError, MeanAbsoluteError, Spearman)


def compute_metrics(predictions: Array, references: Array) -> dict[str, float]:
    """Return the metrics of predicted numbers [n] against true numbers [n], by name."""
    metrics: dict[str, float] = {}
    for metric in NUMBER_METRICS:
        metrics |= metric().compute(predictions=predictions, references=references)
    return metrics


def weighted_metrics(references: Array, predictions: Array) -> Callable[[Array], dict[str, Array]]:
    """Return a function from example weights [..., n] to the metrics of predicted numbers by name, each [...].

    Args:
        references: true numbers [n].
        predictions: predicted numbers [n].
    """
    return lambda weights: regression_metrics(references, predictions, weights)


def regression_intervals(
    before: Array, after: Array, references: Array, seed: int, units: Sequence[str] | None = None
) -> dict[str, dict[str, list[float]]]:
    """Return 95 % bootstrap intervals of the metrics of numbers ``after`` training, and of their ``gain`` (paired).

    Examples are resampled, or whole units (patients, speakers) where enough are known: see `resampling_units`.

    Args:
        before: numbers that the untrained model predicts, [n].
        after: numbers that the trained model predicts, [n].
        references: true numbers [n].
        seed: of the resampling.
        units: the name of each example's unit (patient, speaker, camera), [n], where they are known.
    """
    metrics = paired_metrics(weighted_metrics(references, before), weighted_metrics(references, after))
    resampled = ResampledMetrics(resampling_units(units, len(references)), metrics)
    return split_by_kind(bootstrap(resampled, seed=seed))


def error_analysis(predictions: Array, references: Array) -> dict[str, Any]:
    """Return the data of the report's charts of predicted numbers: points and a histogram of errors.

    Args:
        predictions: predicted numbers [n].
        references: true numbers [n].

    Returns:
        ``predicted_against_true``: the numbers of at most `MAX_POINTS` examples, evenly over the split;
        ``residuals``: a histogram of predicted minus true numbers, its ``counts`` [bins] between ``edges``
        [bins + 1].
    """
    rows = np.unique(np.linspace(0, len(references) - 1, min(MAX_POINTS, len(references))).astype(int))
    error = predictions - references
    counts, edges = np.histogram(error, bins=BINS) if np.ptp(error) > 0 else (np.array([len(error)]), None)
    if edges is None:
        edges = error[0] + np.array([-0.5, 0.5]) * max(abs(error[0]), 1.0)
    return {
        "predicted_against_true": {"true": references[rows].tolist(), "predicted": predictions[rows].tolist()},
        "residuals": {"edges": edges.tolist(), "counts": counts.tolist()},
    }


def worst_examples(predictions: Array, references: Array) -> list[dict[str, Any]]:
    """Return the examples with the largest absolute errors: ``row``, ``label``, ``prediction``, ``error``."""
    rows = np.argsort(-np.abs(predictions - references), kind="stable")[:MAX_WORST]
    return [
        {"row": int(row), "label": float(references[row]), "prediction": float(predictions[row]),
         "error": float(predictions[row] - references[row])}
        for row in rows
    ]  # fmt: skip
