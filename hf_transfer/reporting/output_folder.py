"""The output folder: complete when it appears, absent before."""

import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout
from safetensors import SafetensorError

from hf_transfer.arguments import OF_NO_EFFECT, differences, fitting
from hf_transfer.errors import Failure, InputError, logger
from hf_transfer.fsync import fsync_path
from hf_transfer.run_folders import RUN_MARKER, manifest_files, remove_entries, write_run_marker

# Where TensorBoard's logs lie, in the working folder and then in the output folder.
LOGS = "runs"
LOCK = ".lock"
# What a run has in its working folder beside the lock and the mark: whole names.
ENTRIES = rf"checkpoint-\d+|writing|result|{LOGS}|wandb-id"
# Half of a surrogate pair, in a damaged text or the name of a file, becomes an escape: a valid one in JSON.
ESCAPED = "backslashreplace"
# What output folders hold whose report does not list its files yet: the names that every tokenizer shares.
EARLIER_FILES = ("README.md", "adapter_config.json", "adapter_model.safetensors", "added_tokens.json",
                 "arguments.yaml", "config.json", "generation_config.json", "merges.txt", "model.safetensors",
                 "predictions.jsonl", "preprocessor_config.json", "processor_config.json", "report.html",
                 "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json", "vocab.json", "vocab.txt",
                 "report.json")  # fmt: skip
# Arguments that a run settles by itself where they are left open.
SETTLED = ("learning_rate", "num_train_epochs", "metric_for_best_model")


def _entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


class OutputFolder:
    """Where a run works and where its result appears.

    The run works in ``<output_dir>.partial`` beside the output folder: checkpoints, logs and the unfinished result.
    The result is renamed into place when it is complete, and the logs after it. The working folder is marked; one
    without the mark is somebody else's, and in one with it everything stays that no run writes.

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
            raise InputError(f"--output_dir {path}: the result cannot take that folder's place; name one inside it.")
        self.work = self.path.resolve().with_name(self.path.resolve().name + ".partial")
        self._lock: FileLock | None = None
        self._stranded = False  # whether a finished result lies in the working folder
        if self.path.is_file():
            raise InputError(f"--output_dir {path}: there is a file of that name; expected a new folder.")
        self.resume = resume
        if not (resume and (self.path / "report.json").is_file()):
            self._require_free()
        self._require_ours()
        if not resume and self._checkpoints():
            with suppress(OSError):  # a folder that cannot be locked is not being written
                self._claim()
            self.release()
            raise InputError(
                f"--output_dir {path}: an unfinished run lies in {self.work}. Continue it with "
                "--resume_from_checkpoint true, or remove that folder."
            )

    def _require_free(self) -> None:
        held = [file.name for file in _entries(self.path)]
        if held:
            old = ", or remove this one" if "report.json" in held else ""
            raise InputError(
                f"--output_dir {self.path}: the folder exists and holds {', '.join(held[:5])}. Name a new folder{old}."
            )

    def _require_ours(self) -> None:
        if self.work.is_file() or not _is_working_folder(self.work):
            held = ", ".join(file.name for file in _entries(self.work)[:5])
            raise InputError(
                f"--output_dir {self.path}: the run would work in {self.work}, which is not a run's folder "
                f"({f'it holds {held}' if held else 'it is a file'}). Name another folder, or move that one away."
            )

    def _checkpoints(self) -> list[Path]:
        return [path for path in self.work.glob("checkpoint-*") if path.name.rpartition("-")[2].isdigit()]

    def is_finished(self, arguments: dict[str, Any]) -> bool:
        """Whether the run that is to be continued has finished already.

        Raises:
            InputError: the run in the folder was told something else than `arguments`.
        """
        if not (self.resume and (self.path / "report.json").is_file()):
            return False
        told = yaml.safe_load((self.path / "arguments.yaml").read_text(encoding="utf-8"))
        method = str(told.get("method", "full"))
        told, arguments = fitting(told, method), fitting(arguments, method)
        for name, of in self.report().get("commits", {}).items():
            if arguments.get(f"{name}_revision") != of["commit"]:  # noted instead of what was asked for
                told[f"{name}_revision"] = of["revision"]
        # What was left open then has been filled in since: it is compared where it is given now.
        told = {key: value for key, value in told.items() if key in arguments or key not in (*SETTLED, "dataset")}
        other = differences(told, arguments, OF_NO_EFFECT)
        if other:
            shown = ", ".join(f"{key} {before!r}, not {now!r}" for key, (before, now) in list(other.items())[:3])
            raise InputError(f"--output_dir {self.path}: a run with other arguments is finished there ({shown}).")
        return True

    def is_delivered(self) -> bool:
        """Whether the result of this run is in its place."""
        return self._lock is not None and (self.path / "report.json").is_file()

    def report(self) -> dict[str, Any]:
        """What ``report.json`` of the finished run holds."""
        return json.loads((self.path / "report.json").read_text(encoding="utf-8"))

    def prepare(self) -> None:
        """Make the working folder.

        Raises:
            InputError: it cannot be made, or another run has made it or the output folder by now.
        """
        try:
            self.work.mkdir(parents=True, exist_ok=True)
            self._require_ours()
            self._claim()
            try:
                self._require_free()
            except InputError:
                self.discard()
                raise
            write_run_marker(self.work)
        except OSError as error:
            raise InputError(f"--output_dir {self.path}: the folder cannot be made: {error.strerror}.") from error

    def _claim(self) -> None:
        """Lock the working folder until the process ends, however it ends."""
        self._lock = FileLock(self.work / LOCK, timeout=0)
        try:
            self._lock.acquire()
        except Timeout as error:
            raise InputError(f"--output_dir {self.path}: another run is writing it at this moment.") from error

    def release(self) -> None:
        """Let other runs have the working folder."""
        if self._lock is not None:
            self._lock.release()

    def require_space(self, needed: int) -> None:
        """Refuse to start where the result would not fit.

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
        """A folder to write the result into; it becomes the output folder when the block ends without an error.

        Raises:
            Failure: the disk is full, the folder cannot be written, or something is in its place by now.
        """
        staged = self.work / "result"
        shutil.rmtree(staged, ignore_errors=True)
        try:
            staged.mkdir(parents=True)
            yield staged
            _open_up(staged)
            for path in (*staged.iterdir(), staged):
                fsync_path(path)
        except (OSError, SafetensorError) as error:
            shutil.rmtree(staged, ignore_errors=True)
            raise Failure(
                f"The result could not be written to {self.path}: {_cause(error)}. Nothing half-written is "
                f"left; checkpoints, if any, are in {self.work}: make room and use --resume_from_checkpoint true."
            ) from error
        self._appear(staged)

    def _appear(self, staged: Path) -> None:
        """Rename the finished result into place; from then on nothing makes the run look failed."""
        place = self.path.resolve()
        try:
            if place.is_dir():
                place.rmdir()  # empty, as checked: where that is no longer so, this fails
            os.replace(staged, place)
        except OSError as error:
            self._stranded = True
            raise Failure(
                f"The result is complete, and cannot be renamed to {self.path}: {error.strerror}. It lies in "
                f"{staged}: move it from there."
            ) from error
        with suppress(OSError):
            fsync_path(place.parent)  # only then are checkpoints removed
        self._bring_logs()
        self._remove_work()

    def _bring_logs(self) -> None:
        with suppress(OSError):
            if (self.work / LOGS).is_dir():
                os.replace(self.work / LOGS, self.path.resolve() / LOGS)

    def discard(self) -> None:
        """Remove what an unfinished run left, unless there is a checkpoint or a result to go on from."""
        mine = self._lock is not None and self._lock.is_locked
        if mine and self.is_delivered():  # and stopped before its logs were beside it
            self._bring_logs()
        if mine and (self.is_delivered() or not (self._checkpoints() or self._stranded)):
            self._remove_work()

    def _remove_work(self) -> None:
        remove_entries(self.work, ENTRIES)
        if os.name == "nt":
            self.release()  # there an open file cannot be removed
        # In this order: whoever asks from now on locks a file of their own.
        remove_entries(self.work, f"{re.escape(LOCK)}|{re.escape(RUN_MARKER)}")
        self.release()
        left = [entry.name for entry in _entries(self.work)]
        if left:
            logger.warning("%s stays: no run has written %s.", self.work, ", ".join(left[:5]))


def _is_working_folder(folder: Path) -> bool:
    """Whether a run may work there: the folder is marked, or empty, or of a run from before there were marks.

    The lock of a run that ended before it could do anything is nothing; checkpoints that list their files, and
    nothing foreign, are a run's. The folder is looked at once: another process of the run may be making it.
    """
    entries = {entry.name: entry for entry in _entries(folder)}
    if RUN_MARKER in entries:
        return True
    held = entries.keys() - {LOCK}
    if not held:
        return LOCK not in entries or not _size(entries[LOCK])
    known = all(re.fullmatch(ENTRIES, name) for name in held)
    return known and any(manifest_files(entries[name]) for name in held if name.startswith("checkpoint-"))


def _size(file: Path) -> int:
    with suppress(OSError):  # it is gone by now
        return file.stat().st_size
    return 0


def written_files(folder: Path) -> list[str]:
    """The names of the files that a finished run has written into its output folder, as its report lists them."""
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    names = report.get("files", EARLIER_FILES)
    return [name for name in names if Path(name).name == name and (folder / name).is_file()]


def remove_run(folder: Path) -> None:
    """Remove a finished run's output folder, or the working folder of a run that ended.

    Raises:
        InputError: somebody has put something else there; that stays.
    """
    if (folder / "report.json").is_file():
        remove_entries(folder / LOGS, ".*")
        for name in written_files(folder):
            (folder / name).unlink()
    elif _is_working_folder(folder):
        remove_entries(folder, f"{ENTRIES}|{re.escape(LOCK)}|{re.escape(RUN_MARKER)}")
    with suppress(OSError):
        folder.rmdir()
    if folder.exists():
        held = ", ".join(path.name for path in _entries(folder)[:5])
        raise InputError(f"{folder} holds what no run has written ({held}): move it away and start again.")


@contextmanager
def written_whole(file: Path) -> Iterator[Any]:
    """A text stream whose content appears as `file` when the block ends without an error, and not otherwise.

    A device or a pipe is written to as it is, and a link's file is what appears.

    Raises:
        InputError: the file cannot be written.
        Failure: the disk is full.
    """
    if file.is_dir():
        raise InputError(f"{file}: that is a folder; expected the name of a file.")
    if file.exists() and not file.is_file():
        try:
            with file.open("w", encoding="utf-8", errors=ESCAPED) as device:
                yield device
        except OSError as error:
            raise Failure(f"{file} could not be written: {_cause(error)}.") from error
        return
    file = Path(os.path.realpath(file))
    try:
        stream = tempfile.NamedTemporaryFile(  # noqa: SIM115 (closed below, before it is renamed)
            "w", encoding="utf-8", errors=ESCAPED, dir=file.parent, prefix=f".{file.name}.", delete=False
        )
    except OSError as error:
        raise InputError(f"{file} cannot be written: {error.strerror}.") from error
    try:
        with stream:
            yield stream
        os.chmod(stream.name, 0o666 & ~_umask())
        os.replace(stream.name, file)
    except OSError as error:
        raise Failure(f"{file} could not be written: {_cause(error)}. Nothing is left of it.") from error
    finally:
        Path(stream.name).unlink(missing_ok=True)


@contextmanager
def written_whole_folder(folder: Path) -> Iterator[Path]:
    """A folder to write into; it appears as `folder` when the block ends without an error, and not otherwise.

    Raises:
        InputError: there is something of that name, or nowhere to put it.
        Failure: the disk is full.
    """
    if folder.exists():
        raise InputError(f"{folder} exists already; name a new folder.")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    except OSError as error:
        raise InputError(f"{folder} cannot be made: {error.strerror}.") from error
    try:
        yield partial
        _open_up(partial)
        os.replace(partial, folder)
    except (OSError, SafetensorError) as error:
        raise Failure(f"{folder} could not be written: {_cause(error)}. Nothing is left of it.") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _open_up(folder: Path) -> None:
    """The folder and its files for those whom the process's mask lets in; safetensors are written for one alone."""
    folder.chmod(0o777 & ~_umask())
    for path in folder.iterdir():
        path.chmod((0o777 if path.is_dir() else 0o666) & ~_umask())


def _umask() -> int:
    """The process's mask for new files: temporary files are made private and have to be opened up."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _cause(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def as_json(value: Any, *, only_ascii: bool = False) -> str:
    """`value` as JSON; what is not finite becomes null, which every JSON reader takes."""
    return json.dumps(_finite(value), indent=2, ensure_ascii=only_ascii) + "\n"


def as_json_line(record: dict[str, Any], *, ascii_only: bool = False) -> str:
    """`record` as a line of JSON: what is not ASCII as it is, unless a stream or UTF-8 cannot hold it."""
    line = json.dumps(_finite(record), ensure_ascii=ascii_only, default=str) + "\n"
    # Half a character (a lone surrogate) has no UTF-8; as an escape, JSON reads it back.
    return line.encode("utf-8", "backslashreplace").decode("utf-8")


def write_json(file: Path, value: Any) -> None:
    """Write `value` as JSON."""
    file.write_text(as_json(value), encoding="utf-8", errors=ESCAPED)


def write_jsonl(file: Path, records: list[dict[str, Any]]) -> None:
    """Write one JSON object a line."""
    with file.open("w", encoding="utf-8", errors=ESCAPED) as stream:
        for record in records:
            stream.write(json.dumps(_finite(record), ensure_ascii=False) + "\n")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
