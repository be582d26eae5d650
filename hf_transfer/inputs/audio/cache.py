"""Decoded clips on disk: decoded once for each file and setting, memory-mapped when read."""

import contextlib
import errno
import functools
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import datasets
import numpy as np
import soundfile
from tqdm.auto import tqdm

from hf_transfer.data.cache_cleanup import CACHE_FILE_NAMES, mark_used_and_clean_up
from hf_transfer.errors import Failure
from hf_transfer.fsync import fsync_path
from hf_transfer.inputs.audio.decoding import Decoded, Decoding, as_floats, decode
from hf_transfer.inputs.audio.sources import Excerpt, Samples, Source, UnusableAudio
from hf_transfer.run_folders import remove_entries

# Part of the fingerprint: raise it when decoded samples or findings change.
VERSION = 3
# To put clips where another process may be doing the same.
ATTEMPTS = 5


@dataclass(frozen=True)
class StoredClips:
    """Decoded clips on disk, memory-mapped when read.

    Attributes:
        file: all samples one after another, int16.
        offsets: where each clip begins, [n + 1]; a clip that cannot be used has no samples.
        problems: for each clip why it cannot be used, or an empty string.
        findings: for each clip what is suspicious of it.
        checksums: of each clip's samples.
    """

    file: Path
    offsets: np.ndarray
    problems: list[str]
    findings: list[list[str]]
    checksums: list[str]


def store_clips(
    sources: Iterable[Source], count: int, settings: Decoding, *, name: str, show: bool
) -> tuple[StoredClips, bool]:
    """Decode clips once: a second call with the same files and settings reads what the first has left.

    Args:
        sources: of the clips; gone through twice.
        count: how many there are.
        settings: how they are decoded.
        name: what they are, for the progress bar.
        show: whether to show one.

    Returns:
        The clips in the order of `sources`, and whether they were there already.

    Raises:
        Failure: the disk is full.
    """
    home = Path(datasets.config.HF_DATASETS_CACHE) / "hf_transfer_audio"
    folder = home / _fingerprint(sources, settings)
    found = _read(folder)
    there = found is not None
    if found is None:
        _decode_all(sources, count, settings, folder, name=name, show=show)
        found = _read(folder)
    if found is None:
        raise Failure(f"The decoded audio in {folder} cannot be read back: is the disk sound?")
    with contextlib.suppress(OSError):  # somebody else's, to be read alone
        mark_used_and_clean_up(folder)
    return found, there


def _read(folder: Path) -> StoredClips | None:
    """What is kept in a folder; None where nothing is, or where it is damaged, as by a machine that lost its power."""
    file = folder / "samples.int16"
    try:
        with np.load(folder / "clips.npz") as kept:
            clips = StoredClips(
                file,
                kept["offsets"],
                kept["problems"].tolist(),
                [text.split() for text in kept["findings"].tolist()],
                kept["checksums"].tolist(),
            )
        return clips if file.stat().st_size == clips.offsets[-1] * np.dtype(np.int16).itemsize else None
    except (OSError, ValueError, EOFError, KeyError, BadZipFile):
        return None


def _fingerprint(sources: Iterable[Source], settings: Decoding) -> str:
    """Changes with every file, its content as its date and size tell it, and with the settings."""
    digest = hashlib.sha256(repr((VERSION, soundfile.__libsndfile_version__, asdict(settings))).encode())
    for source in sources:
        digest.update(repr(_identity(source)).encode())
    return digest.hexdigest()[:32]


def _identity(source: Source) -> Any:
    """What tells a source from all others."""
    if isinstance(source, Excerpt):
        return "excerpt", source.start, source.end, _identity(source.whole)
    if isinstance(source, bytes):
        return hashlib.sha256(source).digest()
    if isinstance(source, UnusableAudio):
        return "unusable", str(source)
    if isinstance(source, Samples):
        array = np.ascontiguousarray(source.array) if isinstance(source.array, np.ndarray) else None
        content = (
            repr(source.array)
            if array is None or array.dtype == object
            else (array.dtype.str, array.shape, hashlib.sha256(array.view(np.uint8).data).digest())
        )
        return "samples", source.sampling_rate, content
    try:
        status = source.stat()
        return str(source.resolve()), status.st_size, status.st_mtime_ns
    except (OSError, ValueError):
        return str(source), "missing"


def _decode_all(
    sources: Iterable[Source], count: int, settings: Decoding, folder: Path, *, name: str, show: bool
) -> None:
    """Written beside and renamed into place, so that what is there is whole."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = folder.parent / f".partial-{uuid.uuid4().hex}"
        partial.mkdir()
    except OSError as error:
        raise Failure(
            f"{folder.parent} cannot be written: {error.strerror}. HF_DATASETS_CACHE names another."
        ) from error
    offsets, problems, findings, checksums = [0], [], [], []
    try:
        with (partial / "samples.int16").open("wb") as stream:
            for found in tqdm(
                _in_order(sources, settings),
                total=count,
                desc=f"Decoding {name}",
                disable=not show,
                delay=2,
                leave=False,
            ):
                samples = found.samples if isinstance(found, Decoded) else np.zeros(0, dtype=np.int16)
                stream.write(samples.tobytes())
                offsets.append(offsets[-1] + len(samples))
                problems.append("" if isinstance(found, Decoded) else str(found))
                findings.append(" ".join(found.findings) if isinstance(found, Decoded) else "")
                checksums.append(hashlib.sha256(samples.tobytes()).hexdigest()[:16])
        with (partial / "clips.npz").open("wb") as stream:
            np.savez(
                stream, offsets=np.array(offsets), problems=np.array(problems, dtype=str),
                findings=np.array(findings, dtype=str), checksums=np.array(checksums, dtype=str),
            )  # fmt: skip
        for file in partial.iterdir():
            fsync_path(file)
        _put_in_place(partial, folder)
    except OSError as error:
        raise Failure(
            f"The decoded audio could not be written to {folder.parent}: {error.strerror or error}. It takes "
            f"{2 * settings.sampling_rate * 3600 / 1e6:.0f} MB an hour; HF_DATASETS_CACHE names another place."
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _put_in_place(partial: Path, folder: Path) -> None:
    """Rename decoded clips to where they are kept, unless another process has put the same there.

    What cannot be read is renamed itself before it is removed: nobody's good clips are lost, or seen in part.

    Raises:
        OSError: the folder cannot be written.
    """
    for attempt in range(ATTEMPTS):
        try:
            os.replace(partial, folder)
            _mapped.cache_clear()  # of a file that was damaged
            return
        except OSError as error:
            if _read(folder) is not None:
                return
            if attempt == ATTEMPTS - 1 or error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise  # else there was a folder of that name, which another process may have moved by now
        aside = folder.parent / f".partial-{uuid.uuid4().hex}"
        with contextlib.suppress(FileNotFoundError):  # another process has moved it
            os.replace(folder, aside)
            if _read(aside) is not None:  # another process has put good clips there since
                with contextlib.suppress(OSError):  # and another one again
                    os.replace(aside, folder)
        remove_entries(aside, CACHE_FILE_NAMES)


def _in_order(sources: Iterable[Source], settings: Decoding) -> Iterator[Decoded | UnusableAudio]:
    """Decode on all cores, holding no more than a few dozen clips at a time."""
    # soundfile and torch give up the interpreter's lock while they work.
    workers = min(8, os.cpu_count() or 1)
    waiting: list[Any] = []
    with ThreadPoolExecutor(workers) as pool:
        for source in sources:
            waiting.append(pool.submit(_decode_or_problem, source, settings))
            if len(waiting) >= 4 * workers:
                yield waiting.pop(0).result()
        for future in waiting:
            yield future.result()


def _decode_or_problem(source: Source, settings: Decoding) -> Decoded | UnusableAudio:
    try:
        return decode(source, settings)
    except UnusableAudio as error:
        return error


def samples_of(file: Path | str, offset: int, length: int) -> np.ndarray:
    """Float32 samples in [-1, 1] of a stored clip."""
    return as_floats(stored_samples(file, offset, length))


def stored_samples(file: Path | str, offset: int, length: int) -> np.ndarray:
    """Samples of a stored clip, int16."""
    return _mapped(str(file))[offset : offset + length]


@functools.lru_cache(maxsize=8)
def _mapped(file: str) -> Any:
    return np.memmap(file, dtype=np.int16, mode="r")
