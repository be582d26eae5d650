"""Reads YAML files with each value as the text that was written: ``no`` is the label no, ``010`` the column 010."""

import re
from pathlib import Path
from typing import Any

import yaml

from hf_transfer.errors import InputError

# Scalars that mean "no value" if they are not quoted.
NULL_SCALARS = ("", "~", "null", "Null", "NULL")
_EXPONENT = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")


class YamlScalar(str):
    """String with the text of a YAML scalar as it was written.

    Attributes:
        is_unquoted: whether it was written without quotes.
    """

    is_unquoted: bool


class _TextLoader(yaml.SafeLoader):
    """`yaml.SafeLoader` that turns no unquoted scalar into a number, a truth value, a date or null."""


# Only the merge key (``<<``) is still resolved.
_TextLoader.yaml_implicit_resolvers = {"<": [("tag:yaml.org,2002:merge", re.compile("^<<$"))]}


def _construct_scalar(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> YamlScalar:
    scalar = YamlScalar(node.value)
    scalar.is_unquoted = node.style is None
    return scalar


_TextLoader.add_constructor("tag:yaml.org,2002:str", _construct_scalar)


def read_yaml(file: str) -> dict[str, Any]:
    """Return the mapping in a YAML file of arguments, by name, with values as the text that was written.

    Args:
        file: path that the user gave as --config.

    Returns:
        A dictionary of `YamlScalar` and lists of them. Nested mappings hold settings of a library, not labels or
        columns: their values are numbers, truth values and text, as YAML defines them.

    Raises:
        InputError: the file cannot be read, is not YAML or does not hold a mapping.
    """
    try:
        # "utf-8-sig" removes a byte order mark. The text is decoded here, as YAML would accept other encodings too.
        values = yaml.load(Path(file).read_text(encoding="utf-8-sig"), Loader=_TextLoader)
    except OSError as error:
        raise InputError(f"--config {file} cannot be read: {error.strerror}.") from error
    except Exception as error:  # YAMLError, and whatever Python raises for an explicit tag that does not fit its value
        raise InputError(f"--config {file} is not YAML: {' '.join(str(error).split())}") from error
    if values is None or (isinstance(values, YamlScalar) and not values):
        return {}
    if not isinstance(values, dict):
        content = "text" if isinstance(values, str) else f"a {type(values).__name__}"
        raise InputError(f"--config {file} holds {content}: expected lines of `name: value`.")
    try:
        return {str(key): _resolve(value) if isinstance(value, dict) else value for key, value in values.items()}
    except RecursionError as error:
        raise InputError(f"--config {file}: a value holds itself (an alias, *name). Write the value out.") from error


def _resolve(value: Any) -> Any:
    """Return a nested value with its unquoted scalars as the numbers, truth values and nulls that YAML defines."""
    if isinstance(value, dict):
        return {str(key): _resolve(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_resolve(inner) for inner in value]
    if not isinstance(value, YamlScalar) or not value.is_unquoted:
        return value
    if _EXPONENT.fullmatch(value):
        return float(value)  # YAML 1.1 reads 1e-5 as text: it wants a point and a sign
    loader = yaml.SafeLoader("")
    tag = loader.resolve(yaml.ScalarNode, str(value), (True, False))
    resolved = loader.construct_object(yaml.ScalarNode(tag, str(value)))
    return resolved if resolved is None or isinstance(resolved, (bool, int, float)) else str(value)
