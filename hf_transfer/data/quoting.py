"""Decides whether the quotes in a CSV or TSV file enclose cells, or are part of the texts."""

import csv
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator

# If a quoted cell had more characters, its first quote was not meant to open a cell.
MAX_CELL_LENGTH = 1 << 24
# Most values, and shapes of values, that are remembered of a column.
MAX_VALUES = 50
# Most multi-line cells that are remembered.
MAX_MULTILINE = 2000
# Stands for a carriage return within a line: a noncharacter of Unicode, which no text holds.
STRAY_RETURN = "\ufdd0"
_ENCLOSED = re.compile(r'"(?:[^"]|"")*"', re.DOTALL)


def quotes_are_literal(lines: Iterable[str], delimiter: str) -> bool:
    """Return whether the quotes in a delimited file are part of its texts, and do not enclose cells.

    The file is read both ways. If only one gives rows of equal width, it is right. Otherwise: if a quoted cell holds
    line breaks, and its lines are complete rows by themselves, a lone quote has merged them, so quotes are text.
    Doubled quotes mean that quotes enclose cells; quotes in the middle of cells mean that they are text.

    Args:
        lines: of the file.
        delimiter: between cells. With commas and semicolons, quoting is usual, and stronger evidence is needed
            against it.
    """
    evidence = _Evidence(delimiter)
    source = _RecordingLines(without_stray_returns(lines))
    reader = csv.reader(source, delimiter=delimiter, strict=True)
    csv.field_size_limit(2**31 - 1)  # texts may be long
    try:
        for cells in reader:
            evidence.add(cells, source.take())
    except csv.Error:
        evidence.quoted_fits = False
        for line in (*source.take(), *source):  # without quoting, these lines may be rows
            evidence.add_line(line)
            source.take()
    return evidence.quotes_are_literal(quoting_is_usual=delimiter in ",;")


def without_stray_returns(lines: Iterable[str]) -> Iterator[str]:
    """Yield lines with `STRAY_RETURN` for carriage returns within them, which `csv` refuses outside quotes."""
    for line in lines:
        end = len(line.rstrip("\r\n"))
        yield line[:end].replace("\r", STRAY_RETURN) + line[end:] if "\r" in line[:end] else line


class _RecordingLines:
    """Iterator over lines that records those of the current row, and ends if they exceed `MAX_CELL_LENGTH`."""

    def __init__(self, lines: Iterable[str]):
        self.lines = iter(lines)
        self.recorded: list[str] = []
        self.size = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if self.size > MAX_CELL_LENGTH:
            raise StopIteration
        line = next(self.lines)
        self.recorded.append(line)
        self.size += len(line)
        return line

    def take(self) -> list[str]:
        """Return the list of the lines that were read since the last call."""
        recorded, self.recorded, self.size = self.recorded, [], 0
        return recorded


class _Column:
    """Record of what the cells of a column are like, in the rows that are the same with and without quoting."""

    def __init__(self) -> None:
        self.values: set[str] = set()
        self.shapes: set[str] = set()
        self.has_quoted = False
        self.has_unquoted_text = False  # neither empty nor a number: those are never quoted
        self.has_empty = False

    def add(self, cell: str, written: str) -> None:
        """Add a cell to the record of the column.

        Args:
            cell: its content.
            written: the same as it is written in the file, perhaps with quotes.
        """
        if len(self.values) <= MAX_VALUES:
            self.values.add(cell)
        if len(self.shapes) <= MAX_VALUES:
            self.shapes.add(_shape(cell))
        is_quoted = written[:1] == '"'
        self.has_quoted = self.has_quoted or is_quoted
        self.has_empty = self.has_empty or not cell
        is_text = cell != "" and not cell.replace(".", "").isdecimal()
        self.has_unquoted_text = self.has_unquoted_text or (is_text and not is_quoted)

    def resembles(self, cell: str, rows: int) -> bool | None:
        """Return whether a cell is like the column's others, or None if these are too different to tell.

        Args:
            cell: its content.
            rows: number of rows that were added.
        """
        if not cell and rows > 0:
            return self.has_empty
        for known, value in ((self.values, cell), (self.shapes, _shape(cell))):
            if len(known) <= min(MAX_VALUES, rows / 2):
                return value in known
        return None


class _Evidence:
    """Collector of evidence, from a file's rows, on whether quotes enclose cells or are part of the texts."""

    def __init__(self, delimiter: str):
        self.delimiter = delimiter
        # Whether all rows of a reading have as many cells as its first, and how many these are.
        self.quoted_fits = self.literal_fits = True
        self.quoted_width = self.literal_width = 0
        self.has_leading_quote = False  # a cell begins with a quote
        self.has_needed_quotes = False  # a cell could not be written without quotes around it
        self.has_inner_quote = False  # a cell does not begin with a quote, and holds one
        self.enclosed = self.malformed = 0  # cells with quotes: enclosed in them as CSV wants it, and others
        # Spreadsheets quote cells with a comma even in tab-separated tables.
        self.cells_with_comma = self.enclosed_with_comma = 0
        self.multiline: list[list[list[str]]] = []  # rows of several lines by quoting: each line as literal cells
        self.columns: dict[int, _Column] = defaultdict(_Column)
        self.rows = -1  # of one line by both readings, without the header

    def add(self, cells: list[str], lines: list[str]) -> None:
        """Add the cells of a row as read with quoting, and the lines that it was read from."""
        if not cells:
            return
        self.quoted_width = self.quoted_width or len(cells)
        self.quoted_fits = self.quoted_fits and has_width(cells, self.quoted_width)
        literal_rows = [self.add_line(line) for line in lines]
        if len(lines) > 1:
            self.multiline += [literal_rows] if len(self.multiline) < MAX_MULTILINE else []
            return
        self.has_inner_quote = self.has_inner_quote or any('"' in cell and cell[0] != '"' for cell in literal_rows[0])
        self.rows += 1
        if self.rows:
            for i, (cell, written) in enumerate(zip(cells, literal_rows[0], strict=False)):
                self.columns[i].add(cell, written)

    def add_line(self, line: str) -> list[str]:
        """Add a line as a row in which quotes are part of the texts, and return its cells."""
        cells = line.rstrip("\r\n").split(self.delimiter)
        if cells == [""]:
            return cells
        self.literal_width = self.literal_width or len(cells)
        self.literal_fits = self.literal_fits and has_width(cells, self.literal_width)
        for cell in cells:
            if '"' not in cell:
                self.cells_with_comma += "," in cell
                continue
            self.has_leading_quote = self.has_leading_quote or cell[0] == '"'
            if _ENCLOSED.fullmatch(cell):
                self.enclosed += 1
                self.has_needed_quotes = self.has_needed_quotes or '""' in cell[1:-1] or STRAY_RETURN in cell
                self.enclosed_with_comma += "," in cell
            else:
                self.malformed += 1
        return cells

    def quotes_are_literal(self, *, quoting_is_usual: bool) -> bool:
        """Return whether quotes are part of the texts, by the evidence of the rows that were added.

        Args:
            quoting_is_usual: whether files with this delimiter usually have quoted cells.
        """
        if not self.has_leading_quote:
            return False  # both readings are the same
        if self.literal_fits != self.quoted_fits:
            # In a file with commas, a single quote that opens a cell is a mistake that the user should correct.
            return self.literal_fits and (not quoting_is_usual or self.malformed > max(1, self.enclosed))
        if not self.literal_fits:
            return not quoting_is_usual and self.malformed > self.enclosed
        if self.has_needed_quotes and not self.has_inner_quote:
            return False
        quotes_whole_column = any(
            column.has_quoted and not column.has_unquoted_text for column in self.columns.values()
        )
        if self.multiline:
            return not quotes_whole_column and all(map(self._are_rows, self.multiline))
        if quoting_is_usual:
            return False
        if self.has_inner_quote:
            return True
        by_spreadsheet = self.enclosed_with_comma == self.enclosed and not self.cells_with_comma
        return not by_spreadsheet and not quotes_whole_column

    def _are_rows(self, literal_rows: list[list[str]]) -> bool:
        """Return whether the lines of a multi-line cell look like the other rows of the file."""
        similar = 0
        for cells in literal_rows:
            for i, cell in enumerate(cells):
                if '"' in cell:
                    continue
                resembles = self.columns[i].resembles(cell, self.rows)
                if resembles is False:
                    return False
                similar += resembles is True
        return similar > 0


def has_width(cells: list[str], width: int) -> bool:
    """Return whether a row has `width` cells, not counting empty ones at its end."""
    return len(cells) >= width and not any(cell.strip() for cell in cells[width:])


def _shape(cell: str) -> str:
    """Return a cell with each run of letters as ``a`` and of digits as ``0``: the same for paths of one kind."""
    return re.sub(r"\d+", "0", re.sub(r"[^\W\d]+", "a", cell[:200]))


def line_of_unclosed_quote(lines: Iterable[str], first: int) -> int:
    """Return the number, from 1, of the line with a quote that opens a cell and is never closed.

    Args:
        lines: of the file.
        first: the line in which the unfinished row begins.
    """
    opening, is_open = first, False
    for number, line in enumerate(lines, start=1):
        if number < first or not (quotes := line.replace('""', "").count('"')):
            continue
        is_open ^= quotes % 2 == 1
        opening = number if is_open else opening  # the last quote that opens a cell
    return opening
