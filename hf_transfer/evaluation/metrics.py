"""Classification metrics as `evaluate.Metric` classes that need no network.

The computations take a weight an example, with any leading axes, so that the same code gives a metric and its
bootstrap distribution: a resample is a vector of multiplicities.
"""

from typing import Any

import datasets
import evaluate
import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[Any]


def confusion_matrix(references: Array, predictions: Array, num_labels: int, weights: Array | None = None) -> Array:
    """Weighted counts [..., num_labels, num_labels], references by predictions.

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
    """0 where the denominator is 0, as scikit-learn's `zero_division=0`."""
    return np.divide(numerator, denominator, out=np.zeros_like(numerator, dtype=float), where=denominator > 0)


def scores_by_label(confusion: Array) -> tuple[Array, Array, Array]:
    """Precision, recall and F1 of each label, [..., num_labels], from counts [..., num_labels, num_labels]."""
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    predicted, actual = confusion.sum(axis=-2), confusion.sum(axis=-1)
    return _ratio(hits, predicted), _ratio(hits, actual), _ratio(2 * hits, predicted + actual)


def _mean_of(values: Array, counted: Array) -> Array:
    """The mean over the last axis, [...], of the `values` that are `counted`, both [..., num_labels]; NaN of none."""
    mean = _ratio(np.where(counted, values, 0.0).sum(axis=-1), counted.sum(axis=-1))
    return np.where(counted.any(axis=-1), mean, np.nan)


def label_metrics(confusion: Array, whole: Array | None = None) -> dict[str, Array]:
    """Every metric of hard predictions from counts [..., num_labels, num_labels], each [...].

    Precision, recall and F1 are those of label 1 where there are two labels, and macro averages otherwise; the macro
    averages count the labels that occur. Of label 1 nothing is known (NaN) where it neither occurs nor is predicted.
    Matthews correlation: Gorodkin (2004), as in scikit-learn; NaN where all examples have one label.

    Args:
        confusion: of all examples, or of resamples of them.
        whole: of all examples, where `confusion` is of resamples: a label that did not make it into a resample takes
            no part in its averages (by precision: one that is not predicted there, unless none of its examples is).
    """
    total = confusion.sum(axis=(-2, -1))
    hits = np.trace(confusion, axis1=-2, axis2=-1)
    predicted, actual = confusion.sum(axis=-2), confusion.sum(axis=-1)
    precision, recall, f1 = scores_by_label(confusion)
    labels = confusion if whole is None else whole
    occurs = np.where(labels.sum(axis=-1) > 0, actual > 0, predicted > 0)
    answered = np.where(labels.sum(axis=-2) > 0, predicted > 0, actual > 0)

    def over_labels(values: Array, counted: Array) -> Array:
        if confusion.shape[-1] != 2:
            return _mean_of(values, counted)
        return np.where(counted[..., 1], values[..., 1], np.nan)

    covariance = hits * total - (predicted * actual).sum(axis=-1)
    of_answers, of_labels = (total**2 - (each**2).sum(axis=-1) for each in (predicted, actual))
    return {
        "accuracy": _ratio(hits, total),
        "f1": over_labels(f1, occurs),
        "f1_macro": _mean_of(f1, occurs),
        "precision": over_labels(precision, answered),
        "recall": over_labels(recall, occurs),
        "matthews_correlation": np.where(of_labels > 0, _ratio(covariance, np.sqrt(of_answers * of_labels)), np.nan),
    }


def multilabel_metrics(references: Array, predictions: Array, weights: Array | None = None) -> dict[str, Array]:
    """Metrics of 0/1 matrices [n, num_labels], each [...] as the weights [..., n] are.

    Accuracy is the share of examples with every label right; F1, precision and recall are macro averages over
    labels, with the micro average of F1 beside them. The averages count the labels that occur, in a resample too (by
    precision: those that are predicted).
    """
    truth, guess = np.asarray(references, dtype=float), np.asarray(predictions, dtype=float)
    weights = np.ones(len(truth)) if weights is None else weights
    hits, predicted, actual = weights @ (truth * guess), weights @ guess, weights @ truth
    exact = (truth == guess).all(axis=-1).astype(float)
    occurs = np.where(truth.any(axis=0), actual > 0, predicted > 0)
    answered = np.where(guess.any(axis=0), predicted > 0, actual > 0)
    any_label = predicted + actual > 0
    return {
        "accuracy": _ratio(weights @ exact, weights.sum(axis=-1)),
        "f1": _mean_of(_ratio(2 * hits, predicted + actual), occurs),
        "f1_micro": np.where(
            any_label.any(axis=-1), _ratio(2 * hits.sum(axis=-1), (predicted + actual).sum(axis=-1)), np.nan
        ),
        "precision": _mean_of(_ratio(hits, predicted), answered),
        "recall": _mean_of(_ratio(hits, actual), occurs),
    }


def ranking_metrics(references: Array, scores: Array, weights: Array | None = None) -> dict[str, Array]:
    """ROC AUC and average precision of label 1, each [...] as the weights [..., n] are; NaN without both labels.

    Args:
        references: 0 or 1, [n].
        scores: the higher, the more likely label 1, [n].
        weights: weights [..., n]; all 1 if None.
    """
    references, scores = np.asarray(references), np.asarray(scores)
    weights = np.ones(len(scores)) if weights is None else np.asarray(weights, dtype=float)
    order = np.argsort(-scores, kind="stable")
    last_of_tie = np.append(np.diff(scores[order]) != 0, True)
    true = np.cumsum(weights[..., order] * (references[order] == 1), axis=-1)[..., last_of_tie]
    false = np.cumsum(weights[..., order] * (references[order] != 1), axis=-1)[..., last_of_tie]
    positives, negatives = true[..., -1], false[..., -1]
    start = np.zeros((*true.shape[:-1], 1))
    gained = np.diff(np.concatenate([start, true], axis=-1), axis=-1)
    passed = np.diff(np.concatenate([start, false], axis=-1), axis=-1)
    area = (passed * (true - gained / 2)).sum(axis=-1)
    average_precision = (gained * _ratio(true, true + false)).sum(axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        both = (positives > 0) & (negatives > 0)
        return {
            "roc_auc": np.where(both, area / (positives * negatives), np.nan),
            "average_precision": np.where(both, average_precision / positives, np.nan),
        }


class MetricInMemory(evaluate.Metric):
    """An `evaluate.Metric` that hands `compute` what it is given; evaluate writes it to a locked file first."""

    def compute(self, **given: Any) -> dict:
        """As of `evaluate.Metric`."""
        if set(self.features) <= set(given):
            return self._compute(**given)
        return super().compute(**given) or {}  # of batches that were added before


class _LabelMetric(MetricInMemory):
    """A metric of label ids: ``compute(predictions=[n], references=[n])`` gives ``{name: value}``."""

    key = ""
    about = ""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=f"{self.about} Precision, recall and F1 are those of label 1 where there are two labels, "
            "macro averages otherwise.",
            citation="",
            inputs_description="predictions: list of int; references: list of int; num_labels: int, optional.",
            features=datasets.Features(
                {"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}
            ),
        )

    def _compute(self, predictions: ArrayLike, references: ArrayLike, num_labels: int | None = None) -> dict:
        guess, truth = np.asarray(predictions), np.asarray(references)
        size = num_labels or max(2, int(max(guess.max(), truth.max())) + 1)
        return {self.key: float(label_metrics(confusion_matrix(truth, guess, size))[self.key])}


class Accuracy(_LabelMetric):
    key, about = "accuracy", "Share of examples with the right label."


class F1(_LabelMetric):
    key, about = "f1", "Harmonic mean of precision and recall."


class MacroF1(_LabelMetric):
    key, about = "f1_macro", "Mean of the labels' F1."


class Precision(_LabelMetric):
    key, about = "precision", "Share of the predictions of a label that are right."


class Recall(_LabelMetric):
    key, about = "recall", "Share of the examples of a label that are found."


class MatthewsCorrelation(_LabelMetric):
    key, about = "matthews_correlation", "Correlation of predicted and true labels, for any number of labels."


class _RankingMetric(MetricInMemory):
    """A metric of scores: ``compute(prediction_scores=[n], references=[n])``, as in evaluate's ``roc_auc``."""

    key = ""
    about = ""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=self.about,
            citation="",
            inputs_description="prediction_scores: list of float, of label 1; references: list of 0 or 1.",
            features=datasets.Features(
                {"prediction_scores": datasets.Value("float64"), "references": datasets.Value("int64")}
            ),
        )

    def _compute(self, prediction_scores: ArrayLike, references: ArrayLike) -> dict:
        return {self.key: float(ranking_metrics(np.asarray(references), np.asarray(prediction_scores))[self.key])}


class RocAuc(_RankingMetric):
    key, about = "roc_auc", "Chance that an example of label 1 scores above one of label 0."


class AveragePrecision(_RankingMetric):
    key, about = "average_precision", "Area under the precision-recall curve as a sum over its steps."


LABEL_METRICS = (Accuracy, F1, MacroF1, Precision, Recall, MatthewsCorrelation)
RANKING_METRICS = (RocAuc, AveragePrecision)
