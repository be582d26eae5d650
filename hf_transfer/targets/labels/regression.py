"""Quality of predicted numbers: mean squared error, mean absolute error, Spearman's correlation, their intervals.

The computations take a weight an example, with any leading axes, so that the same code gives a metric and its
bootstrap distribution: a resample is a vector of multiplicities.
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

# How many examples a report shows as the worst, and how many points a chart.
WORST, MOST_POINTS, BINS = 10, 500, 24


def regression_metrics(references: Array, predictions: Array, weights: Array | None = None) -> dict[str, Array]:
    """Every metric of predicted numbers, each [...] as the weights [..., n] are.

    Args:
        references: true numbers [n].
        predictions: predicted numbers [n].
        weights: weights [..., n]; all 1 if None.
    """
    truth, guess = np.asarray(references, dtype=np.float64), np.asarray(predictions, dtype=np.float64)
    weights = np.ones(len(truth)) if weights is None else np.asarray(weights, dtype=np.float64)
    error, total = guess - truth, weights.sum(axis=-1)
    return {
        "mean_squared_error": weights @ np.square(error) / total,
        "mean_absolute_error": weights @ np.abs(error) / total,
        "spearman": spearman(truth, guess, weights),
    }


def spearman(x: Array, y: Array, weights: Array) -> Array:
    """Spearman's rank correlation of weighted examples, [...]: NaN where all of `x` or of `y` are the same.

    Pearson's correlation of mid-ranks (Spearman 1904, https://doi.org/10.2307/1412159; ties as in scipy): an example
    of weight k counts as k examples that are tied with each other.

    Args:
        x: [n].
        y: [n].
        weights: whole numbers [..., n].
    """
    total = weights.sum(axis=-1, keepdims=True)
    middle = (total + 1) / 2
    from_x, from_y = mid_ranks(x, weights) - middle, mid_ranks(y, weights) - middle
    spread_x = (weights * np.square(from_x)).sum(axis=-1)
    spread_y = (weights * np.square(from_y)).sum(axis=-1)
    together = (weights * from_x * from_y).sum(axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        found = together / np.sqrt(spread_x * spread_y)
    return np.where((spread_x > 0) & (spread_y > 0), np.clip(found, -1, 1), np.nan)


def mid_ranks(values: Array, weights: Array) -> Array:
    """Ranks [..., n] of values [n] among examples with weights [..., n], from 1 on; tied ones share the mean rank."""
    order = np.argsort(values, kind="stable")
    starts = np.flatnonzero(np.append(True, np.diff(values[order]) != 0))
    tied = np.add.reduceat(weights[..., order], starts, axis=-1)
    ranks = np.cumsum(tied, axis=-1) - (tied - 1) / 2
    group = np.empty(len(values), dtype=np.int64)
    group[order] = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, len(values))))
    return ranks[..., group]


class _NumberMetric(MetricInMemory):
    """A metric of numbers: ``compute(predictions=[n], references=[n])`` gives ``{name: value}``."""

    key = ""
    about = ""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=self.about,
            citation="",
            inputs_description="predictions: list of float; references: list of float.",
            features=datasets.Features(
                {"predictions": datasets.Value("float64"), "references": datasets.Value("float64")}
            ),
        )

    def _compute(self, predictions: ArrayLike, references: ArrayLike) -> dict:
        return {self.key: float(regression_metrics(np.asarray(references), np.asarray(predictions))[self.key])}


class MeanSquaredError(_NumberMetric):
    key, about = "mean_squared_error", "Mean of the squared differences, in the unit of the numbers squared."


class MeanAbsoluteError(_NumberMetric):
    key, about = "mean_absolute_error", "Mean distance of prediction and truth, in the unit of the numbers."


class Spearman(_NumberMetric):
    key, about = "spearman", "Correlation of the ranks: 1 where the order is right; NaN where all are the same."


NUMBER_METRICS = (MeanSquaredError, MeanAbsoluteError, Spearman)


def compute_metrics(predictions: Array, truth: Array) -> dict[str, float]:
    """Metrics by name of predicted numbers [n] against true ones [n]."""
    metrics: dict[str, float] = {}
    for metric in NUMBER_METRICS:
        metrics |= metric().compute(predictions=predictions, references=truth)
    return metrics


def weighted_metrics(truth: Array, predictions: Array) -> Callable[[Array], dict[str, Array]]:
    """The metrics of predicted numbers [n] as a function of the examples' weights [..., n]."""
    return lambda weights: regression_metrics(truth, predictions, weights)


def intervals(
    before: Array, after: Array, truth: Array, seed: int, units: Sequence[str] | None = None
) -> dict[str, Any]:
    """95 % bootstrap intervals of the metrics after, and of after minus before, paired.

    Over examples; over whole patients or the like where enough are known: see `resampling_units`.

    Args:
        before: numbers that the untrained model predicts [n].
        after: numbers that the trained model predicts [n].
        truth: true numbers [n].
        seed: of the resampling.
        units: the patient, speaker or camera of each example [n], where they are known.
    """
    earlier, later = weighted_metrics(truth, before), weighted_metrics(truth, after)
    resampled = ResampledMetrics(resampling_units(units, len(truth)), paired_metrics(earlier, later))
    return split_by_kind(bootstrap(resampled, seed=seed))


def findings(predictions: Array, truth: Array) -> dict[str, Any]:
    """What charts are drawn from.

    Returns:
        ``predicted_against_true``, the numbers of at most `MOST_POINTS` examples, evenly over the split;
        ``residuals``, how often which error (predicted less true) occurs: ``counts`` [bins] between ``edges``
        [bins + 1].
    """
    some = np.unique(np.linspace(0, len(truth) - 1, min(MOST_POINTS, len(truth))).astype(int))
    error = predictions - truth
    counts, edges = np.histogram(error, bins=BINS) if np.ptp(error) > 0 else (np.array([len(error)]), None)
    if edges is None:
        edges = error[0] + np.array([-0.5, 0.5]) * max(abs(error[0]), 1.0)
    return {
        "predicted_against_true": {"true": truth[some].tolist(), "predicted": predictions[some].tolist()},
        "residuals": {"edges": edges.tolist(), "counts": counts.tolist()},
    }


def farthest(predictions: Array, truth: Array) -> list[dict[str, Any]]:
    """The examples with the largest absolute errors: ``row``, ``label``, ``prediction``, ``error``."""
    rows = np.argsort(-np.abs(predictions - truth), kind="stable")[:WORST]
    return [
        {"row": int(row), "label": float(truth[row]), "prediction": float(predictions[row]),
         "error": float(predictions[row] - truth[row])}
        for row in rows
    ]  # fmt: skip
