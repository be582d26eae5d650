"""CSV and TSV files: delimiter, header, quoting, and their rows as text. A label "01" or a message "NA" stays it."""

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
    fits,
    opening_of_unclosed_quote,
    quotes_are_literal,
    without_stray_returns,
)
from hf_transfer.errors import InputError, short_path

# Excel's own way to say the delimiter: a line before the header.
_SEP_LINE = re.compile(r'"?sep=(.)"?\1*\s*', re.IGNORECASE | re.DOTALL)
# Rows that a first row is compared with, where it may be a header.
COMPARED = 1000
# Words that head columns and are no label or text by themselves.
_COLUMN_WORDS = {"text", "label", "labels", "sentence", "message", "sms", "review", "content", "comment", "tweet",
                 "body", "category", "class", "target", "sentiment", "intent", "path", "file_name", "audio",
                 "transcription", "transcript", "client_id", "id", "index"}  # fmt: skip


@dataclass(frozen=True)
class DelimitedFile:
    """How a CSV or TSV file is to be read, from `examine_delimited`.

    Attributes:
        text: the file, its encoding and line ends.
        delimiter: between the cells of a row.
        names: of the columns, empty for those without a name.
        literal: whether quotes are part of the texts.
        before: lines before the first row of cells.
        header: whether the first row of cells holds no example.
        remarks: decisions that a person should know of.
    """

    text: TextFile
    delimiter: str
    names: tuple[str, ...]
    literal: bool
    before: int
    header: bool
    remarks: tuple[str, ...]

    def rows(self) -> Iterator[dict[str, str]]:
        """The rows by column, those without a name left out, read as they are asked for.

        Spreadsheets end in rows of nothing: those are left out.

        Raises:
            InputError: a row has more or fewer cells than there are columns, or a quote is not closed.
        """
        kept = [i for i, name in enumerate(self.names) if name]
        empty: list[dict[str, str]] = []  # until one with something in it follows
        cells_of = _cells(self.text, self.delimiter, self.before, literal=self.literal)
        for first, last, cells in itertools.islice(cells_of, int(self.header), None):
            if not fits(cells, len(self.names)):
                raise InputError(_ragged(self, first, last, cells))
            if [cell.strip() for cell in cells] == list(self.names):
                continue  # a header in the middle, of files that were joined, or one although names were given
            row = {self.names[i]: cells[i] for i in kept}
            if len(cells) > 1 and not any(cell.strip() for cell in cells):
                empty.append(row)
                continue
            yield from empty
            empty.clear()
            yield row


def examine_delimited(path: Path, column_names: Sequence[str] | None, delimiter: str | None) -> DelimitedFile:
    """How a CSV or TSV file is to be read.

    Args:
        path: of the file.
        column_names: of a file without a header.
        delimiter: if not the ending's own, or that of a line ``sep=;`` before the header.

    Raises:
        InputError: the file is in no encoding, has no usable header, or the arguments do not fit it.
    """
    text = examine_text(path)
    first = next(text.lines(), "")
    sep = _SEP_LINE.fullmatch(first)
    delimiter = {"\\t": "\t", "tab": "\t"}.get(delimiter or "", delimiter)
    delimiter = delimiter or (sep.group(1) if sep else {".csv": ",", ".tsv": "\t"}[path.suffix.lower()])
    if len(delimiter) != 1 or delimiter in "\r\n":
        raise InputError(f"--delimiter is {delimiter!r}: expected one character.")
    twice = [name for name, count in Counter(column_names or ()).items() if count > 1]
    if twice:
        raise InputError(f"--column_names names {twice[0]!r} twice.")
    before = 1 if sep else 0
    literal = _is_literal(text, before, delimiter)
    remarks = list(text.remarks)
    if literal:
        remarks.append(f"{short_path(path)}: its quotes are read as part of the texts, not as enclosing cells.")
    rows = (cells for _, _, cells in _cells(text, delimiter, before, literal=literal))
    top = next(rows, None)
    if top is None:
        raise InputError(f"{path}: no rows; expected a header and examples.")
    if column_names is None:
        names, header = _header(path, top, delimiter), True
    else:
        names, header = list(column_names), False
        if _looks_like_a_header(top, list(itertools.islice(rows, COMPARED)), names):
            header = True
            if [cell.strip() for cell in top] != names:
                remarks.append(
                    f"{short_path(path)}: the first row ({', '.join(top)[:80]}) looks like a header and is left "
                    "out, as --column_names gives the names. If it is an example, move it down in the file."
                )
    found = DelimitedFile(text, delimiter, tuple(names), literal, before, header, tuple(remarks))
    nameless = [i for i, name in enumerate(names) if not name]
    return found if not nameless else _without_nameless(found, nameless)


def _is_literal(text: TextFile, before: int, delimiter: str) -> bool:
    if not any('"' in line for line in text.lines()):
        return False
    lines = tqdm(text.lines(), f"Checking {text.path}", unit=" lines", delay=2, leave=False,
                 disable=not sys.stderr.isatty())  # fmt: skip
    return quotes_are_literal(itertools.islice(lines, before, None), delimiter)


def _without_nameless(file: DelimitedFile, nameless: list[int]) -> DelimitedFile:
    """`file` with a remark on its columns without a name: whether anything is lost with them."""
    filled, example = 0, 0
    cells_of = _cells(file.text, file.delimiter, file.before, literal=file.literal)
    for first, _, cells in itertools.islice(cells_of, int(file.header), None):
        if any(cells[i].strip() for i in nameless if i < len(cells)):
            filled, example = filled + 1, example or first
    numbers = ", ".join(str(i + 1) for i in nameless)
    which = (f"column {numbers} has", "is") if len(nameless) == 1 else (f"columns {numbers} have", "are")
    held = f"; {filled} rows hold something there, the first in line {example}" if filled else ""
    remark = f"{short_path(file.text.path)}: {which[0]} no name and {which[1]} left out{held}."
    return replace(file, remarks=(*file.remarks, remark))


def _cells(text: TextFile, delimiter: str, before: int, *, literal: bool) -> Iterator[tuple[int, int, list[str]]]:
    """The rows of a file as cells, each with its first and last line, counted from 1; blank lines left out."""
    lines = itertools.islice(text.lines(), before, None)
    if literal:
        for number, line in enumerate(lines, start=before + 1):
            if line.strip("\r\n"):
                yield number, number, line.rstrip("\r\n").split(delimiter)
        return
    csv.field_size_limit(2**31 - 1)  # texts may be long
    reader = csv.reader(without_stray_returns(lines), delimiter=delimiter, strict=True)
    first = before + 1
    try:
        for cells in reader:
            last = before + reader.line_num
            if cells:
                yield first, last, [cell.replace(STRAY_RETURN, "\r") for cell in cells]
            first = last + 1
    except csv.Error as error:
        raise InputError(_not_csv(text, first, before + reader.line_num, str(error))) from error


def _not_csv(text: TextFile, first: int, last: int, error: str) -> str:
    doubled = 'A cell that holds quotes must be quoted, with its own quotes doubled: "she said ""yes""".'
    if "unexpected end of data" in error:
        opened = opening_of_unclosed_quote(text.lines(), first)
        return (
            f"{text.path}: line {opened}: the quote that opens a cell there is never closed. Close it, or remove it. "
            f"{doubled}"
        )
    begun = f" (the row begins in line {first})" if first < last else ""
    return f"{text.path}: line {last}{begun}: {error}. {doubled}"


def _header(path: Path, cells: list[str], delimiter: str) -> list[str]:
    names = [cell.strip() for cell in cells]
    if len([name for name in names if name]) == 1:
        others = {";": "';'", "\t": "$'\\t'", "|": "'|'", ",": "','"}
        counts = {other: names[0].count(other) for other in others if other != delimiter}
        other = max(counts, key=lambda each: counts[each])
        if counts[other]:
            raise InputError(
                f"{path}: one column only, {names[0]!r}: the cells seem to be separated by {other!r}, not "
                f"{delimiter!r}. Say so: --delimiter {others[other]}"
            )
    twice = [name for name, count in Counter(names).items() if count > 1 and name]
    if twice:
        raise InputError(f"{path}: the header names {twice[0]!r} twice: {', '.join(names)}. Rename one of them.")
    if not any(names):
        raise InputError(f"{path}: the first row is empty; expected a header that names the columns.")
    return names


def _looks_like_a_header(first: list[str], others: list[list[str]], names: Sequence[str]) -> bool:
    """Whether a first row names columns although --column_names does.

    It does if it is like `names`, has a usual name in it, or if no cell of it is like those below: where these are
    numbers, or few values, or far longer.
    """
    words = [cell.strip() for cell in first]
    if not fits(first, len(names)) or any(len(word) > 40 or len(word.split()) > 3 for word in words):
        return False
    lower = [word.casefold() for word in words]
    if any(word in {name.casefold() for name in names} for word in lower if word):
        return True
    columns = [[row[i] for row in others if i < len(row)] for i in range(len(names))]
    usual = [i for i, word in enumerate(lower[: len(names)]) if word in _COLUMN_WORDS and first[i] not in columns[i]]
    if usual:
        return True
    signs = [_unlike(word, column) for word, column in zip(words, columns, strict=False) if word]
    return len(others) >= 4 and len(signs) > 1 and all(signs)


def _unlike(word: str, column: list[str]) -> bool:
    """Whether a cell is unlike all those below it."""
    below = [cell.strip() for cell in column if cell.strip()]
    if not below or word in below or _is_number(word):
        return False
    few = len(set(below)) <= max(2, len(below) / 4)
    return few or all(map(_is_number, below)) or sum(map(len, below)) / len(below) > 3 * len(word) + 3


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _ragged(file: DelimitedFile, first: int, last: int, cells: list[str]) -> str:
    where = f"line {last}" if first == last else f"the row in lines {first} to {last}"
    names, named = file.names, ", ".join(filter(None, file.names))
    message = f"{file.text.path}: {where} has {len(cells)} cells; expected {len(names)} ({named})."
    if first < last:
        return f"{message} A quote in line {first} makes one row of these lines: remove it, or close it."
    if len(cells) == 1 and len(names) > 1:
        return f"{message} The delimiter looked for is {file.delimiter!r}; --delimiter sets another."
    if file.text.path.suffix.lower() == ".tsv":
        return f"{message} A TSV cell cannot hold a tab or a line break: write such texts as .csv or .jsonl."
    return f"{message} A cell that holds {file.delimiter!r} must be quoted."
