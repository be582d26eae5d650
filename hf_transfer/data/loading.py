"""The splits that the user names, as they are: Hub dataset, local folder or local files."""

import os
import re
from pathlib import Path

import datasets
from datasets import Dataset, DatasetDict

from hf_transfer.arguments import DataArguments
from hf_transfer.data.folders import load_saved, require_readable, saved_splits, tables_of_folder
from hf_transfer.data.media_folders import SPLIT_NAMES, audiofolder_tables, labelled_folders, load_audiofolder
from hf_transfer.data.splits import SPLITS
from hf_transfer.data.tables import SUFFIXES, load_table, load_tables
from hf_transfer.errors import InputError, logger, reading, short_path


def load_splits(data: DataArguments) -> DatasetDict:
    """The splits that the user names, as they are: Hub dataset or local files.

    Returns:
        A `DatasetDict` with the key ``train`` and, where they exist, ``validation`` and ``test``.

    Raises:
        InputError: a file or dataset is missing or cannot be read; the message says where.
    """
    files = {name: getattr(data, f"{name}_file") for name in SPLITS[:4]}
    splits = DatasetDict()
    if data.dataset_name:
        splits = _load_dataset(data)
        if list(splits) == ["train"] and Path(data.dataset_name).is_dir():
            table = audiofolder_tables(Path(data.dataset_name)).get("train", data.dataset_name)
            splits = divide_by_split_column(splits["train"], str(table))
    elif not files["train"]:
        raise InputError("Nothing to train on: expected --train_file FILE or --dataset_name NAME.")
    for name, file in files.items():
        if file:
            splits[name] = load_table(file, column_names=data.column_names, delimiter=data.delimiter)
    if data.train_file:
        # Rows that the column keeps out of training stay out, even where a file was named for their split.
        splits = DatasetDict({**divide_by_split_column(splits["train"], data.train_file), **splits_beside(splits)})
    if "source" in splits:
        divided = divide_by_split_column(splits["source"], str(data.source_file))
        if "test" in divided:
            splits["source"], splits["replay"] = divided["test"], divided["train"]
    return splits


def _load_dataset(data: DataArguments) -> DatasetDict:
    folder = Path(str(data.dataset_name))
    with reading(folder):
        is_local = folder.is_dir()
    if not is_local:
        return _named_splits(data, _load_with_datasets(data))
    require_readable(folder)
    with reading(folder):
        metadata = audiofolder_tables(folder)
    if metadata:
        return load_audiofolder(folder, metadata, column_names=data.column_names, delimiter=data.delimiter)
    if saved := saved_splits(folder):
        return _named_splits(data, load_saved(folder, saved))
    if _describes_itself(folder) or data.dataset_config_name:
        tables = _declared_tables(data)
    else:
        tables = tables_of_folder(folder, say=True)
    if not tables:
        with reading(folder):
            labelled = labelled_folders(folder)
        return _named_splits(data, labelled or _load_with_datasets(data))
    wanted = {getattr(data, f"{name}_split_name") for name in SPLITS[:3]}
    loaded = DatasetDict()
    for name, paths in tables.items():
        if name in wanted:
            loaded[name] = load_tables(paths, column_names=data.column_names, delimiter=data.delimiter)
    return _named_splits(data, loaded, there=list(tables))


def _describes_itself(folder: Path) -> bool:
    """Whether a README.md declares the folder's data files, as datasets on the Hub do."""
    try:
        return "\nconfigs:" in (folder / "README.md").read_text(encoding="utf-8").split("\n---", 1)[0]
    except (OSError, UnicodeDecodeError):
        return False


def _declared_tables(data: DataArguments) -> dict[str, list[Path]]:
    """The files of each split as `datasets` resolves them, if all are tables."""
    try:
        builder = datasets.load_dataset_builder(data.dataset_name, data.dataset_config_name)
    except Exception as error:  # a README that declares files wrongly, and whatever else `datasets` finds
        raise InputError(_not_loaded(data, error)) from error
    files = {str(name): [Path(file) for file in found] for name, found in (builder.config.data_files or {}).items()}
    tables = all(path.suffix.lower() in SUFFIXES for found in files.values() for path in found)
    return files if tables else {}


def _load_with_datasets(data: DataArguments) -> DatasetDict:
    if data.column_names or data.delimiter:
        flag = "column_names" if data.column_names else "delimiter"
        raise InputError(f"--{flag} is for local CSV and TSV files; {data.dataset_name} has none.")
    try:
        return datasets.load_dataset(data.dataset_name, data.dataset_config_name, revision=data.dataset_revision)
    except Exception as error:  # network, missing datasets, files that do not fit together
        raise InputError(_not_loaded(data, error)) from error


def _not_loaded(data: DataArguments, error: Exception) -> str:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    offline = " HF_HUB_OFFLINE is set." if os.environ.get("HF_HUB_OFFLINE") in ("1", "ON", "YES", "TRUE") else ""
    return (
        f"--dataset_name {data.dataset_name} could not be loaded: {reason}{offline} Expected a dataset on the Hub, "
        "reachable from here, or a local folder of data files; a single local file goes to --train_file."
    )


def hub_commit(split: Dataset) -> str | None:
    """The commit on the Hub that a split's files are of; None for local files.

    `datasets` keeps what it has made of them in a folder of that name, and takes it from there without a network.
    """
    folders = (Path(file["filename"]).parent.name for file in split.cache_files)
    return next((name for name in folders if re.fullmatch("[0-9a-f]{40}", name)), None)


def _named_splits(data: DataArguments, loaded: DatasetDict, there: list[str] | None = None) -> DatasetDict:
    """The splits of a dataset by our names for them."""
    there = there or [str(name) for name in loaded]
    splits = DatasetDict()
    for split in SPLITS[:3]:
        wanted = getattr(data, f"{split}_split_name")
        if wanted in loaded:
            splits[split] = loaded[wanted]
        elif split == "train" or wanted != split:
            raise InputError(
                f"--{split}_split_name {wanted}: {data.dataset_name} has no such split; it has {', '.join(there)}."
            )
    return splits


def folder_of_relative_paths(data: DataArguments, split: str) -> Path | None:
    """The folder where relative paths in the table of a split begin; None for what is no local table."""
    file = getattr(data, "source_file" if split == "replay" else f"{split}_file", None) or data.train_file
    if file:
        return Path(file).parent
    folder = Path(data.dataset_name or "")
    if not data.dataset_name or not folder.is_dir():
        return None
    if audiofolder_tables(folder):
        return folder  # its clips have whole paths; other tables in it are none of its splits
    tables = tables_of_folder(folder)
    paths = tables.get(getattr(data, f"{split}_split_name", "train")) or tables.get(data.train_split_name)
    homes = {path.parent for path in paths or ()}
    return homes.pop() if len(homes) == 1 else folder


def splits_beside(splits: DatasetDict) -> DatasetDict:
    """The splits but training."""
    return DatasetDict({name: split for name, split in splits.items() if name != "train"})


# Of a table that holds all splits: the column that tells them apart, in any case, the likeliest first.
SPLIT_COLUMNS = ("split", "set", "partition")


def divide_by_split_column(table: Dataset, source: str) -> DatasetDict:
    """One table for all splits, told apart by one of `SPLIT_COLUMNS`: its rows go where they belong; it is said."""
    named = [name for usual in SPLIT_COLUMNS for name in table.column_names if name.lower() == usual]
    unused = []
    for column in named:
        values = [str(value).strip().lower() for value in table[column][:]]
        rows = {name: [i for i, value in enumerate(values) if value in usual] for name, usual in SPLIT_NAMES.items()}
        divided_rows = sum(map(len, rows.values()))
        if divided_rows >= len(values) / 2 and rows["train"]:
            break  # and no column that means something else
        if divided_rows:
            unused.append((column, divided_rows))
    else:
        for column, count in unused:
            none = "" if count < len(table) / 2 else ", and none says train"
            logger.warning(
                "The column %r of %s does not divide it: %d of %d rows say train, validation or test there%s. All of "
                "them are taken together: mend the column, or rename it if it means something else.",
                column, short_path(source), count, len(table), none,
            )  # fmt: skip
        return DatasetDict(train=table)
    if divided_rows < len(values):
        usual = {word for words in SPLIT_NAMES.values() for word in words}
        number, odd = next((i, value) for i, value in enumerate(values, start=1) if value not in usual)
        raise InputError(
            f"{short_path(source)}: row {number} is of the split {odd!r}; expected one of {', '.join(sorted(usual))} "
            f"in the column {column!r}, which divides the table. Mend the row, or rename the column."
        )
    divided = DatasetDict({name: table.select(indices) for name, indices in rows.items() if indices})
    sizes = ", ".join(f"{len(split)} {name}" for name, split in divided.items())
    logger.info("The column %r of %s divides it: %s.", column, short_path(source), sizes)
    return divided
