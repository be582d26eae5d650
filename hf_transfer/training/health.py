"""Signs that a run is sick."""

from typing import Any

import torch

from hf_transfer.arguments import Arguments
from hf_transfer.errors import Failure


def require_finite(model: Any, arguments: Arguments) -> None:
    """Refuse to go on with weights that are not finite.

    Raises:
        Failure: some are NaN or infinite.
    """
    for name, parameter in model.named_parameters():
        if not torch.isfinite(parameter).all():
            raise Failure(
                f"Training diverged: {name} is not finite. Lower --learning_rate (it was "
                f"{arguments.training.learning_rate:g}), or train without --fp16. Nothing is written."
            )
