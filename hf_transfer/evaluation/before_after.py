"""Before against after on one split."""

from typing import Any

from datasets import Dataset

from hf_transfer.data.units import resamples_single_examples, unit_names
from hf_transfer.evaluation.groups import measure_groups, rows_by_group


def measure_before_and_after(
    task: Any, before: Any, after: Any, split: Dataset, config: Any, seed: int
) -> dict[str, Any]:
    """What a report says of a split: metrics before and after, their intervals, groups, and the task's own findings.

    Where intervals are over whole patients, groups of too few of them have none.

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
    whole_units = not resamples_single_examples(unit_names(split), len(split))
    for group, rows in rows_by_group(split).items():
        part = split.select(rows)
        # Over examples it would be far too narrow, where those of a patient are alike.
        too_few = whole_units and resamples_single_examples(unit_names(part), len(part))
        own = {} if too_few else task.target.intervals(before[rows], after[rows], part, config, seed)
        groups[group] |= {"confidence": own.get("after", {}), "gain": own.get("gain", {})}
    return {
        "baseline": task.target.compute_metrics(before, split, None),
        "metrics": task.target.compute_metrics(after, split, config),
        "confidence": found["after"],
        "gain": found["gain"],
        "groups": groups,
        **task.error_analysis(after, split, config),
    }
