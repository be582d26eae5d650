"""Resampling with torchaudio, whole clips and streams of blocks."""

import functools
from collections.abc import Iterable, Iterator
from fractions import Fraction

import numpy as np
import torch
import torchaudio

# A resampling filter has as many phases as the reduced ratio of the two rates; ratios are rounded to this denominator.
MAX_DENOMINATOR = 1000


@functools.lru_cache(maxsize=64)
def resampler(old_rate: int, new_rate: int) -> torchaudio.transforms.Resample:
    """Return torchaudio's resampler from one rate (Hz) to another; its filter is computed once for each pair."""
    return torchaudio.transforms.Resample(old_rate, new_rate)


def resample_blocks(blocks: Iterable[np.ndarray], old_rate: int, new_rate: int) -> Iterator[np.ndarray]:
    """Yield blocks of a signal, float32 [n], at another sampling rate, with the samples of resampling it whole.

    Args:
        blocks: float32 [n] each.
        old_rate: in Hz.
        new_rate: in Hz.
    """
    if old_rate == new_rate:
        yield from blocks
        return
    stream = _ResampledStream(old_rate, new_rate)
    for block in blocks:
        yield stream.add(block)
    yield stream.finish()


class _ResampledStream:
    """Resampler of a signal block by block; each block is resampled together with the samples around it."""

    def __init__(self, old_rate: int, new_rate: int):
        ratio = Fraction(new_rate, old_rate).limit_denominator(MAX_DENOMINATOR)
        # So many samples in make so many samples out.
        self.step_in, self.step_out = ratio.denominator, ratio.numerator
        # Neighbours that the filter reaches, in whole steps; torchaudio's filter is 6 zero crossings wide.
        self.margin = self.step_in * (8 * max(1, -(-self.step_in // self.step_out)) // self.step_in + 1)
        # Samples that are resampled already, which the filter needs on the left, and those still to be resampled.
        self.buffer = np.zeros(0, dtype=np.float32)
        self.left = 0

    def add(self, samples: np.ndarray) -> np.ndarray:
        """Add a block of the signal [n], and return what can be resampled so far and was not returned yet."""
        self.buffer = np.concatenate([self.buffer, samples])
        ready = (len(self.buffer) - self.left - self.margin) // self.step_in * self.step_in
        if ready <= 0:
            return np.zeros(0, dtype=np.float32)
        return self._resample(ready, last=False)

    def finish(self) -> np.ndarray:
        """Return the end of the resampled signal, [n], after the last block was added."""
        if len(self.buffer) == self.left:
            return np.zeros(0, dtype=np.float32)
        return self._resample(len(self.buffer) - self.left, last=True)

    def _resample(self, ready: int, *, last: bool) -> np.ndarray:
        resampled = resampler(self.step_in, self.step_out)(torch.from_numpy(self.buffer)).numpy()
        start = self.left // self.step_in * self.step_out
        stop = len(resampled) if last else start + ready // self.step_in * self.step_out
        keep_from = max(0, self.left + ready - self.margin) // self.step_in * self.step_in
        self.buffer = self.buffer[keep_from:]
        self.left = self.left + ready - keep_from
        return resampled[start:stop]
