"""Files and folders that appear under their name complete, or not at all."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from hf_transfer.errors import Failure, InputError
from hf_transfer.reporting.json_files import ENCODING_ERRORS


@contextmanager
def atomic_file(file: Path) -> Iterator[Any]:
    """Context manager: yield a text stream whose content becomes `file` only if the block ends without an error.

    Where `file` is a symbolic link, the file that it points to is replaced. A device or a pipe is written to
    directly.

    Raises:
        InputError: the file cannot be written.
        Failure: the disk is full.
    """
    if file.is_dir():
        raise InputError(f"{file} is a folder; expected the name of a file.")
    if file.exists() and not file.is_file():
        try:
            with file.open("w", encoding="utf-8", errors=ENCODING_ERRORS) as device:
                yield device
        except OSError as error:
            raise Failure(f"{file} could not be written: {error_cause(error)}.") from error
        return
    file = Path(os.path.realpath(file))
    try:
        stream = tempfile.NamedTemporaryFile(  # noqa: SIM115 (closed below, before it is renamed)
            "w", encoding="utf-8", errors=ENCODING_ERRORS, dir=file.parent, prefix=f".{file.name}.", delete=False
        )
    except OSError as error:
        raise InputError(f"{file} cannot be written: {error.strerror}.") from error
    try:
        with stream:
            yield stream
        os.chmod(stream.name, 0o666 & ~_umask())
        os.replace(stream.name, file)
    except OSError as error:
        raise Failure(
            f"{file} could not be written: {error_cause(error)}. The unfinished file was removed."
        ) from error
    finally:
        Path(stream.name).unlink(missing_ok=True)


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Context manager: yield a new folder, which becomes `folder` only if the block ends without an error.

    Raises:
        InputError: there is something of that name already, or the folder cannot be made there.
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
        apply_umask(partial)
        os.replace(partial, folder)
    except (OSError, SafetensorError) as error:
        raise Failure(
            f"{folder} could not be written: {error_cause(error)}. The unfinished folder was removed."
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def apply_umask(folder: Path) -> None:
    """Set the permissions of a folder and its files to those that the process's umask allows.

    Temporary folders, and files that safetensors writes, are readable by their owner alone.
    """
    folder.chmod(0o777 & ~_umask())
    for path in folder.iterdir():
        path.chmod((0o777 if path.is_dir() else 0o666) & ~_umask())


def error_cause(error: Exception) -> str:
    """Return what the operating system says of an error, or the error's own message."""
    return getattr(error, "strerror", None) or str(error)


def _umask() -> int:
    """Return the permission bits that new files of this process do not get.

    The system tells them only while setting others.
    """
    mask = os.umask(0)
    os.umask(mask)
    return mask
