"""`hf-transfer`: predict, evaluate, compare, study, push, merge, env. Imports that take long wait for a command."""

import argparse
import codecs
import itertools
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from hf_transfer import errors
from hf_transfer.errors import InputError, nearest, run_command, show

# What the commands that know flags of the model's task use it for.
USES = {"predict": "prediction", "evaluate": "evaluation"}
# Flags of accelerate's launcher, which starts several processes.
LAUNCHER: tuple[tuple[str, type, str], ...] = (
    ("num_processes", int, "processes in all"),
    ("num_machines", int, "machines in all"),
    ("machine_rank", int, "number of this machine, from 0"),
    ("main_process_ip", str, "address of machine 0"),
    ("main_process_port", int, "port of machine 0"),
    ("mixed_precision", str, "no, fp16 or bf16"),
)
# The columns of a file are those of its first rows.
FIRST_ROWS = 100


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message[:1].upper()}{message[1:]}. See {self.prog} --help.")


def main() -> NoReturn:
    """Entry point of the `hf-transfer` command."""
    run_command(_command)


def _command() -> None:
    parser = _parser()
    if {"-h", "--help"} & set(sys.argv[3:]) and sys.argv[1] in USES and not sys.argv[2].startswith("-"):
        _add_flags_of_task(parser, sys.argv[1], sys.argv[2])
    arguments, unknown = parser.parse_known_args()
    if arguments.command in USES and any(word.startswith("--") for word in unknown):
        try:
            _add_flags_of_task(parser, arguments.command, arguments.model)
        except InputError:
            if not nearest(unknown[0], [f"--{name}" for name in vars(arguments)]):
                raise  # else it is the flag that is said below, whatever the model is
        arguments, unknown = parser.parse_known_args()
    if "finetuning" in arguments:
        arguments.finetuning = unknown  # the flags of recipes, which are parsed by what parses theirs
    elif unknown and not unknown[0].startswith("-"):
        taken = arguments.takes.format(command=arguments.command)
        raise InputError(f"Unexpected {unknown[0]!r}: {taken}. See {parser.prog} {arguments.command} --help.")
    elif unknown:
        known = [f"--{name}" for name in vars(arguments)]
        raise InputError(f"Unknown argument {unknown[0]}.{nearest(unknown[0], known)} See {parser.prog} --help.")
    arguments.run(arguments)


def _add_flags_of_task(parser: argparse.ArgumentParser, command: str, model: str) -> None:
    """Let a command know the flags of the model's task: imported only where there are some."""
    from hf_transfer.arguments.parsing import settings_parser
    from hf_transfer.inference import task_class_of

    task_class = task_class_of(model)
    commands = next(action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    known = commands.choices[command]
    known._add_container_actions(settings_parser(task_class, task_class.flags_for(USES[command])))
    for name, about in task_class.pipeline_flags.items() if command == "predict" else ():
        known.add_argument(f"--{name}", help=about)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="hf-transfer", description="Use, measure and ship fine-tuned models.", allow_abbrev=False)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND", dest="command")

    command = commands.add_parser(
        "train", help="fine-tune a model: what a recipe does, wherever this is installed", allow_abbrev=False,
        add_help=False, usage="hf-transfer train TASK [--num_processes N] [any flag of the task: train TASK --help]",
    )  # fmt: skip
    command.add_argument("task", nargs="?", default="", metavar="TASK", help="the task's name on the Hub")
    for name, kind, about in LAUNCHER:
        command.add_argument(f"--{name}", type=kind, help=about)
    command.set_defaults(run=_train, finetuning=None)

    command = commands.add_parser("predict", help="apply a model to inputs", allow_abbrev=False)
    command.add_argument("model", help="output folder of a run, or Hub id")
    command.add_argument("inputs", nargs="*", metavar="INPUT", help="what the model takes, as it is or as a file")
    command.add_argument("--file", help="CSV, TSV, JSON, JSONL or Parquet file of inputs")
    command.add_argument("--output", help="JSONL file to write (default: standard output)")
    command.add_argument("--batch_size", type=int, default=32, help="inputs at once (default: 32)")
    _add_columns(command)
    command.set_defaults(run=_predict, takes="inputs come before the flags")

    command = commands.add_parser("evaluate", help="measure a model on labelled data", allow_abbrev=False)
    command.add_argument("model", help="output folder of a run, or Hub id")
    command.add_argument("--test_file", required=True, help="labelled CSV, TSV, JSON, JSONL or Parquet file")
    command.add_argument("--drop_incomplete", action="store_true", help="leave out rows without input or label")
    command.add_argument("--group_column_name", help="column by which results are reported too")
    command.add_argument("--split_by", help="column of patients, cameras or the like: intervals are over whole ones")
    command.add_argument("--output", help="JSON file to write (default: standard output)")
    _add_columns(command)
    command.set_defaults(run=_evaluate, takes="{command} takes one model, and its data by --test_file")

    command = commands.add_parser(
        "compare", help="fine-tune with several methods and seeds, and say which to take", allow_abbrev=False,
        usage="hf-transfer compare [--config FILE.yaml] [--methods A,B] [--seeds N] [--models A,B] "
        "--output_dir FOLDER [any flag of the recipes]",
    )  # fmt: skip
    _add_methods(command, "full,lora,frozen,scratch")
    command.add_argument("--seeds", type=int, default=3, help="runs of each method (default: 3)")
    command.add_argument("--models", type=_listed, default=[], help="models to compare, separated by commas")
    command.set_defaults(run=_compare, finetuning=None)

    command = commands.add_parser(
        "study", help="measure how quality grows with the number of labelled examples", allow_abbrev=False,
        usage="hf-transfer study [--config FILE.yaml] [--methods A,B] [--sizes 8,16,32] [--draws N] "
        "--output_dir FOLDER [any flag of the recipes]",
    )  # fmt: skip
    _add_methods(command, "frozen,scratch")
    command.add_argument("--sizes", type=_listed, help="numbers of training examples (default: 8, 16, 32 ... all)")
    command.add_argument("--draws", type=int, default=3, help="draws of each number of examples (default: 3)")
    command.set_defaults(run=_study, finetuning=None)

    command = commands.add_parser("push", help="upload a finished run to the Hub", allow_abbrev=False)
    command.add_argument("folder", help="output folder of a run")
    command.add_argument("--hub_model_id", help="repository to push to (default: the folder's name)")
    command.add_argument("--private", action="store_true", default=None, help="make a new repository private")
    command.add_argument("--merge", action="store_true", help="upload plain weights instead of an adapter")
    command.add_argument("--base_model", help="Hub id of an adapter's base model, where that was a local folder")
    command.set_defaults(run=_push, takes="{command} takes one folder, and the repository by --hub_model_id")

    command = commands.add_parser("merge", help="write an adapter's model as plain weights", allow_abbrev=False)
    command.add_argument("folder", help="output folder of a run with --method lora")
    command.add_argument("target", help="folder to write")
    command.set_defaults(run=_merge, takes="{command} takes two folders, one to read and one to write")

    command = commands.add_parser("env", help="versions and devices, for bug reports", allow_abbrev=False)
    command.set_defaults(run=_env, takes="{command} takes no inputs and no flags")
    return parser


def _add_columns(command: argparse.ArgumentParser) -> None:
    command.epilog = f"Further flags are those of the model's task: {command.prog} MODEL --help lists them."
    command.add_argument("--column_names", nargs="+", help="column names of a file without a header")
    command.add_argument("--delimiter", help="delimiter of a CSV or TSV file")


def _add_methods(command: argparse.ArgumentParser, default: str) -> None:
    command.add_argument("--methods", type=_listed, default=default, help=f"separated by commas (default: {default})")
    command.add_argument("--config", help="YAML file of a recipe's arguments")
    command.add_argument("--output_dir", help="folder for the result and for the runs")


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _train(arguments: argparse.Namespace) -> None:
    """Run a task's recipe here, or in several processes that accelerate's launcher starts."""
    from hf_transfer.tasks import task_class_for_tag

    task_class = task_class_for_tag(arguments.task)  # a name that is none is refused once, and not by every process
    launching = {name: getattr(arguments, name) for name, *_ in LAUNCHER if getattr(arguments, name) is not None}
    precision = launching.pop("mixed_precision", None)
    flags = [*arguments.finetuning, *([f"--{precision}"] if precision in ("fp16", "bf16") else [])]
    if launching.get("num_processes", 1) > 1:
        told = [part for name, value in launching.items() for part in (f"--{name}", str(value))]
        # On a machine without a GPU too, --multi_gpu is what starts several: each process sees that there is none.
        command = ["-m", "accelerate.commands.launch", "--multi_gpu", *told, "-m", "hf_transfer.cli", "train"]
        sys.stdout.flush()
        os.execv(sys.executable, [sys.executable, *command, arguments.task, *flags])
    from hf_transfer import run_recipe

    run_recipe(task_class, flags, description=task_class.__doc__)


def _predict(arguments: argparse.Namespace) -> None:
    from hf_transfer.data.tables import SUFFIXES, read_rows
    from hf_transfer.inference import columns_as_trained, load_finetuned, predict, task_class_of
    from hf_transfer.reporting.atomic_writes import atomic_file

    errors.signals.follow()
    if bool(arguments.inputs) == bool(arguments.file):
        raise InputError("Expected either inputs or --file FILE.")
    table = next((each for each in arguments.inputs if each.lower().endswith(SUFFIXES) and Path(each).is_file()), None)
    if table is not None:
        raise InputError(f"{table} is a table: --file {table} predicts its rows.")
    if arguments.batch_size < 1:
        raise InputError(f"--batch_size is {arguments.batch_size}: expected 1 or more.")
    ours = ("command", "model", "inputs", "output", "takes", "finetuning")
    strings = [value for name, value in vars(arguments).items() if name not in ours and isinstance(value, str)]
    _refuse_output(arguments.output, arguments.model, [*arguments.inputs, *strings])
    rows_of_file: list[dict[str, Any]] = []
    if arguments.file:
        # A file that cannot be read is refused before the model is looked for.
        reading = read_rows(arguments.file, column_names=arguments.column_names, delimiter=arguments.delimiter)
        rows_of_file = list(itertools.islice(reading, FIRST_ROWS))
    task_class = task_class_of(arguments.model)
    if arguments.file:
        columns = list(dict.fromkeys(name for row in rows_of_file for name in row))  # JSON may lack some
        trained = columns_as_trained(arguments.model, task_class, columns)
        task = task_class(**trained | _settings_of(task_class, arguments))
        rows = _inputs_of(itertools.chain(rows_of_file, reading), task, columns, arguments.file)
    else:
        rows = ({task_class().input.name: given} for given in arguments.inputs)
    first = next(rows)  # columns that are not there are refused before the model is loaded
    pipeline = load_finetuned(arguments.model)
    for name in task_class.pipeline_flags:
        if getattr(arguments, name, None) is not None:
            getattr(pipeline, f"use_{name}")(getattr(arguments, name))
    failed = 0

    def counted() -> Iterator[dict[str, Any]]:
        nonlocal failed
        for record in predict(pipeline, _chain(first, rows), batch_size=arguments.batch_size):
            failed += "error" in record
            yield record

    if arguments.output:
        with atomic_file(Path(arguments.output)) as stream:
            _write_lines(counted(), stream, show=sys.stderr.isatty())
    else:
        _write_lines(counted(), sys.stdout, show=False)
    if failed:
        raise InputError(f"{failed} inputs could not be used; their records say why. The others are done.")


def _settings_of(task_class: Any, arguments: argparse.Namespace) -> dict[str, Any]:
    """What was given of the task's own settings."""
    given = {name: getattr(arguments, name, None) for name in task_class.flags_for("prediction")}
    return {name: value for name, value in given.items() if value is not None}


def _inputs_of(table: Iterable[dict[str, Any]], task: Any, columns: list[str], file: str) -> Iterator[dict[str, Any]]:
    """The pipeline's inputs in the rows of a file; a row that lacks one has none there, which its record says."""
    chosen = task.input.input_columns(columns)
    for row in table:
        yield {own: task.input.prediction_input(own, row.get(column), file) for own, column in chosen.items()}


def _refuse_output(output: str | None, model: str, read: list[str]) -> None:
    """Refuse before the work what would fail or do harm after it: to write over what is read, or over the model."""
    if output is None:
        return
    path = Path(output).resolve()
    if path.is_dir() or not path.parent.is_dir():
        raise InputError(f"--output {output}: expected the name of a file in a folder that exists.")
    if any(_same_file(path, source) for source in read):
        raise InputError(f"--output {output}: that is a file that is read; name another.")
    if path.exists() and Path(model).is_dir() and path.is_relative_to(Path(model).resolve()):
        raise InputError(f"--output {output}: that is a file of the model; name another.")


def _same_file(path: Path, other: str) -> bool:
    try:
        return path.exists() and path.samefile(other)
    except (OSError, ValueError):  # a text is no file
        return False


def _chain(first: dict[str, Any], rest: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    yield first
    yield from rest


def _write_lines(records: Iterator[dict[str, Any]], stream: Any, *, show: bool) -> None:
    from tqdm import tqdm

    from hf_transfer.reporting.json_files import as_json_line

    for record in tqdm(records, disable=not show, delay=2, unit=" inputs"):
        stream.write(as_json_line(record, ensure_ascii=not _prints_all(stream)))


def _prints_all(stream: Any) -> bool:
    """Whether a stream's encoding has every letter; JSON for others is written in ASCII."""
    return codecs.lookup(getattr(stream, "encoding", None) or "utf-8").name.startswith("utf")


def _evaluate(arguments: argparse.Namespace) -> None:
    from hf_transfer.inference import evaluate
    from hf_transfer.reporting.atomic_writes import atomic_file
    from hf_transfer.reporting.json_files import as_json

    errors.signals.follow()
    ours = ("run", "command", "takes", "model", "test_file", "output")
    settings = {key: value for key, value in vars(arguments).items() if key not in ours and value is not None}
    _refuse_output(arguments.output, arguments.model, [arguments.test_file])
    found = evaluate(arguments.model, arguments.test_file, **settings)
    if arguments.output:
        with atomic_file(Path(arguments.output)) as stream:
            stream.write(as_json(found))
    else:
        sys.stdout.write(as_json(found, ensure_ascii=not _prints_all(sys.stdout)))


def _compare(arguments: argparse.Namespace) -> None:
    from hf_transfer.comparing import compare

    task, values = _finetuning(arguments, arguments.models)
    found = compare(task, methods=arguments.methods, seeds=arguments.seeds, models=arguments.models, **values)
    show(f"\n{found}")


def _study(arguments: argparse.Namespace) -> None:
    from hf_transfer.studying import study

    task, values = _finetuning(arguments, [])
    found = study(task, methods=arguments.methods, sizes=arguments.sizes, draws=arguments.draws, **values)
    show(f"\n{found}")


def _finetuning(arguments: argparse.Namespace, models: list[str]) -> tuple[Any, dict[str, Any]]:
    """Return the task that model and arguments belong to, with its settings, and the other arguments of its runs."""
    from hf_transfer.arguments.parsing import argument_names, given_arguments, model_arguments
    from hf_transfer.tasks import task_class_for_model

    flags = list(arguments.finetuning)
    for name in ("config", "output_dir"):
        if getattr(arguments, name) is not None:
            flags += [f"--{name}", getattr(arguments, name)]
    model = model_arguments([*flags, *(["--model_name_or_path", models[0]] if models else [])])
    task_class = task_class_for_model(model, argument_names(flags, arguments.config))
    values = given_arguments(task_class, flags, command_flags=[f"--{name}" for name in vars(arguments)])
    own = {name: values.pop(name) for name in list(values) if name in task_class.__dataclass_fields__}
    return task_class(**own), values


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


if __name__ == "__main__":
    main()
