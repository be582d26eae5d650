"""Collates examples into padded batches: the model's inputs, and beside them what the loss needs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

# Keys of an example and of a batch that are not inputs of the model.
NOT_FOR_THE_MODEL = ("labels", "length", "counted")


def model_inputs_of(batch: Mapping[str, Any]) -> dict[str, Any]:
    """Return a dictionary of those entries of a batch, or of an example, that are inputs of the model."""
    return {name: value for name, value in batch.items() if name not in NOT_FOR_THE_MODEL}


def to_device(device: torch.device, batch: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Return by name the tensors of a batch that are inputs of the model, moved to `device`."""
    return {name: value.to(device) for name, value in model_inputs_of(batch).items()}


@dataclass(frozen=True)
class Collator:
    """Callable that collates examples into a padded batch, like `transformers.DataCollatorWithPadding`.

    Beside the model's inputs a batch has ``labels``, which only the loss reads; ``length`` [batch], in the unit of
    `ModelInputs.lengths` unless `pad` returns another ``length``; and ``counted`` [batch], False for examples that
    only fill up a step and that the loss must not count.

    Attributes:
        pad: collates the model's inputs of examples into those of a batch.
        labels: collates the labels of examples into those of a batch.
    """

    pad: Callable[[list[dict[str, Any]]], Mapping[str, Any]]
    labels: Callable[[list[Any]], torch.Tensor]

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        lengths = torch.tensor([int(example["length"]) for example in examples])
        return {
            "length": lengths,
            **self.pad([model_inputs_of(example) for example in examples]),
            "labels": self.labels([example["labels"] for example in examples]),
            "counted": torch.tensor([example.get("counted", True) for example in examples]),
        }


def pad_labels(labels: Sequence[Any]) -> torch.Tensor:
    """Return the labels of a batch as a tensor, with lists of token ids padded by -100.

    Args:
        labels: of each example: a number, a list of floats (one for each label), or a list of token ids.

    Returns:
        [batch] for numbers, [batch, labels] for lists of floats, [batch, most token ids] for token ids.
    """
    if not isinstance(labels[0], list) or any(isinstance(each, float) for each in labels[0]):
        return torch.tensor(labels)
    padded = torch.full((len(labels), max(len(ids) for ids in labels)), -100, dtype=torch.long)
    for row, ids in zip(padded, labels, strict=True):
        row[: len(ids)] = torch.tensor(ids, dtype=torch.long)
    return padded
