"""Decoding of audio into what a model is given, in training and in prediction: mono, 16-bit, at one sampling rate.

How channels are mixed, which offset is removed and how samples are scaled depends on all samples of a clip. A file of
hours is therefore read twice, in bounded memory.
"""

import base64
import io
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import soundfile

from hf_transfer.inputs.audio.downmix import SILENT_PEAK, ChannelStatistics
from hf_transfer.inputs.audio.files import Recording, to_unusable_audio
from hf_transfer.inputs.audio.resampling import resample_blocks
from hf_transfer.inputs.audio.sources import Source, UnusableAudio

# Sources up to this length are kept in memory and not read a second time.
BUFFERED_SECONDS = 60
# A clip with a larger share of its samples at full scale counts as clipped.
CLIPPED_SHARE = 0.01
FULL_SCALE = 32767


@dataclass(frozen=True)
class DecodingSettings:
    """Dataclass that says how clips are decoded: sampling rate, and the shortest and the longest clip.

    Attributes:
        sampling_rate: of the decoded clips, in Hz.
        min_seconds: shorter clips are left out.
        max_seconds: longer clips are left out, without decoding them if the header gives the length.
    """

    sampling_rate: int
    min_seconds: float
    max_seconds: float


@dataclass(frozen=True)
class DecodedClip:
    """Dataclass of a decoded clip: its samples, and what decoding found about it.

    Attributes:
        samples: int16 [n].
        findings: what is suspicious: ``silent``, ``clipped``, ``truncated``; and how decoding dealt with something
            unusual: ``opposite`` (the channels have opposite phases: the loudest is taken), ``offset`` (a constant
            offset is removed), ``cut`` (the file is the excerpt itself, not the recording that its times are of).
    """

    samples: np.ndarray
    findings: tuple[str, ...] = ()


@dataclass
class DecodedStream:
    """Dataclass of a source of audio that is decoded block by block.

    Attributes:
        blocks: int16 [n] each; can be iterated over once.
        findings: as of `DecodedClip`, without silent and clipped; complete once the first block is there.
    """

    blocks: Iterator[np.ndarray] = field(default_factory=lambda: iter(()))
    findings: list[str] = field(default_factory=list)


def decode_stream(source: Source, sampling_rate: int, *, max_seconds: float = math.inf) -> DecodedStream:
    """Decode a source of audio block by block, in bounded memory, and return it as a `DecodedStream`.

    Args:
        source: WAV, FLAC, OGG, MP3 or another format that libsndfile reads; or samples.
        sampling_rate: of the blocks, in Hz.
        max_seconds: the longest source that is decoded.

    Returns:
        Its blocks and findings. Iterating over the blocks raises `UnusableAudio` if the source cannot be read or is
        too long. A truncated source gives the blocks that it has, and ``truncated`` is among the findings.
    """
    stream = DecodedStream()
    stream.blocks = _with_unusable_audio(_blocks(source, sampling_rate, max_seconds, stream.findings))
    return stream


def _with_unusable_audio(blocks: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """Yield the blocks, and turn every exception into `UnusableAudio`, as the file is the cause of it."""
    try:
        yield from blocks
    except UnusableAudio:
        raise
    except Exception as error:
        raise to_unusable_audio(error) from error


def _blocks(source: Source, sampling_rate: int, max_seconds: float, findings: list[str]) -> Iterator[np.ndarray]:
    buffered: list[np.ndarray] = []
    with Recording(source) as recording:
        if recording.is_cut:
            findings.append("cut")
        if max_seconds < recording.seconds < math.inf:  # by the header, before hours are decoded for nothing
            raise _too_long(recording.seconds, max_seconds)
        statistics, rate = ChannelStatistics(recording.channels), recording.sampling_rate
        for block in _blocks_before_truncation(recording, findings):
            statistics.add(block)
            if statistics.frames > max_seconds * rate:
                raise _too_long(statistics.frames / rate, max_seconds)
            if statistics.frames <= BUFFERED_SECONDS * rate:
                buffered.append(block)
            else:
                buffered.clear()
    downmix = statistics.downmix()
    findings += downmix.findings()
    if buffered:
        yield from _to_int16(resample_blocks(map(downmix, buffered), rate, sampling_rate))
        return
    with Recording(source) as recording:
        blocks = _blocks_before_truncation(recording, [])
        yield from _to_int16(resample_blocks(map(downmix, blocks), rate, sampling_rate))


def _blocks_before_truncation(recording: Recording, findings: list[str]) -> Iterator[np.ndarray]:
    """Yield the blocks of a recording; if it is truncated, add that to the findings instead of raising an error."""
    try:
        yield from recording.blocks()
    except UnusableAudio as error:
        if error.reason != "truncated":
            raise
        findings.append("truncated")


def _too_long(seconds: float, limit: float) -> UnusableAudio:
    return UnusableAudio("too long", f"{seconds:.1f} s, more than {limit:g}")


def _to_int16(blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    for block in blocks:
        if len(block):
            # A resampling filter may go a little beyond full scale.
            yield np.round(np.clip(block, -1.0, 1.0) * FULL_SCALE).astype(np.int16)


def to_float32(samples: np.ndarray) -> np.ndarray:
    """Return int16 samples as float32, from -1 to 1, which every feature extractor is given."""
    return samples.astype(np.float32) / FULL_SCALE


def decode(source: Source, settings: DecodingSettings) -> DecodedClip:
    """Decode the source of a clip, and return it as a `DecodedClip`.

    Raises:
        UnusableAudio: it cannot be read, or is shorter or longer than the settings allow.
    """
    stream = decode_stream(source, settings.sampling_rate, max_seconds=settings.max_seconds)
    samples = np.concatenate([np.zeros(0, np.int16), *stream.blocks])
    seconds = len(samples) / settings.sampling_rate
    if seconds < settings.min_seconds:
        raise UnusableAudio("too short", f"{seconds:.3f} s")
    magnitudes = np.abs(samples.astype(np.int32))
    findings = []
    if magnitudes.max(initial=0) < SILENT_PEAK * FULL_SCALE:
        findings = ["silent"]
    elif (magnitudes >= 0.999 * FULL_SCALE).mean() > CLIPPED_SHARE:
        findings = ["clipped"]
    return DecodedClip(samples, (*findings, *stream.findings))


def to_data_uri(samples: np.ndarray, sampling_rate: int) -> str:
    """Return a clip [samples] as a data URI that a page can play: MP3, which all browsers support."""
    stream = io.BytesIO()
    soundfile.write(stream, samples, sampling_rate, format="MP3")
    return f"data:audio/mpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"
