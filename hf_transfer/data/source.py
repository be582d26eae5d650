"""Source examples, of what the model knew before: set apart to measure forgetting, and replayed in training."""

from collections.abc import Callable

from datasets import Dataset, DatasetDict, concatenate_datasets

from hf_transfer.arguments import DataArguments
from hf_transfer.data.groups import NAMELESS
from hf_transfer.data.holdout import hold_out
from hf_transfer.data.units import UNIT, unit_numbers
from hf_transfer.errors import InputError, logger

# The training column that says which examples are replayed.
REPLAYED = "replayed"
# The smallest share of the smaller half: if whole units are kept although nobody asked for it, and otherwise.
SMALLEST_HALF_OF_FOUND_UNITS, SMALLEST_HALF = 0.4, 0.25


def separate_source(
    splits: DatasetDict, data: DataArguments, seed: int, identities: Callable[[Dataset], list[str]], *, asked: bool
) -> tuple[DatasetDict, Dataset | None]:
    """Move source examples out of the splits, and return the splits and the examples that can be replayed.

    Some become the split ``source``, which measures forgetting.

    Test examples of --source_group become the split ``source``; its training examples can be replayed. A --source_file
    is halved if it has to serve both. Equal examples stay in the same half, and so do those of one unit, if whole
    units can be divided into near halves.

    Args:
        splits: with ``train`` and ``test``; with ``source`` if there is a --source_file, and perhaps ``replay``.
        data: with --source_group, --source_file and --replay.
        seed: of the halves.
        identities: returns a key for each example; examples with the same key are equal.
        asked: whether the user named the column of the units.

    Returns:
        The splits, and the examples that can be replayed, if any.

    Raises:
        InputError: a split has no example of the source group, or no other; or --source_file cannot be halved.
    """
    pool = splits.pop("replay", None)
    if data.source_group is not None:
        return _separate_source_group(splits, data, data.source_group)
    if data.replay and pool is None and len(splits["source"]) < 2:
        raise InputError(
            "--source_file has one usable example; with --replay it needs two: one to measure, one to mix in."
        )
    if data.replay and pool is None:
        splits["source"], pool = _halves(splits["source"], seed, identities, asked=asked)
        logger.info(
            "%d examples of --source_file can be replayed, the other %d measure forgetting.",
            len(pool), len(splits["source"]),
        )  # fmt: skip
    return splits, pool


def _separate_source_group(splits: DatasetDict, data: DataArguments, source_group: str) -> tuple[DatasetDict, Dataset]:
    rows = {name: _rows_by_group(splits[name], source_group) for name in ("train", "test")}
    for name, (others, source) in rows.items():
        if not source or not others:
            groups = ", ".join(sorted(set(splits[name]["group"])))
            raise InputError(
                f"--source_group {source_group}: the {name} split has {len(source)} examples of it and "
                f"{len(others)} others; expected both. Its groups: {groups}."
            )
    pool = splits["train"].select(rows["train"][1])
    splits["source"] = splits["test"].select(rows["test"][1])
    splits["test"] = splits["test"].select(rows["test"][0])
    splits["train"] = splits["train"].select(rows["train"][0])
    nameless = sum(split["group"][:].count(NAMELESS) for split in splits.values() if "group" in split.column_names)
    if nameless and source_group != NAMELESS:
        logger.warning(
            "%d examples have no group in the column %s: they count as new examples, not as source examples. Name "
            "the groups to learn with --target_group to leave them out.", nameless, data.group_column_name,
        )  # fmt: skip
    logger.info(
        "Source group %r: %d test examples measure it apart; %d training examples wait for --replay.",
        source_group, len(splits["source"]), len(pool),
    )  # fmt: skip
    return splits, pool


def _halves(
    source: Dataset, seed: int, identities: Callable[[Dataset], list[str]], *, asked: bool
) -> tuple[Dataset, Dataset]:
    """Return the two halves of a dataset, with equal examples in one half, and whole units if possible.

    Raises:
        InputError: too many examples are equal, or of one unit.
    """
    keys = identities(source)
    choices = [(unit_numbers(keys), SMALLEST_HALF)]
    if UNIT in source.column_names:
        whole_units = unit_numbers(keys, source[UNIT][:])
        choices = [(whole_units, SMALLEST_HALF)] if asked else [(whole_units, SMALLEST_HALF_OF_FOUND_UNITS), *choices]
    for units, smallest in choices:
        halves = hold_out(units, [None] * len(source), len(source) // 2, seed)
        if min(len(halves.held_out), len(halves.remaining)) >= smallest * len(source):
            return source.select(halves.remaining), source.select(halves.held_out)
    raise InputError(
        "--source_file cannot be halved, to measure on one half and --replay the other: too many of its examples are "
        "equal, or of one value of --split_by. Give it a column `split` with the values train and test."
    )


def add_replay(
    splits: DatasetDict,
    pool: Dataset | None,
    data: DataArguments,
    seed: int,
    identities: Callable[[Dataset], list[str]],
) -> DatasetDict:
    """Return the splits with source examples added to training, as many as --replay says.

    Source examples that are held out are not added.

    Args:
        splits: with ``train``.
        pool: the source examples that can be replayed.
        data: with --replay, as a share of the training examples.
        seed: of the draw.
        identities: returns a key for each example; examples with the same key are equal.

    Returns:
        The splits. If examples were added, the training column ``replayed`` says which.

    Raises:
        InputError: there are too few source examples.
    """
    if not data.replay or pool is None:
        return splits
    held_out = {key for name, split in splits.items() if name != "train" for key in identities(split)}
    pool = pool.select([i for i, key in enumerate(identities(pool)) if key not in held_out])
    count = max(1, round(data.replay * len(splits["train"])))
    if count > len(pool):
        raise InputError(
            f"--replay {data.replay:g} of {len(splits['train'])} training examples are {count}; there are only "
            f"{len(pool)} source examples that are not held out. Lower --replay, or give more source examples."
        )
    train = splits["train"]
    replayed = _with_columns_of(train, pool.shuffle(seed=seed).select(range(count)))
    splits["train"] = concatenate_datasets([train, replayed]).add_column(
        REPLAYED, [False] * len(train) + [True] * count
    )
    logger.info("%d source examples are mixed into training (--replay).", count)
    return splits


def _with_columns_of(train: Dataset, replayed: Dataset) -> Dataset:
    """Return `replayed` with the columns of `train`; columns that it lacks are filled with ``source``."""
    for name in set(train.column_names) - set(replayed.column_names):
        replayed = replayed.add_column(name, ["source"] * len(replayed))
    return replayed.select_columns(train.column_names).cast(train.features)


def _rows_by_group(split: Dataset, group: str) -> tuple[list[int], list[int]]:
    """Return the indices of the rows outside a group, and those of the rows in it."""
    groups = split["group"][:]
    outside = [i for i, name in enumerate(groups) if name != group]
    return outside, [i for i, name in enumerate(groups) if name == group]
