"""The `hf-transfer` command: train, predict, evaluate, compare, study, push, merge, env.

Modules that are slow to import are imported by the commands that need them.
"""

import argparse
import codecs
import itertools
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NoReturn

from hf_transfer import errors
from hf_transfer.command_flags import LAUNCHER_FLAGS, TASK_USES, add_task_flags, command_parser
from hf_transfer.errors import InputError, nearest, run_command, show

if TYPE_CHECKING:
    from hf_transfer.tasks.task import Task

# The number of rows of a file from which its columns are read.
_FIRST_ROWS = 100


def main() -> NoReturn:
    """Run the `hf-transfer` command with the arguments of this process, and exit with its exit code."""
    run_command(_command)


def _command() -> None:
    parser = command_parser()
    if {"-h", "--help"} & set(sys.argv[3:]) and sys.argv[1] in TASK_USES and not sys.argv[2].startswith("-"):
        add_task_flags(parser, sys.argv[1], sys.argv[2])
    arguments, unknown = parser.parse_known_args()
    if arguments.command in TASK_USES and any(word.startswith("--") for word in unknown):
        try:
            add_task_flags(parser, arguments.command, arguments.model)
        except InputError:
            if not nearest(unknown[0], [f"--{name}" for name in vars(arguments)]):
                raise  # otherwise the flag is misspelt whatever the model is, which is reported below
        arguments, unknown = parser.parse_known_args()
    if "finetuning" in arguments:
        arguments.finetuning = unknown  # flags of the run, which are parsed like those of recipes
    elif unknown and not unknown[0].startswith("-"):
        usage_hint = arguments.usage_hint.format(command=arguments.command)
        raise InputError(f"Unexpected {unknown[0]!r}: {usage_hint}. See {parser.prog} {arguments.command} --help.")
    elif unknown:
        known = [f"--{name}" for name in vars(arguments)]
        raise InputError(f"Unknown argument {unknown[0]}.{nearest(unknown[0], known)} See {parser.prog} --help.")
    _COMMANDS[arguments.command](arguments)


def _train(arguments: argparse.Namespace) -> None:
    """Fine-tune as the arguments of the command say, in this process or in several that accelerate starts."""
    from hf_transfer.tasks import task_class_for_tag

    task_class = task_class_for_tag(arguments.task)  # a wrong name is reported here once, not by every process
    launcher_values = {
        name: getattr(arguments, name) for name, *_ in LAUNCHER_FLAGS if getattr(arguments, name) is not None
    }
    precision = launcher_values.pop("mixed_precision", None)
    flags = [*arguments.finetuning, *([f"--{precision}"] if precision in ("fp16", "bf16") else [])]
    if launcher_values.get("num_processes", 1) > 1:
        launcher_flags = [part for name, value in launcher_values.items() for part in (f"--{name}", str(value))]
        # --multi_gpu starts several processes on a machine without a GPU, too; they train on the CPU then.
        command = [
            "-m",
            "accelerate.commands.launch",
            "--multi_gpu",
            *launcher_flags,
            "-m",
            "hf_transfer.cli",
            "train",
        ]
        sys.stdout.flush()
        os.execv(sys.executable, [sys.executable, *command, arguments.task, *flags])
    from hf_transfer import run_recipe

    run_recipe(task_class, flags, description=task_class.__doc__)


def _predict(arguments: argparse.Namespace) -> None:
    from hf_transfer.data.tables import read_rows
    from hf_transfer.inference import columns_as_trained, load_finetuned, predict, task_class_of
    from hf_transfer.reporting.atomic_writes import atomic_file

    errors.signals.raise_if_received()
    _check_predict_arguments(arguments)
    first_rows: list[dict[str, Any]] = []
    if arguments.file:
        # Before the model is looked for: a file that cannot be read is reported at once.
        row_reader = read_rows(arguments.file, column_names=arguments.column_names, delimiter=arguments.delimiter)
        first_rows = list(itertools.islice(row_reader, _FIRST_ROWS))
    task_class = task_class_of(arguments.model)
    if arguments.file:
        columns = list(dict.fromkeys(name for row in first_rows for name in row))  # a JSON row may lack some
        trained = columns_as_trained(arguments.model, task_class, columns)
        task = task_class(**trained | _given_settings(task_class, arguments))
        inputs = _inputs_of_rows(itertools.chain(first_rows, row_reader), task, columns, arguments.file)
    else:
        inputs = ({task_class().input.name: given} for given in arguments.inputs)
    first_input = next(inputs)  # before the model is loaded: missing columns are reported at once
    pipeline = load_finetuned(arguments.model)
    for name in task_class.pipeline_flags:
        if getattr(arguments, name, None) is not None:
            getattr(pipeline, f"use_{name}")(getattr(arguments, name))
    failures = 0

    def counting_failures() -> Iterator[dict[str, Any]]:
        nonlocal failures
        for record in predict(pipeline, _chain(first_input, inputs), batch_size=arguments.batch_size):
            failures += "error" in record
            yield record

    if arguments.output:
        with atomic_file(Path(arguments.output)) as stream:
            _write_records(counting_failures(), stream, show_progress=sys.stderr.isatty())
    else:
        _write_records(counting_failures(), sys.stdout, show_progress=False)
    if failures:
        unusable = "1 input" if failures == 1 else f"{failures} inputs"
        their = "its record says" if failures == 1 else "their records say"
        raise InputError(f"{unusable} could not be used: {their} why. The others are done.")


def _check_predict_arguments(arguments: argparse.Namespace) -> None:
    """Raise an error if the arguments of `predict` do not fit together.

    This is checked before anything is read.

    Raises:
        InputError: the arguments do not fit together.
    """
    from hf_transfer.data.tables import SUFFIXES

    if bool(arguments.inputs) == bool(arguments.file):
        raise InputError("Expected either inputs or --file FILE.")
    table = next((each for each in arguments.inputs if each.lower().endswith(SUFFIXES) and Path(each).is_file()), None)
    if table is not None:
        raise InputError(f"{table} is a table: --file {table} predicts its rows.")
    if arguments.batch_size < 1:
        raise InputError(f"--batch_size is {arguments.batch_size}: expected 1 or more.")
    no_files = ("command", "model", "inputs", "output", "usage_hint")
    # Values of the task's flags may name files as well, such as a language model.
    values = [value for name, value in vars(arguments).items() if name not in no_files and isinstance(value, str)]
    _check_output(arguments.output, arguments.model, [*arguments.inputs, *values])


def _given_settings(task_class: "type[Task]", arguments: argparse.Namespace) -> dict[str, Any]:
    """Return by name the settings of the task that the command's flags set."""
    given = {name: getattr(arguments, name, None) for name in task_class.flags_for("prediction")}
    return {name: value for name, value in given.items() if value is not None}


def _inputs_of_rows(
    rows: Iterable[dict[str, Any]], task: "Task", columns: list[str], file: str
) -> Iterator[dict[str, Any]]:
    """Yield the pipeline's inputs in each row of a file, by name.

    A row without an input gives a record with an error.
    """
    input_columns = task.input.input_columns(columns)
    for row in rows:
        yield {
            name: task.input.prediction_input(name, row.get(column), file) for name, column in input_columns.items()
        }


def _check_output(output: str | None, model: str, input_files: list[str]) -> None:
    """Raise an error if --output cannot be written, or would overwrite an input or a file of the model.

    Raises:
        InputError: it cannot, or would.
    """
    if output is None:
        return
    path = Path(output).resolve()
    if path.is_dir() or not path.parent.is_dir():
        raise InputError(f"--output {output}: expected the name of a file in a folder that exists.")
    if any(_is_same_file(path, file) for file in input_files):
        raise InputError(f"--output {output}: that file is also an input. Name another file.")
    if path.exists() and Path(model).is_dir() and path.is_relative_to(Path(model).resolve()):
        raise InputError(f"--output {output}: that file belongs to the model. Name another file.")


def _is_same_file(path: Path, other: str) -> bool:
    try:
        return path.exists() and path.samefile(other)
    except (OSError, ValueError):  # an input text that cannot be a file name
        return False


def _chain(first: dict[str, Any], rest: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    yield first
    yield from rest


def _write_records(records: Iterator[dict[str, Any]], stream: IO[str], *, show_progress: bool) -> None:
    """Write records to a stream as JSON Lines, with a progress bar if that is asked for."""
    from tqdm import tqdm

    from hf_transfer.reporting.json_files import as_json_line

    for record in tqdm(records, disable=not show_progress, delay=2, unit=" inputs"):
        stream.write(as_json_line(record, ensure_ascii=not _is_unicode(stream)))


def _is_unicode(stream: IO[str]) -> bool:
    """Return whether the stream's encoding has every character.

    For other streams JSON is written in ASCII.
    """
    return codecs.lookup(getattr(stream, "encoding", None) or "utf-8").name.startswith("utf")


def _evaluate(arguments: argparse.Namespace) -> None:
    from hf_transfer.inference import evaluate
    from hf_transfer.reporting.atomic_writes import atomic_file
    from hf_transfer.reporting.json_files import as_json

    errors.signals.raise_if_received()
    not_settings = ("command", "usage_hint", "model", "test_file", "output")
    settings = {key: value for key, value in vars(arguments).items() if key not in not_settings and value is not None}
    _check_output(arguments.output, arguments.model, [arguments.test_file])
    result = evaluate(arguments.model, arguments.test_file, **settings)
    if arguments.output:
        with atomic_file(Path(arguments.output)) as stream:
            stream.write(as_json(result))
    else:
        sys.stdout.write(as_json(result, ensure_ascii=not _is_unicode(sys.stdout)))


def _compare(arguments: argparse.Namespace) -> None:
    from hf_transfer.comparing import compare

    task, values = _task_and_arguments(arguments, arguments.models)
    result = compare(task, methods=arguments.methods, seeds=arguments.seeds, models=arguments.models, **values)
    show(f"\n{result}")


def _study(arguments: argparse.Namespace) -> None:
    from hf_transfer.studying import study

    task, values = _task_and_arguments(arguments, [])
    result = study(task, methods=arguments.methods, sizes=arguments.sizes, draws=arguments.draws, **values)
    show(f"\n{result}")


def _task_and_arguments(arguments: argparse.Namespace, models: list[str]) -> tuple["Task", dict[str, Any]]:
    """Return the task that a command's model and arguments belong to, and the other arguments of its runs.

    The task has its settings.
    """
    from hf_transfer.arguments.parsing import argument_names, given_arguments, model_arguments
    from hf_transfer.tasks import task_class_for_model

    flags = list(arguments.finetuning)
    for name in ("config", "output_dir"):
        if getattr(arguments, name) is not None:
            flags += [f"--{name}", getattr(arguments, name)]
    model = model_arguments([*flags, *(["--model_name_or_path", models[0]] if models else [])])
    task_class = task_class_for_model(model, argument_names(flags, arguments.config))
    values = given_arguments(task_class, flags, command_flags=[f"--{name}" for name in vars(arguments)])
    settings = {name: values.pop(name) for name in list(values) if name in task_class.setting_names()}
    return task_class(**settings), values


def _push(arguments: argparse.Namespace) -> None:
    from hf_transfer.hub import push, repository_name

    repository = repository_name(arguments.hub_model_id, arguments.folder)
    given = {name: getattr(arguments, name) for name in ("private", "merge", "base_model")}
    show(push(arguments.folder, repository, **given))


def _merge(arguments: argparse.Namespace) -> None:
    from hf_transfer.hub import write_merged

    write_merged(Path(arguments.folder), Path(arguments.target))
    show(f"Plain weights are in {arguments.target}.")


def _env(arguments: argparse.Namespace) -> None:
    import torch

    from hf_transfer.reporting.report import device_name, versions

    for name, value in {
        **versions(),
        "device": device_name(torch.device("cuda" if torch.cuda.is_available() else "cpu")),
        "cores": os.cpu_count(),
        "platform": sys.platform,
    }.items():
        sys.stdout.write(f"{name}: {value}\n")


_COMMANDS: dict[str, Callable[[argparse.Namespace], None]] = {
    "train": _train,
    "predict": _predict,
    "evaluate": _evaluate,
    "compare": _compare,
    "study": _study,
    "push": _push,
    "merge": _merge,
    "env": _env,
}


if __name__ == "__main__":
    main()
