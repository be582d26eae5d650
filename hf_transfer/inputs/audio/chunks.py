"""Long recordings in overlapping chunks."""

from collections.abc import Iterable, Iterator

import numpy as np


def divided(
    blocks: Iterable[np.ndarray], whole: int, size: int, margin: int
) -> Iterator[tuple[np.ndarray, int, int, bool]]:
    """A clip, or its overlapping chunks of `size` samples, each with its left and right margin and whether it is last.

    The last chunk reaches back as far as makes it as long as the others: padding changes the outputs of some models.

    Args:
        blocks: the samples, one block after another.
        whole: up to so many samples a clip is not divided.
        size: of a chunk, at most `whole`.
        margin: of each chunk where another one follows or precedes; what is between them is heard once.
    """
    # From the beginning of the chunk before on, which the last one may need.
    kept, waiting, there = np.zeros(0, dtype=np.float32), [], 0
    following, first = 0, True
    for block in blocks:
        waiting.append(block)
        there += len(block)
        while there > (whole if first else following + size):
            kept, waiting = np.concatenate([kept, *waiting]), []
            yield kept[following : following + size], 0 if first else margin, margin, False
            kept, following, first = kept[following:], size - 2 * margin, False
            there = len(kept)
    kept = np.concatenate([kept, *waiting])
    if first:
        yield kept, 0, 0, True
    else:
        yield kept[-size:], following + margin - (len(kept) - size), 0, True
