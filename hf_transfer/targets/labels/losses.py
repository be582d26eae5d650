"""Losses of labels: cross-entropy, and the squared error of a number."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from hf_transfer.training.losses import add_up, counted, precise


def balanced_weights(labels: Sequence[Any], num_labels: int, *, multi_label: bool) -> torch.Tensor:
    """n / (labels x n of the label), as scikit-learn's ``balanced``: they average 1 over the training examples.

    Where an example may have several labels: negatives over positives of each.

    Args:
        labels: the id of each example's, or a list of them.
        num_labels: how many there are.
        multi_label: whether an example may have several.

    Returns:
        The weight of each label, [num_labels].
    """
    ids = [k for label in labels for k in label] if multi_label else labels
    counts = np.bincount(ids, minlength=num_labels)
    of_each = np.maximum(counts, 1)
    weights = (len(labels) - counts) / of_each if multi_label else len(labels) / (num_labels * of_each)
    return torch.tensor(weights, dtype=torch.float32)


@dataclass
class ClassificationLoss:
    """Cross-entropy, or binary cross-entropy averaged over labels where an example may have several.

    Attributes:
        multi_label: whether an example may have several labels.
        label_smoothing: share of the target that is spread over all labels.
        weights: of each label [num_labels]; those of its positive examples where there may be several.
    """

    multi_label: bool = False
    label_smoothing: float = 0.0
    weights: torch.Tensor | None = None
    counts: list[torch.Tensor] = field(default_factory=list, repr=False)
    chance: float = math.log(2)

    def __call__(self, outputs: Any, labels: Any, lengths: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        logits = outputs["logits"].float()
        if self.weights is not None:  # kept there: to copy them each time would wait for the device
            self.weights = self.weights.to(logits.device)
        if self.multi_label:
            counted = labels[:, 0] != -100
            smooth = labels.clamp(min=0) * (1 - self.label_smoothing) + self.label_smoothing / 2
            each = F.binary_cross_entropy_with_logits(logits, smooth, reduction="none", pos_weight=self.weights)
            each = torch.where(counted, each.mean(dim=-1), 0.0)
        else:
            each = F.cross_entropy(
                logits, labels, weight=self.weights, reduction="none", label_smoothing=self.label_smoothing
            )
            self.chance = math.log(logits.shape[-1])
            if logits.requires_grad:
                self._watch(logits.detach(), labels)
        return each.sum() / (len(labels) if num_items_in_batch is None else num_items_in_batch)

    def _watch(self, logits: torch.Tensor, labels: torch.Tensor) -> None:
        """Count on the device: asking for the numbers here would make each step wait."""
        counted = labels != -100
        size = logits.shape[-1]
        predicted = (F.one_hot(logits.argmax(dim=-1), size) * counted[:, None]).sum(dim=0)
        right = (F.one_hot(labels.clamp(min=0), size) * counted[:, None]).sum(dim=0)
        add_up(self.counts, torch.stack([predicted, right]))

    def watched(self) -> dict[str, float]:
        """``commonest_prediction`` and ``commonest_label``: their shares, where an example has one label."""
        if not self.counts:
            return {}
        predicted, right = self.counts[0].tolist()
        self.counts.clear()
        return {
            "commonest_prediction": max(predicted) / max(1, sum(predicted)),
            "commonest_label": max(right) / max(1, sum(right)),
        }


@dataclass
class SquaredErrorLoss:
    """Squared error of one number an example, in the unit of the given labels.

    Attributes:
        chance: of always answering 0, the mean of standardised labels: 1 over all of them, and more on batches that
            hold labels far from the others.
    """

    chance: float = 1.0
    counts: list[torch.Tensor] = field(default_factory=list, repr=False)

    def __call__(self, outputs: Any, labels: Any, lengths: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        numbers = outputs["logits"].float().squeeze(-1)
        there = counted(labels)
        truth = torch.where(there, labels, 0.0).float()
        each = torch.where(there, (numbers - truth).square(), 0.0)
        if numbers.requires_grad:
            self._watch(numbers.detach(), truth, there)
        return each.sum() / (len(labels) if num_items_in_batch is None else num_items_in_batch)

    def _watch(self, numbers: torch.Tensor, truth: torch.Tensor, there: torch.Tensor) -> None:
        """Sum up on the device: asking for the numbers here would make each step wait."""
        # Numbers that are almost the same differ in their last digits alone.
        both = torch.stack([torch.where(there, numbers, 0.0), truth]).to(precise(numbers.device))
        sums = torch.stack([both.sum(dim=1), both.square().sum(dim=1)], dim=1).flatten()
        add_up(self.counts, torch.cat([there.sum().to(sums.dtype)[None], sums]))

    def watched(self) -> dict[str, float]:
        """``prediction_spread``: the standard deviation of the predicted numbers over that of the true ones."""
        if not self.counts:
            return {}
        count, *sums = self.counts[0].tolist()
        self.counts.clear()
        self.chance = max(1.0, sums[3] / count)
        predicted, true = (squares / count - (total / count) ** 2 for total, squares in (sums[:2], sums[2:]))
        return {"prediction_spread": math.sqrt(max(0.0, predicted) / true)} if true > 0 else {}
