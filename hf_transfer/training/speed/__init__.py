"""What makes the same training steps faster on a processor: each piece can be left out, and the results are the same.

On an accelerator a model stays as it is.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

from hf_transfer.methods.anatomy import Anatomy
from hf_transfer.training.speed.packing import packed


@contextlib.contextmanager
def faster_on_a_processor(trainer: Any, anatomy: Anatomy) -> Iterator[bool]:
    """Train faster inside the block; says whether no padding is computed.

    Args:
        trainer: as it will train.
        anatomy: of its model without adapters.
    """
    if trainer.model.device.type != "cpu":
        yield False
        return
    with packed(trainer, anatomy) as without_padding:
        yield without_padding
