"""What losses count while they train, on the device and in checkpoints."""

from typing import Any

import torch


def add_up(counts: list[torch.Tensor], new: torch.Tensor) -> None:
    """Sum up in place, on the device."""
    counts[:] = [counts[0] + new] if counts else [new]


def restored_counts(counts: list[Any], device: torch.device) -> torch.Tensor:
    """What was counted, from a checkpoint's numbers: whole ones, or sums as precise as they are added up."""
    sums = counts and isinstance(counts[0], float)
    return torch.tensor(counts, device=device, dtype=precise(device) if sums else None)


def precise(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "mps" else torch.float64


def counted(labels: torch.Tensor) -> torch.Tensor:
    """Which examples of a batch a loss counts, [batch]: the labels of padding are -100, or NaN where they are numbers.

    Args:
        labels: ids [batch], numbers [batch], or several of an example [batch, labels].
    """
    if labels.dim() == 1 and labels.is_floating_point():
        return ~labels.isnan()
    return labels.reshape(len(labels), -1)[:, 0] != -100
