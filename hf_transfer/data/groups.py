"""Groups of examples: the names in --group_column_name (accent, speaker, domain), and the choice of some of them."""

from typing import Any

from datasets import ClassLabel, DatasetDict

from hf_transfer.arguments import DataArguments
from hf_transfer.data.values import read_text
from hf_transfer.errors import InputError, nearest

# The group of examples whose cell is empty.
NAMELESS = "(none)"


def group_name(value: Any) -> str:
    """Return the group, speaker or patient that a cell names, without outer spaces; `NAMELESS` if it is empty."""
    return read_text(value)[0].strip() or NAMELESS


def replace_class_labels(splits: DatasetDict, data: DataArguments) -> DatasetDict:
    """Return the splits with names instead of `ClassLabel` ids in the columns of groups and of --split_by."""
    with_names = DatasetDict(splits)
    for column in dict.fromkeys((data.group_column_name, data.split_by)):
        for split_name, split in with_names.items():
            feature = split.features.get(column)
            if isinstance(feature, ClassLabel):
                names = [None if i is None or i < 0 else feature.int2str(i) for i in split[column][:]]
                with_names[split_name] = split.remove_columns(column).add_column(column, names)
    return with_names


def select_groups(splits: DatasetDict, data: DataArguments) -> DatasetDict:
    """Return the splits with only the rows of --target_group and --source_group, or all rows without these flags.

    The splits ``source`` and ``replay``, and those without the column, stay as they are.

    Raises:
        InputError: the training split has no such column, or no row is of a named group.
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
        columns = ", ".join(splits["train"].column_names)
        raise InputError(f"--group_column_name {column}: the training split has no such column. It has: {columns}.")
    known = {group for groups_of_split in groups.values() for group in groups_of_split}
    for flag, named in (("target_group", data.target_group or []), ("source_group", [data.source_group])):
        for group in named:
            if group is not None and group not in known:
                raise InputError(
                    f"--{flag} {group}: there is no such group. There are: {', '.join(sorted(known))}."
                    f"{nearest(group, known)}"
                )
    if data.target_group is None:
        return splits
    selected = {*data.target_group, data.source_group}
    if not any(group in data.target_group for group in groups["train"]):
        raise InputError(f"--target_group {' '.join(data.target_group)}: the training split has no example of it.")
    return DatasetDict(
        {
            name: split.select([i for i, group in enumerate(groups[name]) if group in selected])
            if name in groups and name not in ("source", "replay")
            else split
            for name, split in splits.items()
        }
    )
