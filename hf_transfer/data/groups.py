"""Groups of examples: the names in the user's column (accent, speaker, domain), and which of them are used."""

from typing import Any

from datasets import ClassLabel, DatasetDict

from hf_transfer.arguments import DataArguments
from hf_transfer.data.values import read_text
from hf_transfer.errors import InputError, nearest

# The group of examples that name none.
NAMELESS = "(none)"


def group_name(value: Any) -> str:
    """The group, speaker or patient that a cell names: text without outer spaces; `NAMELESS` where it is empty."""
    return read_text(value)[0].strip() or NAMELESS


def replace_class_labels(splits: DatasetDict, data: DataArguments) -> DatasetDict:
    """The user's splits with names instead of the ids of a `ClassLabel` in --group_column_name and --split_by."""
    named = DatasetDict(splits)
    for column in dict.fromkeys((data.group_column_name, data.split_by)):
        for name, split in named.items():
            feature = split.features.get(column)
            if isinstance(feature, ClassLabel):
                names = [None if i is None or i < 0 else feature.int2str(i) for i in split[column][:]]
                named[name] = split.remove_columns(column).add_column(column, names)
    return named


def select_groups(splits: DatasetDict, data: DataArguments) -> DatasetDict:
    """The user's splits with the rows of --target_group and --source_group alone, before anything is done with them.

    Raises:
        InputError: there is no such column, or no such group.
    """
    column = str(data.group_column_name)
    if data.target_group is None and data.source_group is None:
        return splits
    groups = {
        name: [group_name(value) for value in split[column][:]]
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
