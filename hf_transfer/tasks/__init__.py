"""What a model learns to do: each task is one file that ties an input to a target, as `hf_transfer.tasks.task.Task`.

A new one has its place in `_every` below, a line in ``hf_transfer/__init__.py``, a recipe and tests.
"""

from typing import Any

from hf_transfer.arguments import ModelArguments
from hf_transfer.errors import InputError, nearest


def task_of(config: Any, name: str) -> Any:
    """The task class whose models have the architecture that `config` names.

    Raises:
        InputError: `config` is of a model without a task's head, or with that of a task that is not here.
    """
    for task in _every():
        if task.claims(config):
            return task
    tasks = ", ".join(task.pipeline_tag for task in _every())
    architecture = (getattr(config, "architectures", None) or ["none"])[0]
    raise InputError(
        f"{name} is no fine-tuned model of a task that is known here ({tasks}): its config.json names the "
        f"architecture {architecture}."
    )


def task_tagged(tag: str) -> Any:
    """The task class of a pipeline tag.

    Raises:
        InputError: there is none of that name.
    """
    tags = {task.pipeline_tag: task for task in _every()}
    if tag not in tags:
        told = f"There is no task {tag!r}" if tag else "Name a task"
        raise InputError(f"{told}. There are: {', '.join(tags)}.{nearest(tag, tags)}")
    return tags[tag]


def task_for(model: ModelArguments) -> Any:
    """The task class that a pretrained model can be adapted to.

    Raises:
        InputError: there is no such model, or no task for its kind.
    """
    from hf_transfer.models import load_config

    errors = []
    for task in _every():
        try:
            load_config(model, task.auto_model)
        except InputError as error:
            errors.append(error)
        else:
            return task
    raise errors[0]


def _every() -> tuple[Any, ...]:
    from hf_transfer.tasks.audio_classification import AudioClassification
    from hf_transfer.tasks.speech_recognition import SpeechRecognition
    from hf_transfer.tasks.text_classification import TextClassification

    return TextClassification, SpeechRecognition, AudioClassification
