"""Removal of folders that runs have made, sparing what anybody else has put there."""

import contextlib
import json
import os
import re
import shutil
from pathlib import Path

# A file with this name in a folder says that a run made it; without it a folder is the user's and stays untouched.
RUN_MARKER = ".hf-transfer-run"
# Lists the files of a checkpoint.
MANIFEST = "manifest.json"


def write_run_marker(folder: Path) -> None:
    """Write the mark of a run's folder."""
    (folder / RUN_MARKER).write_text(
        "hf-transfer-learning works in this folder, and removes its files when the result is complete.\n",
        encoding="utf-8",
    )


def remove_folder(folder: Path) -> None:
    """Remove a folder that a run has made.

    Where it has a manifest, the files listed there go; others stay, and the folder and its manifest with them.
    """
    listed = manifest_files(folder)
    if listed is None or folder.is_symlink():
        shutil.rmtree(folder, ignore_errors=True)
        return
    for name in listed:
        with contextlib.suppress(OSError):
            (folder / name).unlink()
    if all(path.is_dir() or path == folder / MANIFEST for path in folder.rglob("*")):
        (folder / MANIFEST).unlink(missing_ok=True)
    remove_empty_folders(folder)


def remove_entries(folder: Path, names: str) -> None:
    """Remove the entries of a folder whose whole name matches a regular expression, then the folder if it is empty."""
    for entry in list(folder.iterdir()) if folder.is_dir() else []:
        if not re.fullmatch(names, entry.name):
            continue
        with contextlib.suppress(OSError):  # another run may do the same
            if entry.is_dir() and not entry.is_symlink():
                remove_folder(entry)
            else:
                entry.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # there is something left in it
        folder.rmdir()


def remove_empty_folders(folder: Path) -> None:
    """Remove a folder and the folders in it as far as there are no files in them."""
    for place, _, _ in os.walk(folder, topdown=False):
        with contextlib.suppress(OSError):  # there is something in it
            os.rmdir(place)


def manifest_files(folder: Path) -> list[str] | None:
    """The files that the manifest of a folder lists, by their paths in it; None where there is no whole manifest."""
    try:
        names = list(json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return [name for name in names if not Path(name).is_absolute() and ".." not in Path(name).parts]
