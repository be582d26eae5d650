"""Reading audio files with soundfile: blocks of frames, at the sampling rate and with the channels of the file."""

import contextlib
import functools
import io
import math
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile

from hf_transfer.inputs.audio.headers import RepairedWav, SampleChunk, find_sample_chunk
from hf_transfer.inputs.audio.sources import Excerpt, Samples, Source, UnusableAudio

# Short, so that most of a truncated file is still read.
BLOCK_SECONDS = 1
MAX_BLOCK_VALUES = 4_000_000  # a damaged header may declare a thousand channels
MIN_MP3_SHARE = 0.95  # some of the frames that the header of an MP3 declares are the encoder's padding
# Headers with other sampling rates are damaged.
MIN_SAMPLING_RATE, MAX_SAMPLING_RATE = 1_000, 1_000_000
# libsndfile's number of frames where it does not know it.
UNKNOWN_FRAMES = 2**40
# The times of excerpts and the lengths of files are rounded: an excerpt may end so much later than its file.
TOLERANCE_SECONDS = 0.25
# First bytes of formats that libsndfile does not read, or takes for MP3 and reads as noise.
UNSUPPORTED_FORMATS = {
    b"\x30\x26\xb2\x75": "WMA or another ASF file",
    b"\x1a\x45\xdf\xa3": "WebM or Matroska",
    b"#!AMR": "AMR",
    b"ADIF": "AAC",
    b"MAC ": "Monkey's Audio",
    b"wvpk": "WavPack",
    b"FLV": "Flash video",
}


class Recording:
    """Context manager that opens a source of audio and reads it in blocks.

    Attributes:
        sampling_rate: in Hz.
        channels: number of channels.
        seconds: length of the source, as its header declares it; infinite if it does not.
        is_cut: whether an excerpt was asked for and the file is already that excerpt.

    Raises:
        UnusableAudio: there is no such file, it is not audio, or the excerpt is outside of it.
    """

    def __init__(self, source: Source):
        self.excerpt = source if isinstance(source, Excerpt) else None
        recording = source.recording if isinstance(source, Excerpt) else source
        if isinstance(recording, UnusableAudio):
            raise recording
        self.path = recording if isinstance(recording, Path) else None
        self.is_cut, self._exit_stack = False, contextlib.ExitStack()
        self._file: soundfile.SoundFile | None = None
        self._chunk: SampleChunk | None = None
        with self._closed_if_unusable():
            if isinstance(recording, Samples):
                self._array = recording.channels_last()
                self.sampling_rate, self.channels = int(recording.sampling_rate), self._array.shape[1]
                self._frames: float = len(self._array)
            else:
                _require_content(recording)
                self._file = self._open(recording)
                self.sampling_rate, self.channels = self._file.samplerate, self._file.channels
                self._frames = _declared_frames(recording, self._file)
            if not MIN_SAMPLING_RATE <= self.sampling_rate <= MAX_SAMPLING_RATE:
                raise UnusableAudio("broken", f"its header says {self.sampling_rate} samples a second")
            self._start, self._stop = self._frame_range()
        self.seconds = (min(self._frames, self._stop) - self._start) / self.sampling_rate

    def __enter__(self) -> "Recording":
        return self

    def __exit__(self, *_: object) -> None:
        self._exit_stack.close()

    @contextlib.contextmanager
    def _closed_if_unusable(self) -> Iterator[None]:
        """Context manager: close the file on every exception, and turn it into `UnusableAudio`.

        The user's file is the cause of all of them.
        """
        try:
            yield
        except UnusableAudio:
            self._exit_stack.close()
            raise
        except Exception as error:
            self._exit_stack.close()
            raise to_unusable_audio(error, self.path) from error

    def _open(self, source: Path | bytes) -> soundfile.SoundFile:
        stream: BinaryIO = io.BytesIO(source) if isinstance(source, bytes) else source.open("rb")
        self._exit_stack.enter_context(stream)
        unsupported = _unsupported_format(stream.read(16))
        if unsupported:
            raise UnusableAudio("unknown format", f"{unsupported}: {conversion_hint(self.path)}")
        self._chunk = find_sample_chunk(stream)
        stream.seek(0)
        file: BinaryIO | RepairedWav | Path = stream
        if self._chunk is not None and self._chunk.needs_repair:
            file = RepairedWav(stream, self._chunk)
        elif self.path is not None and self.path.suffix.lower() != ".raw":
            file = self.path  # faster than reading through a Python stream
        elif self.path is not None:  # soundfile takes the suffix .raw to mean that there is no header
            file = io.BytesIO(stream.read())
        return self._exit_stack.enter_context(soundfile.SoundFile(file))

    def _frame_range(self) -> tuple[int, float]:
        """Return the number of the first frame, and of the one after the last, infinite for the file's end."""
        if self.excerpt is None:
            return 0, math.inf
        seconds, start = self._frames / self.sampling_rate, self.excerpt.start
        end = math.inf if self.excerpt.end is None else self.excerpt.end
        if start >= seconds or seconds + TOLERANCE_SECONDS < end < math.inf:
            # Clips that were cut from a recording may still have their times in that recording in the table.
            self.is_cut = start > 0 and abs(end - start - seconds) <= 0.1 + 0.02 * seconds
            if not self.is_cut:
                raise self.excerpt.outside_of_recording(seconds)
            return 0, math.inf
        return round(start * self.sampling_rate), end if end == math.inf else round(end * self.sampling_rate)

    def blocks(self, seconds: float = BLOCK_SECONDS) -> Iterator[np.ndarray]:
        """Yield the recording in blocks of float32 [frames, channels].

        Args:
            seconds: length of all blocks but the last.

        Raises:
            UnusableAudio: there are no frames, some are NaN or infinite, or the file is truncated; then the blocks
                before have been yielded.
        """
        size = max(1, min(int(seconds * self.sampling_rate), MAX_BLOCK_VALUES // self.channels))
        frames_read = 0
        try:
            for block in self._blocks_of_array(size) if self._file is None else self._blocks_of_file(self._file, size):
                if not np.isfinite(block).all():
                    raise UnusableAudio("not finite", "some samples are NaN or infinite")
                frames_read += len(block)
                yield block
        except (soundfile.SoundFileError, RuntimeError) as error:
            if frames_read:
                raise UnusableAudio("truncated", f"it breaks off after {frames_read} frames") from error
            raise to_unusable_audio(error, self.path) from error
        except UnusableAudio:
            raise
        except Exception as error:
            raise to_unusable_audio(error, self.path) from error
        if frames_read == 0:
            raise UnusableAudio("no samples", "the file has a header and nothing else")
        self._check_completeness(frames_read)

    def _blocks_of_array(self, size: int) -> Iterator[np.ndarray]:
        stop = int(min(self._stop, len(self._array)))
        for position in range(self._start, stop, size):
            yield self._array[position : min(position + size, stop)]

    def _blocks_of_file(self, file: soundfile.SoundFile, size: int) -> Iterator[np.ndarray]:
        position = 0
        if self._start:
            try:
                position = file.seek(self._start)
            except (soundfile.SoundFileError, RuntimeError):  # some formats can only be read from the beginning
                position = file.seek(0)
        # soundfile seeks after each read to where it already is. That breaks MP3, whose frames share bits.
        file.seekable = lambda: False
        while position < self._start and (skipped := len(file.read(min(size, self._start - position), "float32"))):
            position += skipped
        while position < self._stop:
            block = file.read(int(min(size, self._stop - position)), "float32", always_2d=True)
            if not len(block):
                return
            position += len(block)
            yield block

    def _check_completeness(self, frames_read: int) -> None:
        """Raise `UnusableAudio` if fewer frames were read than the header declares, or the excerpt has."""
        if self.excerpt is not None and self._stop < math.inf:
            is_truncated = self._stop - self._start - frames_read > TOLERANCE_SECONDS * self.sampling_rate
            if is_truncated and not (self._chunk is not None and self._chunk.missing_bytes):
                raise self.excerpt.outside_of_recording((self._start + frames_read) / self.sampling_rate)
        elif self._chunk is not None:
            is_truncated = bool(self._chunk.missing_bytes)
        else:
            min_share = MIN_MP3_SHARE if self._file is not None and self._file.format == "MP3" else 1.0
            declared = self._frames - self._start
            is_truncated = self._frames < math.inf and frames_read < int(min_share * declared)
        if is_truncated and self._chunk is not None:
            present, declared_bytes = self._chunk.present_bytes, self._chunk.declared_bytes
            raise UnusableAudio("truncated", f"{present} of {declared_bytes} bytes of samples are there")
        if is_truncated:
            raise UnusableAudio("truncated", f"{frames_read} of {int(self._frames) - self._start} frames are there")


def _unsupported_format(first_bytes: bytes) -> str | None:
    """Return the name of the format that a file begins like if libsndfile cannot read it, or else None."""
    if first_bytes[4:8] == b"ftyp":
        return "MP4, M4A or another file of that family"
    if len(first_bytes) > 1 and first_bytes[0] == 0xFF and first_bytes[1] & 0xF6 == 0xF0:
        return "AAC"
    if first_bytes[:4] == b"RIFF" and first_bytes[8:12] == b"AVI ":
        return "AVI video"
    return next((name for start, name in UNSUPPORTED_FORMATS.items() if first_bytes.startswith(start)), None)


def _require_content(source: Path | bytes) -> None:
    if isinstance(source, bytes):
        if not source:
            raise UnusableAudio("empty", "0 bytes")
        return
    try:
        is_file = source.is_file()
        size = source.stat().st_size if is_file else 0
    except (OSError, ValueError) as error:  # a name that no file can have
        raise UnusableAudio("unreadable", getattr(error, "strerror", None) or str(error)) from error
    if not is_file:
        raise UnusableAudio("missing", "that is a folder" if source.is_dir() else "there is no such file")
    if size == 0:
        raise UnusableAudio("empty", "0 bytes")


def to_unusable_audio(error: Exception, path: Path | None = None) -> UnusableAudio:
    """Return an exception from reading a file as `UnusableAudio`, with a remedy.

    Args:
        error: raised when the file was opened or read.
        path: of the file, if it has one.
    """
    if isinstance(error, OSError):
        return UnusableAudio("unreadable", error.strerror or str(error))
    if not isinstance(error, (soundfile.SoundFileError, RuntimeError)):
        return UnusableAudio("unreadable", " ".join(f"{type(error).__name__}: {error}".split())[:200])
    if path is not None and path.suffix.lower() in (".raw", ".pcm"):
        command = conversion_hint(path, "-f s16le -ar 16000 -ac 1 ")
        return UnusableAudio(
            "unknown format", f"samples without a header: {command} with its own sample format, rate and channels"
        )
    return UnusableAudio("broken", f"libsndfile cannot read it as audio. If it is audio, {conversion_hint(path)}")


def conversion_hint(path: Path | None, input_options: str = "") -> str:
    """Return the advice to convert a file to WAV, with the ffmpeg command quoted for a shell.

    Args:
        path: of the file, if it has one.
        input_options: of ffmpeg, which describe a file without a header.
    """
    source, target = "IN", "OUT.wav"
    if path is not None:
        converted = path.with_suffix(".wav")
        if path.suffix.lower() == ".wav":
            converted = path.with_name(f"{path.stem}_converted.wav")
        # ffmpeg would take a name that begins with a dash for an option.
        source, target = (
            shlex.quote(f"./{name}" if str(name).startswith("-") else str(name)) for name in (path, converted)
        )
    return f"convert it: ffmpeg {input_options}-i {source} -ac 1 -ar 16000 {target}"


def _declared_frames(source: Path | bytes, file: soundfile.SoundFile) -> float:
    """Return the number of frames that a file's header declares, or infinity if it does not declare it.

    libsndfile guesses from the size then.
    """
    if file.frames >= UNKNOWN_FRAMES or (file.format == "MP3" and not _has_mp3_frame_count(source)):
        return math.inf
    return file.frames


def _has_mp3_frame_count(source: Path | bytes) -> bool:
    """Return whether an MP3 begins with a Xing, Info or VBRI frame, which holds the number of frames."""
    with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as stream:
        tag = stream.read(10)
        size = functools.reduce(lambda high, low: high << 7 | low & 0x7F, tag[6:10], 0)
        stream.seek(10 + size if tag.startswith(b"ID3") else 0)
        first = stream.read(400)
    return any(name in first for name in (b"Xing", b"Info", b"VBRI"))
