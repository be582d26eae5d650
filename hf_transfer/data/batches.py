"""A padded batch of examples: what the model is given, and beside it what the loss needs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

# What an example and a batch hold beside the model's inputs.
NOT_FOR_THE_MODEL = ("labels", "length", "counted")


def model_inputs_of(batch: Mapping[str, Any]) -> dict[str, Any]:
    """What the model is given of a batch, or of an example."""
    return {name: value for name, value in batch.items() if name not in NOT_FOR_THE_MODEL}


def to_device(device: torch.device, batch: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The model's inputs of a batch, on `device`."""
    return {name: value.to(device) for name, value in model_inputs_of(batch).items()}


@dataclass(frozen=True)
class Collator:
    """From examples to a padded batch, as `transformers.DataCollatorWithPadding`.

    Beside the model's inputs a batch has ``labels``, which the loss alone reads; ``length`` [batch], in the unit of
    `ModelInputs.lengths` unless `pad` counts something else; and ``counted`` [batch], False for the examples that fill
    up a step and that no loss may count.

    Attributes:
        pad: the model's inputs of examples to those of a batch.
        labels: the labels of examples to those of a batch.
    """

    pad: Callable[[list[dict[str, Any]]], Mapping[str, Any]]
    labels: Callable[[list[Any]], Any]

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        lengths = torch.tensor([int(example["length"]) for example in examples])
        return {
            "length": lengths,
            **self.pad([model_inputs_of(example) for example in examples]),
            "labels": self.labels([example["labels"] for example in examples]),
            "counted": torch.tensor([example.get("counted", True) for example in examples]),
        }


def pad_labels(labels: list[Any]) -> torch.Tensor:
    """A batch's labels [batch] or [batch, labels]; token ids of different number are padded with -100."""
    if not isinstance(labels[0], list) or any(isinstance(each, float) for each in labels[0]):
        return torch.tensor(labels)
    padded = torch.full((len(labels), max(len(ids) for ids in labels)), -100, dtype=torch.long)
    for row, ids in zip(padded, labels, strict=True):
        row[: len(ids)] = torch.tensor(ids, dtype=torch.long)
    return padded
