"""Reads CSV and TSV files: delimiter, header, quoting and rows, with cells as text (a label "01" is not 1)."""

import csv
import itertools
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tqdm.auto import tqdm

from hf_transfer.data.encodings import TextFile, examine_text
from hf_transfer.data.quoting import (
    STRAY_RETURN,
    has_width,
    line_of_unclosed_quote,
    quotes_are_literal,
    without_stray_returns,
)
from hf_transfer.errors import InputError, short_path

# A line before the header with which Excel names the delimiter.
_SEP_LINE = re.compile(r'"?sep=(.)"?\1*\s*', re.IGNORECASE | re.DOTALL)
# To see whether the first row is a header, it is compared with so many rows below.
ROWS_TO_COMPARE = 1000
# Usual names of columns, which are hardly ever a label or a text.
_COLUMN_WORDS = {"text", "label", "labels", "sentence", "message", "sms", "review", "content", "comment", "tweet",
                 "body", "category", "class", "target", "sentiment", "intent", "path", "file_name", "audio",
                 "transcription", "transcript", "client_id", "id", "index"}  # fmt: skip


@dataclass(frozen=True)
class DelimitedFile:
    """Dataclass that says how to read a CSV or TSV file, as `examine_delimited` found out.

    Attributes:
        text: the file, its encoding and line ends.
        delimiter: between the cells of a row.
        names: of the columns, empty for those without a name.
        quotes_are_text: whether quotes are part of the texts, and do not enclose cells.
        lines_before: number of lines before the first row.
        has_header: whether the first row is a header.
        remarks: sentences on how the file is read, for the log.
    """

    text: TextFile
    delimiter: str
    names: tuple[str, ...]
    quotes_are_text: bool
    lines_before: int
    has_header: bool
    remarks: tuple[str, ...]

    def rows(self) -> Iterator[dict[str, str]]:
        """Yield the rows of the file as dictionaries of texts by column name.

        Columns without a name, empty rows at the end and repeated headers are left out.

        Raises:
            InputError: a row has more or fewer cells than there are columns, or a quote is not closed.
        """
        named = [i for i, name in enumerate(self.names) if name]
        empty_rows: list[dict[str, str]] = []  # since the last row that is not empty: yielded if another one follows
        for first, last, cells in self.cells():
            if not has_width(cells, len(self.names)):
                raise InputError(_wrong_width_message(self, first, last, cells))
            if [cell.strip() for cell in cells] == list(self.names):
                continue  # a second header, of files that were joined, or one beside --column_names
            row = {self.names[i]: cells[i] for i in named}
            if len(cells) > 1 and not any(cell.strip() for cell in cells):
                empty_rows.append(row)
                continue
            yield from empty_rows
            empty_rows.clear()
            yield row

    def cells(self) -> Iterator[tuple[int, int, list[str]]]:
        """Yield each row below the header as its first and last line, counted from 1, and its list of cells."""
        rows = _cells(self.text, self.delimiter, self.lines_before, quotes_are_text=self.quotes_are_text)
        return itertools.islice(rows, int(self.has_header), None)


def examine_delimited(path: Path, column_names: Sequence[str] | None, delimiter: str | None) -> DelimitedFile:
    """Find out how to read a CSV or TSV file (encoding, delimiter, quoting, header); return a `DelimitedFile`.

    Args:
        path: of the file.
        column_names: names of the columns of a file without a header.
        delimiter: if it is neither the one of the file's ending nor the one in a line ``sep=;`` before the header.

    Raises:
        InputError: the file cannot be decoded, has no usable header, or does not fit the arguments.
    """
    text = examine_text(path)
    sep_line = _SEP_LINE.fullmatch(next(text.lines(), ""))
    delimiter = _delimiter(path, delimiter, sep_line.group(1) if sep_line else None)
    repeated = _first_repeated(column_names or ())
    if repeated is not None:
        raise InputError(f"--column_names names {repeated!r} twice. Give each column a name of its own.")
    lines_before = 1 if sep_line else 0
    quotes_are_text = _quotes_are_text(text, lines_before, delimiter)
    remarks = list(text.remarks)
    if quotes_are_text:
        remarks.append(f"{short_path(path)}: its quotes are read as part of the texts, not as enclosing cells.")
    rows = (cells for _, _, cells in _cells(text, delimiter, lines_before, quotes_are_text=quotes_are_text))
    first_row = next(rows, None)
    if first_row is None:
        raise InputError(f"{path}: no rows; expected a header and examples.")
    if column_names is None:
        names, has_header = _header(path, first_row, delimiter), True
    else:
        names = list(column_names)
        has_header = _looks_like_a_header(first_row, list(itertools.islice(rows, ROWS_TO_COMPARE)), names)
        if has_header and [cell.strip() for cell in first_row] != names:
            remarks.append(
                f"{short_path(path)}: the first row ({', '.join(first_row)[:80]}) looks like a header and is left "
                "out, as --column_names gives the names. If it is an example, move it down in the file."
            )
    file = DelimitedFile(text, delimiter, tuple(names), quotes_are_text, lines_before, has_header, tuple(remarks))
    return file if all(names) else _with_remark_on_nameless_columns(file)


def _delimiter(path: Path, given: str | None, in_sep_line: str | None) -> str:
    """Return the delimiter of a file: the user's, the one in its line ``sep=``, or the one its ending stands for."""
    given = {"\\t": "\t", "tab": "\t"}.get(given or "", given)
    delimiter = given or in_sep_line or {".csv": ",", ".tsv": "\t"}[path.suffix.lower()]
    if len(delimiter) != 1 or delimiter in "\r\n":
        raise InputError(f"--delimiter is {delimiter!r}: expected one character.")
    return delimiter


def _first_repeated(names: Sequence[str]) -> str | None:
    return next((name for name, count in Counter(names).items() if count > 1), None)


def _quotes_are_text(text: TextFile, lines_before: int, delimiter: str) -> bool:
    if not any('"' in line for line in text.lines()):
        return False
    lines = tqdm(text.lines(), f"Checking {text.path}", unit=" lines", delay=2, leave=False,
                 disable=not sys.stderr.isatty())  # fmt: skip
    return quotes_are_literal(itertools.islice(lines, lines_before, None), delimiter)


def _with_remark_on_nameless_columns(file: DelimitedFile) -> DelimitedFile:
    """Return a copy of `file` with a remark on its columns without a name, and on rows with text in them."""
    nameless = [i for i, name in enumerate(file.names) if not name]
    filled, example = 0, 0
    for first, _, cells in file.cells():
        if any(cells[i].strip() for i in nameless if i < len(cells)):
            filled, example = filled + 1, example or first
    numbers = ", ".join(str(i + 1) for i in nameless)
    columns = (
        f"column {numbers} has no name and is" if len(nameless) == 1 else f"columns {numbers} have no name and are"
    )
    rows = f"; {filled} rows hold something there, the first in line {example}" if filled else ""
    return replace(file, remarks=(*file.remarks, f"{short_path(file.text.path)}: {columns} left out{rows}."))


def _cells(
    text: TextFile, delimiter: str, lines_before: int, *, quotes_are_text: bool
) -> Iterator[tuple[int, int, list[str]]]:
    """Yield each row of a file as its first and last line, counted from 1, and its cells; skip blank lines."""
    lines = itertools.islice(text.lines(), lines_before, None)
    if quotes_are_text:
        for number, line in enumerate(lines, start=lines_before + 1):
            if line.strip("\r\n"):
                yield number, number, line.rstrip("\r\n").split(delimiter)
        return
    csv.field_size_limit(2**31 - 1)  # texts may be long
    reader = csv.reader(without_stray_returns(lines), delimiter=delimiter, strict=True)
    first = lines_before + 1
    try:
        for cells in reader:
            last = lines_before + reader.line_num
            if cells:
                yield first, last, [cell.replace(STRAY_RETURN, "\r") for cell in cells]
            first = last + 1
    except csv.Error as error:
        raise InputError(_csv_error_message(text, first, lines_before + reader.line_num, str(error))) from error


def _csv_error_message(text: TextFile, first: int, last: int, error: str) -> str:
    doubled = 'A cell that holds quotes must be quoted, with its own quotes doubled: "she said ""yes""".'
    if "unexpected end of data" in error:
        opening = line_of_unclosed_quote(text.lines(), first)
        return (
            f"{text.path}: line {opening}: the quote that opens a cell there is never closed. Close it, or remove it. "
            f"{doubled}"
        )
    begun = f" (the row begins in line {first})" if first < last else ""
    return f"{text.path}: line {last}{begun}: {error}. {doubled}"


def _header(path: Path, cells: list[str], delimiter: str) -> list[str]:
    """Return the names of the columns that the cells of a header give; raise an error if they are not usable.

    Raises:
        InputError: a name is there twice, all are empty, or the delimiter seems to be another one.
    """
    names = [cell.strip() for cell in cells]
    if len([name for name in names if name]) == 1:
        in_shell = {";": "';'", "\t": "$'\\t'", "|": "'|'", ",": "','"}
        counts = {other: names[0].count(other) for other in in_shell if other != delimiter}
        likeliest = max(counts, key=lambda other: counts[other])
        if counts[likeliest]:
            raise InputError(
                f"{path}: one column only, {names[0]!r}: the cells seem to be separated by {likeliest!r}, not "
                f"{delimiter!r}. Set it: --delimiter {in_shell[likeliest]}"
            )
    repeated = _first_repeated([name for name in names if name])
    if repeated is not None:
        raise InputError(f"{path}: the header names {repeated!r} twice: {', '.join(names)}. Rename one of them.")
    if not any(names):
        raise InputError(f"{path}: the first row is empty; expected a header that names the columns.")
    return names


def _looks_like_a_header(first_row: list[str], other_rows: list[list[str]], names: Sequence[str]) -> bool:
    """Return whether the first row of a file is a header although --column_names is given.

    It is if one of its cells is in `names` or a usual name of a column, or if no cell is like those below it, which
    are numbers, or few values, or far longer.
    """
    words = [cell.strip() for cell in first_row]
    if not has_width(first_row, len(names)) or any(len(word) > 40 or len(word.split()) > 3 for word in words):
        return False
    lower = [word.casefold() for word in words]
    if any(word in {name.casefold() for name in names} for word in lower if word):
        return True
    columns = [[row[i] for row in other_rows if i < len(row)] for i in range(len(names))]
    if any(word in _COLUMN_WORDS and first_row[i] not in columns[i] for i, word in enumerate(lower[: len(names)])):
        return True
    differs = [_differs(word, column) for word, column in zip(words, columns, strict=False) if word]
    return len(other_rows) >= 4 and len(differs) > 1 and all(differs)


def _differs(word: str, column: list[str]) -> bool:
    """Return whether a cell of the first row is of another kind than all cells below it in its column."""
    below = [cell.strip() for cell in column if cell.strip()]
    if not below or word in below or _is_number(word):
        return False
    are_few_values = len(set(below)) <= max(2, len(below) / 4)
    are_longer = sum(map(len, below)) / len(below) > 3 * len(word) + 3
    return are_few_values or all(map(_is_number, below)) or are_longer


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _wrong_width_message(file: DelimitedFile, first: int, last: int, cells: list[str]) -> str:
    where = f"line {last}" if first == last else f"the row in lines {first} to {last}"
    names = ", ".join(filter(None, file.names))
    message = f"{file.text.path}: {where} has {len(cells)} cells; expected {len(file.names)} ({names})."
    if first < last:
        return f"{message} A quote in line {first} makes one row of these lines: remove it, or close it."
    if len(cells) == 1 and len(file.names) > 1:
        return f"{message} The delimiter looked for is {file.delimiter!r}; --delimiter sets another one."
    if file.text.path.suffix.lower() == ".tsv":
        return f"{message} A TSV cell cannot hold a tab or a line break: write such texts as .csv or .jsonl."
    return f"{message} A cell that holds {file.delimiter!r} must be quoted."
