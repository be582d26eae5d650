"""Cache folders of `datasets` and `evaluate`, and temporary ones where theirs cannot be written."""

import functools
import os
import tempfile
from pathlib import Path

from hf_transfer.errors import Failure, logger, strerror


def ensure_writable_caches() -> None:
    """Have what the libraries write lie in a temporary folder, until the process ends, where their own caches cannot.

    As in a container whose home is read-only or absent. What the Hub's cache holds is read where it lies.

    Raises:
        Failure: there is no temporary folder either.
    """
    import datasets
    import evaluate

    # matplotlib looks for its folder where home is, and says at length when there is none.
    if "MPLCONFIGDIR" not in os.environ and not os.access(os.path.expanduser("~"), os.W_OK):
        os.environ["MPLCONFIGDIR"] = str(_temporary() / "matplotlib")
    for config, name in ((datasets.config, "HF_DATASETS_CACHE"), (evaluate.config, "HF_METRICS_CACHE")):
        folder = Path(getattr(config, name))
        problem = _problem(folder)
        if problem is None:
            continue
        place = _temporary() / folder.name
        if name == "HF_DATASETS_CACHE":  # the only one that it would be of use to keep
            logger.info(
                "The cache %s cannot be written (%s): %s takes its place until this run ends. HF_HOME names a folder "
                "for the next.", folder, problem, place,
            )  # fmt: skip
        setattr(config, name, place)


def _problem(folder: Path) -> str | None:
    """Why nothing can be written into a folder, or below the one that is to hold it; None where it can."""
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
def _temporary() -> Path:
    try:
        # Held by the cache: it is removed when the process ends.
        made = tempfile.TemporaryDirectory(prefix="hf-transfer-")
    except OSError as error:
        raise Failure(
            f"There is no folder for temporary files: {strerror(error)}. TMPDIR names one, HF_HOME one for caches."
        ) from error
    _held.append(made)
    return Path(made.name)


_held: list[tempfile.TemporaryDirectory[str]] = []
