"""Reads local tables, row by row and as a `Dataset`: CSV, TSV, JSON, JSONL and Parquet, one file or several.

Rows are streamed, and every error names the file and the row. CSV cells stay text: a message "NA" is not a missing
value, and a label "01" is not the number 1.
"""

import hashlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import datasets
from datasets import Dataset, Features, Json, Value
from tqdm.auto import tqdm

from hf_transfer.data.delimited import examine_delimited
from hf_transfer.data.encodings import examine_text
from hf_transfer.data.json_tables import json_rows, jsonl_rows
from hf_transfer.data.values import as_text, is_missing, storable
from hf_transfer.errors import Failure, InputError, disk_error_message, logger, nearest, reading

# Raised whenever rows are read differently, so that cached tables of older versions are read again.
READER_VERSION = 3
# From so many rows on, each step of preparing them takes seconds, and shows a progress bar.
MANY_ROWS = 20_000
SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".parquet")


def read_rows(
    file: str | Path,
    *,
    column_names: Sequence[str] | None = None,
    delimiter: str | None = None,
    log_remarks: bool = True,
) -> Iterator[dict[str, Any]]:
    """Yield the rows of a table as dictionaries, without reading the whole file first.

    Args:
        file: path of a file with one of the endings in `SUFFIXES`.
        column_names: names of the columns of a CSV or TSV file without a header.
        delimiter: between the cells of a CSV or TSV file, if it is not the one of the file's ending.
        log_remarks: whether to log how the file is read: its encoding, columns that are left out.

    Raises:
        InputError: the file is absent, empty, damaged or unreadable, or a row does not fit the header.
    """
    path = Path(file)
    with reading(path):
        yield from _read_rows(path, column_names, delimiter, log_remarks=log_remarks)


def _read_rows(
    path: Path, column_names: Sequence[str] | None, delimiter: str | None, *, log_remarks: bool
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
        rows, remarks = jsonl_rows(text) if path.suffix.lower() == ".jsonl" else json_rows(text), text.remarks
    for remark in remarks if log_remarks else ():
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
        raise InputError(f"{path}: no such file.{_tables_beside(path)}")
    if path.stat().st_size == 0:
        raise InputError(f"{path}: the file is empty; expected rows of examples.")
    with path.open("rb") as stream:  # libraries would take a missing permission for a damaged file
        stream.read(1)


def _tables_beside(path: Path) -> str:
    """Return a sentence that lists the tables in a file's folder, and the one with the nearest name."""
    if not path.parent.is_dir():
        return f" The folder {path.parent} does not exist either."
    with suppress(OSError):  # the folder's files may be readable although it cannot be listed
        tables = sorted(p.name for p in path.parent.iterdir() if p.suffix.lower() in SUFFIXES)
        return f"{nearest(path.name, tables)} In that folder: {', '.join(tables[:10])}." if tables else ""
    return ""


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
    """Show the progress bars of `datasets` on a terminal if preparing so many rows takes seconds; else hide them."""
    if rows >= MANY_ROWS and sys.stderr.isatty():
        datasets.enable_progress_bars()
    else:
        datasets.disable_progress_bars()


def load_table(file: str, *, column_names: Sequence[str] | None = None, delimiter: str | None = None) -> Dataset:
    """Return a local table as a memory-mapped `Dataset`, from the cache unless the file has changed."""
    return load_tables([file], column_names=column_names, delimiter=delimiter)


def load_tables(
    files: Sequence[str | Path], *, column_names: Sequence[str] | None = None, delimiter: str | None = None
) -> Dataset:
    """Return local tables of one format and the same columns, one after another, as a memory-mapped `Dataset`.

    Args:
        files: paths of the tables.
        column_names: names of the columns of CSV or TSV files without a header.
        delimiter: between the cells of CSV or TSV files, if it is not the one of the files' ending.

    Raises:
        InputError: a file cannot be read, or has other columns than the first.
    """
    datasets.disable_progress_bars()  # `_rows` has a progress bar of its own
    paths = [Path(file) for file in files]
    columns = _columns(paths, column_names, delimiter)  # raises the reader's own message for files it cannot read
    if paths[0].suffix.lower() == ".parquet":
        return _load_parquet(paths)
    try:
        return Dataset.from_generator(
            _rows,
            features=Features({name: Json() if nested else Value("string") for name, nested in columns.items()}),
            gen_kwargs={
                # Tuples: `datasets` takes lists among the generator's arguments for shards, and passes on only a part.
                "files": tuple(map(str, files)),
                "column_names": None if column_names is None else tuple(column_names),
                "delimiter": delimiter,
                "columns": tuple(columns.items()),
                "cache_key": (READER_VERSION, *(file_digest(path) for path in paths)),
            },
        )
    except datasets.exceptions.DatasetGenerationError as error:
        # `datasets` wraps what the reader raised; only the reader's own message helps.
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, (InputError, OSError)):
            cause = cause.__cause__ or cause.__context__
        if isinstance(cause, InputError):
            raise cause from None
        raise Failure(
            f"{paths[0]} could not be converted: {disk_error_message(error) or f'{cause or error}.'}"
        ) from error


def _load_parquet(paths: list[Path]) -> Dataset:
    try:
        table = Dataset.from_parquet([str(path.resolve()) for path in paths])
        for name in table.column_names:
            table.data.column(name).validate(full=True)  # that all texts are UTF-8
        return table
    except Exception as error:  # types that `datasets` does not have, files that do not fit together
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        if isinstance(cause, OSError) and cause.errno is not None:
            raise Failure(f"{paths[0]} could not be converted: {disk_error_message(error) or f'{cause}.'}") from error
        raise InputError(
            f"{', '.join(map(str, paths[:3]))} cannot be used: {str(cause).splitlines()[0]} Leave out or convert such "
            "columns."
        ) from error


def file_digest(path: Path) -> str:
    """Return a hash (hexadecimal digits) of a file's content."""
    with reading(path), path.open("rb") as stream:
        return hashlib.file_digest(stream, "blake2b").hexdigest()


def _columns(paths: Sequence[Path], column_names: Sequence[str] | None, delimiter: str | None) -> dict[str, bool]:
    """Return for each column of some tables whether it holds lists or objects; log how the files are read.

    Raises:
        InputError: a table has other columns than the first.
    """
    columns: dict[str, bool] = {}
    for path in paths:
        rows = read_rows(path, column_names=column_names, delimiter=delimiter)
        if path.suffix.lower() in (".json", ".jsonl"):  # any row may lack columns, and hold the only list of a column
            for row in rows:
                for name, value in row.items():
                    columns[name] = columns.get(name, False) or isinstance(value, (list, dict))
            continue
        names = list(next(rows))
        if columns and set(names) != set(columns):
            raise InputError(
                f"{path} has the columns {', '.join(names)}, and {paths[0]} has {', '.join(columns)}: expected the "
                "same in all files of a split. Rename them, or name one file: --train_file."
            )
        columns = columns or dict.fromkeys(names, False)
    return columns


def _rows(
    files: tuple[str, ...],
    column_names: Sequence[str] | None,
    delimiter: str | None,
    columns: tuple[tuple[str, bool], ...],
    cache_key: tuple[int | str, ...],  # only part of the cache's fingerprint, so that changed files are read again
) -> Iterator[dict[str, Any]]:
    for file in files:
        rows = read_rows(file, column_names=column_names, delimiter=delimiter, log_remarks=False)
        for row in tqdm(rows, f"Reading {file}", unit=" rows", delay=2, leave=False,
                        disable=not sys.stderr.isatty()):  # fmt: skip
            yield {name: _storable_cell(row.get(name), nested=nested) for name, nested in columns}


def _storable_cell(value: Any, *, nested: bool) -> Any:
    """Return a cell as its column stores it: JSON in a nested column, text or None in others."""
    if nested:
        return storable(value)
    return None if is_missing(value) else storable(as_text(value))
