"""Calibration of probabilities: the temperature, fitted on validation logits, and the calibration error."""

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from scipy.stats import chi2

from hf_transfer.evaluation.metrics import Array
from hf_transfer.targets.labels.decision import Decision

# With fewer wrong answers than these, a temperature below 1 (more confident probabilities) is not fitted.
MIN_ERRORS_TO_SHARPEN = 5
# Standard deviation of the prior of the temperature's logarithm.
PRIOR_DEVIATION = 0.5


def calibrate(logits: Array, references: Array, *, multi_label: bool = False) -> tuple[float, str | None]:
    """Return the temperature that validation logits give evidence for; or 1.0, and a clause that says why.

    The fitted temperature is used where it makes the references significantly more likely (likelihood-ratio test,
    95 %). One that makes the model more confident is used only where there are enough errors.

    Args:
        logits: [n, num_labels].
        references: true label ids [n], or a 0/1 matrix [n, num_labels].
        multi_label: whether an example may have several labels.
    """
    logits = np.asarray(logits, dtype=np.float64)
    temperature = fit_temperature(logits, references, multi_label=multi_label)
    uncalibrated = Decision(multi_label=multi_label)
    errors = int((uncalibrated.labels(uncalibrated.probabilities(logits)) != references).sum())
    if temperature < 1 and errors < MIN_ERRORS_TO_SHARPEN:
        return 1.0, (
            f"{errors} wrong answers on {len(references)} validation examples do not tell how confident the model "
            f"may be; at least {MIN_ERRORS_TO_SHARPEN} are needed"
        )
    loss, loss_with_temperature = (
        _negative_log_likelihood(logits, references, value, multi_label) for value in (1.0, temperature)
    )
    if loss - loss_with_temperature <= chi2.ppf(0.95, df=1) / 2:
        return 1.0, f"on {len(references)} validation examples no temperature is significantly better than none"
    return temperature, None


def fit_temperature(logits: Array, references: Array, *, multi_label: bool = False) -> float:
    """Return the most likely temperature of logits, given a normal prior of its logarithm (mean 0, deviation 0.5).

    Args:
        logits: [n, num_labels].
        references: true label ids [n], or a 0/1 matrix [n, num_labels].
        multi_label: whether an example may have several labels.
    """
    logits = np.asarray(logits, dtype=np.float64)

    def loss(log_temperature: float) -> float:
        prior = 0.5 * (log_temperature / PRIOR_DEVIATION) ** 2
        return _negative_log_likelihood(logits, references, float(np.exp(log_temperature)), multi_label) + prior

    return float(np.exp(minimize_scalar(loss, bounds=(np.log(0.1), np.log(20.0)), method="bounded").x))


def _negative_log_likelihood(logits: Array, references: Array, temperature: float, multi_label: bool) -> float:
    scaled = logits / temperature
    if multi_label:
        return float((np.logaddexp(0, scaled) - references * scaled).sum())
    return float(-log_softmax(scaled, axis=-1)[np.arange(len(references)), references].sum())


def reliability_bins(probabilities: Array, references: Array, bins: int = 15) -> list[dict[str, float]]:
    """Return ``confidence``, ``accuracy`` and number of ``examples`` of equal-width bins of the confidence.

    Bins without examples are left out. Guo et al. 2017, https://arxiv.org/abs/1706.04599.

    Args:
        probabilities: [n, num_labels].
        references: true label ids [n].
        bins: number of bins.
    """
    confidence = probabilities.max(axis=-1)
    is_right = probabilities.argmax(axis=-1) == references
    bin_numbers = np.minimum((confidence * bins).astype(int), bins - 1)
    counts = np.bincount(bin_numbers, minlength=bins)
    sums = np.bincount(bin_numbers, confidence, bins), np.bincount(bin_numbers, is_right, bins)
    return [
        {"confidence": float(sums[0][i] / n), "accuracy": float(sums[1][i] / n), "examples": int(n)}
        for i, n in enumerate(counts)
        if n
    ]


def expected_calibration_error(probabilities: Array, references: Array) -> float:
    """Return the mean gap between confidence and accuracy over bins of the confidence (Guo et al. 2017)."""
    gaps = [
        bin_["examples"] * abs(bin_["accuracy"] - bin_["confidence"])
        for bin_ in reliability_bins(probabilities, references)
    ]
    return float(sum(gaps) / len(references))
