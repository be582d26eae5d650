"""Numbers as people write them: labels of `--problem_type regression`."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from datasets import Value

from hf_transfer.data.values import as_text, is_blank, is_missing
from hf_transfer.targets.labels.label_form import LabelReader

WRITTEN = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
WITH_COMMA = re.compile(r"[+-]?\d+(,\d+)+(\.\d+)?([eE][+-]?\d+)?|[+-]?\d+(\.\d+)+,\d+")
# A model computes in float32.
LARGEST = 1e30
# Whole numbers as labels, from so many different ones on, are likelier amounts than names of classes.
MANY_WHOLE = 10
NO_NUMBER, COMMA, TOO_LARGE = "no number", "a comma in a number", f"more than {LARGEST:g}"
REMEDIES = {
    COMMA: " Write decimals with a point (4.5), and thousands without a comma (4500).",
    TOO_LARGE: " Give the labels in a larger unit.",
}


@dataclass(frozen=True)
class NumberForm(LabelReader):
    """How the cells of a column of numbers are read; as `LabelForm` for labels.

    Numbers, and text that spells one with a decimal point (``4.5``, `` 1e-3 ``), are read. A decimal comma is not:
    ``1,234`` may be one or a thousand.

    Attributes:
        names: of a `ClassLabel`, by id, which spell the numbers.
    """

    names: tuple[str, ...] | None = None
    feature: ClassVar[Value] = Value("float64")

    def read(self, value: Any) -> tuple[float, str | None]:
        """The number in a cell; and what is wrong, if something is."""
        if is_missing(value) or (isinstance(value, str) and is_blank(value)):
            return 0.0, "no label"
        if self.names is not None and isinstance(value, int):
            if not 0 <= value < len(self.names):
                return 0.0, "no label"  # the Hub's -1
            value = self.names[value]
        try:
            text = as_text(value).strip()
        except (TypeError, OverflowError):  # a list; infinity
            return 0.0, NO_NUMBER
        if WITH_COMMA.fullmatch(text):
            return 0.0, COMMA
        if not WRITTEN.fullmatch(text):
            return 0.0, NO_NUMBER
        return (float(text), None) if abs(float(text)) <= LARGEST else (0.0, TOO_LARGE)

    def hint(self, problems: list[str], contents: list[Any]) -> str:
        """As of `CellReader`: how numbers are written."""
        return "".join(remedy for kind, remedy in REMEDIES.items() if any(one.startswith(kind) for one in problems))


def number_hint(names: Iterable[str]) -> str:
    """That labels look like amounts: all of them are numbers, some of them decimals or many of them different."""
    known = list(names)
    if not known or not all(WRITTEN.fullmatch(name) for name in known):
        return ""
    decimals = [name for name in known if not float(name).is_integer()]
    if not decimals and len(known) < MANY_WHOLE:
        return ""
    shown = f"Labels such as {decimals[0]} are decimals" if decimals else f"The {len(known)} labels are whole numbers"
    return f" {shown}: --problem_type regression learns them as amounts, of which 4 is nearer to 5 than to 1."
