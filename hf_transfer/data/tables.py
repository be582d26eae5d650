"""Local tables, row by row and as a `Dataset`: CSV, TSV, JSON, JSONL and Parquet, one file or several.

Rows are streamed, and every error says the file and the row. CSV cells stay text: a message "NA" or a label "01" is
what it says.
"""

import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import datasets
from datasets import Dataset, Features, Json, Value
from tqdm.auto import tqdm

from hf_transfer.data.delimited import examine_delimited
from hf_transfer.data.encodings import TextFile, examine_text
from hf_transfer.data.values import as_text, is_missing, storable
from hf_transfer.errors import Failure, InputError, disk_trouble, logger, nearest, reading

# Changes with what is made of a file's rows: tables that an older version has cached are read anew.
READER = 3
# From so many rows on, each step of preparing them takes seconds.
MANY_ROWS = 20_000
SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".parquet")


def read_rows(
    file: str | Path,
    *,
    column_names: Sequence[str] | None = None,
    delimiter: str | None = None,
    say: bool = True,
) -> Iterator[dict[str, Any]]:
    """Yield the rows of `file` as dictionaries, reading as it goes.

    Args:
        file: path of a file with one of the endings in `SUFFIXES`.
        column_names: names for the columns of a CSV or TSV file without a header.
        delimiter: what separates the cells of a CSV or TSV file, if not the ending's own.
        say: whether what is decided of the file (its encoding, columns left out) is said.

    Raises:
        InputError: the file is absent, empty, in no encoding or not to be read, or a row does not fit its header.
    """
    path = Path(file)
    with reading(path):
        yield from _read_rows(path, column_names, delimiter, say=say)


def _read_rows(
    path: Path, column_names: Sequence[str] | None, delimiter: str | None, *, say: bool
) -> Iterator[dict[str, Any]]:
    _require_table(path)
    if path.suffix.lower() == ".parquet":
        rows: Iterator[dict[str, Any]] = _parquet_rows(path)
        remarks: tuple[str, ...] = ()
    elif path.suffix.lower() in (".csv", ".tsv"):
        delimited = examine_delimited(path, column_names, delimiter)
        rows, remarks = delimited.rows(), delimited.remarks
    else:
        text = examine_text(path)
        rows, remarks = _jsonl_rows(text) if path.suffix.lower() == ".jsonl" else _json_rows(text), text.remarks
    for remark in remarks if say else ():
        logger.info("%s", remark)
    empty = True
    for row in rows:
        empty = False
        yield row
    if empty:
        raise InputError(f"{path}: no rows below the header; expected at least one example.")


def _require_table(path: Path) -> None:
    if path.is_dir():
        raise InputError(f"{path}: that is a folder; expected a file. A folder of data files goes to --dataset_name.")
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"{path}: the ending is {path.suffix or 'missing'}; expected one of {', '.join(SUFFIXES)}.")
    if not path.is_file():
        raise InputError(f"{path}: no such file.{_neighbours(path)}")
    if path.stat().st_size == 0:
        raise InputError(f"{path}: the file is empty; expected rows of examples.")
    with path.open("rb") as stream:  # libraries would take what forbids it for damage
        stream.read(1)


def _neighbours(path: Path) -> str:
    if not path.parent.is_dir():
        return f" The folder {path.parent} does not exist either."
    with suppress(OSError):  # a folder whose files may be read, and not be listed
        tables = sorted(p.name for p in path.parent.iterdir() if p.suffix.lower() in SUFFIXES)
        return f"{nearest(path.name, tables)} In that folder: {', '.join(tables[:10])}." if tables else ""
    return ""


def _jsonl_rows(text: TextFile) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(text.lines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{text.path}: line {number} is not JSON: {_not_json(error)}.") from error
        if not isinstance(row, dict):
            raise InputError(f'{text.path}: line {number} is not an object; expected {{"text": ..., "label": ...}}.')
        yield row


def _json_rows(text: TextFile) -> Iterator[dict[str, Any]]:
    """Rows of a list of objects, of an object that holds one, or of columns as lists or as pandas writes them."""
    try:
        rows = json.loads("".join(text.lines()))
    except (ValueError, RecursionError) as error:
        if isinstance(error, json.JSONDecodeError) and error.msg == "Extra data":
            yield from _jsonl_rows(text)  # an object a line, as NeMo names its manifests
            return
        raise InputError(
            f"{text.path}: not JSON: {_not_json(error)}. One object a line belongs in a .jsonl file."
        ) from error
    if isinstance(rows, dict):
        rows = _rows_of_columns(rows)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise InputError(f"{text.path}: expected a list of objects, [{{...}}, {{...}}].")
    yield from rows


def _not_json(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at line {error.lineno}, column {error.colno}"
    return "it is nested too deeply" if isinstance(error, RecursionError) else str(error)


def _rows_of_columns(table: dict[str, Any]) -> Any:
    lists = [value for value in table.values() if isinstance(value, list)]
    if len(lists) == 1 and all(isinstance(row, dict) for row in lists[0]):
        return lists[0]  # {"data": [...]}, as the Hub's viewer and many tools write it
    columns = list(table.values())
    if columns and len(lists) == len(columns) and len({len(column) for column in lists}) == 1:
        return [dict(zip(table, cells, strict=True)) for cells in zip(*lists, strict=True)]
    if columns and all(isinstance(column, dict) and list(column) == list(columns[0]) for column in columns):
        return [{name: column[key] for name, column in table.items()} for key in columns[0]]
    return None


def _parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as table:
            for batch in table.iter_batches(batch_size=64):
                yield from batch.to_pylist()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: a text in it is not UTF-8: {error}. Write the file again.") from error
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{path}: not a Parquet file: {str(error).splitlines()[0]}") from error


def show_progress_bars_for(rows: int) -> None:
    """Bars of `datasets` on a terminal, where there are so many rows that they take seconds; none elsewhere."""
    if rows >= MANY_ROWS and sys.stderr.isatty():
        datasets.enable_progress_bars()
    else:
        datasets.disable_progress_bars()


def load_table(file: str, *, column_names: Sequence[str] | None = None, delimiter: str | None = None) -> Dataset:
    """A local table as a memory-mapped `Dataset`; read again only when the file has changed."""
    return load_tables([file], column_names=column_names, delimiter=delimiter)


def load_tables(
    files: Sequence[str | Path], *, column_names: Sequence[str] | None = None, delimiter: str | None = None
) -> Dataset:
    """Local tables of one format and the same columns, one after another, as a memory-mapped `Dataset`.

    Raises:
        InputError: one of them cannot be read, or has other columns than the first.
    """
    datasets.disable_progress_bars()  # reading has a bar of its own
    paths = [Path(file) for file in files]
    columns = _columns(paths, column_names, delimiter)  # what cannot be read is refused with the reader's message
    if paths[0].suffix.lower() == ".parquet":
        return _load_parquet(paths)
    try:
        return Dataset.from_generator(
            _rows,
            features=Features({name: Json() if nested else Value("string") for name, nested in columns.items()}),
            gen_kwargs={
                # Tuples: `datasets` takes lists among the generator's arguments for shards and hands on a part.
                "files": tuple(map(str, files)),
                "column_names": None if column_names is None else tuple(column_names),
                "delimiter": delimiter,
                "columns": tuple(columns.items()),
                # Part of the cache's fingerprint: files of other content, or another reader, are read anew.
                "changed": (READER, *(file_digest(path) for path in paths)),
            },
        )
    except datasets.exceptions.DatasetGenerationError as error:
        # `datasets` wraps what the reader raised; the reader's own message is the one that helps.
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, (InputError, OSError)):
            cause = cause.__cause__ or cause.__context__
        if isinstance(cause, InputError):
            raise cause from None
        raise Failure(f"{paths[0]} could not be converted: {disk_trouble(error) or f'{cause or error}.'}") from error


def _load_parquet(paths: list[Path]) -> Dataset:
    try:
        table = Dataset.from_parquet([str(path.resolve()) for path in paths])
        for name in table.column_names:
            table.data.column(name).validate(full=True)  # texts are UTF-8
        return table
    except Exception as error:  # types that `datasets` does not have, files that do not fit together
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        if isinstance(cause, OSError) and cause.errno is not None:
            raise Failure(f"{paths[0]} could not be converted: {disk_trouble(error) or f'{cause}.'}") from error
        raise InputError(
            f"{', '.join(map(str, paths[:3]))} cannot be used: {str(cause).splitlines()[0]} Leave out or convert such "
            "columns."
        ) from error


def file_digest(path: Path) -> str:
    """What tells a file's content from all others."""
    with reading(path), path.open("rb") as stream:
        return hashlib.file_digest(stream, "blake2b").hexdigest()


def _columns(paths: Sequence[Path], column_names: Sequence[str] | None, delimiter: str | None) -> dict[str, bool]:
    """The columns of tables, and whether cells of them hold lists or objects; what is decided of the files is said.

    Raises:
        InputError: a table has other columns than the first.
    """
    found: dict[str, bool] = {}
    for path in paths:
        rows = read_rows(path, column_names=column_names, delimiter=delimiter)
        if path.suffix.lower() in (".json", ".jsonl"):  # rows may lack some columns, and hold lists in the last alone
            for row in rows:
                for name, value in row.items():
                    found[name] = found.get(name, False) or isinstance(value, (list, dict))
            continue
        there = list(next(rows))
        if found and set(there) != set(found):
            raise InputError(
                f"{path} has the columns {', '.join(there)}, and {paths[0]} has {', '.join(found)}: expected the same "
                "in all files of a split. Rename them, or name one file: --train_file."
            )
        found = found or dict.fromkeys(there, False)
    return found


def _rows(
    files: tuple[str, ...],
    column_names: Sequence[str] | None,
    delimiter: str | None,
    columns: tuple[tuple[str, bool], ...],
    changed: Any,
) -> Iterator[dict[str, Any]]:
    for file in files:
        reading = read_rows(file, column_names=column_names, delimiter=delimiter, say=False)
        for row in tqdm(reading, f"Reading {file}", unit=" rows", delay=2, leave=False,
                        disable=not sys.stderr.isatty()):  # fmt: skip
            yield {name: _stored(row.get(name), nested=nested) for name, nested in columns}


def _stored(value: Any, *, nested: bool) -> Any:
    if nested:
        return storable(value)
    return None if is_missing(value) else storable(as_text(value))
