"""The flags of the `hf-transfer` commands."""

import argparse
from typing import Literal, NoReturn, TypeAlias

from hf_transfer.errors import InputError

# What `ArgumentParser.add_subparsers` returns.
Commands: TypeAlias = "argparse._SubParsersAction[CommandParser]"
# Flags of accelerate's launcher, which starts several processes.
LAUNCHER_FLAGS: tuple[tuple[str, type, str], ...] = (
    ("num_processes", int, "number of processes, on all machines together"),
    ("num_machines", int, "number of machines"),
    ("machine_rank", int, "number of this machine, from 0"),
    ("main_process_ip", str, "address of machine 0"),
    ("main_process_port", int, "port of machine 0"),
    ("mixed_precision", str, "no, fp16 or bf16"),
)
# For commands that take flags of the model's task: what they use the model for, as `Task.flags_for` names it.
TASK_USES: dict[str, Literal["prediction", "evaluation"]] = {"predict": "prediction", "evaluate": "evaluation"}


class CommandParser(argparse.ArgumentParser):
    """`ArgumentParser` that raises an `InputError` of one sentence where arguments are wrong."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message[:1].upper()}{message[1:]}. See {self.prog} --help.")


def command_parser() -> CommandParser:
    """Return the parser of the `hf-transfer` command with all its subcommands.

    What it parses has ``command``, the name; ``finetuning`` for commands that also take the flags of a run, which are
    parsed elsewhere; and for the others ``usage_hint``, a sentence about their positional arguments.
    """
    parser = CommandParser(
        prog="hf-transfer", description="Fine-tune, use, measure and publish models.", allow_abbrev=False
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND", dest="command")
    for add_command in (
        _add_train, _add_predict, _add_evaluate, _add_compare, _add_study, _add_push, _add_merge, _add_env
    ):  # fmt: skip
        add_command(commands)
    return parser


def add_task_flags(parser: argparse.ArgumentParser, command: str, model: str) -> None:
    """Add to the parser of a command the flags of the task that a fine-tuned model is for."""
    from hf_transfer.arguments.parsing import settings_parser
    from hf_transfer.inference import task_class_of

    task_class = task_class_of(model)
    commands = next(action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    command_parser = commands.choices[command]
    command_parser._add_container_actions(settings_parser(task_class, task_class.flags_for(TASK_USES[command])))
    if command == "predict":
        for name, help_text in task_class.pipeline_flags.items():
            command_parser.add_argument(f"--{name}", help=help_text)


def _add_train(commands: Commands) -> None:
    command = commands.add_parser(
        "train", help="fine-tune a model, as the recipe of the task does", allow_abbrev=False,
        add_help=False, usage="hf-transfer train TASK [--num_processes N] [any flag of the task: train TASK --help]",
    )  # fmt: skip
    command.add_argument("task", nargs="?", default="", metavar="TASK", help="pipeline tag of the task on the Hub")
    for name, value_type, help_text in LAUNCHER_FLAGS:
        command.add_argument(f"--{name}", type=value_type, help=help_text)
    command.set_defaults(finetuning=None)


def _add_predict(commands: Commands) -> None:
    command = commands.add_parser("predict", help="predict with a fine-tuned model", allow_abbrev=False)
    command.add_argument("model", help="output folder of a run, or Hub id")
    command.add_argument("inputs", nargs="*", metavar="INPUT", help="a text, or the file of one input")
    command.add_argument("--file", help="CSV, TSV, JSON, JSONL or Parquet file of inputs, one in each row")
    command.add_argument("--output", help="JSONL file to write (default: standard output)")
    command.add_argument("--batch_size", type=int, default=32, help="number of inputs in a batch (default: 32)")
    _add_table_flags(command)
    command.set_defaults(usage_hint="inputs come before the flags")


def _add_evaluate(commands: Commands) -> None:
    command = commands.add_parser("evaluate", help="evaluate a fine-tuned model on labelled data", allow_abbrev=False)
    command.add_argument("model", help="output folder of a run, or Hub id")
    command.add_argument("--test_file", required=True, help="labelled CSV, TSV, JSON, JSONL or Parquet file")
    command.add_argument("--drop_incomplete", action="store_true", help="leave out rows without input or label")
    command.add_argument("--group_column_name", help="column of groups; metrics are also computed for each group")
    command.add_argument("--split_by", help="column of units, such as patients: intervals are over units")
    command.add_argument("--output", help="JSON file to write (default: standard output)")
    _add_table_flags(command)
    command.set_defaults(usage_hint="{command} takes one model, and its data by --test_file")


def _add_compare(commands: Commands) -> None:
    command = commands.add_parser(
        "compare", help="fine-tune with several methods and seeds, and recommend one", allow_abbrev=False,
        usage="hf-transfer compare [--config FILE.yaml] [--methods A,B] [--seeds N] [--models A,B] "
        "--output_dir FOLDER [any flag of the recipes]",
    )  # fmt: skip
    _add_run_flags(command, "full,lora,frozen,scratch")
    command.add_argument("--seeds", type=int, default=3, help="number of runs of each method (default: 3)")
    command.add_argument("--models", type=split_list, default=[], help="models to compare, separated by commas")
    command.set_defaults(finetuning=None)


def _add_study(commands: Commands) -> None:
    command = commands.add_parser(
        "study", help="measure how quality grows with the number of labelled examples", allow_abbrev=False,
        usage="hf-transfer study [--config FILE.yaml] [--methods A,B] [--sizes 8,16,32] [--draws N] "
        "--output_dir FOLDER [any flag of the recipes]",
    )  # fmt: skip
    _add_run_flags(command, "frozen,scratch")
    command.add_argument("--sizes", type=split_list, help="numbers of training examples (default: 8, 16, 32 ... all)")
    command.add_argument("--draws", type=int, default=3, help="number of draws of each size (default: 3)")
    command.set_defaults(finetuning=None)


def _add_push(commands: Commands) -> None:
    command = commands.add_parser("push", help="upload a finished run to the Hub", allow_abbrev=False)
    command.add_argument("folder", help="output folder of a run")
    command.add_argument("--hub_model_id", help="repository to push to (default: the name of the folder)")
    command.add_argument("--private", action="store_true", default=None, help="make a new repository private")
    command.add_argument("--merge", action="store_true", help="upload plain weights instead of an adapter")
    command.add_argument("--base_model", help="Hub id of the adapter's base model, if that was a local folder")
    command.set_defaults(usage_hint="{command} takes one folder, and the repository by --hub_model_id")


def _add_merge(commands: Commands) -> None:
    command = commands.add_parser("merge", help="write plain weights instead of an adapter", allow_abbrev=False)
    command.add_argument("folder", help="output folder of a run with --method lora")
    command.add_argument("target", help="folder to write")
    command.set_defaults(usage_hint="{command} takes two folders, one to read and one to write")


def _add_env(commands: Commands) -> None:
    command = commands.add_parser("env", help="print versions and devices, for bug reports", allow_abbrev=False)
    command.set_defaults(usage_hint="{command} takes no inputs and no flags")


def _add_table_flags(command: CommandParser) -> None:
    command.epilog = f"Further flags depend on the model's task: {command.prog} MODEL --help lists them."
    command.add_argument("--column_names", nargs="+", help="column names of a file without a header")
    command.add_argument("--delimiter", help="delimiter of a CSV or TSV file")


def _add_run_flags(command: CommandParser, default: str) -> None:
    command.add_argument(
        "--methods", type=split_list, default=default, help=f"separated by commas (default: {default})"
    )
    command.add_argument("--config", help="YAML file of a recipe's arguments")
    command.add_argument("--output_dir", help="folder for the report and the runs")


def split_list(text: str) -> list[str]:
    """Return the parts of a text that lists them, separated by commas."""
    return [part.strip() for part in text.split(",") if part.strip()]
