"""One text for each value of a cell, whatever the file's format; and which values are no text."""

import json
import math
import re
from collections.abc import Iterable, Mapping
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any

import numpy as np

# White space, control characters, Unicode's default-ignorable code points, and the blank Braille pattern. A fixed
# list: what Python's own Unicode version does not know yet, and private use, is text.
_INVISIBLE = re.compile(
    "[\x00-\x20\x7f-\xa0\xad\u034f\u061c\u115f\u1160\u1680\u17b4\u17b5\u180b-\u180f\u2000-\u200f\u2028-\u202f"
    "\u205f-\u206f\u2800\u3000\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U0001bca0-\U0001bca3"
    "\U0001d173-\U0001d17a\U000e0000-\U000e0fff]*"
)
_HALF = re.compile("[\ud800-\udfff]")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?")
_WHOLE = re.compile(r"(-?[0-9]+)\.0+")
NESTED = (dict, list, tuple, set, frozenset, np.ndarray)


def is_blank(text: str) -> bool:
    """Whether nothing of a text is to be seen: spaces of no width and control characters are not."""
    return _INVISIBLE.fullmatch(text) is not None


def is_missing(value: Any) -> bool:
    """Whether a value stands for none: None, NaN, NaT, NA."""
    if value is None:
        return True
    if isinstance(value, (str, bytes, *NESTED)):
        return False
    try:
        return bool(value != value)
    except (TypeError, ValueError):
        return type(value).__name__ == "NAType"  # pandas' own, which is neither true nor false


def as_text(value: Any) -> str:
    """The text of a single value: of True ``True``, of 1.0 ``1``, of a date and of its midnight ``2024-01-31``.

    Raises:
        TypeError: an object, a list or bytes that are no UTF-8.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, np.generic):
        value = value.item() if not isinstance(value, np.floating) else float(str(value))
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError as error:
            raise TypeError("bytes that are no UTF-8") from error
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
    """The text that a cell holds, and why it cannot be used, if it cannot: for training, evaluation and prediction."""
    if is_missing(value):
        return "", "there is no text"
    try:
        text = as_text(value)
    except TypeError as error:
        return "", f"expected a text, found {error}"
    if is_blank(text):
        return text, "there is no text"
    if "\0" in text or _HALF.search(text):
        return text, "it holds a NUL character or half a character (a lone surrogate)"
    return text, None


def storable(value: Any) -> Any:
    """A JSON value as Arrow can store it: lone surrogates, which UTF-8 lacks, become NUL; NaN becomes None.

    `read_text` refuses such texts, as it would have refused what was there.
    """
    if isinstance(value, str):
        return _HALF.sub("\0", value)
    if isinstance(value, dict):
        return {storable(key): storable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [storable(item) for item in value]
    return None if is_missing(value) else value


def quoted(value: Any) -> str:
    """A value as a message quotes it, not longer than a line has room for."""
    if isinstance(value, list):
        value = [round(item, 10) if isinstance(item, float) else item for item in value]
    text = json.dumps(value, ensure_ascii=True, default=str) if isinstance(value, (dict, list)) else repr(value)
    return text if len(text) <= 80 else f"{text[:79]}…"


def canonical_names(names: Iterable[str]) -> dict[str, str]:
    """Names by how they are written: of columns that hold true and false, or numbers, one for each value.

    ``TRUE`` and ``true`` are ``True``, ``1.0`` is ``1``; ``01`` is no number, and stays with all that are beside it.
    """
    written = list(names)
    if written and all(name.casefold() in ("true", "false") for name in written):
        return {name: name.capitalize() for name in written}
    if all(_NUMBER.fullmatch(name) for name in written):
        return {name: _without_zeros(name) for name in written}
    return {name: name for name in written}


def _without_zeros(name: str) -> str:
    whole = _WHOLE.fullmatch(name)
    number = whole.group(1) if whole else name
    return "0" if number == "-0" else number


def names_by_canonical_form(names: Iterable[str]) -> dict[str, str]:
    """Known names by the plain form of each, for those that only one has: to match what another file writes."""
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(canonical_name(name), []).append(name)
    return {plain: alike[0] for plain, alike in found.items() if len(alike) == 1}


def canonical_name(name: str) -> str:
    """The plain form of a single name, as in `canonical_names`."""
    return canonical_names([name])[name]
