"""Local folders of data: tables by split, and what `save_to_disk` wrote."""

import json
import os
import re
from collections import defaultdict
from pathlib import Path

import datasets
from datasets import Dataset, DatasetDict

from hf_transfer.data.media_folders import SPLIT_NAMES
from hf_transfer.data.tables import SUFFIXES
from hf_transfer.errors import InputError, logger, reading, short_path

# What lies beside data and holds none, as `datasets` has it.
NO_DATA = ("config.json", "dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")
_SHARD = re.compile(r"(.+?)-\d{5}-of-\d{5}.*")
_WORDS = {word: split for split, words in SPLIT_NAMES.items() for word in words}
_WORD = re.compile(rf"(?:^|[-._ 0-9])({'|'.join(sorted(_WORDS, key=len, reverse=True))})(?=[-._ 0-9]|$)")


def tables_of_folder(folder: Path, *, say: bool = False) -> dict[str, list[Path]]:
    """The tables of a local folder by split, at any depth; empty where there is none.

    As in `datasets` (https://huggingface.co/docs/datasets/repository_structure): a file is of the split that its name
    says, as a word of it, or else the nearest folder's name; where none says any, all are of ``train``. Shards
    (``NAME-00000-of-00002``) may be of a split with any name.

    Args:
        folder: the local folder.
        say: whether tables that are of no split are said.

    Raises:
        InputError: a file's name says two splits, a split has files of several formats, or a folder cannot be read.
    """
    found = [
        path
        for path in _files_below(folder)
        if path.suffix.lower() in SUFFIXES and path.name not in NO_DATA and path.is_file()
    ]
    named: dict[str, list[Path]] = defaultdict(list)
    for path in found:
        if split := _split_of(path, folder):
            named[split].append(path)
    splits = dict(named) if named else ({"train": found} if found else {})
    for split, paths in splits.items():
        endings = {path.suffix.lower(): path for path in reversed(paths)}
        if len(endings) > 1:
            shown = " and ".join(str(path.relative_to(folder)) for path in reversed(endings.values()))
            raise InputError(
                f"{folder}: the split {split} has files of several formats, {shown}: expected one. Leave one of them "
                "in the folder, or name the files: --train_file, --validation_file, --test_file."
            )
    left_out = [path for path in found if not any(path in paths for paths in splits.values())]
    if left_out and say:
        shown = ", ".join(str(path.relative_to(folder)) for path in left_out[:5]) + ", ..." * (len(left_out) > 5)
        logger.info("%s: %s are of no split, by their names, and are left out.", short_path(folder), shown)
    return splits


def require_readable(folder: Path) -> None:
    """Refuse a folder whose files cannot be listed or opened: most libraries pass over what is in it.

    Raises:
        InputError: the system refused.
    """
    with reading(folder):
        os.listdir(folder)
        os.stat(os.path.join(folder, "."))


def _files_below(folder: Path) -> list[Path]:
    """The files of a folder at any depth, without hidden ones.

    Raises:
        InputError: a folder in it cannot be read: its files would be missing from the data without a word.
    """
    found: list[Path] = []
    for place, folders, files in os.walk(folder):
        require_readable(Path(place))
        folders[:] = filter(_is_shown, folders)
        for inner in folders:
            require_readable(Path(place, inner))
        found += [Path(place, file) for file in files if _is_shown(file)]
    return sorted(found)


def _is_shown(name: str) -> bool:
    return not name.startswith((".", "__")) and name != "lost+found"  # which every disk has, for root alone


def _split_of(path: Path, folder: Path) -> str | None:
    parts = path.relative_to(folder).parts
    for part in (path.stem, *reversed(parts[:-1])):
        words = {_WORDS[word] for word in _WORD.findall(part.casefold())}
        if len(words) > 1:
            raise InputError(
                f"{path}: its name says the splits {' and '.join(sorted(words))}: expected one. Rename it, or name "
                "the files: --train_file, --validation_file, --test_file."
            )
        if words:
            return words.pop()
        shard = _SHARD.fullmatch(part) if part == path.stem else None
        if shard and shard.group(1) not in ("data", "part"):
            return shard.group(1)
    return None


def saved_splits(folder: Path) -> dict[str, Path]:
    """The folders of splits that ``Dataset.save_to_disk`` or ``DatasetDict.save_to_disk`` wrote; empty elsewhere."""
    if (folder / "state.json").is_file():
        return {"train": folder}
    return {place.name: place for place in sorted(folder.iterdir()) if _is_saved(place)}


def _is_saved(place: Path) -> bool:
    if not (_is_shown(place.name) and place.is_dir()):
        return False
    with reading(place):
        return (place / "state.json").is_file()


def load_saved(folder: Path, splits: dict[str, Path]) -> DatasetDict:
    """What `save_to_disk` wrote.

    It is copied into the cache of `datasets`, which would otherwise write what is made of it beside it.

    Raises:
        InputError: files are missing or damaged.
    """
    datasets.disable_progress_bars()
    loaded = DatasetDict()
    for name, place in splits.items():
        try:
            state = json.loads((place / "state.json").read_text(encoding="utf-8"))
            shards = [str((place / file["filename"]).resolve()) for file in state["_data_files"]]
            loaded[name] = Dataset.from_dict({}) if not shards else datasets.load_dataset(
                "arrow", data_files={"train": shards}, split="train")  # fmt: skip
        except Exception as error:  # of json, pyarrow and datasets, whatever is damaged
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise InputError(
                f"{place}: a dataset that save_to_disk wrote, but it cannot be read: {reason} Save it again, or name "
                "tables: --train_file."
            ) from error
    return loaded
