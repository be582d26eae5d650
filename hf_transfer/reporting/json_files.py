"""JSON and JSON Lines, written so that every JSON reader takes them: NaN and infinities become null."""

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

# How text files are opened: a lone surrogate, from a damaged text or file name, has no UTF-8. It is written as an
# escape, which JSON reads back.
ENCODING_ERRORS = "backslashreplace"


def as_json(value: Any, *, ensure_ascii: bool = False) -> str:
    """Return `value` as indented JSON text that ends with a line break.

    Args:
        value: JSON-ready; NaN and infinities become null.
        ensure_ascii: whether characters outside ASCII are escaped, as of `json.dumps`.
    """
    return json.dumps(_without_nonfinite(value), indent=2, ensure_ascii=ensure_ascii) + "\n"


def as_json_line(record: dict[str, Any], *, ensure_ascii: bool = False) -> str:
    """Return `record` as one line of JSON Lines; values that JSON does not know become strings.

    Args:
        record: the object.
        ensure_ascii: whether characters outside ASCII are escaped, as of `json.dumps`.
    """
    line = json.dumps(_without_nonfinite(record), ensure_ascii=ensure_ascii, default=str) + "\n"
    return line.encode("utf-8", ENCODING_ERRORS).decode("utf-8")


def write_json(file: Path, value: Any) -> None:
    """Write `value` to `file` as indented JSON; NaN and infinities become null."""
    file.write_text(as_json(value), encoding="utf-8", errors=ENCODING_ERRORS)


def write_jsonl(file: Path, records: Iterable[dict[str, Any]]) -> None:
    """Write `records` to `file` as JSON Lines, one object a line."""
    with file.open("w", encoding="utf-8", errors=ENCODING_ERRORS) as stream:
        for record in records:
            stream.write(json.dumps(_without_nonfinite(record), ensure_ascii=False) + "\n")


def _without_nonfinite(value: Any) -> Any:
    """Return `value` with None instead of each NaN or infinity in it."""
    if isinstance(value, dict):
        return {key: _without_nonfinite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nonfinite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
