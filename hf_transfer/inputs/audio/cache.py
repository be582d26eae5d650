"""The cache of decoded clips on disk: each clip is decoded once for its settings, and memory-mapped when read."""

import contextlib
import errno
import functools
import hashlib
import os
import shutil
import uuid
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from zipfile import BadZipFile

import datasets
import numpy as np
import soundfile
from tqdm.auto import tqdm

from hf_transfer.data.cache_cleanup import CACHE_FILE_NAMES, mark_used_and_clean_up
from hf_transfer.errors import Failure
from hf_transfer.fsync import fsync_path
from hf_transfer.inputs.audio.decoding import DecodedClip, DecodingSettings, decode, to_float32
from hf_transfer.inputs.audio.sources import Excerpt, Samples, Source, UnusableAudio
from hf_transfer.run_folders import remove_entries

# Part of the fingerprint: increase it when decoding gives other samples or findings.
DECODING_VERSION = 3
# Attempts to rename a folder to its place while other processes may do the same.
MAX_RENAME_ATTEMPTS = 5


@dataclass(frozen=True)
class StoredClips:
    """Dataclass of decoded clips on disk: the file of their samples, and lists of facts about each clip.

    Attributes:
        file: the samples of all clips one after another, int16.
        offsets: of the first sample of each clip and of the end, [n + 1]; a clip that cannot be used has no samples.
        problems: for each clip why it cannot be used, or an empty string.
        findings: for each clip, as of `DecodedClip`.
        checksums: of the samples of each clip.
    """

    file: Path
    offsets: np.ndarray
    problems: list[str]
    findings: list[list[str]]
    checksums: list[str]


def store_clips(
    sources: Iterable[Source], count: int, settings: DecodingSettings, *, name: str, show: bool
) -> tuple[StoredClips, bool]:
    """Return decoded clips from the cache on disk, decoding them first if they are not in it.

    Args:
        sources: of the clips; iterated over twice.
        count: number of clips.
        settings: how they are decoded.
        name: of the split, for the progress bar.
        show: whether to show a progress bar.

    Returns:
        The clips in the order of `sources`, and whether they were in the cache.

    Raises:
        Failure: the cache cannot be written, as when the disk is full.
    """
    cache_folder = Path(datasets.config.HF_DATASETS_CACHE) / "hf_transfer_audio"
    folder = cache_folder / _fingerprint(sources, settings)
    clips = _read(folder)
    were_cached = clips is not None
    if clips is None:
        _decode_all(sources, count, settings, folder, name=name, show=show)
        clips = _read(folder)
    if clips is None:
        raise Failure(f"The decoded audio in {folder} cannot be read back. Check the disk.")
    with contextlib.suppress(OSError):  # a folder of another user, which is read-only
        mark_used_and_clean_up(folder)
    return clips, were_cached


def _read(folder: Path) -> StoredClips | None:
    """Return the clips in a folder of the cache, or None if they are absent or damaged (by a power cut)."""
    file = folder / "samples.int16"
    try:
        with np.load(folder / "clips.npz") as arrays:
            clips = StoredClips(
                file,
                arrays["offsets"],
                arrays["problems"].tolist(),
                [text.split() for text in arrays["findings"].tolist()],
                arrays["checksums"].tolist(),
            )
        return clips if file.stat().st_size == clips.offsets[-1] * np.dtype(np.int16).itemsize else None
    except (OSError, ValueError, EOFError, KeyError, BadZipFile):
        return None


def _fingerprint(sources: Iterable[Source], settings: DecodingSettings) -> str:
    """Return a hash of the decoding settings and of all sources: of files the path, size and time of modification."""
    digest = hashlib.sha256(repr((DECODING_VERSION, soundfile.__libsndfile_version__, asdict(settings))).encode())
    for source in sources:
        digest.update(repr(_identity(source)).encode())
    return digest.hexdigest()[:32]


def _identity(source: Source) -> bytes | tuple[object, ...]:
    """Return a value that tells a source of audio from all other sources."""
    if isinstance(source, Excerpt):
        return "excerpt", source.start, source.end, _identity(source.recording)
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
    sources: Iterable[Source], count: int, settings: DecodingSettings, folder: Path, *, name: str, show: bool
) -> None:
    """Decode clips to a temporary folder, and rename that to `folder`, which is thus complete or absent."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = folder.parent / f".partial-{uuid.uuid4().hex}"
        partial.mkdir()
    except OSError as error:
        raise Failure(
            f"{folder.parent} cannot be written: {error.strerror}. Set HF_DATASETS_CACHE to another folder."
        ) from error
    offsets, problems, findings, checksums = [0], [], [], []
    try:
        with (partial / "samples.int16").open("wb") as stream:
            progress = tqdm(
                _decode_in_order(sources, settings),
                total=count,
                desc=f"Decoding {name}",
                disable=not show,
                delay=2,
                leave=False,
            )
            for result in progress:
                is_usable = isinstance(result, DecodedClip)
                samples = result.samples if is_usable else np.zeros(0, dtype=np.int16)
                stream.write(samples.tobytes())
                offsets.append(offsets[-1] + len(samples))
                problems.append("" if is_usable else str(result))
                findings.append(" ".join(result.findings) if is_usable else "")
                checksums.append(hashlib.sha256(samples.tobytes()).hexdigest()[:16])
        with (partial / "clips.npz").open("wb") as stream:
            np.savez(
                stream, offsets=np.array(offsets), problems=np.array(problems, dtype=str),
                findings=np.array(findings, dtype=str), checksums=np.array(checksums, dtype=str),
            )  # fmt: skip
        for file in partial.iterdir():
            fsync_path(file)
        _rename_into_place(partial, folder)
    except OSError as error:
        raise Failure(
            f"The decoded audio could not be written to {folder.parent}: {error.strerror or error}. It takes "
            f"{2 * settings.sampling_rate * 3600 / 1e6:.0f} MB per hour of audio. Free disk space, or set "
            "HF_DATASETS_CACHE to another folder."
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _rename_into_place(partial: Path, folder: Path) -> None:
    """Rename a complete folder of clips to its place in the cache, unless another process has put them there.

    A damaged folder in that place is renamed before it is removed: no process sees a part of it, and clips that
    another process has put there in the meantime are not lost.

    Raises:
        OSError: the folder cannot be written.
    """
    for attempt in range(MAX_RENAME_ATTEMPTS):
        try:
            os.replace(partial, folder)
            _memory_map.cache_clear()  # it may hold the damaged file
            return
        except OSError as error:
            if _read(folder) is not None:
                return
            if attempt == MAX_RENAME_ATTEMPTS - 1 or error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        # There was a damaged folder of that name, which another process may have moved by now.
        aside = folder.parent / f".partial-{uuid.uuid4().hex}"
        with contextlib.suppress(FileNotFoundError):  # another process has moved it
            os.replace(folder, aside)
            if _read(aside) is not None:  # another process has put complete clips there in the meantime
                with contextlib.suppress(OSError):  # and yet another process did so, too
                    os.replace(aside, folder)
        remove_entries(aside, CACHE_FILE_NAMES)


def _decode_in_order(sources: Iterable[Source], settings: DecodingSettings) -> Iterator[DecodedClip | UnusableAudio]:
    """Decode sources in several threads, and yield a clip or an error for each, in their order.

    At most a few dozen clips are in memory.
    """
    # Threads are enough: soundfile and torch release the global interpreter lock.
    workers = min(8, os.cpu_count() or 1)
    futures: deque[Future[DecodedClip | UnusableAudio]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        for source in sources:
            futures.append(pool.submit(_decode_or_problem, source, settings))
            if len(futures) >= 4 * workers:
                yield futures.popleft().result()
        for future in futures:
            yield future.result()


def _decode_or_problem(source: Source, settings: DecodingSettings) -> DecodedClip | UnusableAudio:
    try:
        return decode(source, settings)
    except UnusableAudio as error:
        return error


def read_float32(file: Path | str, offset: int, length: int) -> np.ndarray:
    """Return the samples of a clip in the cache, float32 [samples], from -1 to 1."""
    return to_float32(read_int16(file, offset, length))


def read_int16(file: Path | str, offset: int, length: int) -> np.ndarray:
    """Return the samples of a clip in the cache, int16 [samples]."""
    return _memory_map(str(file))[offset : offset + length]


@functools.lru_cache(maxsize=8)
def _memory_map(file: str) -> np.memmap:
    return np.memmap(file, dtype=np.int16, mode="r")
