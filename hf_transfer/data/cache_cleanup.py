"""Deletes cache folders (decoded audio, activations) that no run has used for 30 days."""

import contextlib
import os
import re
import time
from pathlib import Path

from hf_transfer.run_folders import remove_entries

UNUSED_DAYS = 30
# Names of cache folders, whole or half written, and of the files in them: decoded audio, lists of the clips that were
# left out, activations.
CACHE_FOLDER_NAMES = r"[0-9a-f]{32}|\.partial-[0-9a-f]{32}"
CACHE_FILE_NAMES = r"samples\.int16|clips\.npz|left_out_of_\w+\.txt|[0-9a-f]{32}\.(npy|npz|partial)"


def mark_used_and_clean_up(folder: Path) -> None:
    """Mark a cache folder as used now, and delete those beside it that are unused for `UNUSED_DAYS` days.

    The time of last use is the folder's modification time.
    """
    os.utime(folder)
    for sibling in folder.parent.iterdir():
        with contextlib.suppress(OSError):  # another run may delete the same folder
            is_old = time.time() - sibling.stat().st_mtime > UNUSED_DAYS * 86400
            if is_old and re.fullmatch(CACHE_FOLDER_NAMES, sibling.name) and not sibling.is_symlink():
                remove_entries(sibling, CACHE_FILE_NAMES)
