"""Loads the splits that the user names, with their rows as they are: Hub dataset, local folder or local files."""

import os
import re
from pathlib import Path

import datasets
from datasets import Dataset, DatasetDict

from hf_transfer.arguments import DataArguments
from hf_transfer.data.folders import load_saved, require_readable, saved_splits, tables_of_folder
from hf_transfer.data.media_folders import audiofolder_tables, labelled_folders, load_audiofolder
from hf_transfer.data.split_column import divide_by_split_column
from hf_transfer.data.splits import SPLITS
from hf_transfer.data.tables import SUFFIXES, load_table, load_tables
from hf_transfer.errors import InputError, reading


def load_splits(data: DataArguments) -> DatasetDict:
    """Load the splits that the user names, from the Hub, a local folder or local files, as a `DatasetDict`.

    Returns:
        A `DatasetDict` with ``train`` and, if there are such, ``validation``, ``test``, ``source`` and ``replay``.

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
        # Rows that the column keeps out of training stay out, even if a file was named for their split.
        divided = divide_by_split_column(splits["train"], data.train_file)
        others = {name: split for name, split in splits.items() if name != "train"}
        splits = DatasetDict({**divided, **others})
    if "source" in splits:
        divided = divide_by_split_column(splits["source"], str(data.source_file))
        if "test" in divided:
            splits["source"], splits["replay"] = divided["test"], divided["train"]
    return splits


def _load_dataset(data: DataArguments) -> DatasetDict:
    """Return the splits of --dataset_name: a local folder if there is one of that name, else a dataset on the Hub."""
    folder = Path(str(data.dataset_name))
    with reading(folder):
        is_local = folder.is_dir()
    if not is_local:
        return _rename_splits(data, _load_with_datasets(data))
    require_readable(folder)
    with reading(folder):
        metadata = audiofolder_tables(folder)
    if metadata:
        return load_audiofolder(folder, metadata, column_names=data.column_names, delimiter=data.delimiter)
    if saved := saved_splits(folder):
        return _rename_splits(data, load_saved(saved))
    if _declares_data_files(folder) or data.dataset_config_name:
        tables = _declared_tables(data)
    else:
        tables = tables_of_folder(folder, log_left_out=True)
    if not tables:
        with reading(folder):
            labelled = labelled_folders(folder)
        return _rename_splits(data, labelled or _load_with_datasets(data))
    wanted = {getattr(data, f"{name}_split_name") for name in SPLITS[:3]}
    loaded = DatasetDict()
    for name, paths in tables.items():
        if name in wanted:
            loaded[name] = load_tables(paths, column_names=data.column_names, delimiter=data.delimiter)
    return _rename_splits(data, loaded, existing=list(tables))


def _declares_data_files(folder: Path) -> bool:
    """Return whether a folder's README.md declares its data files, as that of a dataset on the Hub does."""
    try:
        return "\nconfigs:" in (folder / "README.md").read_text(encoding="utf-8").split("\n---", 1)[0]
    except (OSError, UnicodeDecodeError):
        return False


def _declared_tables(data: DataArguments) -> dict[str, list[Path]]:
    """Return by split the files that a dataset declares, as `datasets` finds them; empty if not all are tables."""
    try:
        builder = datasets.load_dataset_builder(data.dataset_name, data.dataset_config_name)
    except Exception as error:  # wrong declarations, and whatever else `datasets` raises
        raise InputError(_loading_error_message(data, error)) from error
    files = {str(split): [Path(file) for file in paths] for split, paths in (builder.config.data_files or {}).items()}
    are_tables = all(path.suffix.lower() in SUFFIXES for paths in files.values() for path in paths)
    return files if are_tables else {}


def _load_with_datasets(data: DataArguments) -> DatasetDict:
    if data.column_names or data.delimiter:
        flag = "column_names" if data.column_names else "delimiter"
        raise InputError(f"--{flag} is for local CSV and TSV files; {data.dataset_name} has none.")
    try:
        return datasets.load_dataset(data.dataset_name, data.dataset_config_name, revision=data.dataset_revision)
    except Exception as error:  # network, missing datasets, files that do not fit together
        raise InputError(_loading_error_message(data, error)) from error


def _loading_error_message(data: DataArguments, error: Exception) -> str:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    offline = " HF_HUB_OFFLINE is set." if os.environ.get("HF_HUB_OFFLINE") in ("1", "ON", "YES", "TRUE") else ""
    return (
        f"--dataset_name {data.dataset_name} could not be loaded: {reason}{offline} Expected a dataset on the Hub, "
        "reachable from here, or a local folder of data files; a single local file goes to --train_file."
    )


def hub_commit(split: Dataset) -> str | None:
    """Return the commit on the Hub that a split was loaded from, or None if it is of local files.

    It is the name of the folder in which `datasets` caches the split, so it is known without a network too.
    """
    folders = (Path(file["filename"]).parent.name for file in split.cache_files)
    return next((name for name in folders if re.fullmatch("[0-9a-f]{40}", name)), None)


def _rename_splits(data: DataArguments, loaded: DatasetDict, existing: list[str] | None = None) -> DatasetDict:
    """Return the splits of a dataset under the names ``train``, ``validation`` and ``test``.

    Args:
        data: with --train_split_name, --validation_split_name and --test_split_name.
        loaded: the splits by the dataset's names.
        existing: all names of splits in the dataset, if not all were loaded.

    Raises:
        InputError: there is no split with the name that the user gives, or none for training.
    """
    existing = existing or [str(name) for name in loaded]
    splits = DatasetDict()
    for split in SPLITS[:3]:
        name = getattr(data, f"{split}_split_name")
        if name in loaded:
            splits[split] = loaded[name]
        elif split == "train" or name != split:
            raise InputError(
                f"--{split}_split_name {name}: {data.dataset_name} has no such split; it has {', '.join(existing)}."
            )
    return splits


def folder_of_relative_paths(data: DataArguments, split: str) -> Path | None:
    """Return the folder that relative paths in the table of a split start from, or None if no table is local."""
    file = getattr(data, "source_file" if split == "replay" else f"{split}_file", None) or data.train_file
    if file:
        return Path(file).parent
    folder = Path(data.dataset_name or "")
    if not data.dataset_name or not folder.is_dir():
        return None
    if audiofolder_tables(folder):
        return folder  # its tables have absolute paths, and other tables in it are not of its splits
    tables = tables_of_folder(folder)
    paths = tables.get(getattr(data, f"{split}_split_name", "train")) or tables.get(data.train_split_name)
    parents = {path.parent for path in paths or ()}
    return parents.pop() if len(parents) == 1 else folder
