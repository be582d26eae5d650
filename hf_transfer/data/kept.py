"""What runs keep on disk for others goes when nobody asks for it."""

import contextlib
import os
import shutil
import time
from pathlib import Path

# Kept folders that no run has asked for in so many days are removed.
UNUSED_DAYS = 30


def mark_used(folder: Path) -> None:
    """Note that a run has asked for what is kept in a folder, and remove those beside it that none has in a month."""
    os.utime(folder)
    for other in folder.parent.iterdir():
        with contextlib.suppress(OSError):  # another run may do the same
            if time.time() - other.stat().st_mtime > UNUSED_DAYS * 86400:
                shutil.rmtree(other)
