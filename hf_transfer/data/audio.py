"""Audio files to samples: decoded with soundfile, resampled with torchaudio, checked."""

import base64
import functools
import io
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
import torchaudio

# Short, so that of a file that breaks off most is still read.
BLOCK_SECONDS = 1
# Sizes from here on are written by programs that cannot seek back to fill in the true one.
STREAMED = 0x7FFFF000
WIDTHS = {"PCM_U8": 1, "PCM_S8": 1, "PCM_16": 2, "PCM_24": 3, "PCM_32": 4, "FLOAT": 4, "DOUBLE": 8}  # bytes a sample
# A filter from one rate to another has as many parts as their reduced ratio; odder ratios are rounded to this.
FINEST_RATIO = 1000
MP3_SHARE = 0.95  # of the frames that an MP3 tells, some are the encoder's padding
# Beyond these a header is damaged.
RATES = 1_000, 1_000_000
SILENT_PEAK = 10 ** (-60 / 20)
CLIPPED_SHARE = 0.01


@dataclass(frozen=True)
class AudioSettings:
    """How clips are decoded.

    Attributes:
        sampling_rate: of the result, in Hz.
        min_seconds: shorter clips are left out.
        max_seconds: longer clips are left out, undecoded where the header says so.
    """

    sampling_rate: int
    min_seconds: float
    max_seconds: float


class UnusableAudio(ValueError):
    """A clip that cannot be used: ``reason`` in a word or two, and what was found."""

    def __init__(self, reason: str, found: str):
        super().__init__(f"{reason}: {found}")
        self.reason = reason


def read_blocks(source: Path | bytes, sampling_rate: int, *, seconds: float = BLOCK_SECONDS) -> Iterator[np.ndarray]:
    """Mono float32 blocks of a file at `sampling_rate`, in bounded memory whatever its length.

    Args:
        source: a file, or the content of one: WAV, FLAC, OGG, MP3 and whatever else libsndfile reads.
        sampling_rate: of the result, in Hz.
        seconds: of each block but the last.

    Raises:
        UnusableAudio: it is no audio, has no samples, breaks off, or holds samples that are no numbers.
    """
    _require_content(source)
    found = 0
    try:
        with soundfile.SoundFile(io.BytesIO(source) if isinstance(source, bytes) else source) as file:
            low, high = RATES
            if not low <= file.samplerate <= high:
                raise UnusableAudio("broken", f"its header says {file.samplerate} samples a second")
            expected = _expected_frames(source, file)
            resample = _Resampler(file.samplerate, sampling_rate)
            # soundfile seeks after each read to where it is already, which makes MP3 frames break: they share bits.
            file.seekable = lambda: False
            size = max(1, int(seconds * file.samplerate))
            while len(block := file.read(size, "float32", always_2d=True)):
                found += len(block)
                if not np.isfinite(block).all():
                    raise UnusableAudio("not finite", "some samples are NaN or infinite")
                yield resample(block.mean(axis=1))
            if found == 0:
                raise UnusableAudio("no samples", "the file has a header and nothing else")
            yield resample.rest()
            if found < expected:
                raise UnusableAudio("truncated", f"{found} of {expected} frames are there")
    except (soundfile.SoundFileError, RuntimeError) as error:
        if found:
            raise UnusableAudio("truncated", f"it breaks off after {found} frames") from error
        raise UnusableAudio("broken", "libsndfile cannot read it as audio") from error
    except OSError as error:
        raise UnusableAudio("unreadable", error.strerror or str(error)) from error


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


def _expected_frames(source: Path | bytes, file: soundfile.SoundFile) -> int:
    """Frames that the header promises; libsndfile itself cuts a WAV's number to what the file holds."""
    if file.format not in ("WAV", "WAVEX"):
        if file.frames >= 2**40 or (file.format == "MP3" and not _tells_its_length(source)):
            return 0  # streams do not say; libsndfile guesses by the size of the file
        return int(MP3_SHARE * file.frames) if file.format == "MP3" else file.frames
    width = WIDTHS.get(file.subtype)
    with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as stream:
        stream.seek(12)
        while len(head := stream.read(8)) == 8:
            name, size = struct.unpack("<4sI", head)
            if name == b"data":
                known = width is not None and size < STREAMED
                return size // (width * file.channels) if known and width else 0
            stream.seek(size + size % 2, os.SEEK_CUR)
    return 0


def _tells_its_length(source: Path | bytes) -> bool:
    """Whether an MP3 begins with a frame that tells the number of the others, as not all encoders write."""
    with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as stream:
        tag = stream.read(10)
        size = functools.reduce(lambda high, low: high << 7 | low & 0x7F, tag[6:10], 0)
        stream.seek(10 + size if tag.startswith(b"ID3") else 0)
        first = stream.read(400)
    return any(name in first for name in (b"Xing", b"Info", b"VBRI"))


class _Resampler:
    """Resamples a stream block by block: each block is computed with the samples around it."""

    def __init__(self, old: int, new: int):
        self.old, self.new = old, new
        ratio = Fraction(new, old).limit_denominator(FINEST_RATIO)
        self.step, self.out_step = ratio.denominator, ratio.numerator  # so many samples in give so many out
        # Neighbours that the filter reaches, in whole steps; torchaudio's filter is 6 zero crossings wide.
        self.margin = self.step * (8 * max(1, -(-self.step // self.out_step)) // self.step + 1)
        self.kept = np.zeros(0, dtype=np.float32)
        self.before = 0

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        if self.old == self.new:
            return samples
        self.kept = np.concatenate([self.kept, samples])
        ready = (len(self.kept) - self.before - self.margin) // self.step * self.step
        if ready <= 0:
            return np.zeros(0, dtype=np.float32)
        return self._emit(ready, last=False)

    def rest(self) -> np.ndarray:
        """What remains when the stream has ended."""
        if self.old == self.new or len(self.kept) == self.before:
            return np.zeros(0, dtype=np.float32)
        return self._emit(len(self.kept) - self.before, last=True)

    def _emit(self, ready: int, *, last: bool) -> np.ndarray:
        resampled = resampler(self.step, self.out_step)(torch.from_numpy(self.kept)).numpy()
        start = self.before // self.step * self.out_step
        stop = len(resampled) if last else start + ready // self.step * self.out_step
        keep_from = max(0, self.before + ready - self.margin) // self.step * self.step
        self.kept = self.kept[keep_from:]
        self.before = self.before + ready - keep_from
        return resampled[start:stop]


@functools.lru_cache(maxsize=64)
def resampler(old: int, new: int) -> Any:
    """torchaudio's resampler from one rate to another, whose filter is computed once."""
    return torchaudio.transforms.Resample(old, new)


@dataclass(frozen=True)
class Decoded:
    """A clip.

    Attributes:
        samples: int16 [n].
        findings: what is suspicious: silent, clipped, truncated.
    """

    samples: np.ndarray
    findings: tuple[str, ...]


def decode(source: Path | bytes, settings: AudioSettings) -> Decoded:
    """A clip as 16-bit mono samples.

    Raises:
        UnusableAudio: it cannot be used, or is shorter or longer than allowed.
    """
    limit = settings.max_seconds
    _refuse_long(source, limit)
    blocks, total = [], 0
    findings = []
    try:
        for block in read_blocks(source, settings.sampling_rate):
            blocks.append(block)
            total += len(block)
            if total > limit * settings.sampling_rate:
                raise UnusableAudio("too long", f"more than {limit:g} s")
    except UnusableAudio as error:
        if error.reason != "truncated":
            raise
        findings.append("truncated")
    samples = np.concatenate(blocks)
    seconds = len(samples) / settings.sampling_rate
    if seconds < settings.min_seconds:
        raise UnusableAudio("too short", f"{seconds:.3f} s")
    peak = float(np.abs(samples).max(initial=0.0))
    if peak < SILENT_PEAK:
        findings.append("silent")
    elif (np.abs(samples) >= 0.999 * max(1.0, peak)).mean() > CLIPPED_SHARE:
        findings.append("clipped")
    if peak > 1.0:  # a float file on another scale
        samples = samples / peak
    return Decoded(np.round(samples * 32767).astype(np.int16), tuple(findings))


def _refuse_long(source: Path | bytes, limit: float) -> None:
    """By the header, before hours of audio are decoded for nothing."""
    _require_content(source)
    try:
        info = soundfile.info(io.BytesIO(source) if isinstance(source, bytes) else str(source))
    except (soundfile.SoundFileError, RuntimeError):
        return  # decoding says what is wrong
    if info.frames < 2**40 and info.duration > limit:
        raise UnusableAudio("too long", f"{info.duration:.1f} s, more than {limit:g}")


def as_data_uri(samples: np.ndarray, sampling_rate: int) -> str:
    """A clip [samples] as a page can play it: MP3, which every browser knows."""
    stream = io.BytesIO()
    soundfile.write(stream, samples, sampling_rate, format="MP3")
    return f"data:audio/mpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"
