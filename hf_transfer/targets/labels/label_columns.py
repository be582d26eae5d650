"""A column of 0 and 1 for each label, as tables for texts with several labels often have them."""

from collections.abc import Sequence
from shlex import quote
from typing import Any

from datasets import ClassLabel, Dataset, List, Value

from hf_transfer.data.splits import require_columns
from hf_transfer.data.values import is_missing, quoted
from hf_transfer.errors import InputError, logger
from hf_transfer.targets.labels.label_form import FILE_FLAGS

BITS = {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "false": 0, "true": 1}
# What stands where nobody has looked: nothing, or -1.
UNKNOWN = ("", "-1", "-1.0")


def label_columns(names: Sequence[str] | None, columns: Sequence[str], usual: Sequence[str], source: str) -> list[str]:
    """Those of the `columns` that `names` names, where each label has one; none where they are names of ids or places.

    Args:
        names: of --class_names.
        columns: of the table, without those of the inputs.
        usual: names of a column that holds the labels itself.
        source: of the names, for messages.

    Raises:
        InputError: some of the names are columns and others are not, one is there twice, or it cannot be told whether
            the labels are in these columns or in one of a usual name.
    """
    there = [name for name in names or () if name in columns]
    if names is None or not there:
        return []
    absent = next((name for name in names if name not in columns), None)
    if absent is not None:
        raise InputError(
            f"--class_names {quote(absent)}: there is no such column, and {there[0]!r} is one; there are "
            f"{', '.join(columns)}. Name a column for each label, or the column that holds them: --label_column_name."
        )
    if len(set(names)) < len(names) or len(names) < 2:
        raise InputError(
            f"--class_names {' '.join(map(quote, names))}: expected a column for each of several labels, each once. A "
            "single column of 0 and 1 is one of labels: --label_column_name."
        )
    both = next((name for name in columns if name.lower() in usual and name not in names), None)
    if both is not None:
        raise InputError(
            f"Columns are named as {source} ({', '.join(there)}), and there is a column {both!r} too. Say that it "
            f"holds the labels (--label_column_name {quote(both)}), or leave it out of the table."
        )
    logger.info("Columns %s are taken as labels (%s).", ", ".join(map(repr, there)), source)
    return there


def joined(split: Dataset, name: str, labels: Sequence[str], column: str) -> Dataset:
    """The split with a further column that holds vectors of 0 and 1, a place for each of the columns `labels`.

    A row in which one of them is not known has no vector.

    Args:
        split: the user's rows.
        name: of the split, for messages.
        labels: the columns.
        column: to be added.

    Raises:
        InputError: a column is absent or not known in any row, or a cell holds something else; the message says where.
    """
    require_columns(split, name, {label: label for label in labels}, "class_names")
    bits = {label: [_bit(value, row, label, name) for row, value in enumerate(split[label][:], 1)] for label in labels}
    unknown = next((label for label, own in bits.items() if own and set(own) == {None}), None)
    if unknown is not None:
        raise InputError(
            f"The column {unknown!r} of the {name} split, which is a label's, is not known in any row (empty, or -1). "
            f"Fill it, or name another file: {FILE_FLAGS.get(name, f'--{name}_file')}."
        )
    vectors = [None if None in row else list(row) for row in zip(*bits.values(), strict=True)]
    incomplete = [i for i, vector in enumerate(vectors) if vector is None]
    if incomplete:
        row = incomplete[0]
        empty = next(label for label in labels if bits[label][row] is None)
        logger.info("%d rows of the %s split are not labelled in each of the columns; the first is row %d, with %s "
                    "in %r.", len(incomplete), name, row + 1, quoted(split[row][empty]), empty)  # fmt: skip
    return split.add_column(column, vectors, feature=List(Value("int8")))


def hint_of(split: Dataset, columns: Sequence[str]) -> str:
    """That several columns hold nothing but 0 and 1, and how they are taken as labels; or nothing."""
    plain = [name for name in columns if isinstance(split.features[name], (Value, ClassLabel))]
    values = {name: {_plain(value) for value in split[name][:]} for name in plain}
    bits = {name: {BITS[value] for value in own if value in BITS} for name, own in values.items()}
    sure = [name for name, own in values.items() if bits[name] == {0, 1} and own <= {*BITS, *UNKNOWN}]
    if len(sure) < 2:
        return ""
    # A rare label may have no 1 here.
    found = [name for name, own in values.items() if bits[name] and own <= {*BITS, *UNKNOWN}]
    return f" If each label has a column of 0 and 1, name these: --class_names {' '.join(map(quote, found))}."


def _bit(value: Any, row: int, label: str, split: str) -> int | None:
    """0 or 1; None where it is not known."""
    plain = _plain(value)
    bit = BITS.get(plain)
    if bit is None and plain not in UNKNOWN:
        raise InputError(
            f"Row {row} of the {split} split has {quoted(value)} in its column {label!r}: the columns that "
            "--class_names names hold 1 where a text has the label, and 0 where it has not. If another column holds "
            "the labels, name it: --label_column_name."
        )
    return bit


def _plain(value: Any) -> str:
    return "" if is_missing(value) else str(value).strip().lower()
