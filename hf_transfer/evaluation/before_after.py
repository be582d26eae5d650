"""Before against after on one split."""

from typing import Any

from datasets import Dataset

from hf_transfer.evaluation.groups import measure_groups, rows_by_group


def before_and_after(task: Any, before: Any, after: Any, split: Dataset, config: Any, seed: int) -> dict[str, Any]:
    """What a report says of a split: metrics before and after, their intervals, groups, and the task's own findings.

    Args:
        task: measures outputs against a split.
        before: outputs of the untrained model, in the order of the split.
        after: outputs of the trained model.
        split: what they are measured on.
        config: of the trained model, with its decision.
        seed: of the resampling.
    """
    found = task.target.intervals(before, after, split, config, seed)
    groups = measure_groups(task, before, after, split, config)
    for group, rows in rows_by_group(split).items():
        own = task.target.intervals(before[rows], after[rows], split.select(rows), config, seed)
        groups[group] |= {"confidence": own["after"], "gain": own["gain"]}
    return {
        "baseline": task.target.measure(before, split, None),
        "metrics": task.target.measure(after, split, config),
        "confidence": found["after"],
        "gain": found["gain"],
        "groups": groups,
        **task.findings(after, split, config),
    }
