"""Results per group: accent, speaker, channel, domain."""

from typing import Any

import numpy as np
from datasets import Dataset

from hf_transfer.evaluation.metric_names import greater_is_better


def measure_groups(task: Any, before: Any, after: Any, split: Dataset, config: Any) -> dict[str, Any]:
    """Every metric of each group after training, and before (``<name>_before``), with the number of examples.

    Args:
        task: measures outputs against a split.
        before: outputs of the untrained model, in the order of the split, if they are to be compared.
        after: outputs of the trained model.
        split: with or without a column ``group``.
        config: of the trained model, with its decision.
    """
    found = {}
    for group, rows in rows_by_group(split).items():
        part = split.select(rows)
        found[group] = {**task.target.compute_metrics(after[rows], part, config), "examples": len(rows)}
        if before is not None:
            earlier = task.target.compute_metrics(before[rows], part, None)
            found[group] |= {f"{name}_before": value for name, value in earlier.items()}
    return found


def rows_by_group(split: Dataset) -> dict[str, np.ndarray]:
    """The rows of each group, by its name; nothing where there is no column ``group``."""
    if "group" not in split.column_names:
        return {}
    groups = np.asarray(split["group"][:])
    return {group: np.flatnonzero(groups == group) for group in sorted(set(groups.tolist()))}


def group_summary_metrics(task: Any, groups: dict[str, Any]) -> dict[str, float]:
    """For choosing a checkpoint: the task's first metric of each group, of the worst one, and their mean."""
    if not groups:
        return {}
    name = task.target.headline[0]
    values = {group: found[name] for group, found in groups.items() if not np.isnan(found[name])}
    if not values:
        return {}
    worst = min(values.values()) if greater_is_better(name) else max(values.values())
    return {
        **{f"{name}_{group}": value for group, value in values.items()},
        f"{name}_worst_group": worst,
        f"{name}_mean_over_groups": sum(values.values()) / len(values),
    }
