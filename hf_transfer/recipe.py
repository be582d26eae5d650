"""A recipe: a task fine-tuned as flags say, with defaults of its own."""

from collections.abc import Mapping, Sequence
from typing import Any

from hf_transfer.arguments.parsing import parse_arguments
from hf_transfer.errors import show
from hf_transfer.finetuning import finetune
from hf_transfer.reporting.report import next_command


def run_recipe(
    task_class: Any,
    argv: Sequence[str] | None = None,
    *,
    defaults: Mapping[str, Any] | None = None,
    defaults_without_data: Mapping[str, Any] | None = None,
    description: str | None = None,
) -> None:
    """Fine-tune, and print the summary and the command that tries the model; in one process of several alone.

    Args:
        task_class: `TextClassification`, `SpeechRecognition`, ...
        argv: see `parse_arguments`, as all that follows.
        defaults: see there.
        defaults_without_data: see there.
        description: see there.

    Raises:
        InputError: the input or the arguments are wrong; nothing is written.
        Failure: the result cannot be written, differs after reloading, or was not pushed.
    """
    arguments = parse_arguments(
        task_class, argv, defaults=defaults, defaults_without_data=defaults_without_data, description=description
    )
    result = finetune(arguments.task, arguments)
    if arguments.training.should_save:
        show(f"\n{result}\n{next_command(result, arguments.task)}")
