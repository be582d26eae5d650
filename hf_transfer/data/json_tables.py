"""Rows of JSON and JSONL files."""

import json
from collections.abc import Iterator
from typing import Any

from hf_transfer.data.encodings import TextFile
from hf_transfer.errors import InputError


def jsonl_rows(text: TextFile) -> Iterator[dict[str, Any]]:
    """Yield the rows of a file with one JSON object a line, as dictionaries; blank lines are skipped.

    Raises:
        InputError: a line is not a JSON object.
    """
    for number, line in enumerate(text.lines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{text.path}: line {number} is not JSON: {_json_problem(error)}.") from error
        if not isinstance(row, dict):
            raise InputError(f'{text.path}: line {number} is not an object; expected {{"text": ..., "label": ...}}.')
        yield row


def json_rows(text: TextFile) -> Iterator[dict[str, Any]]:
    """Yield the rows of a JSON file as dictionaries.

    The file holds a list of objects; an object with such a list in it; or an object of columns, each a list of cells
    or, as pandas writes it, an object of cells by row. A file with one object a line is read as JSONL.

    Raises:
        InputError: the file holds something else.
    """
    try:
        content = json.loads("".join(text.lines()))
    except (ValueError, RecursionError) as error:
        if isinstance(error, json.JSONDecodeError) and error.msg == "Extra data":
            yield from jsonl_rows(text)  # NeMo's manifests have one object a line and are called manifest.json
            return
        raise InputError(
            f"{text.path}: not JSON: {_json_problem(error)}. One object a line belongs in a .jsonl file."
        ) from error
    rows = _rows_of_object(content) if isinstance(content, dict) else content
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise InputError(f"{text.path}: expected a list of objects, [{{...}}, {{...}}].")
    yield from rows


def _json_problem(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at line {error.lineno}, column {error.colno}"
    return "it is nested too deeply" if isinstance(error, RecursionError) else str(error)


def _rows_of_object(table: dict[str, Any]) -> list[dict[str, Any]] | None:
    """Return the rows in a JSON object that holds a list of them, or columns, or None if it holds neither."""
    lists = [value for value in table.values() if isinstance(value, list)]
    if len(lists) == 1 and all(isinstance(row, dict) for row in lists[0]):
        return lists[0]  # {"data": [...]}, as the Hub's viewer and many tools write it
    columns = list(table.values())
    if columns and len(lists) == len(columns) and len({len(column) for column in lists}) == 1:
        return [dict(zip(table, cells, strict=True)) for cells in zip(*lists, strict=True)]
    if columns and all(isinstance(column, dict) and list(column) == list(columns[0]) for column in columns):
        return [{name: column[key] for name, column in table.items()} for key in columns[0]]
    return None
