"""Joins a column of 0 and 1 for each label, as tables of texts with several labels often have, into one column."""

from collections.abc import Sequence
from shlex import quote
from typing import Any

from datasets import ClassLabel, Dataset, List, Value

from hf_transfer.data.splits import require_columns
from hf_transfer.data.values import is_missing, quoted
from hf_transfer.errors import InputError, logger
from hf_transfer.targets.labels.reader_base import FILE_FLAGS

BITS = {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "false": 0, "true": 1}
# What stands for a label that nobody has looked for: nothing, or -1.
UNKNOWN = ("", "-1", "-1.0")


def label_columns(names: Sequence[str] | None, columns: Sequence[str], usual: Sequence[str], source: str) -> list[str]:
    """Return the columns that `names` names, one for each label, or an empty list if they name no columns.

    Args:
        names: the labels, as --class_names gives them, or of a fine-tuned model.
        columns: of the table, without those of the inputs.
        usual: usual names of a single column with the labels.
        source: of the names, for messages.

    Raises:
        InputError: some of the names are columns and others are not, a name is given twice, or there is also a single
            column with a usual name.
    """
    named = [name for name in names or () if name in columns]
    if names is None or not named:
        return []
    absent = next((name for name in names if name not in columns), None)
    if absent is not None:
        raise InputError(
            f"--class_names {quote(absent)}: there is no such column, and {named[0]!r} is one; there are "
            f"{', '.join(columns)}. Name a column for each label, or the column that holds them: --label_column_name."
        )
    if len(set(names)) < len(names) or len(names) < 2:
        raise InputError(
            f"--class_names {' '.join(map(quote, names))}: expected a column for each of several labels, each once. "
            "For a single column of 0 and 1, give --label_column_name."
        )
    single = next((name for name in columns if name.lower() in usual and name not in names), None)
    if single is not None:
        raise InputError(
            f"Columns are named as {source} ({', '.join(named)}), and there is a column {single!r} too. Say that it "
            f"holds the labels (--label_column_name {quote(single)}), or leave it out of the table."
        )
    logger.info("Columns %s are taken as labels (%s).", ", ".join(map(repr, named)), source)
    return named


def join_label_columns(split: Dataset, name: str, labels: Sequence[str], column: str) -> Dataset:
    """Return a split with a new column of vectors of 0 and 1, with a place for each of the columns `labels`.

    A row in which one of the labels is not known has no vector.

    Args:
        split: the user's rows.
        name: of the split, for messages.
        labels: the columns.
        column: name of the new column.

    Raises:
        InputError: a column is absent or not known in any row, or a cell holds something else; the message says where.
    """
    require_columns(split, name, {label: label for label in labels}, "class_names")
    bits = {
        label: [_read_bit(value, row, label, name) for row, value in enumerate(split[label][:], 1)] for label in labels
    }
    unknown = next((label for label, values in bits.items() if values and set(values) == {None}), None)
    if unknown is not None:
        raise InputError(
            f"The column {unknown!r} of the {name} split, which is a label's, is not known in any row (empty, or -1). "
            f"Fill it, or name another file: {FILE_FLAGS.get(name, f'--{name}_file')}."
        )
    vectors = [None if None in row else list(row) for row in zip(*bits.values(), strict=True)]
    incomplete = [i for i, vector in enumerate(vectors) if vector is None]
    if incomplete:
        row = incomplete[0]
        unknown_label = next(label for label in labels if bits[label][row] is None)
        logger.info("%d rows of the %s split are not labelled in each of the columns; the first is row %d, with %s "
                    "in %r.", len(incomplete), name, row + 1, quoted(split[row][unknown_label]),
                    unknown_label)  # fmt: skip
    return split.add_column(column, vectors, feature=List(Value("int8")))


def label_columns_hint(split: Dataset, columns: Sequence[str]) -> str:
    """Return a sentence that names --class_names if several columns hold 0 and 1 only, or an empty string."""
    single = [name for name in columns if isinstance(split.features[name], (Value, ClassLabel))]
    values = {name: {_cell_text(value) for value in split[name][:]} for name in single}
    bits = {name: {BITS[value] for value in of_column if value in BITS} for name, of_column in values.items()}
    has_only_bits = {name: of_column <= {*BITS, *UNKNOWN} for name, of_column in values.items()}
    if sum(has_only_bits[name] and bits[name] == {0, 1} for name in single) < 2:
        return ""
    # A rare label may have no 1 in this split.
    likely = [name for name in single if bits[name] and has_only_bits[name]]
    return f" If each label has a column of 0 and 1, name these: --class_names {' '.join(map(quote, likely))}."


def _read_bit(value: Any, row: int, label: str, split: str) -> int | None:
    """Return the 0 or 1 in a cell of a label's column, or None if it is not known; raise an error for other values."""
    text = _cell_text(value)
    bit = BITS.get(text)
    if bit is None and text not in UNKNOWN:
        raise InputError(
            f"Row {row} of the {split} split has {quoted(value)} in its column {label!r}: the columns that "
            "--class_names names hold 1 where an example has the label, and 0 where it has not. If another column "
            "holds the labels, name it: --label_column_name."
        )
    return bit


def _cell_text(value: Any) -> str:
    return "" if is_missing(value) else str(value).strip().lower()
