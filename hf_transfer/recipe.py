"""`run_recipe()`: the body of a recipe script, from its flags to the printed summary."""

from collections.abc import Mapping, Sequence
from typing import Any

from hf_transfer.arguments.parsing import parse_arguments
from hf_transfer.errors import show
from hf_transfer.finetuning import finetune
from hf_transfer.reporting.report import next_command
from hf_transfer.tasks.task import Task


def run_recipe(
    task_class: type[Task],
    argv: Sequence[str] | None = None,
    *,
    defaults: Mapping[str, Any] | None = None,
    defaults_without_data: Mapping[str, Any] | None = None,
    description: str | None = None,
) -> None:
    """Fine-tune a task with the flags of the command line, and print the summary and a command to try the model.

    Args:
        task_class: `TextClassification`, `SpeechRecognition`, ...
        argv: the command line without the program's name; `sys.argv[1:]` if None.
        defaults: the recipe's defaults by flag name.
        defaults_without_data: further defaults for users who name no data, such as a dataset and its columns.
        description: first paragraph of ``--help``.

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
