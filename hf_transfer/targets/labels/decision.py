"""From logits to a decision: a temperature and, for two labels, a threshold, both fitted on the validation split."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_softmax, softmax
from scipy.stats import binom, chi2
from sklearn.metrics import precision_recall_curve

from hf_transfer.evaluation.metrics import Array

# Below this many examples a fitted temperature or threshold is mostly noise.
ENOUGH_TO_FIT = 50
# Fewer wrong answers than these do not tell how sure a model may be of the right ones.
ERRORS_TO_SHARPEN = 5
# Of the logarithm of the temperature, before anything is seen.
PRIOR_SPREAD = 0.5
# How often a limit on false positives may be missed.
UNSURE = 0.05


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


def forget_decision(config: Any) -> None:
    """Remove the decision that a checkpoint's config brings along."""
    if hasattr(config, "calibration"):
        del config.calibration


def calibrate(logits: Array, references: Array, *, multi_label: bool = False) -> tuple[float, str | None]:
    """The temperature that validation logits give evidence for; 1.0 where they give none, and why.

    It is taken where it makes the references likelier than chance would (likelihood ratio, 95 %), and one that makes
    the model surer of itself only where there are errors to tell how sure it may be.

    Args:
        logits: [n, num_labels].
        references: label ids [n], or a 0/1 matrix [n, num_labels].
        multi_label: whether an example may have several labels.
    """
    logits = np.asarray(logits, dtype=np.float64)
    temperature = fit_temperature(logits, references, multi_label=multi_label)
    answers = Decision(multi_label=multi_label)
    errors = int((answers.labels(answers.probabilities(logits)) != references).sum())
    if temperature < 1 and errors < ERRORS_TO_SHARPEN:
        return 1.0, (
            f"{errors} wrong answers on {len(references)} validation examples do not tell how sure it may be; "
            f"it takes {ERRORS_TO_SHARPEN}"
        )
    gain = _loss(logits, references, 1.0, multi_label) - _loss(logits, references, temperature, multi_label)
    if gain <= chi2.ppf(0.95, df=1) / 2:
        return 1.0, f"on {len(references)} validation examples no temperature is better than none beyond chance"
    return temperature, None


def fit_temperature(logits: Array, references: Array, *, multi_label: bool = False) -> float:
    """The likeliest temperature, its logarithm being about 0 +- 0.5 before anything is seen.

    Args:
        logits: [n, num_labels].
        references: label ids [n], or a 0/1 matrix [n, num_labels].
        multi_label: whether an example may have several labels.
    """
    logits = np.asarray(logits, dtype=np.float64)

    def loss(log_temperature: float) -> float:
        prior = 0.5 * (log_temperature / PRIOR_SPREAD) ** 2
        return _loss(logits, references, float(np.exp(log_temperature)), multi_label) + prior

    return float(np.exp(minimize_scalar(loss, bounds=(np.log(0.1), np.log(20.0)), method="bounded").x))


def _loss(logits: Array, references: Array, temperature: float, multi_label: bool) -> float:
    """The negative log-likelihood of all references together."""
    scaled = logits / temperature
    if multi_label:
        return float((np.logaddexp(0, scaled) - references * scaled).sum())
    return float(-log_softmax(scaled, axis=-1)[np.arange(len(references)), references].sum())


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


def threshold_for_false_positive_rate(scores: Array, negatives: Array, limit: float) -> float:
    """The lowest threshold whose true false positive rate is at most `limit` with a confidence of 95 %.

    The Neyman-Pearson umbrella algorithm of Tong, Feng & Li 2018, https://doi.org/10.1126/sciadv.aao1659: a rank among
    the scores of label 0. The rate that is measured on them is lower.

    Args:
        scores: probabilities of label 1, [n].
        negatives: those of examples of label 0 that are independent of each other, see `independent`.
        limit: of the rate.

    Raises:
        ValueError: there are fewer `negatives` than `negatives_needed`.
    """
    negatives = np.sort(negatives)
    ranks = np.arange(1, len(negatives) + 1)
    enough = binom.sf(ranks - 1, len(negatives), 1 - limit) <= UNSURE
    if not enough.any():
        raise ValueError(f"{len(negatives)} examples of label 0; {negatives_needed(limit)} are needed.")
    last = float(negatives[np.argmax(enough)])  # the highest score of label 0 that stays below the threshold
    above = scores[scores > last]
    return max((last + float(above.min())) / 2 if len(above) else 1.0, float(np.nextafter(last, np.inf)))


def independent(rows: Array, together: Array) -> Array:
    """Of some rows one of each patient, speaker or group of equal examples, which are no evidence for each other.

    Args:
        rows: of examples.
        together: for each example the number of those that are alike, [n]: see `data.units.unit_numbers`.
    """
    shuffled = np.random.default_rng(0).permutation(rows)
    return shuffled[np.unique(together[shuffled], return_index=True)[1]]


def negatives_needed(limit: float) -> float:
    """How many examples of label 0 it takes to choose a threshold for this limit; infinite for a limit of 0."""
    return math.ceil(math.log(UNSURE) / math.log1p(-limit)) if 0 < limit < 1 else math.inf if limit == 0 else 1


def lowest_limit(negatives: int) -> float:
    """The lowest limit on false positives for which so many examples of label 0 are enough."""
    # A little more than exactly that: `negatives_needed` would ask for another one by rounding.
    return 1 - UNSURE ** (1 / negatives) + 1e-9 if negatives else 1.0


def _between(scores: Array, chosen: float) -> float:
    """A threshold right at a score flips with rounding: take the middle of the gap below it."""
    lower = scores[scores < chosen]
    return float((chosen + lower.max()) / 2) if len(lower) else chosen
