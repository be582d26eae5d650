"""95 % confidence intervals of a classifier's metrics and of their gain by training."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import binomtest

from hf_transfer.data.units import resampling_units, unit_of_record
from hf_transfer.evaluation.bootstrap import NORMAL_95, ResampledMetrics, bootstrap, paired_metrics, split_by_kind
from hf_transfer.evaluation.metrics import Array
from hf_transfer.targets.labels.classification_metrics import weighted_metrics
from hf_transfer.targets.labels.decision import Decision

# Metrics of predicted labels, which change only where a predicted label does.
METRICS_OF_LABELS = ("accuracy", "f1", "f1_macro", "f1_micro", "precision", "recall", "matthews_correlation")


def classification_intervals(
    before: Array,
    after: Array,
    references: Array,
    decision: Decision,
    seed: int,
    units: Sequence[str] | None = None,
) -> dict[str, dict[str, list[float]]]:
    """Return 95 % intervals of a classifier's metrics ``after`` training and of their ``gain``, by metric.

    The gain is after minus before, on the same examples (paired).

    Examples are resampled, or whole units (patients, speakers) where enough are known: see `resampling_units`.

    Args:
        before: logits [n, num_labels] of the untrained model; its most likely label is its prediction.
        after: logits [n, num_labels] of the trained model.
        references: true label ids [n], or a 0/1 matrix [n, num_labels].
        decision: of the trained model.
        seed: of the resampling.
        units: the name of each example's unit (patient, speaker, camera), [n], where they are known.
    """
    default = Decision(multi_label=decision.multi_label)
    probabilities_before, probabilities = default.probabilities(before), decision.probabilities(after)
    predictions_before, predictions = default.labels(probabilities_before), decision.labels(probabilities)
    num_labels, unit_numbers = probabilities.shape[1], resampling_units(units, len(references))
    is_changed = predictions_before != predictions
    is_changed = is_changed.any(axis=1) if is_changed.ndim == 2 else is_changed
    resampled = ResampledMetrics(
        unit_numbers,
        paired_metrics(
            weighted_metrics(references, predictions_before, probabilities_before),
            weighted_metrics(references, predictions, probabilities),
        ),
        metric_support(references, predictions, num_labels, unit_numbers),
        dict.fromkeys(METRICS_OF_LABELS, is_changed),
    )
    intervals = split_by_kind(bootstrap(resampled, seed=seed))
    after_intervals, gain = intervals["after"], intervals["gain"]
    formula = formula_intervals(references, predictions, num_labels)
    accuracy_gain = proportion_difference_interval(
        _is_right(references, predictions_before), _is_right(references, predictions)
    )
    if resampled.num_units == len(unit_numbers):
        return {"after": after_intervals | formula, "gain": gain | {"accuracy": accuracy_gain}}
    # Examples of one unit are alike, so an interval is never narrower than that of as many independent examples.
    for name, ends in formula.items():
        after_intervals[name] = covering_interval(ends, after_intervals.get(name, ends))
    gain["accuracy"] = covering_interval(accuracy_gain, gain["accuracy"])
    return {"after": after_intervals, "gain": gain}


def resampled_metrics_of_records(
    records: Sequence[Mapping[str, Any]], names: Sequence[str], *, multi_label: bool
) -> ResampledMetrics[str]:
    """Return the metrics of a classifier's prediction records as `ResampledMetrics`, for the bootstrap.

    Args:
        records: of ``predictions.jsonl``.
        names: of the labels, by id.
        multi_label: whether an example may have several labels.
    """

    def label_ids(labels: list[Any]) -> Array:
        if multi_label:
            return np.array([[int(name in label) for name in names] for label in labels])
        return np.array([names.index(label) for label in labels])

    scores = np.array([[record["scores"][name] for name in names] for record in records])
    references, predictions = (label_ids([record[key] for record in records]) for key in ("label", "prediction"))
    unit_numbers = resampling_units([unit_of_record(record) for record in records], len(records))
    return ResampledMetrics(
        unit_numbers,
        weighted_metrics(references, predictions, scores),
        metric_support(references, predictions, scores.shape[1], unit_numbers),
        formula_intervals=formula_intervals(references, predictions, scores.shape[1]),
    )


def formula_intervals(references: Array, predictions: Array, num_labels: int) -> dict[str, list[float]]:
    """Return by metric the 95 % intervals of metrics that are proportions, which need no resampling.

    They are proportions of independent examples.

    The interval of F1 is that of the proportion of right answers among the examples that have label 1 or are
    predicted to have it, of which F1 is a function: Lam et al. 2023, https://arxiv.org/abs/2309.14621.

    Args:
        references: true label ids [n], or a 0/1 matrix [n, num_labels].
        predictions: predicted labels, in the same form.
        num_labels: number of labels.
    """
    is_right = _is_right(references, predictions)
    intervals = {"accuracy": proportion_interval(int(is_right.sum()), len(references))}
    if references.ndim == 2 or num_labels != 2:
        return intervals
    hits, either = int((references & predictions).sum()), references | predictions
    for name, counted in (("precision", predictions), ("recall", references), ("f1", either)):
        if counted.any():
            intervals[name] = proportion_interval(hits, int(counted.sum()))
    # At 0 and 1 the interval of the proportion itself is kept for F1: it is wider, thus on the safe side.
    if "f1" in intervals and 0 < hits < either.sum():
        intervals["f1"] = [2 * end / (1 + end) for end in intervals["f1"]]
    return intervals


def covering_interval(one: list[float], other: list[float]) -> list[float]:
    """Return the smallest interval ``[low, high]`` that contains two intervals."""
    return [min(one[0], other[0]), max(one[1], other[1])]


def _is_right(references: Array, predictions: Array) -> Array:
    """Return for each example whether all of its labels are predicted right, [n]."""
    is_equal = predictions == references
    return is_equal.all(axis=1) if references.ndim == 2 else is_equal


def proportion_difference_interval(before: Array, after: Array) -> list[float]:
    """Return the 95 % interval of the difference of two proportions of the same examples, after minus before.

    Wald's interval with one more example of each kind that differs: Bonett & Price 2012,
    https://doi.org/10.3102/1076998611411915.

    Args:
        before: whether each example is counted before, [n].
        after: whether each example is counted after, [n].
    """
    n = len(before) + 2
    gained, lost = (float((one & ~other).sum() + 1) / n for one, other in ((after, before), (before, after)))
    difference = gained - lost
    width = NORMAL_95 * ((gained + lost - difference**2) / n) ** 0.5
    return [max(-1.0, difference - width), min(1.0, difference + width)]


def proportion_interval(count: int, total: int) -> list[float]:
    """Return the 95 % interval of the proportion `count` of `total`: Wilson's, or exact at 0 and 1.

    Wilson 1927, https://doi.org/10.2307/2276774.
    """
    method = "wilson" if 0 < count < total else "exact"
    interval = binomtest(count, total).proportion_ci(method=method)
    return [float(interval.low), float(interval.high)]


def metric_support(references: Array, predictions: Array, num_labels: int, unit_numbers: Array) -> dict[str, Array]:
    """Return for each metric that depends on a part of the examples the number of units with each of its labels.

    Args:
        references: true label ids [n], or a 0/1 matrix [n, num_labels].
        predictions: predicted labels, in the same form.
        num_labels: number of labels.
        unit_numbers: for each example the number of its unit (itself, or its patient), [n]: see `resampling_units`.

    Returns:
        For metrics of label 1 the number of units with that label, or that are predicted to have it (precision); for
        means over labels the numbers of all labels; for metrics that need both of two labels the number of the rarer
        one; for Matthews' correlation of more labels the number of units without the commonest one.
    """
    counts = _units_per_label(references, num_labels, unit_numbers)
    predicted = _units_per_label(predictions, num_labels, unit_numbers)
    rarer = counts[counts > 0].min(initial=len(references), keepdims=True)
    support = {"f1": counts, "recall": counts, "precision": predicted, "f1_macro": counts}
    if references.ndim == 2:
        support["f1_micro"] = np.array([len(np.unique(unit_numbers[references.any(axis=1)]))])
    elif num_labels == 2:
        support |= {"f1": counts[1:], "recall": counts[1:], "precision": predicted[1:]}
    support |= dict.fromkeys(("roc_auc", "average_precision"), rarer)
    # With more than two labels, a rare one hardly changes Matthews' correlation.
    num_units = unit_numbers.max(initial=0) + 1
    others = np.minimum(counts.sum(keepdims=True) - counts.max(initial=0), num_units)
    support["matthews_correlation"] = others if num_labels > 2 else rarer
    return support


def _units_per_label(labels: Array, num_labels: int, unit_numbers: Array) -> Array:
    """Return the number of units (speakers, ...) that have examples of each label, [num_labels]."""
    rows, ids = np.nonzero(labels) if labels.ndim == 2 else (np.arange(len(labels)), labels)
    pairs = np.unique(np.stack([unit_numbers[rows], ids]), axis=1)
    return np.bincount(pairs[1], minlength=num_labels)
