"""From logits to a decision: a temperature and, for two labels, a threshold, both fitted on the validation split."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_softmax, softmax
from sklearn.metrics import precision_recall_curve, roc_curve

from hf_transfer.evaluation.metrics import Array

# Below this many examples a fitted temperature or threshold is mostly noise.
ENOUGH_TO_FIT = 50


@dataclass(frozen=True)
class Decision:
    """How logits become labels.

    Attributes:
        temperature: the logits are divided by it (Guo et al. 2017, https://arxiv.org/abs/1706.04599).
        threshold: label 1 from this probability on, where there are two labels; each label from it on, where an
            example may have several. None: the likeliest label.
        multi_label: whether an example may have several labels.
    """

    temperature: float = 1.0
    threshold: float | None = None
    multi_label: bool = False

    def probabilities(self, logits: Array) -> Array:
        """Calibrated probabilities [n, num_labels] from logits [n, num_labels]."""
        scaled = np.asarray(logits, dtype=np.float64) / self.temperature
        return expit(scaled) if self.multi_label else softmax(scaled, axis=-1)

    def labels(self, probabilities: Array) -> Array:
        """Label ids [n], or a 0/1 matrix [n, num_labels] where an example may have several."""
        if self.multi_label:
            return (probabilities >= (0.5 if self.threshold is None else self.threshold)).astype(np.int64)
        if self.threshold is None:
            return probabilities.argmax(axis=-1)
        return (probabilities[:, 1] >= self.threshold).astype(np.int64)

    def write(self, config: Any) -> None:
        """Keep the decision in a model's config, which travels with the weights."""
        config.calibration = {"temperature": self.temperature, "threshold": self.threshold}

    @classmethod
    def read(cls, config: Any) -> "Decision":
        """The decision kept in a model's config; the plain one where none is."""
        kept = getattr(config, "calibration", None) or {}
        multi_label = getattr(config, "problem_type", None) == "multi_label_classification"
        return cls(kept.get("temperature") or 1.0, kept.get("threshold"), multi_label)


def fit_temperature(logits: Array, references: Array, *, multi_label: bool = False) -> float:
    """The temperature with the least negative log-likelihood.

    Args:
        logits: [n, num_labels].
        references: label ids [n], or a 0/1 matrix [n, num_labels].
        multi_label: whether an example may have several labels.
    """
    logits = np.asarray(logits, dtype=np.float64)

    def loss(log_temperature: float) -> float:
        scaled = logits / np.exp(log_temperature)
        if multi_label:
            return float((np.logaddexp(0, scaled) - references * scaled).mean())
        return float(-log_softmax(scaled, axis=-1)[np.arange(len(references)), references].mean())

    # On a validation split without a single error the likelihood grows without end as the temperature falls:
    # the bounds keep probabilities from becoming certainties.
    found = minimize_scalar(loss, bounds=(np.log(0.25), np.log(10.0)), method="bounded")
    return float(np.exp(found.x)) if found.fun < loss(0.0) else 1.0


def reliability_bins(probabilities: Array, references: Array, bins: int = 15) -> list[dict[str, float]]:
    """Mean ``confidence`` and ``accuracy`` of the ``examples`` in each of equal-width bins that holds any.

    Guo et al. 2017.

    Args:
        probabilities: [n, num_labels].
        references: label ids [n].
        bins: number of bins.
    """
    confidence = probabilities.max(axis=-1)
    right = probabilities.argmax(axis=-1) == references
    which = np.minimum((confidence * bins).astype(int), bins - 1)
    counts = np.bincount(which, minlength=bins)
    sums = np.bincount(which, confidence, bins), np.bincount(which, right, bins)
    return [
        {"confidence": float(sums[0][i] / n), "accuracy": float(sums[1][i] / n), "examples": int(n)}
        for i, n in enumerate(counts)
        if n
    ]


def expected_calibration_error(probabilities: Array, references: Array) -> float:
    """Mean gap between confidence and accuracy over the bins above (Guo et al. 2017)."""
    gaps = [
        bin_["examples"] * abs(bin_["accuracy"] - bin_["confidence"])
        for bin_ in reliability_bins(probabilities, references)
    ]
    return float(sum(gaps) / len(references))


def precision_recall(scores: Array, references: Array) -> dict[str, list[float]]:
    """``precision`` and ``recall`` of label 1 by falling threshold on `scores` [n], at most 200 points."""
    precision, recall, _ = precision_recall_curve(references, scores)
    some = np.unique(np.linspace(0, len(recall) - 1, min(200, len(recall))).astype(int))[::-1]
    return {"precision": precision[some].round(5).tolist(), "recall": recall[some].round(5).tolist()}


def threshold_for_best_f1(scores: Array, references: Array) -> float:
    """The threshold on `scores` [n] with the best F1 of label 1, halfway to the next lower score."""
    precision, recall, thresholds = precision_recall_curve(references, scores)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    return _between(scores, float(thresholds[int(np.argmax(f1[:-1]))]))


def threshold_for_false_positive_rate(scores: Array, references: Array, limit: float) -> float:
    """The lowest threshold whose false positive rate on `scores` [n] is at most `limit`."""
    rates, _, thresholds = roc_curve(references, scores, drop_intermediate=False)
    chosen = float(thresholds[np.flatnonzero(rates <= limit)[-1]])
    return min(_between(scores, chosen), 1.0) if np.isfinite(chosen) else 1.0


def _between(scores: Array, chosen: float) -> float:
    """A threshold right at a score flips with rounding: take the middle of the gap below it."""
    lower = scores[scores < chosen]
    return float((chosen + lower.max()) / 2) if len(lower) else chosen
