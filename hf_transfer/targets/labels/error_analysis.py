"""Error analysis of a classifier: confusion matrix, precision-recall curve, reliability, false positives, worst."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import binomtest

from hf_transfer.data.units import resampling_units
from hf_transfer.evaluation.bootstrap import ResampledMetrics, bootstrap
from hf_transfer.evaluation.metrics import Array, confusion_matrix
from hf_transfer.targets.labels.calibration import reliability_bins
from hf_transfer.targets.labels.classification_intervals import covering_interval
from hf_transfer.targets.labels.decision import Decision
from hf_transfer.targets.labels.thresholds import precision_recall

# How many of the worst examples a report shows.
MAX_WORST = 10
# With more labels than these a confusion matrix is too large to be drawn.
MAX_MATRIX_LABELS = 40


def prediction_records(probabilities: Array, decision: Decision, names: list[str]) -> list[dict[str, Any]]:
    """Return for each example the predicted ``label`` (or labels), its ``score``, and the ``scores`` of all labels.

    Args:
        probabilities: [n, num_labels].
        decision: of the model.
        names: of the labels, by id.
    """
    records: list[dict[str, Any]] = []
    for prediction, scores in zip(decision.labels(probabilities), probabilities, strict=True):
        by_name = {name: float(score) for name, score in zip(names, scores, strict=True)}
        if decision.multi_label:
            records.append({"label": [names[k] for k in np.flatnonzero(prediction)], "scores": by_name})
        else:
            records.append({"label": names[prediction], "score": float(scores[prediction]), "scores": by_name})
    return records


def error_analysis(
    logits: Array, references: Array, decision: Decision, units: Sequence[str] | None = None
) -> dict[str, Any]:
    """Return by name what the report says of a classifier's errors beside metrics, such as a confusion matrix.

    Args:
        logits: [n, num_labels].
        references: true label ids [n], or a 0/1 matrix [n, num_labels].
        decision: of the model.
        units: the name of each example's unit (patient, speaker, camera), [n], where they are known.

    Returns:
        ``reliability``: `reliability_bins` as trained, and calibrated where there is a temperature;
        ``confusion_matrix`` [labels, predictions]; with two labels ``false_positives``: the ``count`` of examples of
        label 0 that are predicted to have label 1, ``of`` how many, and the 95 % ``interval`` of the rate; and
        ``precision_recall``, the curve of label 1, with the point ``chosen`` by the threshold. Nothing where an
        example may have several labels.
    """
    if decision.multi_label:
        return {}
    probabilities = decision.probabilities(logits)
    predictions, num_labels = decision.labels(probabilities), probabilities.shape[1]
    reliability = {"as trained": reliability_bins(Decision().probabilities(logits), references)}
    if decision.temperature != 1.0:
        reliability["calibrated"] = reliability_bins(probabilities, references)
    analysis: dict[str, Any] = {"reliability": reliability}
    if num_labels == 2 and not references.all():
        unit_numbers = resampling_units(units, len(references))
        analysis["false_positives"] = _false_positives(predictions == 1, references == 0, unit_numbers)
    if num_labels <= MAX_MATRIX_LABELS:
        analysis["confusion_matrix"] = confusion_matrix(references, predictions, num_labels).astype(int).tolist()
    if num_labels == 2 and len(set(references.tolist())) == 2:
        is_positive = predictions == 1
        analysis["precision_recall"] = precision_recall(probabilities[:, 1], references) | {
            "chosen": {
                "threshold": 0.5 if decision.threshold is None else decision.threshold,
                "precision": float(references[is_positive].mean()) if is_positive.any() else 0.0,
                "recall": float(is_positive[references == 1].mean()),
            }
        }
    return analysis


def _false_positives(is_positive: Array, is_negative: Array, unit_numbers: Array) -> dict[str, Any]:
    """Return the ``count`` of false positives, ``of`` how many negatives, and the rate's 95 % ``interval``.

    Args:
        is_positive: whether label 1 is predicted, [n].
        is_negative: whether the true label is 0, [n].
        unit_numbers: for each example the number of its unit, [n]: see `resampling_units`.
    """
    count, negatives = int((is_positive & is_negative).sum()), int(is_negative.sum())
    proportion = binomtest(count, negatives).proportion_ci(method="exact")
    exact = [float(proportion.low), float(proportion.high)]
    if unit_numbers.max() + 1 == len(unit_numbers):
        return {"count": count, "of": negatives, "interval": exact}

    def rate(weights: Array) -> dict[str, Array]:
        weights = weights * is_negative
        with np.errstate(invalid="ignore"):  # a resample may hold no negative
            return {"rate": (weights * is_positive).sum(axis=1) / weights.sum(axis=1)}

    support = {"rate": np.array([len(np.unique(unit_numbers[is_negative]))])}
    resampled = bootstrap(ResampledMetrics(unit_numbers, rate, support), seed=0)["rate"]
    return {"count": count, "of": negatives, "interval": covering_interval(exact, resampled)}


def worst_examples(logits: Array, references: Array, decision: Decision, names: list[str]) -> list[dict[str, Any]]:
    """Return records of the wrong predictions, those with the least probability of the true label first.

    Args:
        logits: [n, num_labels].
        references: true label ids [n], or a 0/1 matrix [n, num_labels].
        decision: of the model.
        names: of the labels, by id.

    Returns:
        ``row``, ``label``, ``prediction``, and the ``probability`` of the true label; where an example may have
        several labels, that of the least probable of its right answers.
    """
    probabilities = decision.probabilities(logits)
    if decision.multi_label:
        of_reference = np.where(references == 1, probabilities, 1 - probabilities).min(axis=1)
    else:
        of_reference = probabilities[np.arange(len(references)), references]
    is_wrong = decision.labels(probabilities) != references
    is_wrong = is_wrong.any(axis=1) if decision.multi_label else is_wrong
    rows = [row for row in np.argsort(of_reference, kind="stable") if is_wrong[row]][:MAX_WORST]
    records = prediction_records(probabilities[rows], decision, names)
    labels = [
        [names[k] for k in np.flatnonzero(references[row])] if decision.multi_label else names[references[row]]
        for row in rows
    ]
    return [
        {"row": int(row), "label": label, "prediction": record["label"], "probability": float(of_reference[row])}
        for row, label, record in zip(rows, labels, records, strict=True)
    ]


def result_remarks(report: Mapping[str, Any]) -> list[str]:
    """Return sentences that compare a result with the most frequent label alone, and count false positives.

    Args:
        report: with ``data``, ``metrics``, ``decision`` and the error analysis.
    """
    remarks = []
    rate, accuracy = report["data"]["majority_class_rate"], report["metrics"]["accuracy"]
    if rate is not None:
        verdict = f" That is {'better' if rate > accuracy else 'as good'}: do not ship this."
        ending = "" if rate < accuracy else verdict
        remarks.append(f"Always predicting the most frequent label: accuracy {rate:.3f}.{ending}")
    if "false_positives" in report and report["decision"]["threshold"] is not None:
        false_positives, (negative, positive) = report["false_positives"], report["data"]["labels"]
        low, high = false_positives["interval"]
        remarks.append(
            f"{false_positives['count']} of {false_positives['of']} test examples of '{negative}' are predicted as "
            f"'{positive}': {low:.1%} to {high:.1%} of them (95 % interval)."
        )
    return remarks
