"""Labels as target: one of several classes, any number of them, or a number."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hf_transfer.targets.labels.settings import LabelSettings
    from hf_transfer.targets.target import Target


def target_for_problem_type(settings: "LabelSettings") -> "Target":
    """The target that ``--problem_type`` names."""
    from hf_transfer.targets.labels.labels import LabelTarget
    from hf_transfer.targets.labels.number import PROBLEM_TYPE, NumberTarget

    return NumberTarget(settings) if settings.problem_type == PROBLEM_TYPE else LabelTarget(settings)
