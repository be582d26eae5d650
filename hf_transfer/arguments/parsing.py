"""Parses flags, YAML files and Python keywords into `Arguments`."""

import argparse
import dataclasses
import json
import os
import sys
from argparse import SUPPRESS, Action, ArgumentError, Namespace
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, get_type_hints

from transformers import HfArgumentParser
from transformers.hf_argparser import string_to_bool

from hf_transfer.arguments import (
    Arguments,
    DataArguments,
    MethodArguments,
    ModelArguments,
    TransferTrainingArguments,
    arguments_for_method,
)
from hf_transfer.arguments.method import LORA_DEFAULTS
from hf_transfer.arguments.yaml_text import NULL_SCALARS, YamlScalar, read_yaml
from hf_transfer.errors import InputError, logger, nearest

if TYPE_CHECKING:
    from hf_transfer.tasks.task import Task

# Arguments that name the data. A flag that names other data than the YAML file replaces all of these in the file.
_DATA_SOURCE = ("dataset_name", "dataset_config_name", "dataset_revision", "train_file", "validation_file",
                "test_file", "train_split_name", "validation_split_name", "test_split_name")  # fmt: skip

# Ends of the names of arguments whose value is a name or a delimiter in the data: there, an unquoted `null` or `~` in
# YAML is that text and not a missing value.
_TEXT_ARGUMENTS = ("_column_name", "column_names", "split_by", "_group", "_label", "delimiter", "_separator")


def parse_arguments(
    task_class: "type[Task]",
    argv: Sequence[str] | None = None,
    *,
    defaults: Mapping[str, Any] | None = None,
    defaults_without_data: Mapping[str, Any] | None = None,
    description: str | None = None,
) -> Arguments:
    """Return the `Arguments` of a command line; flags win over the YAML file (``--config``), that over defaults.

    Args:
        task_class: dataclass of the task, whose fields are flags as well.
        argv: the command line without the program's name; `sys.argv[1:]` if None.
        defaults: the recipe's defaults by flag name; they win over the task's.
        defaults_without_data: further defaults for users who name no data, such as a dataset and its columns; they
            win over `defaults`.
        description: first paragraph of ``--help``.

    Raises:
        InputError: an argument is unknown, misspelt or has a wrong value.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    defaults = dict(defaults or {})
    defaults_without_data = dict(defaults_without_data or {})
    if {"-h", "--help"} & set(argv):
        parser = _parser(task_class, description)
        parser.set_defaults(**{**task_class.defaults, **defaults, **defaults_without_data})
        parser.print_help()
        sys.exit(0)
    given = given_arguments(task_class, argv)
    if "train_file" not in given and "dataset_name" not in given:
        defaults |= defaults_without_data
    return build_arguments(task_class, {**defaults, **given})


def given_arguments(
    task_class: "type[Task]", argv: Sequence[str], command_flags: Sequence[str] = ()
) -> dict[str, Any]:
    """Return by name the arguments that flags and a YAML file (``--config``) set, without defaults; flags win.

    Args:
        task_class: dataclass of the task.
        argv: the flags.
        command_flags: other flags of the command, which a misspelt flag may have meant.

    Raises:
        InputError: an argument is unknown, misspelt or has a wrong value.
    """
    parser = _parser(task_class)
    flags = parser.parse_given(argv, "the command line", command_flags)
    config = flags.pop("config", None)
    if config is None:
        return flags
    settings = read_yaml(config)
    data_flags = {"train_file", "dataset_name"} & set(flags)
    if settings.pop("dataset", None) and not data_flags:
        raise InputError(
            f"--config {config}: the data of that run were given in memory. Name data (--train_file, --dataset_name), "
            "or repeat the run from Python: finetune(task, dataset=..., ...)."
        )
    values = parser.convert_yaml(settings, config)
    if data_flags:
        values = {name: value for name, value in values.items() if name not in _DATA_SOURCE}
    _drop_revision_of_other_model(values, flags)
    if "method" in flags:
        values = arguments_for_method(values, flags["method"])
    elif values.get("method") != "lora":
        # Earlier versions wrote LoRA's defaults into arguments.yaml whatever the method was.
        values = {
            name: value for name, value in values.items() if name not in LORA_DEFAULTS or value != LORA_DEFAULTS[name]
        }
    return {**values, **flags}


def _drop_revision_of_other_model(values: dict[str, Any], flags: Mapping[str, Any]) -> None:
    """Remove a YAML file's ``model_revision`` from `values` if a flag names another model than the file."""
    if flags.get("model_name_or_path", values.get("model_name_or_path")) != values.get("model_name_or_path"):
        values.pop("model_revision", None)


def settings_parser(task_class: "type[Task]", names: Sequence[str]) -> "_Parser":
    """Return a parser of the flags of some of a task's settings, which are None where no flag is given."""
    hints = get_type_hints(task_class)
    fields = {each.name: each for each in dataclasses.fields(task_class)}
    subset = dataclasses.make_dataclass(
        task_class.__name__,
        [
            (name, hints[name] | None, dataclasses.field(default=None, metadata=fields[name].metadata))
            for name in names
        ],
    )
    return _Parser(subset, add_help=False, allow_abbrev=False)


def model_arguments(argv: Sequence[str]) -> ModelArguments:
    """Return the `ModelArguments` that flags or their ``--config`` set, before the task and other flags are known.

    Raises:
        InputError: they name none.
    """
    parser = _Parser(ModelArguments, add_help=False, allow_abbrev=False)
    parser.add_argument("--config")
    for action in parser._actions:
        action.default = SUPPRESS
    flags = vars(parser.parse_known_args(list(argv), Namespace())[0])
    config = flags.pop("config", None)
    names = [f.name for f in dataclasses.fields(ModelArguments)]
    settings = {name: value for name, value in (read_yaml(config) if config else {}).items() if name in names}
    values = parser.convert_yaml(settings, str(config))
    _drop_revision_of_other_model(values, flags)
    values |= flags
    if not values.get("model_name_or_path"):
        raise InputError("--model_name_or_path is missing: expected a Hub id or a local model folder.")
    return ModelArguments(**values)


def argument_names(argv: Sequence[str], config: str | None) -> set[str]:
    """Return the names of the arguments that flags and a YAML file set, whatever task they belong to."""
    flags = {word[2:].partition("=")[0] for word in argv if word.startswith("--")}
    return flags | set(read_yaml(config) if config else ())


def _parser(task_class: "type[Task]", description: str | None = None) -> "_Parser":
    parser = _Parser(
        _argument_classes(task_class), description=description, allow_abbrev=False, formatter_class=_HelpFormatter
    )
    parser.add_argument("--config", metavar="FILE", help="YAML file of arguments; flags win over it.")
    return parser


def make_arguments(task: "Task", keywords: Mapping[str, Any]) -> Arguments:
    """Return the `Arguments` of a run from a task's instance and Python keywords, named like the flags.

    Raises:
        InputError: a keyword is unknown or misspelt.
    """
    return dataclasses.replace(build_arguments(type(task), keyword_arguments(task, keywords)), task=task)


def keyword_arguments(task: "Task", keywords: Mapping[str, Any]) -> dict[str, Any]:
    """Return Python keywords with paths as text; raise an error if the name of one is not a flag's.

    Raises:
        InputError: a keyword is unknown or misspelt.
    """
    if not dataclasses.is_dataclass(task) or isinstance(task, type):
        remedy = f" Write {task.__name__}()." if isinstance(task, type) else ""
        raise InputError(f"The task is {task!r}; expected an instance of one of the tasks in hf_transfer.{remedy}")
    names = [f.name for group in _argument_classes(type(task)) for f in dataclasses.fields(group) if f.init]
    task_settings = {f.name for f in dataclasses.fields(task)}
    for key in keywords:
        if key in task_settings:
            raise InputError(f"{key} is a setting of the task: pass it as {type(task).__name__}({key}=...).")
        if key not in names:
            raise InputError(f"Unknown argument {key}.{nearest(key, names)}")
    return {key: os.fspath(value) if isinstance(value, os.PathLike) else value for key, value in keywords.items()}


def _argument_classes(task_class: "type[Task]") -> list[type]:
    return [ModelArguments, DataArguments, task_class, MethodArguments, TransferTrainingArguments]


def build_arguments(task_class: "type[Task]", values: Mapping[str, Any]) -> Arguments:
    """Return the `Arguments` made from values by flag name, with the task's defaults for the others.

    Raises:
        InputError: the values do not fit together.
    """
    if "model_name_or_path" not in values:
        logger.info("The model is %s (--model_name_or_path).", task_class.defaults["model_name_or_path"])
    values = {**task_class.defaults, **values}
    model, data, task, method, training = (
        group(**{f.name: values[f.name] for f in dataclasses.fields(group) if f.init and f.name in values})
        for group in _argument_classes(task_class)
    )
    return Arguments(task=task, model=model, data=data, method=method, training=training)


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Formatter of help texts that adds the defaults of flags, except None, where the text says what happens then."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default is None else super()._get_help_string(action)


class _Parser(HfArgumentParser):
    """`HfArgumentParser` that raises errors of one sentence, without 200 lines of usage."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message[:1].upper()}{message[1:]}. See --help.")

    def parse_given(self, argv: Sequence[str], where: str, command_flags: Sequence[str] = ()) -> dict[str, Any]:
        """Return by name the arguments that the flags in `argv` set, without defaults.

        Args:
            argv: the flags.
            where: the flags are, for error messages.
            command_flags: other flags of the command, which a misspelt flag may have meant.

        Raises:
            InputError: a flag is unknown, or has a wrong value.
        """
        for action in self._actions:
            action.default = SUPPRESS
        namespace, unknown = self.parse_known_args(list(argv), Namespace())
        options = [option for action in self._actions for option in action.option_strings]
        for word in unknown:
            name = word.split("=")[0]
            if name.startswith("--"):
                raise InputError(
                    f"Unknown argument {name} in {where}.{nearest(name, [*options, *command_flags])} See --help."
                )
        if unknown:
            raise InputError(f"Unexpected {unknown[0]!r} in {where}: expected flags, as --name value. See --help.")
        return vars(namespace)

    def convert_yaml(self, values: Mapping[str, Any], file: str) -> dict[str, Any]:
        """Return the arguments that a YAML file sets, converted and checked as the values of flags are.

        Raises:
            InputError: one is unknown, or its value does not fit.
        """
        converted: dict[str, Any] = {}
        for key, value in values.items():
            action = self._option_string_actions.get(f"--{key}")
            if action is None or action.dest == "help":
                options = [option for other in self._actions for option in other.option_strings]
                raise InputError(f"Unknown argument --{key} in {file}.{nearest(f'--{key}', options)} See --help.")
            if action.dest == "config":
                raise InputError(f"{file}: config is a flag only: a file of arguments cannot name another file.")
            if action.nargs == 0:  # --no_NAME
                raise InputError(f"{file}: {key} has no value; write {action.dest}: false")
            if not _is_null(key, value):
                converted[action.dest] = self._convert(action, value, f"{file}: {key}")
        return converted

    def _convert(self, action: Action, value: Any, where: str) -> Any:
        takes_several = action.nargs in ("+", "*")
        if isinstance(value, list) and not takes_several:
            raise InputError(f"{where} is a list; expected one value.")
        texts = []
        for item in value if isinstance(value, list) else [value]:
            if isinstance(value, list) and isinstance(item, (list, dict)):
                raise InputError(f"{where} holds {item!r}; expected a list of values.")
            if isinstance(value, list) and str(item).startswith("--"):
                raise InputError(f"{where} holds {str(item)!r}, which looks like a flag.")
            texts.append(json.dumps(item) if isinstance(item, dict) else str(item))
        try:
            converted = [self._get_value(action, text) for text in texts]
            for one in converted:
                self._check_value(action, one)
        except ArgumentError as error:
            self.error(str(error))
        return converted if takes_several else converted[0]

    def _get_value(self, action: Action, arg_string: str) -> Any:
        if action.type is string_to_bool and arg_string.lower() in ("on", "off"):
            return arg_string.lower() == "on"
        return super()._get_value(action, arg_string)


def _is_null(key: str, value: Any) -> bool:
    """Return whether a YAML value means that the argument is not set."""
    if not isinstance(value, YamlScalar) or not value.is_unquoted:
        return value is None or value == []
    return value == "" or (value in NULL_SCALARS and not key.endswith(_TEXT_ARGUMENTS))
