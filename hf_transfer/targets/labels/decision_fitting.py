"""Fits a classifier's decision (temperature and threshold) on validation logits, and stores it in the config."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_transfer.errors import logger
from hf_transfer.evaluation.metrics import Array
from hf_transfer.targets.labels.calibration import calibrate
from hf_transfer.targets.labels.decision import Decision
from hf_transfer.targets.labels.thresholds import (
    MIN_EXAMPLES_TO_FIT,
    one_of_each_unit,
    threshold_for_best_f1,
    threshold_for_false_positive_rate,
)

if TYPE_CHECKING:
    from transformers import PretrainedConfig


def fit_decision(
    logits: Array | None,
    references: Array | None,
    config: "PretrainedConfig",
    *,
    multi_label: bool,
    threshold: str | None,
    max_false_positive_rate: float | None,
    unit_numbers: Array | None,
) -> dict[str, Any]:
    """Fit temperature and threshold on the validation split, store them in the model's config, and return them.

    Args:
        logits: of the validation examples, [n, num_labels]; None without a validation split.
        references: true label ids [n], or a 0/1 matrix [n, num_labels]; None without a validation split.
        config: of the model.
        multi_label: whether an example may have several labels.
        threshold: the value of --threshold.
        max_false_positive_rate: the value of --max_false_positive_rate.
        unit_numbers: for each example the number of its unit, [n]: see `one_of_each_unit`; None where every example
            is its own unit.

    Returns:
        ``temperature``, ``threshold``, ``fitted_on`` (the number of examples), and ``not_calibrated``, a clause that
        says why there is no temperature, where there is none.
    """
    fixed = float(threshold) if threshold not in (None, "best_f1") else None
    reason: str | None
    if logits is None or references is None or len(references) < MIN_EXAMPLES_TO_FIT:
        count = 0 if references is None else len(references)
        reason = f"there are {count} validation examples, and {MIN_EXAMPLES_TO_FIT} are needed"
        decision, fitted_on = Decision(threshold=fixed, multi_label=multi_label), 0
    else:
        temperature, reason = calibrate(logits, references, multi_label=multi_label)
        decision, fitted_on = Decision(temperature, fixed, multi_label), len(references)
        scores = decision.probabilities(logits)[:, 1]
        if threshold == "best_f1":
            decision = replace(decision, threshold=threshold_for_best_f1(scores, references))
        elif max_false_positive_rate is not None:
            negatives = np.flatnonzero(references == 0)
            if unit_numbers is not None:
                negatives = one_of_each_unit(negatives, unit_numbers)
            chosen = threshold_for_false_positive_rate(scores, scores[negatives], max_false_positive_rate)
            decision = replace(decision, threshold=chosen)
    if reason is not None:
        logger.info("Probabilities are not calibrated: %s.", reason)
    decision.write(config)
    fitted = {"temperature": decision.temperature, "threshold": decision.threshold, "fitted_on": fitted_on}
    return fitted | ({"not_calibrated": reason} if reason is not None else {})
