"""Quality of a classifier, from its logits: metrics, intervals, the fitted decision, records."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from datasets import Dataset, List
from scipy.stats import binomtest

from hf_transfer.data.units import resampling_units
from hf_transfer.errors import InputError, logger
from hf_transfer.evaluation.bootstrap import NORMAL_95, ResampledMetrics, bootstrap, paired_metrics, split_by_kind
from hf_transfer.evaluation.metrics import (
    LABEL_METRICS,
    RANKING_METRICS,
    Array,
    confusion_matrix,
    label_metrics,
    multilabel_metrics,
    ranking_metrics,
)
from hf_transfer.targets.labels.decision import (
    ENOUGH_TO_FIT,
    Decision,
    calibrate,
    expected_calibration_error,
    independent,
    lowest_limit,
    negatives_needed,
    precision_recall,
    reliability_bins,
    threshold_for_best_f1,
    threshold_for_false_positive_rate,
)

# Metrics of decided labels alone, whatever the probabilities are.
OF_LABELS = ("accuracy", "f1", "f1_macro", "f1_micro", "precision", "recall", "matthews_correlation")
# How many examples a report shows as the worst; with more labels than these a matrix is no picture any more.
WORST, MOST_LABELS = 10, 40


def references(split: Dataset) -> Array:
    """Label ids [n] of the column ``label``, or a 0/1 matrix [n, num_labels] where an example may have several."""
    labels = split["label"][:]
    feature = split.features["label"]
    if not isinstance(feature, List):
        return np.asarray(labels, dtype=np.int64)
    matrix = np.zeros((len(labels), len(feature.feature.names)), dtype=np.int64)
    for row, label in zip(matrix, labels, strict=True):
        row[label] = 1
    return matrix


def is_probability(text: str | None) -> bool:
    """Whether `text` is a number from 0 to 1."""
    try:
        return 0 <= float(text or "") <= 1
    except ValueError:
        return False


def require_enough_to_fit(labels: list[int]) -> None:
    """Refuse to choose a threshold on validation labels that are too few for it, or all the same.

    Raises:
        InputError: they are.
    """
    if len(labels) < ENOUGH_TO_FIT or len(set(labels)) < 2:
        raise InputError(
            f"A threshold is to be chosen on validation, but there are {len(labels)} validation examples with "
            f"{len(set(labels))} labels; expected {ENOUGH_TO_FIT} or more with both. Give --validation_file, raise "
            "--validation_size, or name a probability: --threshold 0.7"
        )


def require_enough_negatives(labels: list[int], limit: float, name: str, together: Array) -> None:
    """Refuse a limit on false positives that the validation examples of label 0 are too few to choose a threshold for.

    Args:
        labels: of the validation examples.
        limit: of the rate.
        name: of label 0.
        together: for each example the number of those that are alike: see `independent`.

    Raises:
        InputError: they are; the message says what it takes.
    """
    rows = np.flatnonzero(np.asarray(labels) == 0)
    negatives, needed = len(independent(rows, together)), negatives_needed(limit)
    if negatives >= needed:
        return
    counted = "" if negatives == len(rows) else " (of equal ones, or of one patient or speaker, one counts)"
    more = "" if math.isinf(needed) else "Give --validation_file, raise --validation_size, or ask"
    shown = "no number of them could" if math.isinf(needed) else f"it takes {needed:,.0f}"
    raise InputError(
        f"--max_false_positive_rate {limit:g}: {negatives} validation examples of '{name}'{counted} cannot show, with "
        f"a confidence of 95 %, that a threshold keeps to it; {shown}. {more or 'Ask'} for --max_false_positive_rate "
        f"{_rounded_up(lowest_limit(negatives)):g}, which these are enough for."
    )


def _rounded_up(share: float) -> float:
    """To two digits, never below."""
    digits = 1 - math.floor(math.log10(share))
    return math.ceil(share * 10**digits) / 10**digits


def decide(
    logits: Any,
    truth: Array | None,
    config: Any,
    multi_label: bool,
    threshold: str | None,
    max_false_positive_rate: float | None,
    together: Array | None,
) -> dict[str, Any]:
    """Fit temperature and threshold on validation logits [n, num_labels], and keep them in the model's config.

    Args:
        logits: of the validation examples.
        truth: their references.
        config: of the model.
        multi_label: whether an example may have several labels.
        threshold: as the flag has it.
        max_false_positive_rate: as the flag has it.
        together: for each example the number of those that are alike, [n]; None where it has no bearing.
    """
    fixed = float(threshold) if threshold not in (None, "best_f1") else None
    if truth is None or len(truth) < ENOUGH_TO_FIT:
        found = 0 if truth is None else len(truth)
        why: str | None = f"there are {found} validation examples; it takes {ENOUGH_TO_FIT}"
        decision, fitted_on = Decision(threshold=fixed, multi_label=multi_label), 0
    else:
        temperature, why = calibrate(logits, truth, multi_label=multi_label)
        decision, fitted_on = Decision(temperature, fixed, multi_label), len(truth)
        scores = decision.probabilities(logits)[:, 1]
        if threshold == "best_f1":
            decision = replace(decision, threshold=threshold_for_best_f1(scores, truth))
        elif max_false_positive_rate is not None:
            rows = np.flatnonzero(truth == 0)
            alone = rows if together is None else independent(rows, together)
            chosen = threshold_for_false_positive_rate(scores, scores[alone], max_false_positive_rate)
            decision = replace(decision, threshold=chosen)
    if why is not None:
        logger.info("Probabilities are not calibrated: %s.", why)
    decision.write(config)
    found_out = {"temperature": decision.temperature, "threshold": decision.threshold, "fitted_on": fitted_on}
    return found_out | ({"not_calibrated": why} if why is not None else {})


def compute_metrics(logits: Any, truth: Array, decision: Decision) -> dict[str, float]:
    """Metrics by name of logits [n, num_labels] against references, labels decided by `decision`."""
    probabilities = decision.probabilities(logits)
    labels = decision.labels(probabilities)
    if decision.multi_label:
        return {name: float(value) for name, value in multilabel_metrics(truth, labels).items()}
    metrics: dict[str, float] = {}
    for label_metric in LABEL_METRICS:
        metrics |= label_metric().compute(predictions=labels, references=truth, num_labels=probabilities.shape[1])
    if probabilities.shape[1] == 2 and len(set(truth.tolist())) == 2:
        for metric in RANKING_METRICS:
            metrics |= metric().compute(prediction_scores=probabilities[:, 1], references=truth)
    metrics["expected_calibration_error"] = expected_calibration_error(probabilities, truth)
    plain = Decision().probabilities(logits)
    metrics["expected_calibration_error_uncalibrated"] = expected_calibration_error(plain, truth)
    return metrics


def intervals(
    before: Any, after: Any, truth: Array, decision: Decision, seed: int, units: Sequence[str] | None = None
) -> dict[str, Any]:
    """95 % intervals of the metrics after, and of after minus before, paired.

    Over examples; over whole patients or the like where enough are known: see `resampling_units`.

    Args:
        before: logits [n, num_labels] of the untrained model, decided by the likeliest label.
        after: logits [n, num_labels] of the trained model, decided by `decision`.
        truth: references.
        decision: of the trained model.
        seed: of the resampling.
        units: the patient, speaker or camera of each example [n], where they are known.
    """
    plain = Decision(multi_label=decision.multi_label)
    earlier = _weighted_metrics(before, truth, plain)
    labels_before = plain.labels(plain.probabilities(before))
    probabilities = decision.probabilities(after)
    labels, num_labels = decision.labels(probabilities), probabilities.shape[1]
    later = weighted_metrics(truth, labels, probabilities)
    together = resampling_units(units, len(truth))

    differs = labels_before != labels
    changed = dict.fromkeys(OF_LABELS, differs.any(axis=1) if differs.ndim == 2 else differs)
    rests_on = support(truth, labels, num_labels, together)
    found = bootstrap(ResampledMetrics(together, paired_metrics(earlier, later), rests_on, changed), seed=seed)
    after_ends, gain = split_by_kind(found).values()
    shares = proportions(truth, labels, num_labels)
    by_example = difference_of_shares(_right(truth, labels_before), _right(truth, labels))
    if together.max() + 1 == len(together):
        after_ends |= shares
        gain["accuracy"] = by_example
    else:  # whose examples are alike: they never tell more than as many examples by themselves
        after_ends |= {name: wider(ends, after_ends.get(name, ends)) for name, ends in shares.items()}
        gain["accuracy"] = wider(by_example, gain["accuracy"])
    return {"after": after_ends, "gain": gain}


def proportions(truth: Array, labels: Array, num_labels: int) -> dict[str, list[float]]:
    """95 % intervals of the metrics that are shares, of examples that are independent: nothing has to be resampled.

    Those of F1 are of the share of right answers among the examples that have label 1 or are taken for it, of which F1
    is a function: Lam et al. 2023, https://arxiv.org/abs/2309.14621.
    """
    right = _right(truth, labels)
    found = {"accuracy": share_interval(int(right.sum()), len(truth))}
    if truth.ndim == 2 or num_labels != 2:
        return found
    hits = int((truth & labels).sum())
    for name, among in (("precision", labels), ("recall", truth), ("f1", truth | labels)):
        if among.any():
            found[name] = share_interval(hits, int(among.sum()))
    # At the exact ends F1 is left that of the share itself, to the safe side.
    if "f1" in found and 0 < hits < (truth | labels).sum():
        found["f1"] = [2 * share / (1 + share) for share in found["f1"]]
    return found


def wider(one: list[float], other: list[float]) -> list[float]:
    """The interval that reaches as far as both of two."""
    return [min(one[0], other[0]), max(one[1], other[1])]


def _right(truth: Array, labels: Array) -> Array:
    """Whether all labels of each example are right, [n]."""
    return (labels == truth).all(axis=1) if truth.ndim == 2 else labels == truth


def difference_of_shares(before: Array, after: Array) -> list[float]:
    """The 95 % interval of the difference of two shares of the same examples, after less before.

    Wald's with one example more of each kind that differs: Bonett & Price 2012,
    https://doi.org/10.3102/1076998611411915.

    Args:
        before: whether each example has it before, [n].
        after: and after.
    """
    n = len(before) + 2
    more, less = (float((one & ~other).sum() + 1) / n for one, other in ((after, before), (before, after)))
    reach = NORMAL_95 * ((more + less - (more - less) ** 2) / n) ** 0.5
    return [max(-1.0, more - less - reach), min(1.0, more - less + reach)]


def share_interval(hits: int, of: int) -> list[float]:
    """The 95 % interval of a share: Wilson 1927, https://doi.org/10.2307/2276774; exact where it is 0 or 1."""
    method = "wilson" if 0 < hits < of else "exact"
    found = binomtest(hits, of).proportion_ci(method=method)
    return [float(found.low), float(found.high)]


def _weighted_metrics(logits: Any, truth: Array, decision: Decision) -> Callable[[Array], dict[str, Array]]:
    probabilities = decision.probabilities(logits)
    return weighted_metrics(truth, decision.labels(probabilities), probabilities)


def weighted_metrics(truth: Array, labels: Array, probabilities: Array) -> Callable[[Array], dict[str, Array]]:
    """Metrics of decided `labels`, each [...], as a function of the examples' weights [..., n].

    Args:
        truth: label ids [n], or a 0/1 matrix [n, num_labels] where an example may have several.
        labels: predicted, as `truth`.
        probabilities: [n, num_labels].
    """
    if truth.ndim == 2:
        return lambda weights: multilabel_metrics(truth, labels, weights)
    size = probabilities.shape[1]
    ranked = size == 2 and len(set(truth.tolist())) == 2
    whole = confusion_matrix(truth, labels, size)

    def compute(weights: Array) -> dict[str, Array]:
        metrics = label_metrics(confusion_matrix(truth, labels, size, weights), whole)
        return metrics | (ranking_metrics(truth, probabilities[:, 1], weights) if ranked else {})

    return compute


def support(truth: Array, labels: Array, num_labels: int, together: Array) -> dict[str, Array]:
    """Of each metric that rests on less than all: how many examples, or patients, there are of each of its labels.

    Args:
        truth: references, see `weighted_metrics`.
        labels: predicted, as `truth`.
        num_labels: number of labels.
        together: for each example the number of its patient or the like, see `resampling_units`, [n].

    Returns:
        Of metrics of label 1 the number of its examples, or of those that are taken for it (precision); of means over
        labels the numbers of each; of what takes both of two labels that of the rarer; of Matthews' correlation that
        of all labels but the commonest.
    """
    counts, answers = (_units_of_labels(ids, num_labels, together) for ids in (truth, labels))
    rarer = counts[counts > 0].min(initial=len(truth), keepdims=True)
    found = {"f1": counts, "recall": counts, "precision": answers, "f1_macro": counts}
    if truth.ndim == 2:
        found["f1_micro"] = np.array([len(np.unique(together[truth.any(axis=1)]))])
    elif num_labels == 2:
        found |= {"f1": counts[1:], "recall": counts[1:], "precision": answers[1:]}
    found |= dict.fromkeys(("roc_auc", "average_precision"), rarer)
    # Of more than two labels a rare one hardly moves it.
    others = np.minimum(counts.sum(keepdims=True) - counts.max(initial=0), together.max(initial=0) + 1)
    found["matthews_correlation"] = others if num_labels > 2 else rarer
    return found


def _units_of_labels(ids: Array, num_labels: int, together: Array) -> Array:
    """How many of `together` there are with each label, [num_labels]."""
    rows, labels = np.nonzero(ids) if ids.ndim == 2 else (np.arange(len(ids)), ids)
    pairs = np.unique(np.stack([together[rows], labels]), axis=1)
    return np.bincount(pairs[1], minlength=num_labels)


def decided(probabilities: Array, decision: Decision, names: list[str]) -> list[dict[str, Any]]:
    """For each row of probabilities [n, num_labels] the ``label``, or labels, its ``score``, and all ``scores``."""
    found: list[dict[str, Any]] = []
    for chosen, scores in zip(decision.labels(probabilities), probabilities, strict=True):
        by_name = {name: float(score) for name, score in zip(names, scores, strict=True)}
        if decision.multi_label:
            found.append({"label": [names[k] for k in np.flatnonzero(chosen)], "scores": by_name})
        else:
            found.append({"label": names[chosen], "score": float(scores[chosen]), "scores": by_name})
    return found


def findings(logits: Any, truth: Array, decision: Decision, units: Sequence[str] | None = None) -> dict[str, Any]:
    """What charts are drawn from: ``confusion_matrix``, ``precision_recall``, ``reliability``, as far as they apply.

    Args:
        logits: [n, num_labels].
        truth: references.
        decision: of the model.
        units: see `intervals`.

    Returns:
        ``false_positives``, where there are two labels: the ``count`` of test examples of label 0 that are taken for
        label 1, ``of`` how many, and the ``interval`` of their share (95 %); ``confusion_matrix`` [labels,
        predictions]; ``precision_recall`` of label 1 where there are two labels, with
        the point ``chosen`` by the threshold; ``reliability``, the mean ``confidence`` and ``accuracy`` of bins of
        ``examples``, as trained and with the temperature. Nothing where an example may have several labels.
    """
    if decision.multi_label:
        return {}
    probabilities = decision.probabilities(logits)
    labels, size = decision.labels(probabilities), probabilities.shape[1]
    reliability = {"as trained": reliability_bins(Decision().probabilities(logits), truth)}
    if decision.temperature != 1.0:
        reliability["calibrated"] = reliability_bins(probabilities, truth)
    found: dict[str, Any] = {"reliability": reliability}
    if size == 2 and not truth.all():
        found["false_positives"] = _false_positives(labels == 1, truth == 0, resampling_units(units, len(truth)))
    if size <= MOST_LABELS:
        found["confusion_matrix"] = confusion_matrix(truth, labels, size).astype(int).tolist()
    if size == 2 and len(set(truth.tolist())) == 2:
        hits = labels == 1
        found["precision_recall"] = precision_recall(probabilities[:, 1], truth) | {
            "chosen": {
                "threshold": 0.5 if decision.threshold is None else decision.threshold,
                "precision": float(truth[hits].mean()) if hits.any() else 0.0,
                "recall": float(hits[truth == 1].mean()),
            }
        }
    return found


def _false_positives(taken: Array, negative: Array, together: Array) -> dict[str, Any]:
    count, of = int((taken & negative).sum()), int(negative.sum())
    share = binomtest(count, of).proportion_ci(method="exact")
    exact = [float(share.low), float(share.high)]
    if together.max() + 1 == len(together):
        return {"count": count, "of": of, "interval": exact}

    def rate(weights: Array) -> dict[str, Array]:
        weights = weights * negative
        with np.errstate(invalid="ignore"):  # no negative was drawn
            return {"rate": (weights * taken).sum(axis=1) / weights.sum(axis=1)}

    held = {"rate": np.array([len(np.unique(together[negative]))])}
    ends = bootstrap(ResampledMetrics(together, rate, held), seed=0)["rate"]
    return {"count": count, "of": of, "interval": wider(exact, ends)}


def least_likely(logits: Any, truth: Array, decision: Decision, names: list[str]) -> list[dict[str, Any]]:
    """The wrong answers, the worst first: ``row``, ``label``, ``prediction``, and the label's ``probability``.

    Where an example may have several labels, the probability is that of the least likely of its right answers.
    """
    probabilities = decision.probabilities(logits)
    if decision.multi_label:
        right = np.where(truth == 1, probabilities, 1 - probabilities).min(axis=1)
    else:
        right = probabilities[np.arange(len(truth)), truth]
    wrong = decision.labels(probabilities) != truth
    wrong = wrong.any(axis=1) if decision.multi_label else wrong
    rows = [row for row in np.argsort(right, kind="stable") if wrong[row]][:WORST]
    records = decided(probabilities[rows], decision, names)
    labels = [
        [names[k] for k in np.flatnonzero(truth[row])] if decision.multi_label else names[truth[row]] for row in rows
    ]
    return [
        {"row": int(row), "label": label, "prediction": record["label"], "probability": float(right[row])}
        for row, label, record in zip(rows, labels, records, strict=True)
    ]
