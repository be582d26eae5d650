"""What text and audio classification share: labels, or a number, as the target."""

from dataclasses import dataclass
from typing import Any

from transformers import PretrainedConfig

from hf_transfer.targets.labels.label_target import LabelTarget
from hf_transfer.targets.labels.number_target import PROBLEM_TYPE as REGRESSION
from hf_transfer.targets.labels.number_target import NumberTarget
from hf_transfer.targets.labels.settings import LabelSettings
from hf_transfer.targets.target import Target
from hf_transfer.tasks.task import Task


@dataclass
class ClassificationTask(LabelSettings, Task):
    """Base class of tasks whose target is one label, several labels or a number for each example."""

    @property
    def target(self) -> Target:
        return NumberTarget(self) if self.problem_type == REGRESSION else LabelTarget(self)

    @classmethod
    def settings_from_config(cls, config: PretrainedConfig) -> dict[str, Any]:
        return LabelSettings.from_model_config(config)
