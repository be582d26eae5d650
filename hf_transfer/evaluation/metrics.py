"""Classification metrics with example weights, and as `evaluate.Metric` classes that need no network.

The functions take one weight for each example, with any leading axes, so that the same code computes a metric and its
bootstrap distribution: a resample is a vector that says how often each example was drawn.
"""

from typing import Any

import datasets
import evaluate
import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[Any]


def confusion_matrix(references: Array, predictions: Array, num_labels: int, weights: Array | None = None) -> Array:
    """Return weighted counts of examples [..., num_labels, num_labels], true labels by predicted labels.

    Args:
        references: true label ids [n].
        predictions: predicted label ids [n].
        num_labels: number of labels.
        weights: weights [..., n]; all 1 if None.
    """
    cells = np.asarray(references) * num_labels + np.asarray(predictions)
    used, cell = np.unique(cells, return_inverse=True)
    one_hot = np.eye(len(used))[cell]
    counts = one_hot.sum(axis=0) if weights is None else weights @ one_hot
    full = np.zeros((*counts.shape[:-1], num_labels * num_labels))
    full[..., used] = counts
    return full.reshape(*counts.shape[:-1], num_labels, num_labels)


def _ratio(numerator: Array, denominator: Array) -> Array:
    """Return the ratio of two arrays, or 0 where the denominator is 0, as scikit-learn's `zero_division=0`."""
    return np.divide(numerator, denominator, out=np.zeros_like(numerator, dtype=float), where=denominator > 0)


def scores_by_label(confusion: Array) -> tuple[Array, Array, Array]:
    """Return precision, recall and F1 of each label, [..., num_labels], from a confusion matrix."""
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    predicted, actual = confusion.sum(axis=-2), confusion.sum(axis=-1)
    return _ratio(hits, predicted), _ratio(hits, actual), _ratio(2 * hits, predicted + actual)


def _masked_mean(values: Array, mask: Array) -> Array:
    """Return the mean over the last axis, [...], of the values where `mask` is true, or NaN where it never is.

    Args:
        values: [..., num_labels].
        mask: whether each value is counted, [..., num_labels].
    """
    mean = _ratio(np.where(mask, values, 0.0).sum(axis=-1), mask.sum(axis=-1))
    return np.where(mask.any(axis=-1), mean, np.nan)


def label_metrics(confusion: Array, full_confusion: Array | None = None) -> dict[str, Array]:
    """Return every metric of predicted labels, each [...], from confusion matrices [..., num_labels, num_labels].

    Precision, recall and F1 are those of label 1 where there are two labels, and macro averages otherwise. Macro
    averages are over the labels that occur. The metrics of label 1 are NaN where it neither occurs nor is predicted.
    Matthews correlation: Gorodkin (2004), as in scikit-learn; NaN where all examples have one label.

    Args:
        confusion: of all examples, or of resamples of them.
        full_confusion: of all examples, where `confusion` is of resamples: a label without examples in a resample is
            left out of its averages (for precision: a label that is not predicted there, unless it is predicted for
            none of the examples).
    """
    total = confusion.sum(axis=(-2, -1))
    hits = np.trace(confusion, axis1=-2, axis2=-1)
    predicted, actual = confusion.sum(axis=-2), confusion.sum(axis=-1)
    precision, recall, f1 = scores_by_label(confusion)
    full = confusion if full_confusion is None else full_confusion
    occurs = np.where(full.sum(axis=-1) > 0, actual > 0, predicted > 0)
    is_predicted = np.where(full.sum(axis=-2) > 0, predicted > 0, actual > 0)

    def average(values: Array, mask: Array) -> Array:
        if confusion.shape[-1] != 2:
            return _masked_mean(values, mask)
        return np.where(mask[..., 1], values[..., 1], np.nan)

    covariance = hits * total - (predicted * actual).sum(axis=-1)
    predicted_variance, actual_variance = (total**2 - (counts**2).sum(axis=-1) for counts in (predicted, actual))
    correlation = _ratio(covariance, np.sqrt(predicted_variance * actual_variance))
    return {
        "accuracy": _ratio(hits, total),
        "f1": average(f1, occurs),
        "f1_macro": _masked_mean(f1, occurs),
        "precision": average(precision, is_predicted),
        "recall": average(recall, occurs),
        "matthews_correlation": np.where(actual_variance > 0, correlation, np.nan),
    }


def multilabel_metrics(references: Array, predictions: Array, weights: Array | None = None) -> dict[str, Array]:
    """Return the metrics of examples with several labels by name, each [...].

    Accuracy is the proportion of examples with every label right. F1, precision and recall are macro averages over
    labels; ``f1_micro`` is the micro average. Averages are over the labels that occur, also in a resample (for
    precision: over those that are predicted).

    Args:
        references: true labels as a matrix of 0 and 1, [n, num_labels].
        predictions: predicted labels as a matrix of 0 and 1, [n, num_labels].
        weights: weights [..., n]; all 1 if None.
    """
    references, predictions = np.asarray(references, dtype=float), np.asarray(predictions, dtype=float)
    weights = np.ones(len(references)) if weights is None else weights
    hits, predicted, actual = weights @ (references * predictions), weights @ predictions, weights @ references
    exact = (references == predictions).all(axis=-1).astype(float)
    occurs = np.where(references.any(axis=0), actual > 0, predicted > 0)
    is_predicted = np.where(predictions.any(axis=0), predicted > 0, actual > 0)
    any_label = predicted + actual > 0
    return {
        "accuracy": _ratio(weights @ exact, weights.sum(axis=-1)),
        "f1": _masked_mean(_ratio(2 * hits, predicted + actual), occurs),
        "f1_micro": np.where(
            any_label.any(axis=-1), _ratio(2 * hits.sum(axis=-1), (predicted + actual).sum(axis=-1)), np.nan
        ),
        "precision": _masked_mean(_ratio(hits, predicted), is_predicted),
        "recall": _masked_mean(_ratio(hits, actual), occurs),
    }


def ranking_metrics(references: Array, scores: Array, weights: Array | None = None) -> dict[str, Array]:
    """Return ROC AUC and average precision of label 1, each [...], or NaN where only one of the labels occurs.

    Args:
        references: true label ids, 0 or 1, [n].
        scores: the higher the score, the more likely is label 1, [n].
        weights: weights [..., n]; all 1 if None.
    """
    references, scores = np.asarray(references), np.asarray(scores)
    weights = np.ones(len(scores)) if weights is None else np.asarray(weights, dtype=float)
    order = np.argsort(-scores, kind="stable")
    last_of_tie = np.append(np.diff(scores[order]) != 0, True)
    # By falling threshold on the scores: weights of true and of false positives.
    true = np.cumsum(weights[..., order] * (references[order] == 1), axis=-1)[..., last_of_tie]
    false = np.cumsum(weights[..., order] * (references[order] != 1), axis=-1)[..., last_of_tie]
    positives, negatives = true[..., -1], false[..., -1]
    start = np.zeros((*true.shape[:-1], 1))
    true_steps = np.diff(np.concatenate([start, true], axis=-1), axis=-1)
    false_steps = np.diff(np.concatenate([start, false], axis=-1), axis=-1)
    area = (false_steps * (true - true_steps / 2)).sum(axis=-1)
    average_precision = (true_steps * _ratio(true, true + false)).sum(axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        has_both = (positives > 0) & (negatives > 0)
        return {
            "roc_auc": np.where(has_both, area / (positives * negatives), np.nan),
            "average_precision": np.where(has_both, average_precision / positives, np.nan),
        }


class MetricInMemory(evaluate.Metric):
    """Base class of metrics that compute in memory: `evaluate.Metric` first writes its inputs to a locked file."""

    def compute(self, **inputs: Any) -> dict:
        """Compute the metric, and return its value by name, as `evaluate.Metric` does."""
        if set(self.features) <= set(inputs):
            return self._compute(**inputs)
        return super().compute(**inputs) or {}  # of the batches given to `add_batch`


class _LabelMetric(MetricInMemory):
    """Metric of predicted label ids: ``compute(predictions=[n], references=[n])`` returns ``{name: value}``."""

    key = ""
    summary = ""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=f"{self.summary} Precision, recall and F1 are those of label 1 where there are two labels, "
            "macro averages otherwise.",
            citation="",
            inputs_description="predictions: list of int; references: list of int; num_labels: int, optional.",
            features=datasets.Features(
                {"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}
            ),
        )

    def _compute(self, predictions: ArrayLike, references: ArrayLike, num_labels: int | None = None) -> dict:
        predicted, actual = np.asarray(predictions), np.asarray(references)
        size = num_labels or max(2, int(max(predicted.max(), actual.max())) + 1)
        return {self.key: float(label_metrics(confusion_matrix(actual, predicted, size))[self.key])}


class Accuracy(_LabelMetric):
    key, summary = "accuracy", "Proportion of examples with the right label."


class F1(_LabelMetric):
    key, summary = "f1", "Harmonic mean of precision and recall."


class MacroF1(_LabelMetric):
    key, summary = "f1_macro", "Mean of the labels' F1."


class Precision(_LabelMetric):
    key, summary = "precision", "Proportion of the predictions of a label that are right."


class Recall(_LabelMetric):
    key, summary = "recall", "Proportion of the examples of a label that are predicted."


class MatthewsCorrelation(_LabelMetric):
    key, summary = "matthews_correlation", "Correlation of predicted and true labels, for any number of labels."


class _RankingMetric(MetricInMemory):
    """Metric of scores: ``compute(prediction_scores=[n], references=[n])`` returns ``{name: value}``."""

    key = ""
    summary = ""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=self.summary,
            citation="",
            inputs_description="prediction_scores: list of float, of label 1; references: list of 0 or 1.",
            features=datasets.Features(
                {"prediction_scores": datasets.Value("float64"), "references": datasets.Value("int64")}
            ),
        )

    def _compute(self, prediction_scores: ArrayLike, references: ArrayLike) -> dict:
        return {self.key: float(ranking_metrics(np.asarray(references), np.asarray(prediction_scores))[self.key])}


class RocAuc(_RankingMetric):
    key, summary = "roc_auc", "Probability that an example of label 1 scores above one of label 0."


class AveragePrecision(_RankingMetric):
    key, summary = "average_precision", "Area under the precision-recall curve as a sum over its steps."


LABEL_METRICS = (Accuracy, F1, MacroF1, Precision, Recall, MatthewsCorrelation)
RANKING_METRICS = (RocAuc, AveragePrecision)
