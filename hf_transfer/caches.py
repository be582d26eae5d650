"""Moves the cache folders of `datasets` and `evaluate` to a temporary folder where they cannot be written."""

import functools
import os
import tempfile
from pathlib import Path

from hf_transfer.errors import Failure, logger, strerror


def ensure_writable_caches() -> None:
    """Set the caches of `datasets`, `evaluate` and matplotlib that cannot be written to a temporary folder.

    In a container, the home folder may be read-only or absent. The temporary folder is removed when the process ends.
    The Hub's cache is left alone: models and datasets in it can be read without writing.

    Raises:
        Failure: no temporary folder can be made either.
    """
    import datasets
    import evaluate

    # matplotlib keeps its settings in the home folder, and prints a long warning where there is none.
    if "MPLCONFIGDIR" not in os.environ and not os.access(os.path.expanduser("~"), os.W_OK):
        os.environ["MPLCONFIGDIR"] = str(_temporary_folder() / "matplotlib")
    for config, setting in ((datasets.config, "HF_DATASETS_CACHE"), (evaluate.config, "HF_METRICS_CACHE")):
        folder = Path(getattr(config, setting))
        reason = _why_not_writable(folder)
        if reason is None:
            continue
        replacement = _temporary_folder() / folder.name
        if setting == "HF_DATASETS_CACHE":  # the metrics cache is small: its loss needs no message
            logger.info(
                "The cache %s cannot be written (%s): %s takes its place until this run ends. Set HF_HOME to a "
                "writable folder to keep the cache for the next run.", folder, reason, replacement,
            )  # fmt: skip
        setattr(config, setting, replacement)


def _why_not_writable(folder: Path) -> str | None:
    """Return the reason why files cannot be written into a folder (made if absent), or None if they can."""
    if str(folder).startswith("~"):
        return "there is no home folder"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as stream:
            stream.write(b"0" * 4096)
    except OSError as error:
        return strerror(error)
    return None


@functools.cache
def _temporary_folder() -> Path:
    try:
        folder = tempfile.TemporaryDirectory(prefix="hf-transfer-")
    except OSError as error:
        raise Failure(
            f"No temporary folder can be made: {strerror(error)}. Set TMPDIR to a folder for temporary files, or "
            "HF_HOME to one for caches."
        ) from error
    _temporary_folders.append(folder)
    return Path(folder.name)


# A `TemporaryDirectory` is removed with its last reference: this one lasts until the process ends.
_temporary_folders: list[tempfile.TemporaryDirectory[str]] = []
