"""All arguments of one run, and how the arguments of two runs are compared."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hf_transfer.arguments.checks import check_choices
from hf_transfer.arguments.data import DataArguments
from hf_transfer.arguments.method import MethodArguments
from hf_transfer.arguments.model import ModelArguments
from hf_transfer.arguments.training import TransferTrainingArguments
from hf_transfer.errors import InputError

if TYPE_CHECKING:
    from hf_transfer.tasks.task import Task

# Arguments that do not change the trained model, or beginnings of their names.
NO_EFFECT_ON_RESULT = ("output_dir", "hub_", "logging_", "save_total_limit", "dataloader_", "ddp_",
                                      "resume_", "use_cpu", "run_name", "project", "trackio_")  # fmt: skip

# Training arguments that are always recorded, whatever their value, as their default may change or be chosen anew.
_ALWAYS_RECORDED = {
    "output_dir",
    "seed",
    "learning_rate",
    "num_train_epochs",
    "per_device_train_batch_size",
    "bf16",
}
# Training arguments that are never recorded: secrets, and what belongs to this machine or this attempt.
_NEVER_RECORDED = {
    "hub_token",
    "resume_from_checkpoint",
    "resume_despite_changes",
    "disable_tqdm",
    "use_cpu",
    "push_to_hub",
    "debug",
    "accelerator_config",
    "fsdp_config",
    "report_to",
    # Filled in by TrainingArguments, or known from the metric.
    "do_eval",
    "greater_is_better",
}


@dataclass
class Arguments:
    """Dataclass of all arguments of a run: the task, and those of model, data, method and training.

    Attributes:
        task: a task's instance, with its own settings.
        model: which pretrained model.
        data: which data, and how they are split.
        method: which weights are trained.
        training: `transformers.TrainingArguments`.
    """

    task: "Task"
    model: ModelArguments
    data: DataArguments
    method: MethodArguments
    training: TransferTrainingArguments

    def __post_init__(self) -> None:
        for settings in (self.model, self.data, self.task, self.method):
            check_choices(settings)
        if not self.model.model_name_or_path:
            raise InputError("--model_name_or_path is missing: expected a Hub id or a local model folder.")
        self.data.check()
        self.method.check()

    def as_dict(self) -> dict[str, Any]:
        """Return by flag name the arguments that repeat the run; a Hub token is never among them."""
        values = {
            name: value
            for settings in (self.model, self.data, self.task, self.method)
            for name, value in dataclasses.asdict(settings).items()
            if value is not None
        }
        training = self.training.to_dict()
        defaults = {f.name: f.default for f in dataclasses.fields(TransferTrainingArguments) if f.init}
        always_recorded = _ALWAYS_RECORDED | set(self.task.defaults)  # these may differ from the dataclass's defaults
        for name, default in defaults.items():
            value = training.get(name)
            if name in _NEVER_RECORDED or value in (None, [], {}):
                continue
            if default is None and value is False and name not in always_recorded:
                continue  # filled in by TrainingArguments
            if name in always_recorded or value != getattr(default, "value", default):
                values[name] = value
        return values


def differing_arguments(
    before: Mapping[str, Any], now: Mapping[str, Any], ignored: tuple[str, ...]
) -> dict[str, tuple[Any, Any]]:
    """Return by name the arguments whose values differ between two runs, with both values.

    Args:
        before: arguments of the earlier run, by flag name.
        now: arguments of the present run.
        ignored: arguments that are not compared, or beginnings of their names.
    """
    names = [name for name in sorted({*before, *now}) if not name.startswith(ignored)]
    return {name: (before.get(name), now.get(name)) for name in names if before.get(name) != now.get(name)}
