"""Where the audio of a clip comes from: a file, the content of one, samples in memory, or a part of these."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

# What has more channels than this is no audio of [channels, samples], or has its axes the other way.
MOST_CHANNELS = 32


class UnusableAudio(ValueError):
    """A clip that cannot be used: ``reason`` in a word or two, and what was found."""

    def __init__(self, reason: str, found: str):
        super().__init__(f"{reason}: {found}")
        self.reason = reason


@dataclass(frozen=True)
class Samples:
    """Audio in memory.

    Attributes:
        array: [samples], [channels, samples] or [samples, channels]; integers on the scale of their type.
        sampling_rate: in Hz.
    """

    array: Any
    sampling_rate: Any

    def channels_last(self) -> np.ndarray:
        """The samples as float32 [samples, channels], integers between -1 and 1.

        Raises:
            UnusableAudio: they are no samples, or their sampling rate is none.
        """
        rate = self.sampling_rate
        plain = isinstance(rate, (int, float, np.integer, np.floating)) and not isinstance(rate, bool)
        if not plain or not 0 < float(rate) < 1e9 or float(rate) % 1:
            raise UnusableAudio("no sampling rate", f"sampling_rate is {rate!r}: expected samples a second")
        try:
            array = np.asarray(self.array)
        except ValueError:  # lists of different lengths
            array = np.zeros(0, dtype=object)
        if array.dtype.kind not in "fiu" or array.ndim not in (1, 2) or array.size == 0:
            found = "none" if array.size == 0 else f"{array.dtype} of the shape {array.shape}"
            raise UnusableAudio("no samples", f"expected numbers, [samples] or [channels, samples]; found {found}")
        if array.ndim == 1:
            array = array[:, None]
        elif array.shape[0] <= MOST_CHANNELS and array.shape[0] < array.shape[1]:
            array = array.T
        elif array.shape[1] > MOST_CHANNELS or array.shape[0] == array.shape[1]:
            raise UnusableAudio("no samples", f"expected [channels, samples]; found the shape {array.shape}")
        if array.dtype.kind == "f":
            return array.astype(np.float32)
        return (array / _full_scale(array)).astype(np.float32)


def _full_scale(array: np.ndarray) -> float:
    """The value of integer samples than which nothing is louder: tables hold 16-bit samples as longer integers."""
    if array.dtype.itemsize <= 2:
        return float(np.iinfo(array.dtype).max) + 1
    peak = float(np.abs(array.astype(np.float64)).max())
    return next(scale for scale in (2.0**15, 2.0**31, 2.0**64) if peak <= scale)


@dataclass(frozen=True)
class Excerpt:
    """A part of a recording.

    Attributes:
        whole: the recording.
        start: in seconds from its beginning.
        end: in seconds from its beginning; None for its own end.
    """

    whole: "Path | bytes | Samples | UnusableAudio"
    start: float
    end: float | None

    def outside(self, seconds: float) -> UnusableAudio:
        """The problem that its recording has so many `seconds` only."""
        end = "its end" if self.end is None else f"{self.end:g}"
        found = f"the row means {self.start:g} to {end} s, and the file has {seconds:.2f} s"
        if max(self.start, self.end or 0) >= 100:
            found += "; times are read as seconds: are these milliseconds, or those of another recording?"
        return UnusableAudio("outside its file", found)


# The last is a row that names no audio, for the reason that it gives.
Source = Path | bytes | Samples | Excerpt | UnusableAudio
