"""The names of splits, and the columns that are looked for in them."""

from collections.abc import Callable, Mapping, Sequence

from datasets import Dataset

from hf_transfer.errors import InputError, logger

# `source` is what the model knew before, to be measured apart; `replay` more of it, to be mixed into training.
SPLITS = ("train", "validation", "test", "source", "replay")


def require_columns(split: Dataset, name: str, columns: Mapping[str, str], flag: str | None = None) -> None:
    """Refuse a split without one of the user's columns.

    Args:
        split: the user's rows.
        name: of the split.
        columns: by our names for them.
        flag: that names the columns, where not each has one of its own.

    Raises:
        InputError: it is absent.
    """
    for own, column in columns.items():
        if column not in split.column_names:
            raise InputError(
                f"The {name} split has no column {column!r} (--{flag or f'{own}_column_name'}); it has: "
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
    """The column that the user names, or the first of the `usual` names that there is; and that is said.

    Args:
        columns: of the table.
        given: the user's.
        usual: names, the likeliest first.
        flag: that names it.
        hint: gives what else could be done where there is none.

    Raises:
        InputError: there is no such column; the message names those that there are.
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
