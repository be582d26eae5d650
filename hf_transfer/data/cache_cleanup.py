"""What runs keep on disk for others goes when nobody asks for it."""

import contextlib
import os
import re
import time
from pathlib import Path

from hf_transfer.run_folders import remove_entries

# Kept folders that no run has asked for in so many days are removed.
UNUSED_DAYS = 30
# Names of such folders and of the files in them: decoded audio, the clips left out of it, activations.
FOLDER = r"[0-9a-f]{32}|\.partial-[0-9a-f]{32}"
CACHE_FILE_NAMES = r"samples\.int16|clips\.npz|left_out_of_\w+\.txt|[0-9a-f]{32}\.(npy|npz|partial)"


def mark_used_and_clean_up(folder: Path) -> None:
    """Note that a run has asked for what is kept in a folder, and remove those beside it that none has in a month."""
    os.utime(folder)
    for other in folder.parent.iterdir():
        with contextlib.suppress(OSError):  # another run may do the same
            old = time.time() - other.stat().st_mtime > UNUSED_DAYS * 86400
            if old and re.fullmatch(FOLDER, other.name) and not other.is_symlink():
                remove_entries(other, CACHE_FILE_NAMES)
