"""From flags, YAML and Python keywords to `Arguments`."""

import dataclasses
import json
import os
import sys
from argparse import SUPPRESS, Action, ArgumentError, Namespace
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn, get_type_hints

from transformers import HfArgumentParser
from transformers.hf_argparser import string_to_bool

from hf_transfer.arguments import (
    LORA,
    Arguments,
    DataArguments,
    MethodArguments,
    ModelArguments,
    TransferTrainingArguments,
    fitting,
)
from hf_transfer.errors import InputError, logger, nearest
from hf_transfer.yaml_text import NULL_SCALARS, YamlScalar, read_yaml

# What names the data: flags for some of it take the place of a file's for all of it.
DATA_NAMED = ("dataset_name", "dataset_config_name", "dataset_revision", "train_file", "validation_file", "test_file",
              "train_split_name", "validation_split_name", "test_split_name")  # fmt: skip

# Arguments that name or separate something in the data: `null` and `~` may be meant as they are written.
WORDS_OF_THE_DATA = ("_column_name", "column_names", "split_by", "_group", "_label", "delimiter", "_separator")


def parse_arguments(
    task_class: Any,
    argv: Sequence[str] | None = None,
    *,
    defaults: Mapping[str, Any] | None = None,
    defaults_without_data: Mapping[str, Any] | None = None,
    description: str | None = None,
) -> Arguments:
    """Arguments from the task's defaults, `defaults`, a YAML file (``--config``), then flags: the later win.

    Args:
        task_class: dataclass of the task, whose fields are flags as well.
        argv: the command line without the program's name; `sys.argv[1:]` if None.
        defaults: the recipe's own defaults by flag name.
        defaults_without_data: those that win over them where the user names no data: a dataset, its groups.
        description: what ``--help`` says first.

    Raises:
        InputError: an argument is unknown, misspelt or has a wrong value.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    defaults, without_data = dict(defaults or {}), dict(defaults_without_data or {})
    if {"-h", "--help"} & set(argv):
        parser = _parser(task_class, description)
        parser.set_defaults(**{**task_class.defaults, **defaults, **without_data})
        parser.print_help()
        sys.exit(0)
    chosen = given_arguments(task_class, argv)
    if "train_file" not in chosen and "dataset_name" not in chosen:
        defaults |= without_data
    return build_arguments(task_class, {**defaults, **chosen})


def given_arguments(task_class: type, argv: Sequence[str], also: Sequence[str] = ()) -> dict[str, Any]:
    """The arguments that a YAML file (``--config``) and flags set, by name, without any default; flags win.

    Args:
        task_class: dataclass of the task.
        argv: the flags.
        also: other flags of the command, which a misspelt one may have meant.

    Raises:
        InputError: an argument is unknown, misspelt or has a wrong value.
    """
    parser = _parser(task_class)
    flags = parser.given(argv, "the command line", also)
    config = flags.pop("config", None)
    if config is None:
        return flags
    settings = read_yaml(config)
    named = {"train_file", "dataset_name"} & set(flags)
    if settings.pop("dataset", None) and not named:
        raise InputError(
            f"--config {config}: that run's data were given in memory. Name data (--train_file, --dataset_name), or "
            "repeat it from Python: finetune(task, dataset=..., ...)."
        )
    told = parser.converted(settings, config)
    if named:  # other data than the file's: nothing of those is left
        told = {key: value for key, value in told.items() if key not in DATA_NAMED}
    if flags.get("model_name_or_path", told.get("model_name_or_path")) != told.get("model_name_or_path"):
        told.pop("model_revision", None)  # a commit of the file's model
    if "method" in flags:
        told = fitting(told, flags["method"])
    elif told.get("method") != "lora":
        # Written out by earlier versions, whatever the method was.
        told = {key: value for key, value in told.items() if key not in LORA or value != LORA[key]}
    return {**told, **flags}


def settings_parser(task_class: Any, names: Sequence[str]) -> "_Parser":
    """A parser of some of a task's settings; none of them has a default."""
    hints = get_type_hints(task_class)
    fields = {each.name: each for each in dataclasses.fields(task_class)}
    some = dataclasses.make_dataclass(
        task_class.__name__,
        [
            (name, hints[name] | None, dataclasses.field(default=None, metadata=fields[name].metadata))
            for name in names
        ],
    )
    return _Parser(some, add_help=False, allow_abbrev=False)


def model_named(argv: Sequence[str]) -> ModelArguments:
    """The model among flags, or in their ``--config``: it tells the task, and that the other flags.

    Raises:
        InputError: there is none.
    """
    parser = _Parser(ModelArguments, add_help=False, allow_abbrev=False)
    parser.add_argument("--config")
    for action in parser._actions:
        action.default = SUPPRESS
    found = vars(parser.parse_known_args(list(argv), Namespace())[0])
    config = found.pop("config", None)
    names = [f.name for f in dataclasses.fields(ModelArguments)]
    settings = {key: value for key, value in (read_yaml(config) if config else {}).items() if key in names}
    told = parser.converted(settings, str(config))
    if found.get("model_name_or_path", told.get("model_name_or_path")) != told.get("model_name_or_path"):
        told.pop("model_revision", None)  # a commit of the file's model
    told |= found
    if not told.get("model_name_or_path"):
        raise InputError("--model_name_or_path is missing: expected a Hub id or a local model folder.")
    return ModelArguments(**told)


def argument_names(argv: Sequence[str], config: str | None) -> set[str]:
    """Return the names of the arguments that flags and a YAML file set, whatever task they belong to."""
    flags = {word[2:].partition("=")[0] for word in argv if word.startswith("--")}
    return flags | set(read_yaml(config) if config else ())


def _parser(task_class: type, description: str | None = None) -> "_Parser":
    parser = _Parser(_groups_of(task_class), description=description, allow_abbrev=False)
    parser.add_argument("--config", metavar="FILE", help="YAML file of arguments; flags win over it.")
    return parser


def make_arguments(task: Any, keywords: Mapping[str, Any]) -> Arguments:
    """Arguments for `task`, a task's instance, from Python keywords named as the flags are.

    Raises:
        InputError: a keyword is unknown or misspelt.
    """
    return dataclasses.replace(build_arguments(type(task), keyword_arguments(task, keywords)), task=task)


def keyword_arguments(task: Any, keywords: Mapping[str, Any]) -> dict[str, Any]:
    """Python keywords as values by flag name.

    Raises:
        InputError: a keyword is unknown or misspelt.
    """
    if not dataclasses.is_dataclass(task) or isinstance(task, type):
        raise InputError(f"The task is {task!r}: expected an instance of a task: its class with parentheses.")
    names = [f.name for group in _groups_of(type(task)) for f in dataclasses.fields(group) if f.init]
    own = {f.name for f in dataclasses.fields(task)}
    for key in keywords:
        if key in own:
            raise InputError(f"{key} is a setting of the task: pass it as {type(task).__name__}({key}=...).")
        if key not in names:
            raise InputError(f"Unknown argument {key}.{nearest(key, names)}")
    return {key: os.fspath(value) if isinstance(value, os.PathLike) else value for key, value in keywords.items()}


def _groups_of(task_class: type) -> list[type]:
    return [ModelArguments, DataArguments, task_class, MethodArguments, TransferTrainingArguments]


def build_arguments(task_class: Any, values: Mapping[str, Any]) -> Arguments:
    """`Arguments` of values by flag name; what they leave open has the task's defaults.

    Raises:
        InputError: they do not fit together.
    """
    if "model_name_or_path" not in values:
        logger.info("The model is %s (--model_name_or_path).", task_class.defaults["model_name_or_path"])
    values = {**task_class.defaults, **values}
    model, data, task, method, training = (
        group(**{f.name: values[f.name] for f in dataclasses.fields(group) if f.init and f.name in values})
        for group in _groups_of(task_class)
    )
    return Arguments(task=task, model=model, data=data, method=method, training=training)


class _Parser(HfArgumentParser):
    """`HfArgumentParser` that answers a wrong argument with one sentence instead of 200 lines of usage."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message[:1].upper()}{message[1:]}. See --help.")

    def given(self, argv: Sequence[str], where: str, also: Sequence[str] = ()) -> dict[str, Any]:
        """The arguments that `argv` sets, without any default; `also` are flags that a misspelt one may have meant."""
        for action in self._actions:
            action.default = SUPPRESS
        namespace, unknown = self.parse_known_args(list(argv), Namespace())
        options = [option for action in self._actions for option in action.option_strings]
        for word in unknown:
            name = word.split("=")[0]
            if name.startswith("--"):
                raise InputError(f"Unknown argument {name} in {where}.{nearest(name, [*options, *also])} See --help.")
        if unknown:
            raise InputError(f"Unexpected {unknown[0]!r} in {where}: expected flags, as --name value. See --help.")
        return vars(namespace)

    def converted(self, values: Mapping[str, Any], file: str) -> dict[str, Any]:
        """The arguments that a YAML file sets, each value converted and checked as that of a flag is.

        Raises:
            InputError: one is unknown, or its value does not fit.
        """
        found: dict[str, Any] = {}
        for key, value in values.items():
            action = self._option_string_actions.get(f"--{key}")
            if action is None or action.dest == "help":
                options = [option for other in self._actions for option in other.option_strings]
                raise InputError(f"Unknown argument --{key} in {file}.{nearest(f'--{key}', options)} See --help.")
            if action.dest == "config":
                raise InputError(f"{file}: config is a flag alone: a file of arguments names no other.")
            if action.nargs == 0:  # --no_NAME
                raise InputError(f"{file}: {key} has no value; write {action.dest}: false")
            if not _is_nothing(key, value):
                found[action.dest] = self._converted(action, value, f"{file}: {key}")
        return found

    def _converted(self, action: Action, value: Any, where: str) -> Any:
        several = action.nargs in ("+", "*")
        if isinstance(value, list) and not several:
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
        return converted if several else converted[0]

    def _get_value(self, action: Action, arg_string: str) -> Any:
        if action.type is string_to_bool and arg_string.lower() in ("on", "off"):
            return arg_string.lower() == "on"
        return super()._get_value(action, arg_string)


def _is_nothing(key: str, value: Any) -> bool:
    """Whether a YAML value leaves an argument open."""
    if not isinstance(value, YamlScalar) or not value.is_unquoted:
        return value is None or value == []
    return value == "" or (value in NULL_SCALARS and not key.endswith(WORDS_OF_THE_DATA))
