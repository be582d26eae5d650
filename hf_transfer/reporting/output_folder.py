"""The output folder: complete when it appears, absent before."""

import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout
from safetensors import SafetensorError

from hf_transfer.arguments import OF_NO_EFFECT, differences
from hf_transfer.durable import to_disk
from hf_transfer.errors import Failure, InputError

# Where TensorBoard's logs lie, in the working folder and then in the output folder.
LOGS = "runs"
# What a run keeps in its working folder.
OURS = ("checkpoint-", "writing", "result", ".lock", LOGS, "wandb-id")
# Arguments that a run settles by itself where they are left open.
SETTLED = ("learning_rate", "num_train_epochs", "metric_for_best_model")


def _entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


class OutputFolder:
    """Where a run works and where its result appears.

    The run works in ``<output_dir>.partial`` beside the output folder: checkpoints, logs and the unfinished result.
    The result is renamed into place when it is complete, and the logs after it.

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
        if self.path.is_file():
            raise InputError(f"--output_dir {path}: there is a file of that name; expected a new folder.")
        self.resume = resume
        finished = resume and (self.path / "report.json").is_file()
        if self.path.is_dir() and any(self.path.iterdir()) and not finished:
            held = ", ".join(sorted(file.name for file in self.path.iterdir())[:5])
            old = ", or remove this one" if (self.path / "report.json").is_file() else ""
            raise InputError(f"--output_dir {path}: the folder exists and holds {held}. Name a new folder{old}.")
        foreign = [file.name for file in _entries(self.work) if not file.name.startswith(OURS)]
        if foreign or self.work.is_file():
            raise InputError(
                f"--output_dir {path}: the run would work in {self.work}, which is not a run's folder "
                f"({', '.join(foreign[:5]) or 'it is a file'}). Name another folder, or move that one away."
            )
        if not resume and any(self.work.glob("checkpoint-*")):
            with suppress(OSError):  # a folder that cannot be locked is not being written
                self._claim()
            self.release()
            raise InputError(
                f"--output_dir {path}: an unfinished run lies in {self.work}. Continue it with "
                "--resume_from_checkpoint true, or remove that folder."
            )

    def is_finished(self, arguments: dict[str, Any]) -> bool:
        """Whether the run that is to be continued has finished already.

        Raises:
            InputError: the run in the folder was told something else than `arguments`.
        """
        if not (self.resume and (self.path / "report.json").is_file()):
            return False
        told = yaml.safe_load((self.path / "arguments.yaml").read_text(encoding="utf-8"))
        # What was left open then has been filled in since: it is compared where it is given now.
        told = {key: value for key, value in told.items() if key in arguments or key not in (*SETTLED, "dataset")}
        other = differences(told, arguments, OF_NO_EFFECT)
        if other:
            shown = ", ".join(f"{key} {before!r}, not {now!r}" for key, (before, now) in list(other.items())[:3])
            raise InputError(f"--output_dir {self.path}: a run with other arguments is finished there ({shown}).")
        return True

    def report(self) -> dict[str, Any]:
        """What ``report.json`` of the finished run holds."""
        return json.loads((self.path / "report.json").read_text(encoding="utf-8"))

    def prepare(self) -> None:
        """Make the working folder.

        Raises:
            InputError: it cannot be made.
        """
        try:
            self.work.mkdir(parents=True, exist_ok=True)
            self._claim()
        except OSError as error:
            raise InputError(f"--output_dir {self.path}: the folder cannot be made: {error.strerror}.") from error

    def _claim(self) -> None:
        """Lock the working folder until the process ends, however it ends."""
        self._lock = FileLock(self.work / ".lock", timeout=0)
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
            Failure: the disk is full or the folder cannot be written.
        """
        staged = self.work / "result"
        shutil.rmtree(staged, ignore_errors=True)
        try:
            staged.mkdir(parents=True)
            yield staged
            _open_up(staged)
            for path in (*staged.iterdir(), staged):
                to_disk(path)
            place = self.path.resolve()
            if place.is_dir():
                place.rmdir()  # empty, as checked
            os.replace(staged, place)
            to_disk(place.parent)  # only then are checkpoints removed
            if (self.work / LOGS).is_dir():
                os.replace(self.work / LOGS, place / LOGS)
        except (OSError, SafetensorError) as error:
            shutil.rmtree(staged, ignore_errors=True)
            raise Failure(
                f"The result could not be written to {self.path}: {_cause(error)}. Nothing half-written is "
                f"left; checkpoints, if any, are in {self.work}: make room and use --resume_from_checkpoint true."
            ) from error
        shutil.rmtree(self.work, ignore_errors=True)

    def discard(self) -> None:
        """Remove what an unfinished run left, unless it can be continued from it."""
        mine = self._lock is not None and self._lock.is_locked
        if mine and not any(self.work.glob("checkpoint-*")):
            shutil.rmtree(self.work, ignore_errors=True)


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
            with file.open("w", encoding="utf-8") as device:
                yield device
        except OSError as error:
            raise Failure(f"{file} could not be written: {_cause(error)}.") from error
        return
    file = Path(os.path.realpath(file))
    try:
        stream = tempfile.NamedTemporaryFile(  # noqa: SIM115 (closed below, before it is renamed)
            "w", encoding="utf-8", dir=file.parent, prefix=f".{file.name}.", delete=False
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


def as_json(value: Any) -> str:
    """`value` as JSON; what is not finite becomes null, which every JSON reader takes."""
    return json.dumps(_finite(value), indent=2, ensure_ascii=False) + "\n"


def as_json_line(record: dict[str, Any], *, ascii_only: bool = False) -> str:
    """`record` as a line of JSON: what is not ASCII as it is, unless a stream or UTF-8 cannot hold it."""
    line = json.dumps(_finite(record), ensure_ascii=ascii_only, default=str) + "\n"
    # Half a character (a lone surrogate) has no UTF-8; as an escape, JSON reads it back.
    return line.encode("utf-8", "backslashreplace").decode("utf-8")


def write_json(file: Path, value: Any) -> None:
    """Write `value` as JSON."""
    file.write_text(as_json(value), encoding="utf-8")


def write_jsonl(file: Path, records: list[dict[str, Any]]) -> None:
    """Write one JSON object a line."""
    with file.open("w", encoding="utf-8") as stream:
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
