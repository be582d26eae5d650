"""Finding the audio files that a table names."""

import unicodedata
from pathlib import Path

# Folders beside the table in which Common Voice and LJ Speech keep their clips.
CLIP_FOLDERS = ("clips", "wavs")
AUDIO_SUFFIXES = (".wav", ".mp3", ".flac", ".ogg", ".opus", ".m4a")


def find_clip(name: str, folder: Path | None) -> Path:
    """Return the path of the file that a table names, whether it exists or not.

    Relative paths begin in the table's folder, or in its folder ``clips`` or ``wavs``. If there is no such file, the
    Unicode forms NFC and NFD of the name are tried, as archives made on a Mac hold them; and if the name has no suffix
    of audio files, these suffixes.

    Args:
        name: as the table has it.
        folder: of the table; None for the working directory.
    """
    spellings = [name] if name.isascii() else [name, *(unicodedata.normalize(form, name) for form in ("NFC", "NFD"))]
    if folder is None or Path(name).is_absolute():
        folders = [folder]
    else:
        folders = [folder, *(folder / subfolder for subfolder in CLIP_FOLDERS)]
    # Common Voice and LJ Speech have left out the suffix in some releases.
    suffixes = ("",) if name.lower().endswith(AUDIO_SUFFIXES) else ("", *AUDIO_SUFFIXES)
    candidates = (
        Path(spelling + suffix) if parent is None else parent / (spelling + suffix)
        for suffix in suffixes
        for spelling in spellings
        for parent in folders
    )
    as_written = Path(name) if folder is None else folder / name
    try:
        return next((path for path in candidates if path.is_file()), as_written)
    except (OSError, ValueError):  # a name that no file can have
        return as_written


def similar_name_hint(path: Path, names_by_folder: dict[Path, dict[str, str]]) -> str:
    """Return a hint at a file beside a missing one that differs in case or spaces only, or an empty string.

    Args:
        path: of the missing file.
        names_by_folder: cache of the folders that have been listed; folders are added to it.
    """
    if path.parent not in names_by_folder:
        try:
            names_by_folder[path.parent] = {_normalised(file.name): file.name for file in path.parent.iterdir()}
        except (OSError, ValueError):
            names_by_folder[path.parent] = {}
    similar = names_by_folder[path.parent].get(_normalised(path.name))
    return "" if similar is None else f", but {similar!r} is there: correct the name {path.name!r} in the table"


def _normalised(name: str) -> str:
    return " ".join(unicodedata.normalize("NFC", name).casefold().split())
