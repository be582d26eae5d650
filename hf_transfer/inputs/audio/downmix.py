"""From the channels of a recording to one signal within full scale."""

from dataclasses import dataclass

import numpy as np

# The peak below which a clip counts as silent: -60 dB of full scale. A constant offset above it is removed.
SILENT_PEAK = 10 ** (-60 / 20)
# Offsets above this share of full scale are reported; most sound cards have a smaller one.
REPORTED_OFFSET = 0.01
# The mean of uncorrelated channels has 1/channels of their power. With less than half of that the channels have
# opposite phases, as where one wire of a microphone is swapped: they cancel out, and the mean loses what both hold.
OPPOSITE_PHASE_SHARE = 0.5


@dataclass(frozen=True)
class Downmix:
    """Dataclass that says how the channels of a recording become one signal; called with a block, it computes that.

    Attributes:
        channel: the channel that is taken; None for the mean of all.
        offset: constant that is subtracted from every sample.
        scale: divisor of every sample; above 1 only in float files that go beyond full scale.
    """

    channel: int | None
    offset: float
    scale: float

    def findings(self) -> list[str]:
        """Return a list of words for what is unusual, of those of `DecodedClip.findings`."""
        has_large_offset = abs(self.offset) > REPORTED_OFFSET * self.scale
        return [*(["opposite"] if self.channel is not None else []), *(["offset"] if has_large_offset else [])]

    def __call__(self, block: np.ndarray) -> np.ndarray:
        """Return the signal [frames] of a block of audio [frames, channels]."""
        channel = 0 if block.shape[1] == 1 else self.channel
        signal = block.mean(axis=1) if channel is None else block[:, channel]
        if self.offset:
            signal = signal - np.float32(self.offset)
        return signal / np.float32(self.scale) if self.scale > 1.0 else signal


class ChannelStatistics:
    """Collector of statistics over all blocks of a recording, which decide its `Downmix`.

    Args:
        channels: number of channels.
    """

    def __init__(self, channels: int):
        self.channels, self.frames = channels, 0
        # Of the channels' mean and, where there are several channels, of each of them.
        signals = 1 if channels == 1 else channels + 1
        self.sums, self.squares = np.zeros(signals), np.zeros(signals)
        self.low, self.high = np.full(signals, np.inf), np.full(signals, -np.inf)

    def add(self, block: np.ndarray) -> None:
        """Add a block of audio [frames, channels] to the statistics."""
        signals = block if self.channels == 1 else np.column_stack([block.mean(axis=1), block])
        self.frames += len(block)
        self.sums += signals.sum(axis=0, dtype=np.float64)
        if self.channels > 1:
            self.squares += np.square(signals, dtype=np.float64).sum(axis=0)
        self.low, self.high = np.minimum(self.low, signals.min(axis=0)), np.maximum(self.high, signals.max(axis=0))

    def downmix(self) -> Downmix:
        """Return the `Downmix`: the mean of the channels, or the loudest one if their phases are opposite."""
        signal, means = 0, self.sums / self.frames
        if self.channels > 1:
            power = self.squares / self.frames - means**2
            loudest = 1 + int(np.argmax(power[1:]))
            is_opposite = power[0] < OPPOSITE_PHASE_SHARE / self.channels * power[1:].mean()
            signal = loudest if is_opposite and power[loudest] > SILENT_PEAK**2 / 2 else 0
        scale = max(1.0, self.high[signal], -self.low[signal])  # above 1 only in float files beyond full scale
        offset = float(means[signal]) if abs(means[signal]) > SILENT_PEAK * scale else 0.0
        peak = float(max(self.high[signal] - offset, offset - self.low[signal]))
        return Downmix(signal - 1 if signal else None, offset, max(1.0, peak))
