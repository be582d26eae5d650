"""What the model knew before: set apart to measure forgetting, and replayed against it."""

from datasets import ClassLabel, Dataset, DatasetDict, concatenate_datasets

from hf_transfer.arguments import DataArguments
from hf_transfer.errors import InputError, logger, nearest

# The column of training examples that says which are mixed in.
REPLAYED = "replayed"
# The group of examples that name none.
NAMELESS = "(none)"


def separate_source(splits: DatasetDict, data: DataArguments, seed: int) -> tuple[DatasetDict, Dataset | None]:
    """Set apart the examples of what the model knew before.

    Test examples of --source_group become the split ``source``; training examples of it wait for `replay`. A
    --source_file is split in two halves where it has to serve both.

    Args:
        splits: with ``train`` and ``test``; with ``source`` where there is a --source_file.
        data: the source.
        seed: of the halves.

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
        halves = splits["source"].train_test_split(test_size=0.5, seed=seed)
        splits["source"], pool = halves["test"], halves["train"]
        logger.info("Half of --source_file is replayed from, the other half (%d) measures.", len(splits["source"]))
    return splits, pool


def replay(splits: DatasetDict, pool: Dataset | None, data: DataArguments, seed: int) -> DatasetDict:
    """Mix examples of what the model knew before into training, as many as --replay says.

    Args:
        splits: with ``train``.
        pool: what they are drawn from.
        data: the share.
        seed: of the draw.

    Returns:
        The splits; where there are such examples, a column of training says which they are.

    Raises:
        InputError: there are too few.
    """
    if not data.replay or pool is None:
        return splits
    wanted = max(1, round(data.replay * len(splits["train"])))
    if wanted > len(pool):
        raise InputError(
            f"--replay {data.replay:g} of {len(splits['train'])} training examples are {wanted}; there are "
            f"{len(pool)} source examples to take them from."
        )
    own, taken = splits["train"], _like(splits["train"], pool.shuffle(seed=seed).select(range(wanted)))
    splits["train"] = concatenate_datasets([own, taken]).add_column(REPLAYED, [False] * len(own) + [True] * wanted)
    logger.info("%d source examples are mixed into training (--replay).", wanted)
    return splits


def named_groups(splits: DatasetDict, data: DataArguments) -> DatasetDict:
    """The user's splits with the groups' names where the column holds ids of a `ClassLabel`."""
    column = data.group_column_name
    named = DatasetDict(splits)
    for name, split in splits.items():
        feature = split.features.get(column)
        if isinstance(feature, ClassLabel):
            names = [None if i is None or i < 0 else feature.int2str(i) for i in split[column][:]]
            named[name] = split.remove_columns(column).add_column(column, names)
    return named


def only_groups(splits: DatasetDict, data: DataArguments) -> DatasetDict:
    """The user's splits with the rows of --target_group and --source_group alone, before anything is done with them.

    Raises:
        InputError: there is no such column, or no such group.
    """
    column = str(data.group_column_name)
    if data.target_group is None and data.source_group is None:
        return splits
    groups = {
        name: [str(group).strip() for group in split[column][:]]
        for name, split in splits.items()
        if column in split.column_names
    }
    if "train" not in groups:
        shown = ", ".join(splits["train"].column_names)
        raise InputError(f"--group_column_name {column}: the training split has no such column. It has: {shown}.")
    there = {group for own in groups.values() for group in own}
    for flag, named in (("target_group", data.target_group or []), ("source_group", [data.source_group])):
        for group in named:
            if group is not None and group not in there:
                shown = ", ".join(sorted(there))
                raise InputError(
                    f"--{flag} {group}: there is no such group. There are: {shown}.{nearest(group, there)}"
                )
    if data.target_group is None:
        return splits
    wanted = {*data.target_group, data.source_group}
    if not any(group in data.target_group for group in groups["train"]):
        raise InputError(f"--target_group {' '.join(data.target_group)}: the training split has no example of it.")
    return DatasetDict(
        {
            name: split.select([i for i, group in enumerate(groups[name]) if group in wanted])
            if name in groups and name not in ("source", "replay")
            else split
            for name, split in splits.items()
        }
    )


def _like(train: Dataset, taken: Dataset) -> Dataset:
    """`taken` with the columns of `train`; what the source does not know of its examples is called ``source``."""
    for name in set(train.column_names) - set(taken.column_names):
        taken = taken.add_column(name, ["source"] * len(taken))
    return taken.select_columns(train.column_names).cast(train.features)


def _rows_of_group(split: Dataset, group: str) -> tuple[list[int], list[int]]:
    """Indices of the rows outside a group, and of those in it."""
    groups = split["group"][:]
    return [i for i, own in enumerate(groups) if own != group], [i for i, own in enumerate(groups) if own == group]
