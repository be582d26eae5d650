"""A model tried on a few examples before it is trained: in train mode, on the same random numbers, without dropout."""

import contextlib
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from transformers import set_seed

# Outputs that are computed in two ways differ by rounding; by more where the ways are not the same.
TOLERANCE = 1e-4


def tolerance(device: torch.device, mixed_precision: str) -> float:
    """The largest difference that is rounding, as a share of the largest output.

    Args:
        device: that computes.
        mixed_precision: of accelerate: ``no``, ``fp16``, ``bf16``.
    """
    tf32 = torch.backends.cudnn.allow_tf32 or torch.backends.cuda.matmul.allow_tf32
    coarse = mixed_precision != "no" or (device.type == "cuda" and tf32)
    return TOLERANCE * (100 if coarse else 1)


@contextlib.contextmanager
def train_mode(model: torch.nn.Module, frozen: Sequence[torch.nn.Module]) -> Iterator[None]:
    """The model in train mode but for `frozen`; what it notes of its inputs (running statistics) is forgotten."""
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
def same_draws(device: torch.device) -> Iterator[None]:
    """The same random numbers in every such block; those of the run go on behind it as if there had been none."""
    drawn = np.random.get_state()
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        set_seed(0)
        try:
            yield
        finally:
            np.random.set_state(drawn)


@contextlib.contextmanager
def without_dropout(model: torch.nn.Module) -> Iterator[None]:
    """The model with a share of 0 for every dropout, that of attention too."""
    shares = [
        (module, name, value)
        for module in model.modules()
        for name, value in vars(module).items()
        if isinstance(value, float) and ("dropout" in name or (name == "p" and "Dropout" in type(module).__name__))
    ]
    for module, name, _ in shares:
        setattr(module, name, 0.0)
    try:
        yield
    finally:
        for module, name, value in shares:
            setattr(module, name, value)
