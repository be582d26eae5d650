"""Metrics by group: accent, speaker, channel, domain."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from datasets import Dataset

from hf_transfer.evaluation.metric_names import greater_is_better

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from hf_transfer.tasks.task import Task


def measure_groups(
    task: "Task",
    before: np.ndarray | None,
    after: np.ndarray,
    split: Dataset,
    config: "PretrainedConfig | None",
) -> dict[str, dict[str, Any]]:
    """Return by group every metric, the number of ``examples``, and metrics before training (``<name>_before``).

    Args:
        task: computes the metrics.
        before: outputs of the untrained model, one for each example, [n]; None leaves out the metrics before.
        after: outputs of the trained model, one for each example, [n].
        split: the examples, with or without a column ``group``.
        config: of the trained model, with its decision.
    """
    metrics: dict[str, dict[str, Any]] = {}
    for group, rows in rows_by_group(split).items():
        part = split.select(rows)
        metrics[group] = {**task.target.compute_metrics(after[rows], part, config), "examples": len(rows)}
        if before is not None:
            metrics_before = task.target.compute_metrics(before[rows], part, None)
            metrics[group] |= {f"{name}_before": value for name, value in metrics_before.items()}
    return metrics


def rows_by_group(split: Dataset) -> dict[str, np.ndarray]:
    """Return the row numbers of each group, [n], by its name; empty without a column ``group``."""
    if "group" not in split.column_names:
        return {}
    groups = np.asarray(split["group"][:])
    return {group: np.flatnonzero(groups == group) for group in sorted(set(groups.tolist()))}


def group_summary_metrics(task: "Task", groups: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Return the task's first metric for each group, for the worst group, and its mean over groups, by name.

    Checkpoints can be chosen by them (``--metric_for_best_model``).
    """
    if not groups:
        return {}
    name = task.target.headline[0]
    values = {group: metrics[name] for group, metrics in groups.items() if not np.isnan(metrics[name])}
    if not values:
        return {}
    worst = min(values.values()) if greater_is_better(name) else max(values.values())
    return {
        **{f"{name}_{group}": value for group, value in values.items()},
        f"{name}_worst_group": worst,
        f"{name}_mean_over_groups": sum(values.values()) / len(values),
    }
