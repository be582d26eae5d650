"""Metrics of a split before and after training, over all examples and by group."""

from typing import TYPE_CHECKING, Any

import numpy as np
from datasets import Dataset

from hf_transfer.data.units import resamples_single_examples, unit_names
from hf_transfer.evaluation.groups import measure_groups, rows_by_group

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from hf_transfer.tasks.task import Task


def measure_before_and_after(
    task: "Task", before: np.ndarray, after: np.ndarray, split: Dataset, config: "PretrainedConfig", seed: int
) -> dict[str, Any]:
    """Return the report's entries on a split: metrics before and after, intervals, groups, error analysis.

    Where intervals are over whole units (patients, speakers), groups of too few units have no intervals.

    Args:
        task: computes the metrics.
        before: outputs of the untrained model, one for each example, [n].
        after: outputs of the trained model, one for each example, [n].
        split: the examples.
        config: of the trained model, with its decision.
        seed: of the resampling.
    """
    intervals = task.target.intervals(before, after, split, config, seed)
    groups = measure_groups(task, before, after, split, config)
    resamples_units = not resamples_single_examples(unit_names(split), len(split))
    for group, rows in rows_by_group(split).items():
        part = split.select(rows)
        # Intervals over examples would be far too narrow here: the examples of a patient are alike.
        has_too_few_units = resamples_units and resamples_single_examples(unit_names(part), len(part))
        of_group = {} if has_too_few_units else task.target.intervals(before[rows], after[rows], part, config, seed)
        groups[group] |= {"confidence": of_group.get("after", {}), "gain": of_group.get("gain", {})}
    return {
        "baseline": task.target.compute_metrics(before, split, None),
        "metrics": task.target.compute_metrics(after, split, config),
        "confidence": intervals["after"],
        "gain": intervals["gain"],
        "groups": groups,
        **task.error_analysis(after, split, config),
    }
