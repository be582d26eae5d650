"""fsync of files and folders, so that they survive a loss of power."""

import contextlib
import os
from pathlib import Path


def fsync_path(path: Path) -> None:
    """Flush a file, or the names in a folder, to the disk (fsync).

    Folders are flushed where the system can: Windows does not open folders, and some network file systems refuse to
    fsync them.
    """
    if path.is_dir():
        with contextlib.suppress(OSError):
            _fsync(path, os.O_RDONLY)
    else:
        # Windows flushes only files that are open for writing.
        _fsync(path, os.O_RDWR | getattr(os, "O_BINARY", 0) if os.name == "nt" else os.O_RDONLY)


def _fsync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
