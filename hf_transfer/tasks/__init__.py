"""The tasks, and which of them a model, a config or a Hub pipeline tag belongs to.

Each task is one file that ties an input to a target, as a subclass of `hf_transfer.tasks.task.Task`. A new task is
added to `_task_classes` below and to ``hf_transfer/__init__.py``, with a recipe and tests.
"""

from collections.abc import Collection
from typing import TYPE_CHECKING

from hf_transfer.arguments import ModelArguments
from hf_transfer.errors import InputError, logger, nearest

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from hf_transfer.tasks.task import Task


def task_class_for_config(config: "PretrainedConfig", name: str) -> "type[Task]":
    """Return the task class of a fine-tuned model, by the architecture that its config names.

    Args:
        config: of the fine-tuned model.
        name: of the model, for the error message.

    Raises:
        InputError: the model has no task's head, or that of a task that this toolkit does not have.
    """
    for task_class in _task_classes():
        if task_class.has_models_of(config):
            return task_class
    tags = ", ".join(task_class.pipeline_tag for task_class in _task_classes())
    architecture = (getattr(config, "architectures", None) or ["none"])[0]
    raise InputError(
        f"{name} is not a fine-tuned model of a task that this toolkit has ({tags}): its config.json names the "
        f"architecture {architecture}."
    )


def task_class_for_tag(tag: str) -> "type[Task]":
    """Return the task class of a Hub pipeline tag, such as ``text-classification``.

    Raises:
        InputError: no task has this tag.
    """
    by_tag = {task_class.pipeline_tag: task_class for task_class in _task_classes()}
    if tag not in by_tag:
        problem = f"There is no task {tag!r}" if tag else "The name of a task is missing"
        raise InputError(f"{problem}. Expected one of: {', '.join(by_tag)}.{nearest(tag, by_tag)}")
    return by_tag[tag]


def task_class_for_model(model: ModelArguments, argument_names: Collection[str] = ()) -> "type[Task]":
    """Return the task class that a pretrained model can be fine-tuned for, chosen by the given arguments.

    Some models can be fine-tuned for several tasks (wav2vec2: speech recognition and audio classification). Then the
    task is the one that has most of the given arguments as its settings; among equals, the first of `_task_classes`.

    Args:
        model: the pretrained model.
        argument_names: of the arguments that the user gives, such as ``label_column_name``.

    Raises:
        InputError: there is no such model, or no task for its kind.
    """
    from hf_transfer.models import load_config

    candidates, errors = [], []
    for task_class in _task_classes():
        try:
            load_config(model, task_class.auto_model)
        except InputError as error:
            errors.append(error)
        else:
            candidates.append(task_class)
    if not candidates:
        raise errors[0]
    chosen = max(candidates, key=lambda task_class: len(task_class.setting_names() & set(argument_names)))
    if len(candidates) > 1:
        logger.info(
            "%s can be fine-tuned for %s. %s is taken: the column that is given tells which (%s).",
            model.model_name_or_path,
            " and ".join(task_class.pipeline_tag for task_class in candidates),
            chosen.pipeline_tag,
            ", ".join(f"--{task_class().target.column}_column_name" for task_class in candidates),
        )
    return chosen


def _task_classes() -> "tuple[type[Task], ...]":
    # Imported here: these modules load transformers.
    from hf_transfer.tasks.audio_classification import AudioClassification
    from hf_transfer.tasks.speech_recognition import SpeechRecognition
    from hf_transfer.tasks.text_classification import TextClassification

    return TextClassification, SpeechRecognition, AudioClassification
