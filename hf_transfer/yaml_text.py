"""YAML files in which a value is the text that was written: ``no`` is the label no, and ``010`` the column 010."""

import re
from pathlib import Path
from typing import Any

import yaml

from hf_transfer.errors import InputError

# What means "nothing" where it is not quoted.
NULLS = ("", "~", "null", "Null", "NULL")
_EXPONENT = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")


class Written(str):
    """A scalar as it was written.

    Attributes:
        plain: whether it was written without quotes.
    """

    plain: bool


class _Loader(yaml.SafeLoader):
    """`yaml.SafeLoader` that takes no plain scalar for a number, a truth value, a date or nothing."""


# All that is still resolved is the merge key.
_Loader.yaml_implicit_resolvers = {"<": [("tag:yaml.org,2002:merge", re.compile("^<<$"))]}


def _written(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> Written:
    text = Written(node.value)
    text.plain = node.style is None
    return text


_Loader.add_constructor("tag:yaml.org,2002:str", _written)


def read_yaml(file: str) -> dict[str, Any]:
    """The mapping in a YAML file: text as `Written`, lists of it, and nested mappings with numbers and truth values.

    Raises:
        InputError: the file cannot be read, or holds something else.
    """
    try:
        # A byte order mark is taken off; the loader itself would take bytes in other encodings too.
        values = yaml.load(Path(file).read_text(encoding="utf-8-sig"), Loader=_Loader)
    except OSError as error:
        raise InputError(f"--config {file} cannot be read: {error.strerror}.") from error
    except Exception as error:  # besides YAMLError, what Python raises for an explicit tag that does not fit
        raise InputError(f"--config {file} is not YAML: {' '.join(str(error).split())}") from error
    if values is None or (isinstance(values, Written) and not values):
        return {}
    if not isinstance(values, dict):
        found = "text" if isinstance(values, str) else f"a {type(values).__name__}"
        raise InputError(f"--config {file} holds {found}: expected lines of `name: value`.")
    try:
        return {str(key): _resolved(value) if isinstance(value, dict) else value for key, value in values.items()}
    except RecursionError as error:
        raise InputError(f"--config {file}: a value holds itself (an alias, *name).") from error


def _resolved(value: Any) -> Any:
    """What a nested value means in YAML: of those that hold settings of a library, none is a label or a column."""
    if isinstance(value, dict):
        return {str(key): _resolved(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_resolved(inner) for inner in value]
    if not isinstance(value, Written) or not value.plain:
        return value
    if _EXPONENT.fullmatch(value):
        return float(value)  # which YAML 1.1 takes for text unless it has a point and a sign
    loader = yaml.SafeLoader("")
    tag = loader.resolve(yaml.ScalarNode, str(value), (True, False))
    meant = loader.construct_object(yaml.ScalarNode(tag, str(value)))
    return meant if meant is None or isinstance(meant, (bool, int, float)) else str(value)
