"""Splitting long recordings into overlapping chunks."""

from collections.abc import Iterable, Iterator

import numpy as np


def split_into_chunks(
    blocks: Iterable[np.ndarray], max_unsplit: int, size: int, margin: int
) -> Iterator[tuple[np.ndarray, int, int, bool]]:
    """Yield a clip whole, or its overlapping chunks, float32 [samples], in bounded memory.

    All chunks have the same length, as padding changes the outputs of some models: the last chunk begins early enough.

    Args:
        blocks: the samples, float32 [n] each.
        max_unsplit: clips of up to so many samples are not split.
        size: of a chunk in samples, at most `max_unsplit`.
        margin: samples at each side of a chunk that a neighbouring chunk covers as well.

    Yields:
        The samples of the chunk, its left margin, its right margin, and whether it is the last chunk.
    """
    # From the beginning of the chunk before on, which the last chunk may need.
    buffer, pending, available = np.zeros(0, dtype=np.float32), [], 0
    start, is_first = 0, True
    for block in blocks:
        pending.append(block)
        available += len(block)
        while available > (max_unsplit if is_first else start + size):
            buffer, pending = np.concatenate([buffer, *pending]), []
            yield buffer[start : start + size], 0 if is_first else margin, margin, False
            buffer, start, is_first = buffer[start:], size - 2 * margin, False
            available = len(buffer)
    buffer = np.concatenate([buffer, *pending])
    if is_first:
        yield buffer, 0, 0, True
    else:
        yield buffer[-size:], start + margin - (len(buffer) - size), 0, True
