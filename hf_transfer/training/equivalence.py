"""Comparing two ways to compute the same: train mode, equal random numbers, no dropout, tolerance of rounding."""

import contextlib
from collections.abc import Iterator, Sequence

import numpy as np
import torch

# The largest difference that is rounding in float32, as a share of the largest output.
TOLERANCE = 1e-4


def rounding_tolerance(device: torch.device, mixed_precision: str) -> float:
    """Return the largest difference of two outputs that rounding explains, as a share of the largest output.

    Args:
        device: that computes.
        mixed_precision: accelerate's setting: ``no``, ``fp16``, ``bf16``.
    """
    tf32 = torch.backends.cudnn.allow_tf32 or torch.backends.cuda.matmul.allow_tf32
    is_coarse = mixed_precision != "no" or (device.type == "cuda" and tf32)
    return TOLERANCE * (100 if is_coarse else 1)


@contextlib.contextmanager
def train_mode(model: torch.nn.Module, frozen: Sequence[torch.nn.Module]) -> Iterator[None]:
    """Context manager: put a model into train mode, except its `frozen` modules; afterwards restore its buffers.

    Buffers are running statistics, as those of batch normalisation. The model is in eval mode after the block.
    """
    before = [(buffer, buffer.clone()) for buffer in model.buffers()]
    model.train()
    for module in frozen:
        module.training = False
    try:
        yield
    finally:
        model.eval()
        for buffer, value in before:
            buffer.copy_(value)


@contextlib.contextmanager
def same_random_numbers(device: torch.device) -> Iterator[None]:
    """Context manager: seed torch and numpy with 0 inside the block, and restore their random states after it."""
    numpy_state = np.random.get_state()
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        # Not set_seed(), which asks all kinds of accelerators, and takes as long as a small model's step.
        torch.default_generator.manual_seed(0)
        if device.type == "cuda":
            torch.cuda.manual_seed(0)
        np.random.seed(0)
        try:
            yield
        finally:
            np.random.set_state(numpy_state)


@contextlib.contextmanager
def without_dropout(model: torch.nn.Module) -> Iterator[None]:
    """Context manager: set all dropout probabilities of a model, also those of attention, to 0 inside the block."""
    probabilities = [
        (module, name, value)
        for module in model.modules()
        for name, value in vars(module).items()
        if isinstance(value, float) and ("dropout" in name or (name == "p" and "Dropout" in type(module).__name__))
    ]
    for module, name, _ in probabilities:
        setattr(module, name, 0.0)
    try:
        yield
    finally:
        for module, name, value in probabilities:
            setattr(module, name, value)
