"""A run's output folder, which appears complete or not at all, and the working folder in which it is made."""

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout
from safetensors import SafetensorError

from hf_transfer.arguments import arguments_for_method
from hf_transfer.arguments.run import NO_EFFECT_ON_RESULT, differing_arguments
from hf_transfer.errors import Failure, InputError, logger
from hf_transfer.fsync import fsync_path
from hf_transfer.reporting.atomic_writes import apply_umask, error_cause
from hf_transfer.reporting.run_files import LOCK, LOG_FOLDER, WORKING_FILES, entries, is_working_folder
from hf_transfer.run_folders import RUN_MARKER, remove_entries, write_run_marker

# Arguments for which a run finds a value itself where none is given.
AUTOMATIC = ("learning_rate", "num_train_epochs", "metric_for_best_model")


class OutputFolder:
    """Manager of the folder in which a run works and of the output folder in which its result appears.

    The run works in ``<output_dir>.partial`` beside the output folder: checkpoints, logs and the unfinished result.
    The result is renamed to the output folder when it is complete; the logs follow. A marker file says that the
    working folder was made by a run: a folder without it is the user's and is refused, and in a folder with it, files
    that no run writes are never removed.

    Args:
        path: the output folder.
        resume: whether an unfinished run is to be continued.

    Raises:
        InputError: the path holds something else, or an unfinished run that would be lost.
    """

    def __init__(self, path: str | Path, *, resume: bool):
        self.path = Path(path)
        if not self.path.resolve().name:
            raise InputError(f"--output_dir {path}: expected a new folder.")
        if self.path.is_dir() and (self.path.resolve() == Path.cwd() or os.path.ismount(self.path.resolve())):
            raise InputError(
                f"--output_dir {path}: the current folder or a mount point cannot be replaced by the result. Name a "
                "new folder inside it."
            )
        self.work = self.path.resolve().with_name(self.path.resolve().name + ".partial")
        self._lock: FileLock | None = None
        self._result_not_moved = False  # a finished result is still in the working folder
        if self.path.is_file():
            raise InputError(f"--output_dir {path}: there is a file of that name; expected a new folder.")
        self.resume = resume
        if not (resume and self._has_report()):
            self._require_empty()
        self._require_working_folder()
        if not resume and self._checkpoints():
            with suppress(OSError):  # no run can be writing a folder that cannot be locked
                self._acquire_lock()
            self.release()
            raise InputError(
                f"--output_dir {path}: there is an unfinished run in {self.work}. Continue it with "
                "--resume_from_checkpoint true, or remove that folder."
            )

    def _has_report(self) -> bool:
        return (self.path / "report.json").is_file()

    def _require_empty(self) -> None:
        names = [file.name for file in entries(self.path)]
        if names:
            remedy = ", or remove this one" if "report.json" in names else ""
            raise InputError(
                f"--output_dir {self.path}: the folder exists and holds {', '.join(names[:5])}. Name a new "
                f"folder{remedy}."
            )

    def _require_working_folder(self) -> None:
        if self.work.is_file() or not is_working_folder(self.work):
            names = ", ".join(file.name for file in entries(self.work)[:5])
            raise InputError(
                f"--output_dir {self.path}: the run would work in {self.work}, which was not made by a run "
                f"({f'it holds {names}' if names else 'it is a file'}). Name another folder, or move that one away."
            )

    def _checkpoints(self) -> list[Path]:
        return [path for path in self.work.glob("checkpoint-*") if path.name.rpartition("-")[2].isdigit()]

    def is_finished(self, arguments: dict[str, Any]) -> bool:
        """Return whether the output folder holds the finished result of the run to be resumed.

        Raises:
            InputError: the run in the folder had other arguments.
        """
        if not (self.resume and self._has_report()):
            return False
        earlier = yaml.safe_load((self.path / "arguments.yaml").read_text(encoding="utf-8"))
        method = str(earlier.get("method", "full"))
        earlier, arguments = arguments_for_method(earlier, method), arguments_for_method(arguments, method)
        for name, of in self.report().get("commits", {}).items():
            # The run wrote down the commit instead of the revision that it was given.
            if arguments.get(f"{name}_revision") != of["commit"]:
                earlier[f"{name}_revision"] = of["revision"]
        # Where a value was found by the run itself, it is compared only if it is given now.
        earlier = {
            key: value for key, value in earlier.items() if key in arguments or key not in (*AUTOMATIC, "dataset")
        }
        changed = differing_arguments(earlier, arguments, NO_EFFECT_ON_RESULT)
        if changed:
            shown = ", ".join(f"{key} {before!r}, not {now!r}" for key, (before, now) in list(changed.items())[:3])
            raise InputError(
                f"--output_dir {self.path}: a run with other arguments is finished there ({shown}). Give the same "
                "arguments, or name a new folder."
            )
        return True

    def is_result_in_place(self) -> bool:
        """Return whether this run's result has been moved to the output folder."""
        return self._lock is not None and self._has_report()

    def report(self) -> dict[str, Any]:
        """Return the content of ``report.json`` of the finished run in the output folder."""
        return json.loads((self.path / "report.json").read_text(encoding="utf-8"))

    def prepare(self) -> None:
        """Make the run's working folder, lock it, and mark it as made by a run.

        Raises:
            InputError: it cannot be made, or another run has made it or the output folder in the meantime.
        """
        try:
            self.work.mkdir(parents=True, exist_ok=True)
            self._require_working_folder()
            self._acquire_lock()
            try:
                self._require_empty()
            except InputError:
                self.discard()
                raise
            write_run_marker(self.work)
        except OSError as error:
            raise InputError(f"--output_dir {self.path}: the folder cannot be made: {error.strerror}.") from error

    def _acquire_lock(self) -> None:
        """Lock the working folder until the process ends; raise an error if another run has locked it."""
        self._lock = FileLock(self.work / LOCK, timeout=0)
        try:
            self._lock.acquire()
        except Timeout as error:
            raise InputError(
                f"--output_dir {self.path}: another run is writing there at this moment. Wait for it, or name another "
                "folder."
            ) from error

    def release(self) -> None:
        """Unlock the working folder, so that other runs may use it."""
        if self._lock is not None:
            self._lock.release()

    def require_space(self, needed: int) -> None:
        """Raise an error if the disk has fewer than `needed` bytes free for what the run may write.

        Raises:
            InputError: less than `needed` bytes are free.
        """
        free = shutil.disk_usage(self.work).free
        if free < needed:
            raise InputError(
                f"--output_dir {self.path}: the disk has {free / 1e6:.0f} MB free and the run may write "
                f"{needed / 1e6:.0f} MB. Free some space, or name a folder on another disk."
            )

    @contextmanager
    def result(self) -> Iterator[Path]:
        """Context manager: yield a folder for the result, which becomes the output folder unless an error comes.

        Raises:
            Failure: the disk is full, the folder cannot be written, or there is something in its place by then.
        """
        staged = self.work / "result"
        shutil.rmtree(staged, ignore_errors=True)
        try:
            staged.mkdir(parents=True)
            yield staged
            apply_umask(staged)
            for path in (*staged.iterdir(), staged):
                fsync_path(path)
        except (OSError, SafetensorError) as error:
            shutil.rmtree(staged, ignore_errors=True)
            raise Failure(
                f"The result could not be written to {self.path}: {error_cause(error)}. The unfinished result was "
                f"removed; checkpoints, if any, are in {self.work}. Free some space, then run again with "
                "--resume_from_checkpoint true."
            ) from error
        self._move_into_place(staged)

    def _move_into_place(self, staged: Path) -> None:
        """Rename the finished result to the output folder, then move the logs and remove the working folder.

        Errors after the renaming do not make the run fail.
        """
        place = self.path.resolve()
        try:
            if place.is_dir():
                place.rmdir()  # it was empty at the start; if it no longer is, this raises
            os.replace(staged, place)
        except OSError as error:
            self._result_not_moved = True
            raise Failure(
                f"The result is complete, but it cannot be renamed to {self.path}: {error.strerror}. It is in "
                f"{staged}: move it from there."
            ) from error
        with suppress(OSError):
            fsync_path(place.parent)  # before the checkpoints are removed
        self._move_logs()
        self._remove_working_folder()

    def _move_logs(self) -> None:
        with suppress(OSError):
            if (self.work / LOG_FOLDER).is_dir():
                os.replace(self.work / LOG_FOLDER, self.path.resolve() / LOG_FOLDER)

    def discard(self) -> None:
        """Remove the working folder of a run that ended, unless it has a checkpoint or an unmoved result.

        Where the result has been moved already, checkpoints are removed, too.
        """
        is_locked = self._lock is not None and self._lock.is_locked
        if is_locked and self.is_result_in_place():  # the run was stopped before it moved the logs
            self._move_logs()
        if is_locked and (self.is_result_in_place() or not (self._checkpoints() or self._result_not_moved)):
            self._remove_working_folder()

    def _remove_working_folder(self) -> None:
        remove_entries(self.work, WORKING_FILES)
        if os.name == "nt":
            self.release()  # Windows cannot remove an open file
        # Last of all: another run that looks now makes a lock file of its own.
        remove_entries(self.work, f"{re.escape(LOCK)}|{re.escape(RUN_MARKER)}")
        self.release()
        names = [entry.name for entry in entries(self.work)]
        if names:
            logger.warning("%s is kept: it holds files that no run has written (%s).", self.work, ", ".join(names[:5]))
