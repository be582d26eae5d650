"""The labels of a batch as one tensor."""

from typing import Any

import torch


def padded_labels(labels: list[Any]) -> torch.Tensor:
    """A batch's labels [batch] or [batch, labels]; token ids of different number are padded with -100."""
    if not isinstance(labels[0], list) or any(isinstance(each, float) for each in labels[0]):
        return torch.tensor(labels)
    padded = torch.full((len(labels), max(len(ids) for ids in labels)), -100, dtype=torch.long)
    for row, ids in zip(padded, labels, strict=True):
        row[: len(ids)] = torch.tensor(ids, dtype=torch.long)
    return padded
