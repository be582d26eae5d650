"""Where the audio of a clip comes from: a file, the content of one, samples in memory, or a part of these."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

# An array whose axis of channels is longer than this has its axes in another order, or is no audio.
MAX_CHANNELS = 32


class UnusableAudio(ValueError):
    """Exception: a clip cannot be used.

    Args:
        reason: in a word or two; clips are counted by it.
        details: what was found, for the message.
    """

    def __init__(self, reason: str, details: str):
        super().__init__(f"{reason}: {details}")
        self.reason = reason


@dataclass(frozen=True)
class Samples:
    """Dataclass of samples of audio in memory, and their sampling rate.

    Attributes:
        array: [samples], [channels, samples] or [samples, channels]; integers on the scale of their type.
        sampling_rate: in Hz.
    """

    array: Any
    sampling_rate: Any

    def channels_last(self) -> np.ndarray:
        """Return the samples as float32 [samples, channels]; integers are scaled to between -1 and 1.

        Raises:
            UnusableAudio: the array does not hold audio, or the sampling rate is not valid.
        """
        rate = self.sampling_rate
        is_number = isinstance(rate, (int, float, np.integer, np.floating)) and not isinstance(rate, bool)
        if not is_number or not 0 < float(rate) < 1e9 or float(rate) % 1:
            raise UnusableAudio("no sampling rate", f"sampling_rate is {rate!r}: expected samples per second")
        try:
            array = np.asarray(self.array)
        except ValueError:  # lists of different lengths
            array = np.zeros(0, dtype=object)
        if array.dtype.kind not in "fiu" or array.ndim not in (1, 2) or array.size == 0:
            found = "no samples" if array.size == 0 else f"{array.dtype} of shape {array.shape}"
            raise UnusableAudio("no samples", f"expected numbers, [samples] or [channels, samples]; found {found}")
        if array.ndim == 1:
            array = array[:, None]
        elif array.shape[0] <= MAX_CHANNELS and array.shape[0] < array.shape[1]:
            array = array.T
        elif array.shape[1] > MAX_CHANNELS or array.shape[0] == array.shape[1]:
            raise UnusableAudio("no samples", f"expected [channels, samples]; found shape {array.shape}")
        if array.dtype.kind == "f":
            return array.astype(np.float32)
        return (array / _full_scale(array)).astype(np.float32)


def _full_scale(array: np.ndarray) -> float:
    """Return the value that stands for full scale in integer samples: 16-bit samples may be stored as int64."""
    if array.dtype.itemsize <= 2:
        return float(np.iinfo(array.dtype).max) + 1
    peak = float(np.abs(array.astype(np.float64)).max())
    return next(scale for scale in (2.0**15, 2.0**31, 2.0**64) if peak <= scale)


@dataclass(frozen=True)
class Excerpt:
    """Dataclass of a part of a recording: its start and end in seconds.

    Attributes:
        recording: of which it is a part.
        start: in seconds from the beginning of the recording.
        end: in seconds from the beginning of the recording; None for its end.
    """

    recording: "WholeSource"
    start: float
    end: float | None

    def outside_of_recording(self, seconds: float) -> UnusableAudio:
        """Return the `UnusableAudio` that says that the excerpt ends after its recording of `seconds`."""
        end = "its end" if self.end is None else f"{self.end:g}"
        found = f"the row names {self.start:g} to {end} s, and the file has {seconds:.2f} s"
        if max(self.start, self.end or 0) >= 100:
            found += "; times are taken as seconds: are these milliseconds, or times of another recording?"
        return UnusableAudio("outside its file", found)


# What a cell of a table names: a file, the content of a file, or samples; `UnusableAudio` if it names no audio.
WholeSource = Path | bytes | Samples | UnusableAudio
# What a row of a table names: with columns of times, an excerpt.
Source = WholeSource | Excerpt
