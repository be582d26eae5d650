"""Checkpoint folders that are complete or absent: finding, checking, finishing and removing them."""

import contextlib
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from hf_transfer.errors import Failure, logger
from hf_transfer.fsync import fsync_path
from hf_transfer.run_folders import MANIFEST, remove_folder

# The folder in which a checkpoint is written before it is renamed into place.
STAGING = "writing"


def checkpoints_in(folder: Path) -> list[Path]:
    """Return the folders of the checkpoints in a run's folder, the newest first."""
    checkpoints = [path for path in folder.glob("checkpoint-*") if path.name.rpartition("-")[2].isdigit()]
    return sorted(checkpoints, key=_step, reverse=True)


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def find_problem(checkpoint: Path) -> str | None:
    """Return a clause that says why a run cannot resume from a checkpoint, or None if it is complete."""
    try:
        manifest = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))
        files, arguments = manifest["files"], manifest["run"]["arguments"]
        if not isinstance(arguments, dict) or not {"examples_a_step", "data"} <= manifest["run"].keys():
            return f"{MANIFEST} does not say which run wrote it"
        for name, expected in files.items():
            with (checkpoint / name).open("rb") as stream:
                size = os.fstat(stream.fileno()).st_size
                if size != expected["bytes"]:
                    return f"{name} has {size} bytes, and {MANIFEST} says {expected['bytes']}"
                if hashlib.file_digest(stream, "sha256").hexdigest() != expected["sha256"]:
                    return f"{name} has changed since it was written (SHA-256)"
        if not any(name.startswith("optimizer") for name in files):
            return "it holds weights only (--save_only_model), from which training cannot resume"
    except OSError as error:
        return f"{Path(error.filename).name}: {error.strerror}"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{MANIFEST} cannot be read"
    return None


def describe_last_checkpoint(folder: str | Path) -> str:
    """Return a sentence that says where the newest complete checkpoint of a run is, if there is one."""
    complete = next((path for path in checkpoints_in(Path(folder)) if find_problem(path) is None), None)
    return f"The last good checkpoint is {complete}." if complete else "No checkpoint has been written."


def finish_checkpoint(staged: Path, folder: Path, run: Mapping[str, Any]) -> Path:
    """Write a checkpoint's manifest, rename its folder into the run's folder, and return the new path.

    Later checkpoints are removed: the run has been resumed from an earlier one.

    Args:
        staged: the checkpoint's folder in the staging folder, with all files but the manifest.
        folder: the run's folder of checkpoints.
        run: from `resuming.describe_run`.

    Returns:
        The checkpoint's folder.
    """
    _write_manifest(staged, run)
    checkpoint = folder / staged.name
    replaced = staged.with_name("replaced")
    if checkpoint.exists():  # it is damaged, or the run was resumed from an earlier checkpoint
        os.replace(checkpoint, replaced)
    os.replace(staged, checkpoint)
    fsync_path(folder)
    remove_folder(replaced)
    if replaced.exists():  # it holds files that this package did not write: keep them, under another name
        os.replace(replaced, checkpoint.with_name(f"{checkpoint.name}.{uuid.uuid4().hex[:8]}"))
    shutil.rmtree(staged.parent, ignore_errors=True)
    for other in checkpoints_in(folder):
        if _step(other) > _step(checkpoint):
            logger.info("%s is removed: the run was resumed from an earlier checkpoint.", other)
            remove_folder(other)
    return checkpoint


def _write_manifest(staged: Path, run: Mapping[str, Any]) -> None:
    """Write a checkpoint's manifest: the run's description, and the size and hash of each file.

    All files are synced to disk.
    """
    (staged / "training_args.bin").unlink(missing_ok=True)  # a pickle that nothing reads
    files = {}
    for file in sorted(staged.rglob("*")):
        if file.is_file():
            with file.open("rb") as stream:
                sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
            fsync_path(file)
            files[str(file.relative_to(staged))] = {"bytes": file.stat().st_size, "sha256": sha256}
    with (staged / MANIFEST).open("w", encoding="utf-8") as stream:
        json.dump({"run": run, "files": files}, stream, indent=1, default=str)
    fsync_path(staged / MANIFEST)


def remove_old_checkpoints(folder: Path, limit: int | None, best: str | None) -> None:
    """Remove all checkpoints of a run but the newest `limit`; the `best` one counts among these and always stays.

    Folders with other names are not touched.

    Args:
        folder: the run's folder of checkpoints.
        limit: --save_total_limit; None or 0 keeps all.
        best: path of the best checkpoint so far.
    """
    if limit is None or limit <= 0:
        return
    checkpoints = checkpoints_in(folder)
    best_ones = {path for path in checkpoints if best is not None and path.resolve() == Path(best).resolve()}
    kept = {*checkpoints[:1], *best_ones}
    kept.update([path for path in checkpoints if path not in kept][: max(0, limit - len(kept))])
    for checkpoint in checkpoints:
        if checkpoint not in kept:
            remove_folder(checkpoint)


@contextlib.contextmanager
def explain_write_errors(folder: Path) -> Iterator[None]:
    """Context manager: if writing a checkpoint fails, remove the unfinished files and raise `Failure`.

    Args:
        folder: the run's folder of checkpoints.

    Raises:
        Failure: the disk is full, or cannot be written.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        # torch and safetensors report a full disk as errors of their own types.
        if isinstance(error, RuntimeError) and "writ" not in str(error):
            raise
        shutil.rmtree(folder / STAGING, ignore_errors=True)
        cause = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise Failure(
            f"A checkpoint could not be written to {folder}: {cause}. {describe_last_checkpoint(folder)} Make room "
            "on the disk, and continue with --resume_from_checkpoint true."
        ) from error
