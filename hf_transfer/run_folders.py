"""Removes folders that runs have made, and spares files that anybody else has put there."""

import contextlib
import json
import os
import re
import shutil
from pathlib import Path

# A folder that holds a file with this name was made by a run; a folder without it is the user's and stays untouched.
RUN_MARKER = ".hf-transfer-run"
# The file that lists all files of a checkpoint.
MANIFEST = "manifest.json"


def write_run_marker(folder: Path) -> None:
    """Write into a folder the file that marks it as made by a run."""
    (folder / RUN_MARKER).write_text(
        "hf-transfer-learning works in this folder, and removes its files when the result is complete.\n",
        encoding="utf-8",
    )


def remove_folder(folder: Path) -> None:
    """Remove a folder that a run has made, except for files that its manifest does not list.

    If the folder has a manifest, only the files that it lists are removed; if others remain, the folder and its
    manifest stay.
    """
    names = manifest_files(folder)
    if names is None or folder.is_symlink():
        shutil.rmtree(folder, ignore_errors=True)
        return
    for name in names:
        with contextlib.suppress(OSError):
            (folder / name).unlink()
    if all(path.is_dir() or path == folder / MANIFEST for path in folder.rglob("*")):
        (folder / MANIFEST).unlink(missing_ok=True)
    remove_empty_folders(folder)


def remove_entries(folder: Path, name_pattern: str) -> None:
    """Remove the files and folders in a folder whose names match a pattern, then the folder itself if it is empty.

    Args:
        folder: may be absent.
        name_pattern: regular expression that the whole name has to match.
    """
    for entry in list(folder.iterdir()) if folder.is_dir() else []:
        if not re.fullmatch(name_pattern, entry.name):
            continue
        with contextlib.suppress(OSError):  # another run may remove the same entry
            if entry.is_dir() and not entry.is_symlink():
                remove_folder(entry)
            else:
                entry.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # the folder is not empty
        folder.rmdir()


def remove_empty_folders(folder: Path) -> None:
    """Remove a folder and the folders in it, except those that hold files."""
    for subfolder, _, _ in os.walk(folder, topdown=False):
        with contextlib.suppress(OSError):  # the folder is not empty
            os.rmdir(subfolder)


def manifest_files(folder: Path) -> list[str] | None:
    """Return the relative paths that a folder's manifest lists, or None if it has no readable manifest."""
    try:
        names = list(json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return [name for name in names if not Path(name).is_absolute() and ".." not in Path(name).parts]
