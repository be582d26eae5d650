"""Audio to the samples that a model is given: mono, 16-bit, at one rate; the same in training and in prediction.

What of a clip is decided from all of its samples (which channel is heard, a constant offset, a scale beyond full
scale) is so decided for a file of hours too: it is read twice, in bounded memory.
"""

import base64
import functools
import io
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
import soundfile
import torch
import torchaudio

from hf_transfer.inputs.audio.files import Recording, problem_of
from hf_transfer.inputs.audio.sources import Source, UnusableAudio

# Sources up to this length are held in memory between the two looks at them, and not read again.
HELD_SECONDS = 60
# A filter from one rate to another has as many parts as their reduced ratio; odder ratios are rounded to this.
FINEST_RATIO = 1000
SILENT_PEAK = 10 ** (-60 / 20)
CLIPPED_SHARE = 0.01
# A constant offset above SILENT_PEAK is taken away; most sound cards have a little, of which nothing need be said.
OFFSET_TOLD = 0.01
FULL_SCALE = 32767
# Channels that have nothing in common give a mean of 1/channels of their power; with less than half of that they are
# of opposite phase, as where one wire of a microphone is swapped, and their mean loses what both hold.
OPPOSITE_SHARE = 0.5


@dataclass(frozen=True)
class Decoding:
    """How clips are decoded.

    Attributes:
        sampling_rate: of the result, in Hz.
        min_seconds: shorter clips are left out.
        max_seconds: longer clips are left out, undecoded where the header says so.
    """

    sampling_rate: int
    min_seconds: float
    max_seconds: float


@dataclass(frozen=True)
class Decoded:
    """A clip.

    Attributes:
        samples: int16 [n].
        findings: what is suspicious: silent, clipped, truncated; and what was decided: opposite (the channels' phases:
            the louder one is taken), offset (a constant one is taken away), cut (the file is the excerpt already).
    """

    samples: np.ndarray
    findings: tuple[str, ...] = ()


@dataclass
class Reading:
    """A source being read.

    Attributes:
        blocks: int16 [n] each, to be gone through once.
        findings: what was decided, and whether it is truncated, as in `Decoded`; complete when the first block is
            there.
    """

    blocks: Iterator[np.ndarray] = field(default_factory=lambda: iter(()))
    findings: list[str] = field(default_factory=list)


def read(source: Source, sampling_rate: int, *, max_seconds: float = math.inf) -> Reading:
    """Mono 16-bit samples of a source at `sampling_rate`, in bounded memory whatever its length.

    Args:
        source: WAV, FLAC, OGG, MP3 and whatever else libsndfile reads; or samples.
        sampling_rate: of the result, in Hz.
        max_seconds: the longest that is wanted.

    Returns:
        Its blocks. Going through them raises `UnusableAudio` where the source cannot be read or is too long. Of one
        that breaks off they are what is there, and that is among the findings.
    """
    reading = Reading()
    reading.blocks = _explained(_blocks(source, sampling_rate, max_seconds, reading.findings))
    return reading


def _explained(blocks: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """Whatever is raised over a user's file is that file's problem, and not the run's."""
    try:
        yield from blocks
    except UnusableAudio:
        raise
    except Exception as error:
        raise problem_of(error) from error


def _blocks(source: Source, sampling_rate: int, max_seconds: float, findings: list[str]) -> Iterator[np.ndarray]:
    held: list[np.ndarray] = []
    with Recording(source) as recording:
        if recording.is_cut:
            findings.append("cut")
        if max_seconds < recording.seconds < math.inf:  # by the header, before hours are decoded for nothing
            raise _too_long(recording.seconds, max_seconds)
        levels, rate = Levels(recording.channels), recording.sampling_rate
        for block in _what_is_there(recording, findings):
            levels.add(block)
            if levels.frames > max_seconds * rate:
                raise _too_long(levels.frames / rate, max_seconds)
            if levels.frames <= HELD_SECONDS * rate:
                held.append(block)
            else:
                held.clear()
    mix = levels.mix()
    findings += mix.findings()
    if held:
        yield from _as_int16(resampled(map(mix, held), rate, sampling_rate))
        return
    with Recording(source) as recording:
        yield from _as_int16(resampled(map(mix, _what_is_there(recording, [])), rate, sampling_rate))


def _what_is_there(recording: Recording, findings: list[str]) -> Iterator[np.ndarray]:
    """The blocks of a recording, of one that breaks off those before: ``truncated`` is added to the findings then."""
    try:
        yield from recording.blocks()
    except UnusableAudio as error:
        if error.reason != "truncated":
            raise
        findings.append("truncated")


def _too_long(seconds: float, limit: float) -> UnusableAudio:
    return UnusableAudio("too long", f"{seconds:.1f} s, more than {limit:g}")


class Levels:
    """How the channels of a recording become one signal, decided from all of its blocks.

    Args:
        channels: how many there are.
    """

    def __init__(self, channels: int):
        self.channels, self.frames = channels, 0
        # Of the channels' mean and, where there are several, of each.
        signals = 1 if channels == 1 else channels + 1
        self.sums, self.squares = np.zeros(signals), np.zeros(signals)
        self.low, self.high = np.full(signals, np.inf), np.full(signals, -np.inf)

    def add(self, block: np.ndarray) -> None:
        """Count a block [frames, channels]."""
        signals = block if self.channels == 1 else np.column_stack([block.mean(axis=1), block])
        self.frames += len(block)
        self.sums += signals.sum(axis=0, dtype=np.float64)
        if self.channels > 1:
            self.squares += np.square(signals, dtype=np.float64).sum(axis=0)
        self.low, self.high = np.minimum(self.low, signals.min(axis=0)), np.maximum(self.high, signals.max(axis=0))

    def mix(self) -> "Mix":
        """What was decided."""
        chosen, means = 0, self.sums / self.frames
        if self.channels > 1:
            power = self.squares / self.frames - means**2
            loudest = 1 + int(np.argmax(power[1:]))
            opposite = power[0] < OPPOSITE_SHARE / self.channels * power[1:].mean()
            chosen = loudest if opposite and power[loudest] > SILENT_PEAK**2 / 2 else 0
        scale = max(1.0, self.high[chosen], -self.low[chosen])  # 1, but in float files on another scale
        offset = float(means[chosen]) if abs(means[chosen]) > SILENT_PEAK * scale else 0.0
        peak = float(max(self.high[chosen] - offset, offset - self.low[chosen]))
        return Mix(chosen - 1 if chosen else None, offset, max(1.0, peak))


@dataclass(frozen=True)
class Mix:
    """From the channels of a recording to one signal within full scale.

    Attributes:
        channel: the one that is heard for all; None for their mean.
        offset: what is taken away from every sample.
        scale: what every sample is divided by: above 1 in float files on another scale.
    """

    channel: int | None
    offset: float
    scale: float

    def findings(self) -> list[str]:
        """What was decided, as in `Decoded`."""
        told = abs(self.offset) > OFFSET_TOLD * self.scale
        return [*(["opposite"] if self.channel is not None else []), *(["offset"] if told else [])]

    def __call__(self, block: np.ndarray) -> np.ndarray:
        """The signal [frames] of a block [frames, channels]."""
        chosen = 0 if block.shape[1] == 1 else self.channel
        signal = block.mean(axis=1) if chosen is None else block[:, chosen]
        if self.offset:
            signal = signal - np.float32(self.offset)
        return signal / np.float32(self.scale) if self.scale > 1.0 else signal


def _as_int16(blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    for block in blocks:
        if len(block):
            # A filter may go a little beyond what it was given.
            yield np.round(np.clip(block, -1.0, 1.0) * FULL_SCALE).astype(np.int16)


def as_floats(samples: np.ndarray) -> np.ndarray:
    """Float32 samples in [-1, 1] of int16 ones: what every feature extractor is given."""
    return samples.astype(np.float32) / FULL_SCALE


def resampled(blocks: Iterable[np.ndarray], old: int, new: int) -> Iterator[np.ndarray]:
    """Blocks of a signal at another sampling rate, as if it had been resampled whole."""
    if old == new:
        yield from blocks
        return
    resample = _Resampler(old, new)
    for block in blocks:
        yield resample(block)
    yield resample.rest()


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


def decode(source: Source, settings: Decoding) -> Decoded:
    """A clip as 16-bit mono samples.

    Raises:
        UnusableAudio: it cannot be used, or is shorter or longer than allowed.
    """
    reading = read(source, settings.sampling_rate, max_seconds=settings.max_seconds)
    samples = np.concatenate([np.zeros(0, np.int16), *reading.blocks])
    seconds = len(samples) / settings.sampling_rate
    if seconds < settings.min_seconds:
        raise UnusableAudio("too short", f"{seconds:.3f} s")
    loudness = np.abs(samples.astype(np.int32))
    level = []
    if loudness.max(initial=0) < SILENT_PEAK * FULL_SCALE:
        level = ["silent"]
    elif (loudness >= 0.999 * FULL_SCALE).mean() > CLIPPED_SHARE:
        level = ["clipped"]
    return Decoded(samples, (*level, *reading.findings))


def as_data_uri(samples: np.ndarray, sampling_rate: int) -> str:
    """A clip [samples] as a page can play it: MP3, which every browser knows."""
    stream = io.BytesIO()
    soundfile.write(stream, samples, sampling_rate, format="MP3")
    return f"data:audio/mpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"
