"""Reads local folders of audio or image files: with a ``metadata`` table, or a subfolder for each label.

Both formats are those of https://huggingface.co/docs/datasets/audio_dataset#audiofolder.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from datasets import Dataset, DatasetDict

from hf_transfer.data.splits import USUAL_SPLIT_NAMES
from hf_transfer.data.tables import SUFFIXES, load_table
from hf_transfer.data.values import read_text
from hf_transfer.errors import InputError

MEDIA_SUFFIXES = (".wav", ".mp3", ".flac", ".ogg", ".opus", ".m4a", ".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff",
                  ".bmp", ".gif")  # fmt: skip


def labelled_folders(folder: Path) -> DatasetDict:
    """Return the paths of media files and their labels, by split, from a folder with a subfolder for each label.

    They are ``LABEL/FILE``, or ``train/LABEL/FILE`` and so on.

    Returns:
        The splits, with the columns ``file_name``, an absolute path, and ``label``; empty if there are no such files.
    """
    usual = {word: split for split, words in USUAL_SPLIT_NAMES.items() for word in words}
    subfolders = [child for child in sorted(folder.iterdir()) if child.is_dir()]
    by_split = {usual[child.name.lower()]: child for child in subfolders if child.name.lower() in usual}
    splits = DatasetDict()
    for split, split_folder in (by_split or {"train": folder}).items():
        rows = [
            (str(file.absolute()), label.name)
            for label in sorted(split_folder.iterdir())
            if label.is_dir()
            for file in sorted(label.iterdir())
            if file.suffix.lower() in MEDIA_SUFFIXES
        ]
        if len({label for _, label in rows}) > 1:
            files, labels = zip(*rows, strict=True)
            splits[split] = Dataset.from_dict({"file_name": list(files), "label": list(labels)})
    return splits if "train" in splits else DatasetDict()


def audiofolder_tables(folder: Path) -> dict[str, Path]:
    """Return by split the ``metadata`` table of a folder, or of its subfolders; empty without such tables."""
    folders = {"train": folder}
    if folder.is_dir() and not any(_metadata_tables(folder)):
        folders = {
            split: child
            for split, usual in USUAL_SPLIT_NAMES.items()
            for child in sorted(folder.iterdir())
            if child.is_dir() and child.name.lower() in usual
        }
    return {split: table for split, place in folders.items() for table in list(_metadata_tables(place))[:1]}


def _metadata_tables(folder: Path) -> Iterator[Path]:
    return (file for suffix in SUFFIXES if (file := folder / f"metadata{suffix}").is_file())


def load_audiofolder(
    folder: Path, tables: dict[str, Path], *, column_names: list[str] | None = None, delimiter: str | None = None
) -> DatasetDict:
    """Load the tables of an audiofolder, and return its splits, with absolute paths in ``file_name``.

    Args:
        folder: with the media files.
        tables: by split.
        column_names: names of the columns of tables without a header.
        delimiter: between the cells of CSV and TSV tables, if it is not the one of their ending.

    Raises:
        InputError: there is no table for training, a table has no such column, or names a file outside the folder.
    """
    if "train" not in tables:
        raise InputError(
            f"{folder}: an audiofolder without training data: expected metadata.csv, or train/metadata.csv."
        )
    splits = DatasetDict()
    for split, table in tables.items():
        rows = load_table(str(table), column_names=column_names, delimiter=delimiter)
        if "file_name" not in rows.column_names:
            raise InputError(
                f"{table}: an audiofolder's table needs a column file_name; it has {', '.join(rows.column_names)}."
            )
        paths = _absolute_paths(table, rows["file_name"][:])
        splits[split] = rows.remove_columns("file_name").add_column("file_name", paths)
    return splits


def _absolute_paths(table: Path, cells: list[str | None]) -> list[str | None]:
    """Return as absolute paths the files that the cells of a table name, [n]; None for a cell without a name.

    Raises:
        InputError: a cell names a file outside the table's folder.
    """
    # Links are not resolved: files in the folder may be links, as all are in the Hub's cache.
    folder = os.path.normpath(table.parent.absolute())
    paths: list[str | None] = []
    for number, cell in enumerate(cells, start=1):
        file, problem = read_text(cell)
        if problem:
            paths.append(None)  # the row is left out and named when its file is read
            continue
        path = os.path.normpath(os.path.join(folder, file))
        if not Path(path).is_relative_to(folder):
            raise InputError(f"{table}: row {number} names {file}, which is outside the folder {table.parent}.")
        paths.append(path)
    return paths
