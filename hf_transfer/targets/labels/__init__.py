"""Label targets: one label, several labels or a number for each example."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hf_transfer.targets.labels.settings import LabelSettings
    from hf_transfer.targets.target import Target


def target_for_problem_type(settings: "LabelSettings") -> "Target":
    """Return the target that ``--problem_type`` names: labels, or a number."""
    from hf_transfer.targets.labels.label_target import LabelTarget
    from hf_transfer.targets.labels.number_target import PROBLEM_TYPE, NumberTarget

    return NumberTarget(settings) if settings.problem_type == PROBLEM_TYPE else LabelTarget(settings)
