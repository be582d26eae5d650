"""Reads the user's columns into standard columns, and refuses or leaves out rows that cannot be used.

Standard columns have fixed names (``text``, ``label``, ``group``, ...), whatever the user's columns are called.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Protocol

from datasets import Dataset, DatasetDict, Features, List, Value

from hf_transfer.data.groups import group_name
from hf_transfer.data.tables import READER_VERSION
from hf_transfer.data.values import quoted
from hf_transfer.errors import InputError, logger

# ``leave_out(split_name, split, fits, reason, remedy)`` returns the rows of a split that fit, and logs the others.
LeaveOut = Callable[[str, Dataset, list[bool], str, str], Dataset]


class CellReader(Protocol):
    """Protocol of readers that turn the cells of a user's column into the values of a standard column."""

    @property
    def feature(self) -> Value | List:
        """The `datasets` feature (a type of column) of the contents that `read` returns."""

    def read(self, value: Any) -> tuple[Any, str | None]:
        """Return the content of a cell, and a text on what is wrong with it, or None if it can be used."""

    def unusable_column_message(self, split: str, problem: str) -> str | None:
        """Return an error message for a split in which every cell of the column has the given problem.

        None if a list of single rows is the better message.
        """

    def hint(self, problems: list[str], contents: list[Any]) -> str:
        """Return a sentence with a remedy for the problems of cells, or an empty string if there is no remedy.

        Args:
            problems: of the cells that cannot be used, in this column or in others.
            contents: of all cells in this column.
        """


class TargetReader(CellReader, Protocol):
    """Protocol of readers of the target's column (labels, transcripts), which also compare targets and inputs."""

    @property
    def required(self) -> bool:
        """Boolean: whether a target that cannot be read is an error, unless --drop_incomplete leaves its row out.

        Otherwise its example is left out, and counted under `missing_reason`.
        """

    @property
    def missing_reason(self) -> str:
        """String: a word or two that say that an example has no target."""

    @property
    def unique_per_input(self) -> bool:
        """Boolean: whether equal inputs must have the same target."""

    @property
    def pace_description(self) -> str:
        """String: a clause that says what `has_unusual_pace` means, and its likely causes."""

    def log_changes(self, split: str, cells: list[Any], contents: list[Any]) -> None:
        """Log, with an example, how reading has changed the cells of a split, if it has changed any."""

    def has_unusual_pace(self, content: Any, seconds: float) -> bool:
        """Return whether the content of a cell is too long or too short for the seconds of its recording."""


class TargetEncoding(Protocol):
    """Protocol of encoders of targets as the ``labels`` that a model's loss compares its outputs with.

    Attributes:
        unfit_reason: a word or two on what is wrong with an example that requires more positions than the model has.
        remedy: what the user should check then.
    """

    unfit_reason: ClassVar[str]
    remedy: ClassVar[str]

    def respell(self, splits: DatasetDict) -> DatasetDict:
        """Return the splits with their targets spelled as the model can write them."""

    def __call__(self, split: Dataset) -> Sequence[Any]:
        """Return the ``labels`` of each example of a split, [n]."""

    def required_positions(self, labels: Any) -> int:
        """Return the number of positions that the model's output needs to have for an example's `labels`."""


class GroupReader:
    """Reader of cells that name a group, a speaker or a patient."""

    feature = Value("string")

    def read(self, value: Any) -> tuple[str, str | None]:
        """Return the name in a cell, and None, as an empty cell is no problem."""
        return group_name(value), None

    def unusable_column_message(self, split: str, problem: str) -> str | None:
        """Return None, as no cell of a column of groups is unusable."""
        return None

    def hint(self, problems: list[str], contents: list[Any]) -> str:
        """Return an empty string, as no cell of a column of groups is unusable."""
        return ""


def read_columns(
    split: Dataset, name: str, columns: Mapping[str, str], readers: Mapping[str, CellReader], *, drop: bool
) -> Dataset:
    """Return a split with the standard columns (``text``, ``label``, ...), read from the user's columns.

    Args:
        split: the user's rows.
        name: of the split, for messages.
        columns: the user's column for each standard column.
        readers: of standard columns; all others hold names of groups, speakers or patients.
        drop: leave out rows that cannot be used, instead of refusing them.

    Raises:
        InputError: rows cannot be used; the message quotes the first of them.
    """
    readers_of_all: dict[str, CellReader] = {standard: readers.get(standard, GroupReader()) for standard in columns}
    features = {standard: reader.feature for standard, reader in readers_of_all.items()}
    read = split.map(
        _read_batch,
        batched=True,
        remove_columns=split.column_names,
        features=Features({**features, "problem": Value("string")}),
        fn_kwargs={"columns": dict(columns), "readers": readers_of_all, "version": READER_VERSION},
    )
    problems = read["problem"][:]
    if any(problems):
        contents = {standard: read[standard][:] for standard in readers}
        refuse_or_leave_out(name, problems, readers, contents, drop=drop)
        read = read.select([i for i, problem in enumerate(problems) if not problem])
    return read.remove_columns("problem")


def refuse_or_leave_out(
    split: str,
    problems: list[str | None],
    readers: Mapping[str, CellReader],
    contents: Mapping[str, list[Any]],
    *,
    drop: bool,
) -> None:
    """Raise an error about rows that cannot be used, or log how many are left out if the user asked for that.

    Args:
        split: name of the split.
        problems: what is wrong with each row, or None.
        readers: of standard columns.
        contents: of all cells in these columns.
        drop: whether the rows are to be left out.

    Raises:
        InputError: there are such rows and `drop` is False, or no other rows are left.
    """
    rows = [i for i, problem in enumerate(problems) if problem]
    messages = [problem for problem in problems if problem]
    if len(rows) == len(problems):
        for reader in readers.values():
            message = reader.unusable_column_message(split, messages[0])
            if message and all(reader.unusable_column_message(split, problem) for problem in messages):
                raise InputError(message)
    if rows and not drop:
        first = "; ".join(f"row {i + 1}: {problems[i]}" for i in rows[:5])
        or_leave_out = ", or leave them out with --drop_incomplete" if len(rows) < len(problems) else ""
        hints = "".join(reader.hint(messages, contents[standard]) for standard, reader in readers.items())
        raise InputError(
            f"{len(rows)} of {len(problems)} rows in the {split} split cannot be used ({first}; rows counted from 1, "
            f"without the header). Correct them{or_leave_out}.{hints}"
        )
    if rows:
        kinds = Counter(problem.split(":")[0] for problem in messages)
        counts = ", ".join(f"{n} x {kind}" for kind, n in kinds.items())
        logger.info("Left out of %s: %s (--drop_incomplete).", split, counts)
    if len(rows) == len(problems):
        raise InputError(f"The {split} split has no usable rows left. Check the columns, or give another file.")


def _read_batch(
    batch: dict[str, list[Any]],
    columns: dict[str, str],
    readers: dict[str, CellReader],
    version: int,  # only part of the cache's fingerprint, as in `load_tables`
) -> dict[str, list[Any]]:
    read: dict[str, list[Any]] = {standard: [] for standard in [*columns, "problem"]}
    for i in range(len(next(iter(batch.values())))):
        problems = []
        for standard, column in columns.items():
            value = batch[column][i]
            content, problem = readers[standard].read(value)
            read[standard].append(content)
            if problem:
                problems.append(f"{problem}: {column} is {quoted(value)}")
        read["problem"].append(problems[0] if problems else None)
    return read
