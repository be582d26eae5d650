"""Local folders of clips or pictures: beside a ``metadata`` table, or in a subfolder for each label."""

import os
from collections.abc import Iterator
from pathlib import Path

from datasets import Dataset, DatasetDict

from hf_transfer.data.tables import SUFFIXES, load_table
from hf_transfer.data.values import read_text
from hf_transfer.errors import InputError

# What the column or the folder of a split is called.
SPLIT_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev", "development"),
    "test": ("test", "testing", "eval", "evaluation"),
}

# Endings of clips and pictures.
MEDIA = (".wav", ".mp3", ".flac", ".ogg", ".opus", ".m4a", ".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp",
         ".gif")  # fmt: skip


def labelled_folders(folder: Path) -> DatasetDict:
    """Files in a subfolder for each label, and these perhaps in one for each split; empty where there are no such.

    The format is that of https://huggingface.co/docs/datasets/audio_dataset#audiofolder: ``LABEL/FILE``, or
    ``train/LABEL/FILE`` and so on. The columns are ``file_name``, a whole path, and ``label``.
    """
    usual = {word: name for name, words in SPLIT_NAMES.items() for word in words}
    places = [child for child in sorted(folder.iterdir()) if child.is_dir()]
    by_split = {usual[child.name.lower()]: child for child in places if child.name.lower() in usual}
    splits = DatasetDict()
    for name, place in (by_split or {"train": folder}).items():
        found = [
            (str(file.absolute()), label.name)
            for label in sorted(place.iterdir())
            if label.is_dir()
            for file in sorted(label.iterdir())
            if file.suffix.lower() in MEDIA
        ]
        if len({label for _, label in found}) > 1:
            files, labels = zip(*found, strict=True)
            splits[name] = Dataset.from_dict({"file_name": list(files), "label": list(labels)})
    return splits if "train" in splits else DatasetDict()


def audiofolder_tables(folder: Path) -> dict[str, Path]:
    """The ``metadata`` tables of a local audiofolder: one, or one in each split's folder; none elsewhere.

    The format is that of https://huggingface.co/docs/datasets/audio_dataset#audiofolder.
    """
    places = {"train": folder}
    if folder.is_dir() and not any(_metadata_in(folder)):
        places = {
            name: child
            for name, usual in SPLIT_NAMES.items()
            for child in sorted(folder.iterdir())
            if child.is_dir() and child.name.lower() in usual
        }
    return {name: table for name, place in places.items() for table in list(_metadata_in(place))[:1]}


def _metadata_in(folder: Path) -> Iterator[Path]:
    return (file for suffix in SUFFIXES if (file := folder / f"metadata{suffix}").is_file())


def load_audiofolder(
    folder: Path, tables: dict[str, Path], *, column_names: list[str] | None = None, delimiter: str | None = None
) -> DatasetDict:
    """The rows of an audiofolder's tables, with ``file_name`` as a whole path.

    Args:
        folder: of clips.
        tables: by split.
        column_names: of tables without a header.
        delimiter: of CSV and TSV tables, if not the ending's own.

    Raises:
        InputError: a table has no such column, or names a file outside the folder.
    """
    if "train" not in tables:
        raise InputError(
            f"{folder}: an audiofolder without training data: expected metadata.csv, or train/metadata.csv."
        )
    splits = DatasetDict()
    for name, table in tables.items():
        rows = load_table(str(table), column_names=column_names, delimiter=delimiter)
        if "file_name" not in rows.column_names:
            raise InputError(
                f"{table}: an audiofolder's table needs a column file_name; it has {', '.join(rows.column_names)}."
            )
        home = table.parent.absolute()
        whole: list[str | None] = []
        for number, cell in enumerate(rows["file_name"][:], start=1):
            file, problem = read_text(cell)
            if problem:
                whole.append(None)  # the clip is left out, and its row is named
                continue
            # By its name alone: a file in the folder may be a link, as all are in the Hub's cache.
            path = os.path.normpath(home / file)
            if not Path(path).is_relative_to(os.path.normpath(home)):
                raise InputError(f"{table}: row {number} names {file}, which is outside the folder {table.parent}.")
            whole.append(path)
        splits[name] = rows.remove_columns("file_name").add_column("file_name", whole)
    return splits
