"""From flags, YAML and Python keywords to `Arguments`."""

import dataclasses
import json
import os
import sys
from argparse import SUPPRESS, Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml
from transformers import HfArgumentParser

from hf_transfer.arguments import Arguments, DataArguments, MethodArguments, ModelArguments, TransferTrainingArguments
from hf_transfer.errors import InputError, nearest

# What names the data: flags for some of it take the place of a file's for all of it.
DATA_NAMED = ("dataset_name", "dataset_config_name", "train_file", "validation_file", "test_file", "train_split_name",
              "validation_split_name", "test_split_name")  # fmt: skip


def parse_arguments(
    task_class: type,
    argv: Sequence[str] | None = None,
    *,
    defaults: Mapping[str, Any] | None = None,
    defaults_without_data: Mapping[str, Any] | None = None,
    description: str | None = None,
) -> Arguments:
    """Arguments from `defaults`, then a YAML file (``--config``), then flags: the later win.

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
        parser.set_defaults(**{**defaults, **without_data})
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
    settings = _read_yaml(config)
    named = {"train_file", "dataset_name"} & set(flags)
    if settings.pop("dataset", None) and not named:
        raise InputError(
            f"--config {config}: that run's data were given in memory. Name data (--train_file, --dataset_name), or "
            "repeat it from Python: finetune(task, dataset=..., ...)."
        )
    told = parser.given(_as_flags(settings, config), config)
    if named:  # other data than the file's: nothing of those is left
        told = {key: value for key, value in told.items() if key not in DATA_NAMED}
    return {**told, **flags}


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
    told = {key: value for key, value in (_read_yaml(config) if config else {}).items() if key in names} | found
    if not told.get("model_name_or_path"):
        raise InputError("--model_name_or_path is missing: expected a Hub id or a local model folder.")
    return ModelArguments(**told)


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
        raise InputError(f"The task is {task!r}: expected one such as TextClassification() or SpeechRecognition().")
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


def build_arguments(task_class: type, values: Mapping[str, Any]) -> Arguments:
    """`Arguments` of values by flag name.

    Raises:
        InputError: they do not fit together.
    """
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


def _read_yaml(file: str) -> dict[str, Any]:
    try:
        values = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"--config {file} cannot be read: {error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"--config {file} is not YAML: {' '.join(str(error).split())}") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise InputError(f"--config {file} holds a {type(values).__name__}: expected lines of `name: value`.")
    return values


def _as_flags(values: Mapping[str, Any], file: str) -> list[str]:
    """YAML values as the flags they stand for, so that one parser checks both."""
    flags: list[str] = []
    for key, value in values.items():
        if isinstance(value, list):
            for item in value:
                if str(item).startswith("--"):
                    raise InputError(f"{file}: {key} holds {item!r}, which looks like a flag.")
            flags += [f"--{key}", *map(str, value)] if value else []
        elif isinstance(value, dict):
            flags.append(f"--{key}={json.dumps(value)}")
        elif value is not None:
            flags.append(f"--{key}={value}")
    return flags
