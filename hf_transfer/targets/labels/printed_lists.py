"""Parser of lists that Python, NumPy or JSON has printed into a cell."""

import ast
import json
import re
from typing import Any

import numpy as np

# Items are quoted texts, numbers, true, false and null.
_TEXT, _NUMBER = r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\"""", r"-?[0-9]+(?:\.[0-9]*)?(?:e[+-]?[0-9]+)?"
_ITEM = rf"(?:{_TEXT}|{_NUMBER}|[Tt]rue|[Ff]alse|None|null|nan)"
_PRINTED_LIST = re.compile(rf"[\[({{]\s*(?:{_ITEM}(?:\s*,\s*|\s+|\s*(?=[\])}}])))*[\])}}]")
_ITEMS = re.compile(_ITEM)
_CONSTANTS = {"true": True, "false": False, "none": None, "null": None, "nan": None}


def as_list(value: Any) -> list[Any] | None:
    """Return the items of a list, an array, or a list that was printed into a cell, or None for any other value."""
    if isinstance(value, (list, tuple, set, frozenset)):
        return list(value)
    if isinstance(value, np.ndarray):
        return value.tolist()
    if not isinstance(value, str) or value.strip()[:1] not in ("[", "(", "{"):
        return None
    text = value.strip()
    if not _PRINTED_LIST.fullmatch(text) or _is_label_in_parentheses(text):
        return None
    return [_parse_item(item) for item in _ITEMS.findall(text)]


def _is_label_in_parentheses(text: str) -> bool:
    """Return whether a text is one label in parentheses, and not a printed tuple.

    A tuple of one item is printed with a comma, as ``(1,)``.
    """
    items = _ITEMS.findall(text)
    return text[0] == "(" and len(items) == 1 and text[1:-1].strip() == items[0]


def _parse_item(text: str) -> Any:
    if text[0] in "'\"":
        for parse in (json.loads, ast.literal_eval):
            try:
                return parse(text)
            except (ValueError, SyntaxError):
                continue
        return text[1:-1]
    if text.casefold() in _CONSTANTS:
        return _CONSTANTS[text.casefold()]
    return float(text) if re.search("[.e]", text) else int(text)
