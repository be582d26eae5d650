"""Names of splits, and the search for the user's columns in them."""

from collections.abc import Callable, Mapping, Sequence

from datasets import Dataset

from hf_transfer.errors import InputError, logger

# `source` holds examples of what the model knew before, to measure forgetting; `replay` holds further ones, to be
# mixed into training.
SPLITS = ("train", "validation", "test", "source", "replay")
# The names of splits in files, folders and columns, in small letters.
USUAL_SPLIT_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev", "development"),
    "test": ("test", "testing", "eval", "evaluation"),
}


def require_columns(split: Dataset, name: str, columns: Mapping[str, str], flag: str | None = None) -> None:
    """Raise an error if a split lacks one of the user's columns.

    Args:
        split: the user's rows.
        name: of the split, for the message.
        columns: the user's column for each of our standard columns.
        flag: that names the columns; None where each standard column has its own, ``--NAME_column_name``.

    Raises:
        InputError: a column is absent.
    """
    for standard, column in columns.items():
        if column not in split.column_names:
            raise InputError(
                f"The {name} split has no column {column!r} (--{flag or f'{standard}_column_name'}); it has: "
                f"{', '.join(split.column_names)}."
            )


def find_column(
    columns: Sequence[str],
    given: str | None,
    usual: Sequence[str],
    flag: str,
    *,
    hint: Callable[[], str] = lambda: "",
) -> str:
    """Return the column that the user names, or else the first with a usual name, which is logged.

    Args:
        columns: of the table.
        given: the column that the user names, if any.
        usual: usual names of such a column, in small letters, the likeliest first.
        flag: that names the column.
        hint: returns a further remedy for the message, if no column is found.

    Raises:
        InputError: there is no such column; the message lists the columns of the table.
    """
    if not columns:
        raise InputError(f"--{flag}: the table has no other column that it could be. Add one, named {usual[0]!r}.")
    if given is not None:
        if given not in columns:
            raise InputError(f"--{flag} {given}: there is no such column. There are: {', '.join(columns)}.")
        return given
    by_name = {name.lower(): name for name in reversed(columns)}
    for name in usual:
        if name in by_name:
            logger.info("Column %r is taken as --%s.", by_name[name], flag)
            return by_name[name]
    message = f"No column is named like a {flag.removesuffix('_column_name')} ({', '.join(usual[:4])}, ...)."
    message += f" There are: {', '.join(repr(name[:40]) for name in columns)}. Name it: --{flag} COLUMN.{hint()}"
    if any(len(name) > 30 or " " in name for name in columns):
        message += " If the file has no header, name its columns in order: --column_names label text."
    raise InputError(message)
