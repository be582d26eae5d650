"""What is written stays written."""

import os
from pathlib import Path


def to_disk(path: Path) -> None:
    """Have a file, or the names in a folder, survive a machine that loses its power."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
