"""Hub datasets and local files to a `DatasetDict` with train, validation and test splits."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import datasets
from datasets import Dataset, DatasetDict

from hf_transfer.arguments import DataArguments
from hf_transfer.data.audiofolder import SPLIT_NAMES, audiofolder_tables, load_audiofolder
from hf_transfer.data.tables import load_file
from hf_transfer.errors import InputError, logger, short_path

# `source` is what the model knew before, to be measured apart; `replay` more of it, to be mixed into training.
SPLITS = ("train", "validation", "test", "source", "replay")


def load_splits(data: DataArguments) -> DatasetDict:
    """The splits that the user names, as they are: Hub dataset or local files.

    Returns:
        A `DatasetDict` with the key ``train`` and, where they exist, ``validation`` and ``test``.

    Raises:
        InputError: a file or dataset is missing or cannot be read; the message says where.
    """
    files = {name: getattr(data, f"{name}_file") for name in SPLITS[:4]}
    splits = DatasetDict()
    if data.dataset_name and (tables := audiofolder_tables(Path(data.dataset_name))):
        splits = load_audiofolder(Path(data.dataset_name), tables)
        if list(splits) == ["train"]:
            splits = divided_by_column(splits["train"], str(tables["train"]))
    elif data.dataset_name:
        splits = _load_from_hub(data)
    elif not files["train"]:
        raise InputError("Nothing to train on: expected --train_file FILE or --dataset_name NAME.")
    for name, file in files.items():
        if file:
            splits[name] = load_file(file, column_names=data.column_names, delimiter=data.delimiter)
    if data.train_file:
        # Rows that the column keeps out of training stay out, even where a file was named for their split.
        splits = DatasetDict({**divided_by_column(splits["train"], data.train_file), **splits_beside(splits)})
    if "source" in splits:
        divided = divided_by_column(splits["source"], str(data.source_file))
        if "test" in divided:
            splits["source"], splits["replay"] = divided["test"], divided["train"]
    return splits


def splits_beside(splits: DatasetDict) -> DatasetDict:
    """The splits but training."""
    return DatasetDict({name: split for name, split in splits.items() if name != "train"})


def divided_by_column(table: Dataset, source: str) -> DatasetDict:
    """One table for all splits, told apart by a column ``split``: its rows go where they belong, and that is said."""
    if "split" not in table.column_names:
        return DatasetDict(train=table)
    values = [str(value).strip().lower() for value in table["split"][:]]
    rows = {name: [i for i, value in enumerate(values) if value in usual] for name, usual in SPLIT_NAMES.items()}
    divided_rows = sum(map(len, rows.values()))
    if divided_rows < len(values) / 2 or not rows["train"]:
        return DatasetDict(train=table)  # a column that means something else
    if divided_rows < len(values):
        usual = {word for words in SPLIT_NAMES.values() for word in words}
        number, odd = next((i, value) for i, value in enumerate(values, start=1) if value not in usual)
        raise InputError(
            f"{short_path(source)}: row {number} is of the split {odd!r}; expected one of {', '.join(sorted(usual))} "
            "in the column 'split', which divides the table. Mend the row, or rename the column."
        )
    divided = DatasetDict({name: table.select(indices) for name, indices in rows.items() if indices})
    sizes = ", ".join(f"{len(split)} {name}" for name, split in divided.items())
    logger.info("The column 'split' of %s divides it: %s.", short_path(source), sizes)
    return divided


def _load_from_hub(data: DataArguments) -> DatasetDict:
    name = data.dataset_name
    try:
        loaded = datasets.load_dataset(name, data.dataset_config_name)
    except Exception as error:  # network, missing datasets, files that do not fit together
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        offline = " HF_HUB_OFFLINE is set." if os.environ.get("HF_HUB_OFFLINE") in ("1", "ON", "YES", "TRUE") else ""
        raise InputError(
            f"--dataset_name {name} could not be loaded: {reason}{offline} Expected a dataset on the Hub, reachable "
            "from here, or a local folder of data files; a single local file goes to --train_file."
        ) from error
    splits = DatasetDict()
    for split in SPLITS[:3]:
        wanted = getattr(data, f"{split}_split_name")
        if wanted in loaded:
            splits[split] = loaded[wanted]
        elif split == "train" or wanted != split:
            raise InputError(
                f"--{split}_split_name {wanted}: {name} has no such split; it has {', '.join(map(str, loaded))}."
            )
    return splits


def require_columns(split: Dataset, name: str, columns: Mapping[str, str]) -> None:
    """Refuse a split without one of the user's columns, by our names for them.

    Raises:
        InputError: it is absent.
    """
    for own, column in columns.items():
        if column not in split.column_names:
            raise InputError(
                f"The {name} split has no column {column!r} (--{own}_column_name); it has: "
                f"{', '.join(split.column_names)}."
            )


def find_column(columns: Sequence[str], given: str | None, usual: Sequence[str], flag: str) -> str:
    """The column that the user names, or the first of the `usual` names that there is; and that is said.

    Raises:
        InputError: there is no such column; the message names those that there are.
    """
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
    message += f" There are: {', '.join(repr(name[:40]) for name in columns)}. Name it: --{flag} COLUMN."
    if any(len(name) > 30 or " " in name for name in columns):
        message += " If the file has no header, name its columns in order: --column_names label text."
    raise InputError(message)
