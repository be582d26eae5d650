"""What a loss is to the trainer: terms with weights, figures that are logged, signs that a model has collapsed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch


@dataclass(frozen=True)
class Moment:
    """When figures are looked at.

    Attributes:
        step: of the optimizer.
        last_step: of the run.
        examples_a_step: over all processes.
    """

    step: int
    last_step: int
    examples_a_step: int


class Signs(Protocol):
    """Whether a model has collapsed: answers everything alike.

    Its attributes are numbers, and are kept in checkpoints.
    """

    @property
    def bad(self) -> bool:
        """Whether the last figures look so; no checkpoint is written then."""

    def look(self, figures: Mapping[str, float], moment: Moment) -> str | None:
        """Look at a log's ``loss`` and `Loss.watched` figures; what is wrong, in a clause, if training is vain."""

    def remark(self) -> str | None:
        """At the end of training, what a person should know of it."""


class Loss(Protocol):
    """What is minimised: the sum of its terms, each of them a sum over a step's examples over a weight.

    Attributes:
        counts: what was counted of the training batches since `watched` was last called, one tensor on the device.
        chance: the loss of a model that knows nothing.
    """

    counts: list[torch.Tensor]
    chance: float

    @property
    def begins_at_chance(self) -> bool:
        """Whether a model with a new head begins at that loss."""

    @property
    def signs(self) -> Signs:
        """Of a collapse."""

    def weights(self, batch: Mapping[str, Any]) -> torch.Tensor:
        """What a micro-batch adds to the weight of each term [terms]: its examples, letters, or boxes."""

    def __call__(self, outputs: Any, batch: Mapping[str, Any]) -> torch.Tensor:
        """The sum of each term over the micro-batch's ``counted`` examples [terms]."""

    def watched(self) -> dict[str, float]:
        """Figures of the training batches since the last call, to be logged beside the loss."""


class Readout(Protocol):
    """What is kept of a batch's outputs in evaluation."""

    def __call__(self, outputs: Any, batch: Mapping[str, Any]) -> list[Any]:
        """An entry an example.

        Args:
            outputs: of the model.
            batch: that they are of, as `data.batches.Collator` makes it, on the model's device.
        """


def mean_loss(sums: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The loss: each term's sum over its weight, both [terms]; a term of no weight is left as it is, 0."""
    return (sums / torch.where(weights > 0, weights, 1)).sum()


def examples_counted(batch: Mapping[str, Any]) -> torch.Tensor:
    """How many examples of a batch count, [1]: the weight of a loss that is a mean over examples."""
    return batch["counted"].sum()[None]


def add_up(counts: list[torch.Tensor], new: torch.Tensor) -> None:
    """Sum up in place, on the device: asking for the numbers would make each step wait."""
    counts[:] = [counts[0] + new] if counts else [new]


def restored_counts(counts: list[Any], device: torch.device) -> torch.Tensor:
    """What was counted, from a checkpoint's numbers: whole ones, or sums as precise as they are added up."""
    sums = counts and isinstance(counts[0], float)
    return torch.tensor(counts, device=device, dtype=precise(device) if sums else None)


def precise(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "mps" else torch.float64
