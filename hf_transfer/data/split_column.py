"""Divides one table into splits by a column that says the split of each row."""

from datasets import Dataset, DatasetDict

from hf_transfer.data.splits import USUAL_SPLIT_NAMES
from hf_transfer.errors import InputError, logger, short_path

# Names of such a column, in any case, the likeliest first.
SPLIT_COLUMNS = ("split", "set", "partition")


def divide_by_split_column(table: Dataset, source: str) -> DatasetDict:
    """Divide a table by its column of splits (`SPLIT_COLUMNS`), log it, and return train, validation and test.

    A column divides the table if at least half of its rows name a split in it and some name training.

    Args:
        table: the user's rows.
        source: file or folder of the table, for messages.

    Returns:
        The splits; the whole table as ``train`` if no column divides it.

    Raises:
        InputError: a row names no split in the column that divides the table.
    """
    columns = [name for usual in SPLIT_COLUMNS for name in table.column_names if name.lower() == usual]
    unused = []
    for column in columns:
        values = [str(value).strip().lower() for value in table[column][:]]
        rows = {
            split: [i for i, value in enumerate(values) if value in usual]
            for split, usual in USUAL_SPLIT_NAMES.items()
        }
        count = sum(map(len, rows.values()))
        if count >= len(values) / 2 and rows["train"]:
            return _divide(table, column, values, rows, source)
        if count:
            unused.append((column, count))
    for column, count in unused:
        no_train = "" if count < len(table) / 2 else ", and none says train"
        logger.warning(
            "The column %r of %s does not divide it: %d of %d rows say train, validation or test there%s. All of "
            "them are taken together: correct the column, or rename it if it means something else.",
            column, short_path(source), count, len(table), no_train,
        )  # fmt: skip
    return DatasetDict(train=table)


def _divide(table: Dataset, column: str, values: list[str], rows: dict[str, list[int]], source: str) -> DatasetDict:
    """Return the splits of a table, divided by the row indices of each split, and log their sizes.

    Args:
        table: the user's rows.
        column: that says the split of each row.
        values: of this column, in small letters [n].
        rows: indices by split.
        source: file or folder of the table, for messages.
    """
    if sum(map(len, rows.values())) < len(values):
        usual = {word for words in USUAL_SPLIT_NAMES.values() for word in words}
        number, odd = next((i, value) for i, value in enumerate(values, start=1) if value not in usual)
        raise InputError(
            f"{short_path(source)}: row {number} is of the split {odd!r}; expected one of {', '.join(sorted(usual))} "
            f"in the column {column!r}, which divides the table. Correct the row, or rename the column."
        )
    splits = DatasetDict({name: table.select(indices) for name, indices in rows.items() if indices})
    sizes = ", ".join(f"{len(split)} {name}" for name, split in splits.items())
    logger.info("The column %r of %s divides it: %s.", column, short_path(source), sizes)
    return splits
