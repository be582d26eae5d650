"""Recordings as blocks of frames, as their files hold them: opened, positioned and read with soundfile."""

import contextlib
import functools
import io
import math
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from hf_transfer.inputs.audio.headers import MendedWav, SampleChunk, find_samples
from hf_transfer.inputs.audio.sources import Excerpt, Samples, Source, UnusableAudio

# Short, so that of a file that breaks off most is still read.
BLOCK_SECONDS = 1
BLOCK_VALUES = 4_000_000  # a damaged header may promise a thousand channels
MP3_SHARE = 0.95  # of the frames that an MP3 tells, some are the encoder's padding
# Beyond these a header is damaged.
RATES = 1_000, 1_000_000
# libsndfile's number where it does not know.
UNKNOWN_FRAMES = 2**40
# The times of excerpts are rounded, and so are lengths of files: an excerpt may end so far behind its file.
TOLERANCE_SECONDS = 0.25
# How files begin that libsndfile does not read, or takes for MP3 and reads as noise.
FOREIGN = {
    b"\x30\x26\xb2\x75": "WMA or another ASF file",
    b"\x1a\x45\xdf\xa3": "WebM or Matroska",
    b"#!AMR": "AMR",
    b"ADIF": "AAC",
    b"MAC ": "Monkey's Audio",
    b"wvpk": "WavPack",
    b"FLV": "Flash video",
}


class Recording:
    """An opened source, and a context manager.

    Attributes:
        sampling_rate: in Hz.
        channels: how many there are.
        seconds: of the source, as its header says; infinite where it does not.
        is_cut: whether an excerpt was asked for and the file is that excerpt already.

    Raises:
        UnusableAudio: it is no audio, there is no such file, or the excerpt lies outside of it.
    """

    def __init__(self, source: Source):
        self.excerpt = source if isinstance(source, Excerpt) else None
        whole = source.whole if isinstance(source, Excerpt) else source
        if isinstance(whole, UnusableAudio):
            raise whole
        self.name = whole if isinstance(whole, Path) else None
        self.is_cut, self._stream = False, contextlib.ExitStack()
        self._file: Any = None
        self._chunk: SampleChunk | None = None
        with self._closed_if_unusable():
            if isinstance(whole, Samples):
                self._array = whole.channels_last()
                self.sampling_rate, self.channels = int(whole.sampling_rate), self._array.shape[1]
                self._frames: float = len(self._array)
            else:
                _require_content(whole)
                self._open(whole)
                self._frames = _known_frames(whole, self._file)
            if not RATES[0] <= self.sampling_rate <= RATES[1]:
                raise UnusableAudio("broken", f"its header says {self.sampling_rate} samples a second")
            self._start, self._stop = self._place()
        self.seconds = (min(self._frames, self._stop) - self._start) / self.sampling_rate

    def __enter__(self) -> "Recording":
        return self

    def __exit__(self, *_: Any) -> None:
        self._stream.close()

    @contextlib.contextmanager
    def _closed_if_unusable(self) -> Iterator[None]:
        """What a library raises over a user's file is that file's problem, and not the run's."""
        try:
            yield
        except UnusableAudio:
            self._stream.close()
            raise
        except Exception as error:
            self._stream.close()
            raise problem_of(error, self.name) from error

    def _open(self, source: Path | bytes) -> None:
        stream = io.BytesIO(source) if isinstance(source, bytes) else source.open("rb")
        self._stream.enter_context(stream)
        first = stream.read(16)
        foreign = next((kind for begin, kind in FOREIGN.items() if first.startswith(begin)), None)
        if first[4:8] == b"ftyp":
            foreign = "MP4, M4A or another file of that family"
        elif len(first) > 1 and first[0] == 0xFF and first[1] & 0xF6 == 0xF0:
            foreign = "AAC"
        elif first[:4] == b"RIFF" and first[8:12] == b"AVI ":
            foreign = "AVI video"
        if foreign:
            raise UnusableAudio("unknown format", f"{foreign}: {conversion(self.name)}")
        self._chunk = find_samples(stream)
        stream.seek(0)
        given: Any = stream
        if self._chunk is not None and self._chunk.needs_mending:
            given = MendedWav(stream, self._chunk)
        elif self.name is not None and self.name.suffix.lower() != ".raw":
            given = self.name  # read faster than from Python
        elif self.name is not None:  # soundfile takes the ending to mean that there is no header
            given = io.BytesIO(stream.read())
        self._file = self._stream.enter_context(soundfile.SoundFile(given))
        self.sampling_rate, self.channels = self._file.samplerate, self._file.channels

    def _place(self) -> tuple[int, float]:
        """The first frame, and the one behind the last."""
        if self.excerpt is None:
            return 0, math.inf
        seconds, start = self._frames / self.sampling_rate, self.excerpt.start
        end = math.inf if self.excerpt.end is None else self.excerpt.end
        if start >= seconds or seconds + TOLERANCE_SECONDS < end < math.inf:
            # Datasets that were cut already keep the times of the recording that they were cut from.
            self.is_cut = start > 0 and abs(end - start - seconds) <= 0.1 + 0.02 * seconds
            if not self.is_cut:
                raise self.excerpt.outside(seconds)
            return 0, math.inf
        return round(start * self.sampling_rate), end if end == math.inf else round(end * self.sampling_rate)

    def blocks(self, seconds: float = BLOCK_SECONDS) -> Iterator[np.ndarray]:
        """The frames in blocks [frames, channels] of float32, all but the last of so many `seconds`.

        Raises:
            UnusableAudio: there are none, some are no numbers, or they break off; what was read before is as it is.
        """
        size = max(1, min(int(seconds * self.sampling_rate), BLOCK_VALUES // self.channels))
        found = 0
        try:
            for block in self._in_file(size) if self._file is not None else self._in_memory(size):
                if not np.isfinite(block).all():
                    raise UnusableAudio("not finite", "some samples are NaN or infinite")
                found += len(block)
                yield block
        except (soundfile.SoundFileError, RuntimeError) as error:
            if found:
                raise UnusableAudio("truncated", f"it breaks off after {found} frames") from error
            raise problem_of(error, self.name) from error
        except UnusableAudio:
            raise
        except Exception as error:
            raise problem_of(error, self.name) from error
        if found == 0:
            raise UnusableAudio("no samples", "the file has a header and nothing else")
        self._require_all(found)

    def _in_memory(self, size: int) -> Iterator[np.ndarray]:
        stop = int(min(self._stop, len(self._array)))
        for at in range(self._start, stop, size):
            yield self._array[at : min(at + size, stop)]

    def _in_file(self, size: int) -> Iterator[np.ndarray]:
        at = 0
        if self._start:
            try:
                at = self._file.seek(self._start)
            except (soundfile.SoundFileError, RuntimeError):  # some formats are read from the beginning alone
                at = self._file.seek(0)
        # soundfile seeks after each read to where it is already, which makes MP3 frames break: they share bits.
        self._file.seekable = lambda: False
        while at < self._start and (skipped := len(self._file.read(min(size, self._start - at), "float32"))):
            at += skipped
        while at < self._stop:
            block = self._file.read(int(min(size, self._stop - at)), "float32", always_2d=True)
            if not len(block):
                return
            at += len(block)
            yield block

    def _require_all(self, found: int) -> None:
        """Refuse what has fewer frames than its header promises, or its excerpt."""
        if self._stop < math.inf:
            missing = self._stop - self._start - found > TOLERANCE_SECONDS * self.sampling_rate
            if missing and not (self._chunk is not None and self._chunk.missing):
                raise self.excerpt.outside((self._start + found) / self.sampling_rate)  # type: ignore[union-attr]
        elif self._chunk is not None:
            missing = bool(self._chunk.missing)
        else:
            share = MP3_SHARE if self._file is not None and self._file.format == "MP3" else 1.0
            missing = self._frames < math.inf and found < int(share * (self._frames - self._start))
        if missing and self._chunk is not None:
            promised, there = self._chunk.promised, self._chunk.there
            raise UnusableAudio("truncated", f"{there} of {promised} bytes of samples are there")
        if missing:
            raise UnusableAudio("truncated", f"{found} of {int(self._frames) - self._start} frames are there")


def _require_content(source: Path | bytes) -> None:
    if isinstance(source, bytes):
        if not source:
            raise UnusableAudio("empty", "0 bytes")
        return
    try:
        there = source.is_file()
        size = source.stat().st_size if there else 0
    except (OSError, ValueError) as error:  # a name that no file can have
        raise UnusableAudio("unreadable", getattr(error, "strerror", None) or str(error)) from error
    if not there:
        folder = source.is_dir()
        raise UnusableAudio("missing", "that is a folder" if folder else "there is no such file")
    if size == 0:
        raise UnusableAudio("empty", "0 bytes")


def problem_of(error: Exception, name: Path | None = None) -> UnusableAudio:
    """What an exception over a file says of it."""
    if isinstance(error, OSError):
        return UnusableAudio("unreadable", error.strerror or str(error))
    if not isinstance(error, (soundfile.SoundFileError, RuntimeError)):
        return UnusableAudio("unreadable", " ".join(f"{type(error).__name__}: {error}".split())[:200])
    if name is not None and name.suffix.lower() in (".raw", ".pcm"):
        found = f"samples without a header: {conversion(name, '-f s16le -ar 16000 -ac 1 ')} with its own sample format"
        return UnusableAudio("unknown format", f"{found}, rate and channels")
    return UnusableAudio("broken", f"libsndfile cannot read it as audio. If it is audio, {conversion(name)}")


def conversion(name: Path | None, given: str = "") -> str:
    """The command that makes a WAV of a file, as a shell takes it; `given` says what the file does not."""
    old, new = ("IN", "OUT.wav")
    if name is not None:
        target = name.with_suffix(".wav")
        if name.suffix.lower() == ".wav":
            target = name.with_name(f"{name.stem}_converted.wav")
        # What begins with a dash would be taken for an option.
        old, new = (shlex.quote(f"./{path}" if str(path).startswith("-") else str(path)) for path in (name, target))
    return f"convert it: ffmpeg {given}-i {old} -ac 1 -ar 16000 {new}"


def _known_frames(source: Path | bytes, file: soundfile.SoundFile) -> float:
    """Frames that the header tells; infinite where it does not, and libsndfile guesses by the size of the file."""
    if file.frames >= UNKNOWN_FRAMES or (file.format == "MP3" and not _tells_its_length(source)):
        return math.inf
    return file.frames


def _tells_its_length(source: Path | bytes) -> bool:
    """Whether an MP3 begins with a frame that tells the number of the others, as not all encoders write."""
    with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as stream:
        tag = stream.read(10)
        size = functools.reduce(lambda high, low: high << 7 | low & 0x7F, tag[6:10], 0)
        stream.seek(10 + size if tag.startswith(b"ID3") else 0)
        first = stream.read(400)
    return any(name in first for name in (b"Xing", b"Info", b"VBRI"))
