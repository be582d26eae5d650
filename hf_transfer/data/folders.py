"""Local folders of data: tables by split, and what `save_to_disk` wrote."""

import json
import re
from collections import defaultdict
from pathlib import Path

import datasets
from datasets import Dataset, DatasetDict

from hf_transfer.data.audiofolder import SPLIT_NAMES
from hf_transfer.data.tables import SUFFIXES
from hf_transfer.errors import InputError, logger, short_path

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
        InputError: a file's name says two splits, or a split has files of several formats.
    """
    found = [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in SUFFIXES and path.name not in NO_DATA and path.is_file() and _is_shown(path, folder)
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


def _is_shown(path: Path, folder: Path) -> bool:
    return not any(part.startswith((".", "__")) for part in path.relative_to(folder).parts)


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
    return {path.parent.name: path.parent for path in sorted(folder.glob("*/state.json"))}


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
