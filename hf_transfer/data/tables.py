"""Local table files, row by row and as a `Dataset`: CSV, TSV, JSON, JSONL and Parquet.

Rows are streamed, and every error says the file and the row. CSV cells stay text: a message "NA" or a
label "01" is what it says.
"""

import csv
import hashlib
import json
import math
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
from datasets import Dataset, Features, List, Value
from tqdm.auto import tqdm

from hf_transfer.errors import Failure, InputError, nearest

# Changes with what is made of a file's rows: tables that an older version has cached are read anew.
READER = 2
# From so many rows on, each step of preparing them takes seconds.
MANY_ROWS = 20_000
SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".parquet")
_QUOTED = re.compile(r'"(?:[^"]|"")*"', re.DOTALL)


def read_rows(
    file: str | Path, *, column_names: Sequence[str] | None = None, delimiter: str | None = None
) -> Iterator[dict[str, Any]]:
    """Yield the rows of `file` as dictionaries, reading as it goes.

    Args:
        file: path of a file with one of the endings in `SUFFIXES`.
        column_names: names for the columns of a CSV or TSV file without a header.
        delimiter: what separates the cells of a CSV or TSV file, if not the ending's own.

    Raises:
        InputError: the file is absent, empty, not UTF-8, or a row does not fit its header.
    """
    path = Path(file)
    if path.is_dir():
        raise InputError(f"{path}: that is a folder; expected a file. A folder of data files goes to --dataset_name.")
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"{path}: the ending is {path.suffix or 'missing'}; expected one of {', '.join(SUFFIXES)}.")
    if not path.is_file():
        raise InputError(f"{path}: no such file.{_neighbours(path)}")
    if path.stat().st_size == 0:
        raise InputError(f"{path}: the file is empty; expected rows of examples.")
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        rows = _parquet_rows(path)
    elif suffix == ".jsonl":
        rows = _jsonl_rows(path)
    elif suffix == ".json":
        rows = _json_rows(path)
    else:
        rows = _delimited_rows(path, column_names, delimiter or {".csv": ",", ".tsv": "\t"}[suffix])
    empty = True
    for row in rows:
        empty = False
        yield row
    if empty:
        raise InputError(f"{path}: no rows below the header; expected at least one example.")


def _neighbours(path: Path) -> str:
    if not path.parent.is_dir():
        return f" The folder {path.parent} does not exist either."
    tables = sorted(p.name for p in path.parent.iterdir() if p.suffix.lower() in SUFFIXES)
    return f"{nearest(path.name, tables)} In that folder: {', '.join(tables[:10])}." if tables else ""


def _lines(path: Path) -> Iterator[str]:
    """Lines of a UTF-8 file, their ends kept as they are."""
    with path.open("rb") as stream:
        number = 0
        for number, line in enumerate(stream, start=1):
            if number == 1:
                if line.startswith((b"\xff\xfe", b"\xfe\xff")):
                    raise InputError(_not_utf8(path, "it begins with a UTF-16 mark", "UTF-16"))
                line = line.removeprefix(b"\xef\xbb\xbf")
            try:
                yield line.decode("utf-8")
            except UnicodeDecodeError as error:
                found = f"line {number} holds the byte 0x{line[error.start]:02x}"
                raise InputError(_not_utf8(path, found, "WINDOWS-1252")) from error


def _not_utf8(path: Path, found: str, guess: str) -> str:
    return f"{path}: not UTF-8: {found}. Convert it: iconv -f {guess} -t UTF-8 {path} > utf8{path.suffix}"


def _delimited_rows(path: Path, names: Sequence[str] | None, delimiter: str) -> Iterator[dict[str, str]]:
    delimiter = {"\\t": "\t", "tab": "\t"}.get(delimiter, delimiter)
    if len(delimiter) != 1 or delimiter in "\r\n":
        raise InputError(f"--delimiter is {delimiter!r}: expected one character.")
    twice = [name for name, count in Counter(names or ()).items() if count > 1]
    if twice:
        raise InputError(f"--column_names names {twice[0]!r} twice.")
    literal = path.suffix.lower() == ".tsv" and _quotes_are_literal(path, delimiter)
    csv.field_size_limit(2**31 - 1)  # texts may be long
    reader = csv.reader(
        _lines(path),
        delimiter=delimiter,
        quoting=csv.QUOTE_NONE if literal else csv.QUOTE_MINIMAL,
        quotechar=None if literal else '"',
        strict=True,
    )
    try:
        for cells in reader:
            if not cells:
                continue  # a blank line
            if names is None:
                names = _header(path, cells, delimiter)
                continue
            if len(cells) != len(names):
                raise InputError(_ragged(path, reader.line_num, cells, names, delimiter))
            if list(cells) == list(names):
                continue  # a header although --column_names was given
            yield dict(zip(names, cells, strict=True))
    except csv.Error as error:
        raise InputError(
            f"{path}: line {reader.line_num}: {error}. A cell that holds quotes must be quoted, with its own "
            'quotes doubled: "she said ""yes""".'
        ) from error


def _header(path: Path, cells: list[str], delimiter: str) -> list[str]:
    names = [cell.strip() for cell in cells]
    if len(names) == 1:
        for other, shown in ((";", "';'"), ("\t", "$'\\t'"), ("|", "'|'"), (",", "','")):
            if other != delimiter and other in names[0]:
                raise InputError(
                    f"{path}: one column only, {names[0]!r}: the cells seem to be separated by "
                    f"{other!r}, not {delimiter!r}. Say so: --delimiter {shown}"
                )
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise InputError(f"{path}: the header names {twice[0]!r} twice: {', '.join(names)}. Rename one of them.")
    return names


def _ragged(path: Path, line: int, cells: list[str], names: Sequence[str], delimiter: str) -> str:
    message = f"{path}: line {line} has {len(cells)} cells; expected {len(names)} ({', '.join(names)})."
    if len(cells) == 1 and len(names) > 1:
        return f"{message} The delimiter looked for is {delimiter!r}; --delimiter sets another."
    if path.suffix.lower() == ".tsv":
        return f"{message} A TSV cell cannot hold a tab or a line break: write such texts as .csv or .jsonl."
    return f"{message} A cell that holds {delimiter!r} must be quoted."


def _quotes_are_literal(path: Path, delimiter: str) -> bool:
    """Whether the quotes of a TSV file belong to its texts, as in plain tab-separated values.

    Spreadsheets and pandas quote each cell that holds a quote, and double the quote. Files that know no quoting
    have, somewhere, a cell with a quote that is not written so.
    """
    return any(
        '"' in cell and not _QUOTED.fullmatch(cell)
        for line in _lines(path)
        for cell in line.rstrip("\r\n").split(delimiter)
    )


def _jsonl_rows(path: Path) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(f"{path}: line {number} is not JSON: {error.msg} at column {error.colno}.") from error
        if not isinstance(row, dict):
            raise InputError(f'{path}: line {number} is not an object; expected {{"text": ..., "label": ...}}.')
        yield row


def _json_rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        rows = json.loads("".join(_lines(path)))
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path}: not JSON: {error.msg} at line {error.lineno}, column {error.colno}. "
            "One object a line belongs in a .jsonl file."
        ) from error
    if isinstance(rows, dict) and len(lists := [v for v in rows.values() if isinstance(v, list)]) == 1:
        rows = lists[0]  # {"data": [...]}, as the Hub's viewer and many tools write it
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise InputError(f"{path}: expected a list of objects, [{{...}}, {{...}}].")
    yield from rows


def _parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as table:
            for batch in table.iter_batches(batch_size=64):
                yield from batch.to_pylist()
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise InputError(f"{path}: not a Parquet file: {str(error).splitlines()[0]}") from error


def show_bars_for(rows: int) -> None:
    """Bars of `datasets` on a terminal, where there are so many rows that they take seconds; none elsewhere."""
    if rows >= MANY_ROWS and sys.stderr.isatty():
        datasets.enable_progress_bars()
    else:
        datasets.disable_progress_bars()


def load_file(file: str, *, column_names: Sequence[str] | None = None, delimiter: str | None = None) -> Dataset:
    """A local table as a memory-mapped `Dataset`; read again only when the file has changed."""
    path = Path(file).resolve()
    datasets.disable_progress_bars()  # reading has a bar of its own
    if path.suffix.lower() == ".parquet":
        next(read_rows(file))  # what is no Parquet file is refused with the reader's message
        return Dataset.from_parquet(str(path))
    features = _json_features(file) if path.suffix.lower() in (".json", ".jsonl") else None
    try:
        return Dataset.from_generator(
            _rows,
            features=features,
            gen_kwargs={
                "file": str(file),
                # Tuples: `datasets` takes lists among the generator's arguments for shards and hands on a part.
                "column_names": None if column_names is None else tuple(column_names),
                "delimiter": delimiter,
                "columns": tuple((name, isinstance(kind, List)) for name, kind in (features or {}).items()),
                # Part of the cache's fingerprint: a file of other content, or another reader, reads anew.
                "changed": (READER, digest_of(path) if path.is_file() else None),
            },
        )
    except datasets.exceptions.DatasetGenerationError as error:
        # `datasets` wraps what the reader raised; the reader's own message is the one that helps.
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, (InputError, OSError)):
            cause = cause.__cause__ or cause.__context__
        if isinstance(cause, InputError):
            raise cause from None
        raise Failure(f"{file} could not be converted: {cause or error}.") from error


def digest_of(path: Path) -> str:
    """What tells a file's content from all others."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "blake2b").hexdigest()


def _json_features(file: str) -> Features:
    """Columns of a JSON file: lists of text where any row has a list, text otherwise; rows may lack some."""
    lists: dict[str, bool] = {}
    for row in read_rows(file):
        for name, value in row.items():
            lists[name] = lists.get(name, False) or isinstance(value, list)
    return Features({name: List(Value("string")) if many else Value("string") for name, many in lists.items()})


def _as_text(value: Any) -> str | None:
    """A JSON value as the text that names it: 1.0 is the label "1", as in a table; what is absent stays so."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _rows(
    file: str,
    column_names: Sequence[str] | None,
    delimiter: str | None,
    columns: tuple[tuple[str, bool], ...],
    changed: Any,
) -> Iterator[dict[str, Any]]:
    reading = read_rows(file, column_names=column_names, delimiter=delimiter)
    for row in tqdm(reading, f"Reading {file}", unit=" rows", delay=2, leave=False, disable=not sys.stderr.isatty()):
        if not columns:
            yield row
            continue
        uniform: dict[str, Any] = {}
        for name, is_list in columns:
            value = row.get(name)
            if is_list and value is not None:
                uniform[name] = [_as_text(item) for item in (value if isinstance(value, list) else [value])]
            else:
                uniform[name] = _as_text(value)
        yield uniform
