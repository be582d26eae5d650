"""Quotes in delimited files: whether they enclose cells, or are part of the texts."""

import csv
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator

# A quoted cell of so many characters is a quote that was never meant to open a cell.
LONGEST_CELL = 1 << 24
# Values and shapes of values that are remembered of a column, and rows that two readings dispute.
MOST_VALUES, MOST_DISPUTED = 50, 2000
# Unicode's noncharacter, which no text holds.
STRAY_RETURN = "\ufdd0"
_ENCLOSED = re.compile(r'"(?:[^"]|"")*"', re.DOTALL)


def quotes_are_literal(lines: Iterable[str], delimiter: str) -> bool:
    """Whether the quotes of a delimited file are part of its texts.

    Both readings are tried on the whole file. Where both give rows of equal width, this decides: quoted cells with
    line breaks whose lines are whole rows by themselves are rows that a lone quote would merge; doubled quotes are
    written by those who quote; quotes in the middle of cells by those who do not.

    Args:
        lines: of the file.
        delimiter: between cells; with commas and semicolons quoting is the rule, and takes more to be doubted.
    """
    evidence = _Evidence(delimiter)
    source = _Recorded(without_stray_returns(lines))
    reader = csv.reader(source, delimiter=delimiter, strict=True)
    csv.field_size_limit(2**31 - 1)  # texts may be long
    try:
        for cells in reader:
            evidence.add(cells, source.take())
    except csv.Error:
        evidence.quoted_fits = False
        for line in (*source.take(), *source):  # what quoting cannot read may be rows without it
            evidence.add_line(line)
            source.take()
    return evidence.says_literal(usual=delimiter in ",;")


def without_stray_returns(lines: Iterable[str]) -> Iterator[str]:
    """Lines with `STRAY_RETURN` for carriage returns that end none of them, which `csv` does not take unquoted."""
    for line in lines:
        end = len(line.rstrip("\r\n"))
        yield line[:end].replace("\r", STRAY_RETURN) + line[end:] if "\r" in line[:end] else line


class _Recorded:
    """An iterator of lines that remembers those of the row being read; it ends where a cell grows without end."""

    def __init__(self, lines: Iterable[str]):
        self.lines = iter(lines)
        self.seen: list[str] = []
        self.size = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if self.size > LONGEST_CELL:
            raise StopIteration
        line = next(self.lines)
        self.seen.append(line)
        self.size += len(line)
        return line

    def take(self) -> list[str]:
        """The lines since the last call."""
        seen, self.seen, self.size = self.seen, [], 0
        return seen


class _Column:
    """What the cells of a column are like in the rows that both readings share."""

    def __init__(self) -> None:
        self.values: set[str] = set()
        self.shapes: set[str] = set()
        self.enclosed = self.bare = self.empty = False  # some cell is; a bare one is neither empty nor a number

    def add(self, cell: str, written: str) -> None:
        """Note a cell, and how it is written in the file."""
        if len(self.values) <= MOST_VALUES:
            self.values.add(cell)
        if len(self.shapes) <= MOST_VALUES:
            self.shapes.add(_shape(cell))
        self.enclosed = self.enclosed or written[:1] == '"'
        self.empty = self.empty or not cell
        self.bare = self.bare or (written[:1] != '"' and not cell.replace(".", "").isdecimal() and cell != "")

    def takes(self, cell: str, rows: int) -> bool | None:
        """Whether a cell is like the others; None where they are all different."""
        if not cell and rows > 0:
            return self.empty
        for known, found in ((self.values, cell), (self.shapes, _shape(cell))):
            if len(known) <= min(MOST_VALUES, rows / 2):
                return found in known
        return None


class _Evidence:
    """What the rows of a file say for either reading."""

    def __init__(self, delimiter: str):
        self.delimiter = delimiter
        self.quoted_fits = self.literal_fits = True  # rows have as many cells as the first
        self.quoted_width = self.literal_width = 0
        self.opens = self.needed = False  # a cell begins with a quote; one had to
        self.in_the_middle = False  # of a cell that is not enclosed there is a quote
        self.enclosed = self.malformed = 0  # cells with quotes
        self.commas = self.enclosed_commas = 0  # spreadsheets quote cells with a comma in tables with tabs too
        self.disputed: list[list[list[str]]] = []  # lines that a quoted cell makes one row, as cells without quoting
        self.columns: dict[int, _Column] = defaultdict(_Column)
        self.rows = -1  # that both readings share, the header not counted

    def add(self, cells: list[str], lines: list[str]) -> None:
        """Count a row of the quoted reading, and the lines it was read from."""
        if not cells:
            return
        self.quoted_width = self.quoted_width or len(cells)
        self.quoted_fits = self.quoted_fits and fits(cells, self.quoted_width)
        plain = [self.add_line(line) for line in lines]
        if len(lines) > 1:
            self.disputed += [plain] if len(self.disputed) < MOST_DISPUTED else []
            return
        self.in_the_middle = self.in_the_middle or any('"' in cell and cell[0] != '"' for cell in plain[0])
        self.rows += 1
        if self.rows:
            for i, (cell, written) in enumerate(zip(cells, plain[0], strict=False)):
                self.columns[i].add(cell, written)

    def add_line(self, line: str) -> list[str]:
        """Count a line as a row of the literal reading; its cells."""
        cells = line.rstrip("\r\n").split(self.delimiter)
        if cells == [""]:
            return cells
        self.literal_width = self.literal_width or len(cells)
        self.literal_fits = self.literal_fits and fits(cells, self.literal_width)
        for cell in cells if '"' in line else ():
            if '"' not in cell:
                self.commas += "," in cell
                continue
            self.opens = self.opens or cell[0] == '"'
            if _ENCLOSED.fullmatch(cell):
                self.enclosed += 1
                self.needed = self.needed or '""' in cell[1:-1] or STRAY_RETURN in cell
                self.enclosed_commas += "," in cell
            else:
                self.malformed += 1
        if '"' not in line:
            self.commas += sum("," in cell for cell in cells)
        return cells

    def says_literal(self, *, usual: bool) -> bool:
        """Whether the quotes are part of the texts; `usual`: where quoting is the rule."""
        if not self.opens:
            return False  # both readings are the same
        if self.literal_fits != self.quoted_fits:
            # A single quote that opens a cell in a file with commas is an oversight that is worth a message.
            return self.literal_fits and (not usual or self.malformed > max(1, self.enclosed))
        if not self.literal_fits:
            return not usual and self.malformed > self.enclosed
        if self.needed and not self.in_the_middle:
            return False
        wholly_enclosed = any(column.enclosed and not column.bare for column in self.columns.values())
        if self.disputed:
            return not wholly_enclosed and all(map(self._are_rows, self.disputed))
        if usual:
            return False
        if self.in_the_middle:
            return True
        by_spreadsheet = self.enclosed_commas == self.enclosed and not self.commas
        return not by_spreadsheet and not wholly_enclosed

    def _are_rows(self, lines: list[list[str]]) -> bool:
        """Whether lines that a quoted cell would make one row are known to be like the other rows of the file."""
        alike = 0
        for cells in lines:
            for i, cell in enumerate(cells):
                if '"' in cell:
                    continue
                fit = self.columns[i].takes(cell, self.rows)
                if fit is False:
                    return False
                alike += fit is True
        return alike > 0


def fits(cells: list[str], width: int) -> bool:
    """Whether a row has `width` cells, empty ones behind them aside."""
    return len(cells) >= width and not any(cell.strip() for cell in cells[width:])


def _shape(cell: str) -> str:
    """A cell with each run of letters, and of digits, as one: paths and numbers of one kind are alike."""
    return re.sub(r"\d+", "0", re.sub(r"[^\W\d]+", "a", cell[:200]))


def opening_of_unclosed_quote(lines: Iterable[str], first: int) -> int:
    """The line, counted from 1, of the quote that opens a cell which nothing closes.

    Args:
        lines: of the file.
        first: the line where the unfinished row begins.
    """
    opened, inside = first, False
    for number, line in enumerate(lines, start=1):
        if number < first or not (quotes := line.replace('""', "").count('"')):
            continue
        inside ^= quotes % 2 == 1
        opened = number if inside else opened  # the last of them opens a cell
    return opened
