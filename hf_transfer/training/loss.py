"""Protocols that the trainer expects: `Loss`, `Readout` (what evaluation keeps of outputs), `CollapseCheck`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch


@dataclass(frozen=True)
class TrainingPosition:
    """Dataclass of how far training has come when figures are logged, in steps.

    Attributes:
        step: the optimizer step.
        last_step: the number of steps of the run.
        examples_per_step: over all processes.
    """

    step: int
    last_step: int
    examples_per_step: int


class CollapseCheck(Protocol):
    """Protocol of a check for a collapsed model: one that gives the same answer to every input.

    All attributes of an implementation are numbers or booleans, and are saved in checkpoints.
    """

    @property
    def suspected(self) -> bool:
        """Boolean: whether the last logged figures look like a collapse; then no checkpoint is written."""

    def check(self, figures: Mapping[str, float], position: TrainingPosition) -> str | None:
        """Return a clause that says what is wrong if logged figures show a collapse, else None.

        The figures are the ``loss`` and those of `Loss.pop_figures`.

        Returns:
            A clause that says what is wrong, if training should stop; else None.
        """

    def final_warning(self) -> str | None:
        """Return a sentence that warns the user at the end of training, or None without a reason to warn."""


class Loss(Protocol):
    """Protocol of a training loss: a sum of terms, each summed over a step's examples and divided by a weight.

    Attributes:
        counts: what `__call__` has counted on the training batches since the last `pop_figures`: empty, or one tensor
            on the model's device.
        chance_loss: the loss of a model that guesses.
    """

    counts: list[torch.Tensor]
    chance_loss: float

    @property
    def starts_at_chance(self) -> bool:
        """Boolean: whether the loss of a model with a new head is about `chance_loss`."""

    @property
    def collapse_check(self) -> CollapseCheck:
        """The `CollapseCheck` of this loss, for models that give the same answer to every input."""

    def weights(self, batch: Mapping[str, Any]) -> torch.Tensor:
        """Return what a micro-batch adds to the weight of each term, [terms]: its number of examples, for example."""

    def __call__(self, outputs: Any, batch: Mapping[str, Any]) -> torch.Tensor:
        """Return the sum of each loss term over the micro-batch's ``counted`` examples, [terms]."""

    def pop_figures(self) -> dict[str, float]:
        """Return figures of the training batches since the last call, to log beside the loss, and reset `counts`."""


class Readout(Protocol):
    """Protocol of a function that takes from a batch's outputs what evaluation keeps of each example."""

    def __call__(self, outputs: Any, batch: Mapping[str, Any]) -> list[Any]:
        """Return what evaluation keeps of each example of a batch, as a list with one entry for each.

        Args:
            outputs: the model's outputs.
            batch: their inputs, as `data.batches.Collator` makes them, on the model's device.
        """


def mean_loss(sums: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Return the loss, a scalar: each term's sum divided by its weight (if that is not 0), both [terms], added up."""
    return (sums / torch.where(weights > 0, weights, 1)).sum()


def examples_counted(batch: Mapping[str, Any]) -> torch.Tensor:
    """Return how many examples of a batch the loss counts, as a tensor [1].

    It is the weight of a loss that is a mean over examples.
    """
    return batch["counted"].sum()[None]


def add_counts(counts: list[torch.Tensor], new: torch.Tensor) -> None:
    """Add the tensor `new` to the running sum in the list `counts` of a `Loss`, on the device.

    To read the numbers would make each step wait for the device.
    """
    counts[:] = [counts[0] + new] if counts else [new]


def restored_counts(numbers: list[Any], device: torch.device) -> torch.Tensor:
    """Return a tensor for `Loss.counts` from the numbers in a checkpoint.

    Float sums get the most precise dtype.
    """
    is_float = numbers and isinstance(numbers[0], float)
    return torch.tensor(numbers, device=device, dtype=most_precise_dtype(device) if is_float else None)


def most_precise_dtype(device: torch.device) -> torch.dtype:
    """Return the most precise float dtype of a device: float64, or float32 on Apple's GPUs."""
    return torch.float32 if device.type == "mps" else torch.float64
