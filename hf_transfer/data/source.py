"""What the model knew before: set apart to measure forgetting, and replayed against it."""

from collections.abc import Callable

from datasets import Dataset, DatasetDict, concatenate_datasets

from hf_transfer.arguments import DataArguments
from hf_transfer.data.groups import NAMELESS
from hf_transfer.data.holdout import hold_out
from hf_transfer.data.units import UNIT, unit_numbers
from hf_transfer.errors import InputError, logger

# The column of training examples that says which are mixed in.
REPLAYED = "replayed"
# What the smaller half has at least: of whole speakers nobody asked for, and otherwise.
NEARLY_HALF, LEAST_HALF = 0.4, 0.25


def separate_source(
    splits: DatasetDict, data: DataArguments, seed: int, identities: Callable[[Dataset], list[str]], *, asked: bool
) -> tuple[DatasetDict, Dataset | None]:
    """Set apart the examples of what the model knew before.

    Test examples of --source_group become the split ``source``; training examples of it wait for `replay`. A
    --source_file is split in two halves where it has to serve both; equal examples, and those of one unit where whole
    ones halve it nearly, are in the same half.

    Args:
        splits: with ``train`` and ``test``; with ``source`` where there is a --source_file.
        data: the source.
        seed: of the halves.
        identities: what makes two examples equal.
        asked: whether the user named the column of the units.

    Returns:
        The splits, and the examples that can be replayed.

    Raises:
        InputError: there is no such group, or nothing but it.
    """
    pool = splits.pop("replay", None)
    if data.source_group is not None:
        rows = {name: _rows_of_group(splits[name], data.source_group) for name in ("train", "test")}
        for name, (others, source) in rows.items():
            if not source or not others:
                found = ", ".join(sorted(set(splits[name]["group"])))
                raise InputError(
                    f"--source_group {data.source_group}: the {name} split has {len(source)} examples of it and "
                    f"{len(others)} others; expected both. Its groups: {found}."
                )
        pool = splits["train"].select(rows["train"][1])
        splits["source"] = splits["test"].select(rows["test"][1])
        splits["test"] = splits["test"].select(rows["test"][0])
        splits["train"] = splits["train"].select(rows["train"][0])
        nameless = sum(split["group"][:].count(NAMELESS) for split in splits.values() if "group" in split.column_names)
        if nameless and data.source_group != NAMELESS:
            logger.warning(
                "%d examples name no group (%s): they count as new ones, whatever they are. --target_group names what "
                "is wanted.", nameless, data.group_column_name,
            )  # fmt: skip
        logger.info(
            "Source group %r: %d test examples measure it apart; %d training examples wait for --replay.",
            data.source_group, len(splits["source"]), len(pool),
        )  # fmt: skip
    elif data.replay and pool is None and len(splits["source"]) < 2:
        raise InputError(
            "--source_file has one usable example; with --replay it needs two: one to measure, one to mix in."
        )
    elif data.replay and pool is None:
        splits["source"], pool = _halves(splits["source"], seed, identities, asked=asked)
        logger.info(
            "%d examples of --source_file are replayed from, the other %d measure.", len(pool), len(splits["source"])
        )
    return splits, pool


def _halves(
    source: Dataset, seed: int, identities: Callable[[Dataset], list[str]], *, asked: bool
) -> tuple[Dataset, Dataset]:
    """Two halves of a dataset without an example in common, nor a unit where whole ones are near to halves.

    Raises:
        InputError: too many examples are equal, or of one unit.
    """
    equal = identities(source)
    choices = [(unit_numbers(equal), LEAST_HALF)]
    if UNIT in source.column_names:
        whole = unit_numbers(equal, source[UNIT][:])
        choices = [(whole, LEAST_HALF)] if asked else [(whole, NEARLY_HALF), *choices]
    for units, share in choices:
        drawn = hold_out(units, [None] * len(source), len(source) // 2, seed)
        if min(len(drawn.taken), len(drawn.kept)) >= share * len(source):
            return source.select(drawn.kept), source.select(drawn.taken)
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
    """Mix examples of what the model knew before into training, as many as --replay says; none that are held out.

    Args:
        splits: with ``train``.
        pool: what they are drawn from.
        data: the share.
        seed: of the draw.
        identities: what makes two examples equal.

    Returns:
        The splits; where there are such examples, a column of training says which they are.

    Raises:
        InputError: there are too few.
    """
    if not data.replay or pool is None:
        return splits
    held_out = {key for name, split in splits.items() if name != "train" for key in identities(split)}
    pool = pool.select([i for i, key in enumerate(identities(pool)) if key not in held_out])
    wanted = max(1, round(data.replay * len(splits["train"])))
    if wanted > len(pool):
        raise InputError(
            f"--replay {data.replay:g} of {len(splits['train'])} training examples are {wanted}; there are "
            f"{len(pool)} source examples that are not held out to take them from."
        )
    own, taken = splits["train"], _like(splits["train"], pool.shuffle(seed=seed).select(range(wanted)))
    splits["train"] = concatenate_datasets([own, taken]).add_column(REPLAYED, [False] * len(own) + [True] * wanted)
    logger.info("%d source examples are mixed into training (--replay).", wanted)
    return splits


def _like(train: Dataset, taken: Dataset) -> Dataset:
    """`taken` with the columns of `train`; what the source does not know of its examples is called ``source``."""
    for name in set(train.column_names) - set(taken.column_names):
        taken = taken.add_column(name, ["source"] * len(taken))
    return taken.select_columns(train.column_names).cast(train.features)


def _rows_of_group(split: Dataset, group: str) -> tuple[list[int], list[int]]:
    """Indices of the rows outside a group, and of those in it."""
    groups = split["group"][:]
    return [i for i, own in enumerate(groups) if own != group], [i for i, own in enumerate(groups) if own == group]
