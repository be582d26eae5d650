"""The user's rows under our names: a reader for each column, and what happens to rows that cannot be used."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Protocol

from datasets import Dataset, DatasetDict, Features, Value

from hf_transfer.data.groups import group_name
from hf_transfer.data.tables import READER
from hf_transfer.data.values import quoted
from hf_transfer.errors import InputError, logger

# ``leave_out(split_name, split, fits, reason, remedy)``: the rows of a split that fit; the others are named and said.
LeaveOut = Callable[[str, Dataset, list[bool], str, str], Dataset]


class CellReader(Protocol):
    """How the cells of a column are read."""

    @property
    def feature(self) -> Any:
        """Of the `datasets` column that `read` fills."""

    def read(self, value: Any) -> tuple[Any, str | None]:
        """What a cell holds; and what is wrong, if something is."""

    def unusable_column_message(self, split: str, problem: str) -> str | None:
        """A message instead of a list, where `problem` is wrong with every cell of a split; or None."""

    def hint(self, problems: list[str], contents: list[Any]) -> str:
        """What to do about the problems of some cells, or nothing.

        Args:
            problems: of cells that cannot be used, perhaps of other columns.
            contents: of every cell of this column.
        """


class TargetReader(CellReader, Protocol):
    """How the target's column is read, and what of an input does not fit it."""

    @property
    def required(self) -> bool:
        """Whether a cell that cannot be used is refused, unless --drop_incomplete is given.

        Elsewhere its example is left out, counted and said, for the reason `missing_reason`.
        """

    @property
    def missing_reason(self) -> str:
        """In a word or two, that there is nothing to learn."""

    @property
    def unique_per_input(self) -> bool:
        """Whether inputs that are the same cannot have different targets."""

    @property
    def pace_description(self) -> str:
        """In a clause, what `has_unusual_pace` means."""

    def log_changes(self, split: str, cells: list[Any], contents: list[Any]) -> None:
        """Say with an example what reading does to the cells of a split, if it does anything."""

    def has_unusual_pace(self, content: Any, seconds: float) -> bool:
        """Whether what was read does not fit the duration of its clip."""


class TargetEncoding(Protocol):
    """What a model's loss compares its outputs with.

    Attributes:
        unfit_reason: in a word or two, what is wrong with an example whose `positions` are more than the model makes.
        remedy: what to look for then.
    """

    unfit_reason: ClassVar[str]
    remedy: ClassVar[str]

    def respell(self, splits: DatasetDict) -> DatasetDict:
        """The splits as the model that was made for them can write what is learned."""

    def __call__(self, split: Dataset) -> Sequence[Any]:
        """The ``labels`` of each example."""

    def required_positions(self, labels: Any) -> int:
        """Positions of the model's output that an example's `labels` need."""


class GroupReader:
    """Cells that name a group, a speaker or a patient."""

    feature = Value("string")

    def read(self, value: Any) -> tuple[str, str | None]:
        return group_name(value), None

    def unusable_column_message(self, split: str, problem: str) -> str | None:
        return None

    def hint(self, problems: list[str], contents: list[Any]) -> str:
        return ""


def read_columns(
    split: Dataset, name: str, columns: Mapping[str, str], readers: Mapping[str, CellReader], *, drop: bool
) -> Dataset:
    """A split with the columns that `columns` names, as their readers read them.

    Args:
        split: the user's rows.
        name: of the split, for messages.
        columns: the user's column for each of ours.
        readers: of our columns; all others hold names of groups, speakers or patients.
        drop: leave out rows that cannot be used, instead of refusing them.

    Raises:
        InputError: rows cannot be used; the message names the first of them.
    """
    every = {own: readers.get(own, GroupReader()) for own in columns}
    features = {own: reader.feature for own, reader in every.items()}
    read = split.map(
        _read_batch,
        batched=True,
        remove_columns=split.column_names,
        features=Features({**features, "problem": Value("string")}),
        fn_kwargs={"columns": dict(columns), "readers": every, "version": READER},
    )
    problems = read["problem"][:]
    if any(problems):
        contents = {own: read[own][:] for own in readers}
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
    """Refuse a split with rows that cannot be used or, if asked to leave them out, say how many there are.

    Args:
        split: its name.
        problems: of each row, None where there is none.
        readers: of our columns.
        contents: what they have read.
        drop: whether to leave them out.

    Raises:
        InputError: they are not to be left out, or there are no others.
    """
    rows = [i for i, problem in enumerate(problems) if problem]
    told = [problem for problem in problems if problem]
    if len(rows) == len(problems):
        for reader in readers.values():
            message = reader.unusable_column_message(split, told[0])
            if message and all(reader.unusable_column_message(split, problem) for problem in told):
                raise InputError(message)
    if rows and not drop:
        first = "; ".join(f"row {i + 1}: {problems[i]}" for i in rows[:5])
        without = ", or leave them out with --drop_incomplete" if len(rows) < len(problems) else ""
        hints = "".join(reader.hint(told, contents[own]) for own, reader in readers.items())
        raise InputError(
            f"{len(rows)} of {len(problems)} rows in the {split} split cannot be used ({first}; rows counted from 1, "
            f"without the header). Mend them{without}.{hints}"
        )
    if rows:
        kinds = Counter(problem.split(":")[0] for problem in told)
        counts = ", ".join(f"{n} x {kind}" for kind, n in kinds.items())
        logger.info("Left out of %s: %s (--drop_incomplete).", split, counts)
    if len(rows) == len(problems):
        raise InputError(f"The {split} split has no usable rows left.")


def _read_batch(
    batch: dict[str, list[Any]],
    columns: dict[str, str],
    readers: dict[str, CellReader],
    version: int,  # part of the cache's fingerprint, as in `load_tables`
) -> dict[str, list[Any]]:
    read: dict[str, list[Any]] = {own: [] for own in [*columns, "problem"]}
    for i in range(len(next(iter(batch.values())))):
        problems = []
        for own, column in columns.items():
            value = batch[column][i]
            content, problem = readers[own].read(value)
            read[own].append(content)
            if problem:
                problems.append(f"{problem}: {column} is {quoted(value)}")
        read["problem"].append(problems[0] if problems else None)
    return read
