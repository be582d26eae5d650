"""Reads the cells of a column of numbers: the labels of `--problem_type regression`."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from datasets import Value

from hf_transfer.data.values import as_text, is_blank, is_missing
from hf_transfer.targets.labels.reader_base import LabelReaderBase

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
NUMBER_WITH_COMMA = re.compile(r"[+-]?\d+(,\d+)+(\.\d+)?([eE][+-]?\d+)?|[+-]?\d+(\.\d+)+,\d+")
# Models compute in float32.
LARGEST = 1e30
# From so many different whole numbers on, labels are probably amounts and not ids of classes.
MANY_WHOLE_NUMBERS = 10
NO_NUMBER, COMMA, TOO_LARGE = "no number", "a comma in a number", f"more than {LARGEST:g}"
REMEDIES = {
    COMMA: " Write decimals with a point (4.5), and thousands without a comma (4500).",
    TOO_LARGE: " Give the labels in a larger unit.",
}


@dataclass(frozen=True)
class NumberReader(LabelReaderBase):
    """Reader of the numbers in the cells of a column (a `TargetReader`).

    Numbers are read, and text that spells one with a decimal point (``4.5``, `` 1e-3 ``). Text with a comma is not:
    ``1,234`` may be 1.234 or 1234.

    Attributes:
        names: of a `ClassLabel` by id, which spell the numbers; None for other columns.
    """

    names: tuple[str, ...] | None = None
    feature: ClassVar[Value] = Value("float64")

    def read(self, value: Any) -> tuple[float, str | None]:
        """Return the number in a cell, and what is wrong with the cell, or None if it can be used."""
        if is_missing(value) or (isinstance(value, str) and is_blank(value)):
            return 0.0, "no label"
        if self.names is not None and isinstance(value, int):
            if not 0 <= value < len(self.names):
                return 0.0, "no label"  # -1, as test sets on the Hub have it
            value = self.names[value]
        try:
            text = as_text(value).strip()
        except (TypeError, OverflowError):  # a list; infinity
            return 0.0, NO_NUMBER
        if NUMBER_WITH_COMMA.fullmatch(text):
            return 0.0, COMMA
        if not NUMBER.fullmatch(text):
            return 0.0, NO_NUMBER
        return (float(text), None) if abs(float(text)) <= LARGEST else (0.0, TOO_LARGE)

    def hint(self, problems: list[str], contents: list[Any]) -> str:
        """Return sentences that say how numbers are to be written, or an empty string if no cell needs them."""
        return "".join(
            remedy for kind, remedy in REMEDIES.items() if any(problem.startswith(kind) for problem in problems)
        )


def regression_hint(names: Iterable[str]) -> str:
    """Return a sentence that names --problem_type regression if labels seem to be amounts, or an empty string.

    They do if all of them are numbers, and some are decimals or many are different.
    """
    labels = list(names)
    if not labels or not all(NUMBER.fullmatch(label) for label in labels):
        return ""
    decimals = [label for label in labels if not float(label).is_integer()]
    if not decimals and len(labels) < MANY_WHOLE_NUMBERS:
        return ""
    found = f"Labels such as {decimals[0]} are decimals" if decimals else f"The {len(labels)} labels are whole numbers"
    return f" {found}: --problem_type regression learns them as amounts, of which 4 is nearer to 5 than to 1."
