"""fsync of files and folders."""

import contextlib
import os
from pathlib import Path


def fsync_path(path: Path) -> None:
    """Have a file, or the names in a folder, survive a machine that loses its power.

    Folders as far as the system can: Windows opens none, some network file systems take no fsync of one.
    """
    if path.is_dir():
        with contextlib.suppress(OSError):
            _fsync(path, os.O_RDONLY)
    else:
        # Windows flushes only what is open for writing.
        _fsync(path, os.O_RDWR | getattr(os, "O_BINARY", 0) if os.name == "nt" else os.O_RDONLY)


def _fsync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
