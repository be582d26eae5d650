"""Turns the values of table cells into text, the same for every file format, and finds missing and blank ones."""

import json
import math
import re
from collections.abc import Iterable, Mapping
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any

import numpy as np

# White space, control characters, Unicode's default-ignorable code points, and the blank Braille pattern. The list is
# fixed, so that results do not depend on Python's version of Unicode; characters of private use are not blank.
_INVISIBLE = re.compile(
    "[\x00-\x20\x7f-\xa0\xad\u034f\u061c\u115f\u1160\u1680\u17b4\u17b5\u180b-\u180f\u2000-\u200f\u2028-\u202f"
    "\u205f-\u206f\u2800\u3000\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U0001bca0-\U0001bca3"
    "\U0001d173-\U0001d17a\U000e0000-\U000e0fff]*"
)
_SURROGATE = re.compile("[\ud800-\udfff]")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?")
_ENDS_IN_ZEROS = re.compile(r"(-?[0-9]+)\.0+")
NESTED = (dict, list, tuple, set, frozenset, np.ndarray)


def is_blank(text: str) -> bool:
    """Return whether a text has no visible character: only white space, control and zero-width characters."""
    return _INVISIBLE.fullmatch(text) is not None


def is_missing(value: Any) -> bool:
    """Return whether a value is missing: None, NaN, NaT or pandas' NA."""
    if value is None:
        return True
    if isinstance(value, (str, bytes, *NESTED)):
        return False
    try:
        return bool(value != value)
    except (TypeError, ValueError):
        return type(value).__name__ == "NAType"  # pandas' NA: comparing it gives neither true nor false


def as_text(value: Any) -> str:
    """Return a single value as text: True as ``True``, 1.0 as ``1``, a date and its midnight as ``2024-01-31``.

    Raises:
        TypeError: the value is an object or a list, or bytes that are not UTF-8.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, np.generic):
        value = value.item() if not isinstance(value, np.floating) else float(str(value))
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError as error:
            raise TypeError("bytes that are not UTF-8") from error
    if isinstance(value, (float, Decimal)):
        if math.isfinite(value) and value == int(value):
            return str(int(value))
        return f"{value:f}" if isinstance(value, Decimal) else repr(value)
    if isinstance(value, datetime):
        return value.isoformat(" ") if value.tzinfo or value.time() != time() else value.date().isoformat()
    if isinstance(value, (date, time)):
        return value.isoformat()
    if isinstance(value, (*NESTED, Mapping)):
        raise TypeError(f"a {type(value).__name__}")
    return str(value)


def read_text(value: Any) -> tuple[str, str | None]:
    """Return the text in a cell, and the reason why it cannot be used, or None if it can be used.

    Training, evaluation and prediction all read texts with this function.
    """
    if is_missing(value):
        return "", "there is no text"
    try:
        text = as_text(value)
    except TypeError as error:
        return "", f"expected a text, found {error}"
    if is_blank(text):
        return text, "there is no text"
    if "\0" in text or _SURROGATE.search(text):
        return text, "it holds a NUL character or half a character (a lone surrogate)"
    return text, None


def storable(value: Any) -> Any:
    """Return a JSON value as Arrow can store it: lone surrogates as NUL, and NaN as None.

    UTF-8 cannot encode lone surrogates.

    `read_text` refuses a text with NUL just as it refuses one with a lone surrogate.
    """
    if isinstance(value, str):
        return _SURROGATE.sub("\0", value)
    if isinstance(value, dict):
        return {storable(key): storable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [storable(item) for item in value]
    return None if is_missing(value) else value


def quoted(value: Any) -> str:
    """Return a value as text as messages quote it, cut to 80 characters."""
    if isinstance(value, list):
        value = [round(item, 10) if isinstance(item, float) else item for item in value]
    text = json.dumps(value, ensure_ascii=True, default=str) if isinstance(value, (dict, list)) else repr(value)
    return text if len(text) <= 80 else f"{text[:79]}…"


def canonical_names(names: Iterable[str]) -> dict[str, str]:
    """Return the canonical form of each name in a column, by name.

    Names that mean the same number or truth value have the same form.

    If all names are ``true`` or ``false`` in any case, they become ``True`` and ``False``. If all are numbers, ``1.0``
    becomes ``1``; ``01`` is not a number: with it in the column, all names stay as they are.
    """
    names = list(names)
    if names and all(name.casefold() in ("true", "false") for name in names):
        return {name: name.capitalize() for name in names}
    if all(_NUMBER.fullmatch(name) for name in names):
        return {name: _without_zeros(name) for name in names}
    return {name: name for name in names}


def _without_zeros(number: str) -> str:
    """Return a number, as text, without the zeros behind its point, and 0 for -0."""
    match = _ENDS_IN_ZEROS.fullmatch(number)
    without_zeros = match.group(1) if match else number
    return "0" if without_zeros == "-0" else without_zeros


def names_by_canonical_form(names: Iterable[str]) -> dict[str, str]:
    """Return the known names by canonical form, without forms that several names share.

    With it, a label that another file writes differently (``1.0`` for ``1``) is recognised.
    """
    by_form: dict[str, list[str]] = {}
    for name in names:
        by_form.setdefault(canonical_name(name), []).append(name)
    return {form: same[0] for form, same in by_form.items() if len(same) == 1}


def canonical_name(name: str) -> str:
    """Return the canonical form of a single name, such as ``1`` for ``1.0``: see `canonical_names`."""
    return canonical_names([name])[name]
