"""Metrics of a classifier, from its logits and the true labels."""

from collections.abc import Callable

import numpy as np
from datasets import Dataset, List

from hf_transfer.evaluation.metrics import (
    LABEL_METRICS,
    RANKING_METRICS,
    Array,
    confusion_matrix,
    label_metrics,
    multilabel_metrics,
    ranking_metrics,
)
from hf_transfer.targets.labels.calibration import expected_calibration_error
from hf_transfer.targets.labels.decision import Decision


def reference_labels(split: Dataset) -> Array:
    """Return a split's true labels: label ids [n], or a 0/1 matrix [n, num_labels] if there may be several."""
    labels = split["label"][:]
    feature = split.features["label"]
    if not isinstance(feature, List):
        return np.asarray(labels, dtype=np.int64)
    matrix = np.zeros((len(labels), len(feature.feature.names)), dtype=np.int64)
    for row, label in zip(matrix, labels, strict=True):
        row[label] = 1
    return matrix


def compute_metrics(logits: Array, references: Array, decision: Decision) -> dict[str, float]:
    """Return the metrics of a classifier by name, from its logits and the true labels.

    Args:
        logits: [n, num_labels].
        references: true label ids [n], or a 0/1 matrix [n, num_labels].
        decision: of the model; it decides which labels are predicted.
    """
    probabilities = decision.probabilities(logits)
    predictions = decision.labels(probabilities)
    if decision.multi_label:
        return {name: float(value) for name, value in multilabel_metrics(references, predictions).items()}
    num_labels = probabilities.shape[1]
    metrics: dict[str, float] = {}
    for label_metric in LABEL_METRICS:
        metrics |= label_metric().compute(predictions=predictions, references=references, num_labels=num_labels)
    if _can_be_ranked(references, num_labels):
        for metric in RANKING_METRICS:
            metrics |= metric().compute(prediction_scores=probabilities[:, 1], references=references)
    metrics["expected_calibration_error"] = expected_calibration_error(probabilities, references)
    uncalibrated = Decision().probabilities(logits)
    metrics["expected_calibration_error_uncalibrated"] = expected_calibration_error(uncalibrated, references)
    return metrics


def weighted_metrics(
    references: Array, predictions: Array, probabilities: Array
) -> Callable[[Array], dict[str, Array]]:
    """Return a function from example weights [..., n] to the metrics of predicted labels by name, each [...].

    Args:
        references: true label ids [n], or a 0/1 matrix [n, num_labels] where an example may have several labels.
        predictions: predicted labels, in the same form.
        probabilities: [n, num_labels].
    """
    if references.ndim == 2:
        return lambda weights: multilabel_metrics(references, predictions, weights)
    num_labels = probabilities.shape[1]
    has_ranking = _can_be_ranked(references, num_labels)
    full_confusion = confusion_matrix(references, predictions, num_labels)

    def compute(weights: Array) -> dict[str, Array]:
        confusion = confusion_matrix(references, predictions, num_labels, weights)
        metrics = label_metrics(confusion, full_confusion)
        return metrics | (ranking_metrics(references, probabilities[:, 1], weights) if has_ranking else {})

    return compute


def _can_be_ranked(references: Array, num_labels: int) -> bool:
    """Return whether ranking metrics (as ROC AUC) exist: there are two labels, and examples of both."""
    return num_labels == 2 and len(set(references.tolist())) == 2
