"""A column of 0 and 1 for each label, as tables for texts with several labels often have them."""

from collections.abc import Sequence
from typing import Any

from datasets import Dataset, List, Value

from hf_transfer.data.values import is_missing, shown
from hf_transfer.errors import InputError

BITS = {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "false": 0, "true": 1}
# What stands where nobody has looked: nothing, or -1.
UNKNOWN = ("", "-1", "-1.0")
# Rows that are looked at for a hint.
FIRST_ROWS = 1000


def joined(split: Dataset, name: str, labels: Sequence[str], column: str) -> Dataset:
    """The split with a further column that holds vectors of 0 and 1, a place for each of the columns `labels`.

    A row in which one of them is not known has no vector.

    Args:
        split: the user's rows.
        name: of the split, for messages.
        labels: the columns.
        column: to be added.

    Raises:
        InputError: a cell holds something else; the message says in which row.
    """
    vectors = []
    cells = zip(*(split[label][:] for label in labels), strict=True)
    for row, values in enumerate(cells, start=1):
        bits = [_bit(value) for value in values]
        odd = next((i for i, bit in enumerate(bits) if bit is None and not _is_unknown(values[i])), None)
        if odd is not None:
            raise InputError(
                f"Row {row} of the {name} split has {shown(values[odd])} in its column {labels[odd]!r}: the columns "
                "that --class_names names hold 1 where a text has the label, and 0 where it has not."
            )
        vectors.append(None if None in bits else bits)
    return split.add_column(column, vectors, feature=List(Value("int8")))


def hint_of(split: Dataset, columns: Sequence[str]) -> str:
    """That several columns hold nothing but 0 and 1, and how they are taken as labels; or nothing."""
    first = split.select(range(min(FIRST_ROWS, len(split))))
    found = [name for name in columns if {_bit(value) for value in first[name][:]} == {0, 1}]
    if len(found) < 2:
        return ""
    flags = " ".join(name if name.isidentifier() else repr(name) for name in found)
    return f" If each label has a column of 0 and 1, name these: --class_names {flags}."


def _bit(value: Any) -> int | None:
    return None if is_missing(value) else BITS.get(str(value).strip().lower())


def _is_unknown(value: Any) -> bool:
    return is_missing(value) or str(value).strip() in UNKNOWN
