"""Thresholds on the probability of label 1: for the best F1, or for a limit on the false positive rate."""

import math

import numpy as np
from scipy.stats import binom
from sklearn.metrics import precision_recall_curve

from hf_transfer.errors import InputError
from hf_transfer.evaluation.metrics import Array

# With fewer examples than these, a fitted threshold or temperature is mostly noise.
MIN_EXAMPLES_TO_FIT = 50
# Probability that the true false positive rate is above the limit all the same.
MISS_PROBABILITY = 0.05
# Points of a precision-recall curve that the report holds.
MAX_CURVE_POINTS = 200


def is_probability(text: str | None) -> bool:
    """Return whether `text` is a number from 0 to 1."""
    try:
        return 0 <= float(text or "") <= 1
    except ValueError:
        return False


def require_enough_to_fit(labels: list[int]) -> None:
    """Raise an error if there are too few validation labels to choose a threshold, or not both labels.

    Raises:
        InputError: there are not.
    """
    if len(labels) < MIN_EXAMPLES_TO_FIT or len(set(labels)) < 2:
        raise InputError(
            f"A threshold is to be chosen on the validation split, but it has {len(labels)} examples with "
            f"{len(set(labels))} labels; expected {MIN_EXAMPLES_TO_FIT} examples or more, with both labels. Give "
            "--validation_file, raise --validation_size, or give a probability: --threshold 0.7"
        )


def require_enough_negatives(labels: list[int], limit: float, name: str, unit_numbers: Array) -> None:
    """Raise an error if too few validation examples have label 0 for this limit on the false positive rate.

    Args:
        labels: of the validation examples.
        limit: of the false positive rate.
        name: of label 0.
        unit_numbers: for each example the number of its unit, [n]; one example of each unit counts: see
            `one_of_each_unit`.

    Raises:
        InputError: there are not; the message says how many are needed.
    """
    rows = np.flatnonzero(np.asarray(labels) == 0)
    negatives, needed = len(one_of_each_unit(rows, unit_numbers)), negatives_needed(limit)
    if negatives >= needed:
        return
    counted = "" if negatives == len(rows) else " (equal ones, or those of one patient or speaker, count as one)"
    if math.isinf(needed):
        remedy, what_is_needed = "Ask", "no number of examples could show it"
    else:
        remedy, what_is_needed = (
            "Give --validation_file, raise --validation_size, or ask", f"it takes {needed:,.0f}"
        )  # fmt: skip
    raise InputError(
        f"--max_false_positive_rate {limit:g}: {negatives} validation examples of '{name}'{counted} are too few to "
        f"show, with a confidence of 95 %, that a threshold keeps to it; {what_is_needed}. {remedy} for "
        f"--max_false_positive_rate {_rounded_up(lowest_limit(negatives)):g}, for which they are enough."
    )


def _rounded_up(proportion: float) -> float:
    """Return a proportion rounded up to two significant digits."""
    digits = 1 - math.floor(math.log10(proportion))
    return math.ceil(proportion * 10**digits) / 10**digits


def precision_recall(scores: Array, references: Array) -> dict[str, list[float]]:
    """Return ``precision`` and ``recall`` of label 1 by falling threshold on the scores, at most 200 points.

    Args:
        scores: probabilities of label 1, [n].
        references: true label ids, 0 or 1, [n].
    """
    precision, recall, _ = precision_recall_curve(references, scores)
    points = np.unique(np.linspace(0, len(recall) - 1, min(MAX_CURVE_POINTS, len(recall))).astype(int))[::-1]
    return {"precision": precision[points].round(5).tolist(), "recall": recall[points].round(5).tolist()}


def threshold_for_best_f1(scores: Array, references: Array) -> float:
    """Return the threshold with the best F1 of label 1, halfway to the next lower score.

    Args:
        scores: probabilities of label 1, [n].
        references: true label ids, 0 or 1, [n].
    """
    precision, recall, thresholds = precision_recall_curve(references, scores)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    best = float(thresholds[int(np.argmax(f1[:-1]))])
    lower = scores[scores < best]
    # A threshold exactly at a score would depend on rounding.
    return float((best + lower.max()) / 2) if len(lower) else best


def threshold_for_false_positive_rate(scores: Array, negatives: Array, limit: float) -> float:
    """Return the lowest threshold whose true false positive rate is at most `limit`, with a confidence of 95 %.

    The Neyman-Pearson umbrella algorithm of Tong, Feng & Li 2018, https://doi.org/10.1126/sciadv.aao1659: a rank
    among the scores of label 0. The false positive rate measured on these scores is lower than `limit`.

    Args:
        scores: probabilities of label 1, [n].
        negatives: probabilities of label 1 of independent examples of label 0: see `one_of_each_unit`.
        limit: of the false positive rate.

    Raises:
        ValueError: there are fewer `negatives` than `negatives_needed`.
    """
    negatives = np.sort(negatives)
    ranks = np.arange(1, len(negatives) + 1)
    suffices = binom.sf(ranks - 1, len(negatives), 1 - limit) <= MISS_PROBABILITY
    if not suffices.any():
        raise ValueError(f"{len(negatives)} examples of label 0; {negatives_needed(limit)} are needed.")
    highest_below = float(negatives[np.argmax(suffices)])  # the highest score of label 0 below the threshold
    above = scores[scores > highest_below]
    threshold = (highest_below + float(above.min())) / 2 if len(above) else 1.0
    return max(threshold, float(np.nextafter(highest_below, np.inf)))


def one_of_each_unit(rows: Array, unit_numbers: Array) -> Array:
    """Return the row number of one random example of each unit (patient, speaker, group of equal examples).

    The examples of a unit are not independent.

    Args:
        rows: row numbers of examples.
        unit_numbers: for each example the number of its unit, [n]: see `data.units.unit_numbers`.
    """
    shuffled = np.random.default_rng(0).permutation(rows)
    return shuffled[np.unique(unit_numbers[shuffled], return_index=True)[1]]


def negatives_needed(limit: float) -> float:
    """Return how many examples of label 0 it takes to choose a threshold for this limit; infinite for a limit of 0."""
    if limit == 0:
        return math.inf
    return math.ceil(math.log(MISS_PROBABILITY) / math.log1p(-limit)) if 0 < limit < 1 else 1


def lowest_limit(negatives: int) -> float:
    """Return the lowest limit on the false positive rate for which this many examples of label 0 are enough."""
    # Slightly more than the exact value, so that rounding does not make `negatives_needed` ask for one more.
    return 1 - MISS_PROBABILITY ** (1 / negatives) + 1e-9 if negatives else 1.0
