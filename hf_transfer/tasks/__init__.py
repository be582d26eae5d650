"""What a model learns to do: each task is one file that meets `hf_transfer.tasks.task.Task`."""

from typing import Any

from hf_transfer.errors import InputError


def task_of(config: Any, name: str) -> Any:
    """The task class whose models have the architecture that `config` names.

    Raises:
        InputError: `config` is of a model without a task's head.
    """
    from hf_transfer.tasks.speech_recognition import SpeechRecognition
    from hf_transfer.tasks.text_classification import TextClassification

    architectures = getattr(config, "architectures", None) or ["none"]
    for task in (TextClassification, SpeechRecognition):
        if any(architecture.endswith(task.architecture_suffix) for architecture in architectures):
            return task
    raise InputError(f"{name} is no fine-tuned model: its config.json names the architecture {architectures[0]}.")
