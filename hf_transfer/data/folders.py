"""Finds the tables of a local folder by split, and loads datasets that `save_to_disk` wrote."""

import json
import os
import re
from collections import defaultdict
from pathlib import Path

import datasets
from datasets import Dataset, DatasetDict

from hf_transfer.data.splits import USUAL_SPLIT_NAMES
from hf_transfer.data.tables import SUFFIXES
from hf_transfer.errors import InputError, logger, reading, short_path

# Files beside the data that hold no data, as in `datasets`.
NO_DATA = ("config.json", "dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")
_SHARD = re.compile(r"(.+?)-\d{5}-of-\d{5}.*")
_SPLIT_OF_WORD = {word: split for split, words in USUAL_SPLIT_NAMES.items() for word in words}
_SPLIT_WORD = re.compile(rf"(?:^|[-._ 0-9])({'|'.join(sorted(_SPLIT_OF_WORD, key=len, reverse=True))})(?=[-._ 0-9]|$)")


def tables_of_folder(folder: Path, *, log_left_out: bool = False) -> dict[str, list[Path]]:
    """Return the paths of the tables in a local folder, at any depth, by split; empty if it has no tables.

    As in `datasets` (https://huggingface.co/docs/datasets/repository_structure), the split of a file is a word in its
    name, or else in the name of the nearest folder above it; if no name holds such a word, all files are of ``train``.
    Shards (``NAME-00000-of-00002``) may be of a split with any name.

    Args:
        folder: the local folder.
        log_left_out: whether to log the tables that are of no split.

    Raises:
        InputError: a file's name holds two splits, a split has files of several formats, or a folder cannot be read.
    """
    tables = [
        path
        for path in _files_below(folder)
        if path.suffix.lower() in SUFFIXES and path.name not in NO_DATA and path.is_file()
    ]
    by_split: dict[str, list[Path]] = defaultdict(list)
    for path in tables:
        if split := _split_of(path, folder):
            by_split[split].append(path)
    splits = dict(by_split) if by_split else ({"train": tables} if tables else {})
    for split, paths in splits.items():
        by_suffix = {path.suffix.lower(): path for path in reversed(paths)}
        if len(by_suffix) > 1:
            names = " and ".join(str(path.relative_to(folder)) for path in reversed(by_suffix.values()))
            raise InputError(
                f"{folder}: the split {split} has files of several formats, {names}: expected one. Leave one of them "
                "in the folder, or name the files: --train_file, --validation_file, --test_file."
            )
    left_out = [path for path in tables if not any(path in paths for paths in splits.values())]
    if left_out and log_left_out:
        names = ", ".join(str(path.relative_to(folder)) for path in left_out[:5]) + ", ..." * (len(left_out) > 5)
        logger.info("%s: %s are of no split, by their names, and are left out.", short_path(folder), names)
    return splits


def require_readable(folder: Path) -> None:
    """Raise an error if the files in a folder cannot be listed and opened.

    Most libraries silently skip such files.

    Raises:
        InputError: the folder cannot be read.
    """
    with reading(folder):
        os.listdir(folder)
        os.stat(os.path.join(folder, "."))


def _files_below(folder: Path) -> list[Path]:
    """Return the paths of the files in a folder at any depth, sorted, without hidden ones.

    Raises:
        InputError: a folder in it cannot be read; its files would be missing from the data without a message.
    """
    paths: list[Path] = []
    for parent, folders, files in os.walk(folder):
        require_readable(Path(parent))
        folders[:] = filter(_is_visible, folders)
        for subfolder in folders:
            require_readable(Path(parent, subfolder))
        paths += [Path(parent, file) for file in files if _is_visible(file)]
    return sorted(paths)


def _is_visible(name: str) -> bool:
    return not name.startswith((".", "__")) and name != "lost+found"  # on every disk, readable by root only


def _split_of(path: Path, folder: Path) -> str | None:
    """Return the split that the name of a file or of a folder above it says, or None if no name says one."""
    parts = path.relative_to(folder).parts
    for part in (path.stem, *reversed(parts[:-1])):
        splits = {_SPLIT_OF_WORD[word] for word in _SPLIT_WORD.findall(part.casefold())}
        if len(splits) > 1:
            raise InputError(
                f"{path}: its name says the splits {' and '.join(sorted(splits))}: expected one. Rename it, or name "
                "the files: --train_file, --validation_file, --test_file."
            )
        if splits:
            return splits.pop()
        shard = _SHARD.fullmatch(part) if part == path.stem else None
        if shard and shard.group(1) not in ("data", "part"):
            return shard.group(1)
    return None


def saved_splits(folder: Path) -> dict[str, Path]:
    """Return by split the folders that `save_to_disk` wrote in a folder; empty without such folders."""
    if (folder / "state.json").is_file():
        return {"train": folder}
    return {child.name: child for child in sorted(folder.iterdir()) if _is_saved_dataset(child)}


def _is_saved_dataset(folder: Path) -> bool:
    if not (_is_visible(folder.name) and folder.is_dir()):
        return False
    with reading(folder):
        return (folder / "state.json").is_file()


def load_saved(folders: dict[str, Path]) -> DatasetDict:
    """Load the splits that `save_to_disk` wrote from their folders, and return them as a `DatasetDict`.

    They are copied into the cache of `datasets`, which would otherwise write its results beside the user's files.

    Raises:
        InputError: files are missing or damaged.
    """
    datasets.disable_progress_bars()
    splits = DatasetDict()
    for split, folder in folders.items():
        try:
            state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
            shards = [str((folder / file["filename"]).resolve()) for file in state["_data_files"]]
            splits[split] = Dataset.from_dict({}) if not shards else datasets.load_dataset(
                "arrow", data_files={"train": shards}, split="train")  # fmt: skip
        except Exception as error:  # of json, pyarrow and datasets, whatever is damaged
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise InputError(
                f"{folder}: a dataset that save_to_disk wrote, but it cannot be read: {reason} Save it again, or name "
                "tables: --train_file."
            ) from error
    return splits
