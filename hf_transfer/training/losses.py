"""Losses as exact means over examples, however a step is divided."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F


def _add(counts: list[torch.Tensor], new: torch.Tensor) -> None:
    """Sum up in place, on the device."""
    counts[:] = [counts[0] + new] if counts else [new]


def restored_counts(counts: list[Any], device: torch.device) -> torch.Tensor:
    """What was counted, from a checkpoint's numbers: whole ones, or sums as precise as they are added up."""
    sums = counts and isinstance(counts[0], float)
    return torch.tensor(counts, device=device, dtype=_precise(device) if sums else None)


def _precise(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "mps" else torch.float64


def counted(labels: torch.Tensor) -> torch.Tensor:
    """Which examples of a batch a loss counts, [batch]: the labels of padding are -100, or NaN where they are numbers.

    Args:
        labels: ids [batch], numbers [batch], or several of an example [batch, labels].
    """
    if labels.dim() == 1 and labels.is_floating_point():
        return ~labels.isnan()
    return labels.reshape(len(labels), -1)[:, 0] != -100


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
        _add(self.counts, torch.stack([predicted, right]))

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
        precise = torch.stack([torch.where(there, numbers, 0.0), truth]).to(_precise(numbers.device))
        sums = torch.stack([precise.sum(dim=1), precise.square().sum(dim=1)], dim=1).flatten()
        _add(self.counts, torch.cat([there.sum().to(sums.dtype)[None], sums]))

    def watched(self) -> dict[str, float]:
        """``prediction_spread``: the standard deviation of the predicted numbers over that of the true ones."""
        if not self.counts:
            return {}
        count, *sums = self.counts[0].tolist()
        self.counts.clear()
        self.chance = max(1.0, sums[3] / count)
        predicted, true = (squares / count - (total / count) ** 2 for total, squares in (sums[:2], sums[2:]))
        return {"prediction_spread": math.sqrt(max(0.0, predicted) / true)} if true > 0 else {}


@dataclass
class CTCLoss:
    """Connectionist temporal classification (Graves et al. 2006), each clip's loss a letter.

    Infinite losses stay infinite: they are a clip that cannot be spelt in its frames.

    Attributes:
        blank: id of the blank token.
        frames_of: from the lengths of inputs [batch] to those of the model's outputs.
    """

    blank: int
    frames_of: Callable[[torch.Tensor], torch.Tensor]
    counts: list[torch.Tensor] = field(default_factory=list, repr=False)
    chance: float = 0.0

    def __call__(self, outputs: Any, labels: Any, lengths: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        logits = outputs["logits"].float()
        counted = labels[:, 0] != -100
        letters = (labels != -100).sum(dim=-1)
        self.chance = math.log(logits.shape[-1])
        frames = self.frames_of(lengths)
        with torch.autocast(logits.device.type, enabled=False):
            each = _ctc(logits.log_softmax(dim=-1).transpose(0, 1), labels.clamp(min=0), frames, letters, self.blank)
        each = torch.where(counted, each / letters.clamp(min=1), 0.0)
        if logits.requires_grad:
            self._watch(logits.detach(), frames, counted)
        return each.sum() / (len(labels) if num_items_in_batch is None else num_items_in_batch)

    def _watch(self, logits: torch.Tensor, frames: torch.Tensor, counted: torch.Tensor) -> None:
        """Count on the device: asking for the numbers here would make each step wait."""
        real = torch.arange(logits.shape[1], device=logits.device) < frames[:, None]
        real &= counted[:, None]
        blank = (logits.argmax(dim=-1) == self.blank) & real
        empty = (blank.sum(dim=-1) == real.sum(dim=-1)) & counted
        _add(self.counts, torch.stack([blank.sum(), real.sum(), empty.sum(), counted.sum()]))

    def watched(self) -> dict[str, float]:
        """``blank_ratio``, the share of blank frames, and ``empty_hypotheses``, the share of clips that stay empty."""
        if not self.counts:
            return {}
        blank, frames, empty, clips = self.counts[0].tolist()
        self.counts.clear()
        return {"blank_ratio": blank / max(1, frames), "empty_hypotheses": empty / max(1, clips)}


def _ctc(
    log_probabilities: torch.Tensor, labels: torch.Tensor, frames: torch.Tensor, letters: torch.Tensor, blank: int
) -> torch.Tensor:
    """The loss of each clip [batch]; on the processor where the GPU is Apple's, for which PyTorch has no CTC."""
    device = log_probabilities.device
    place = torch.device("cpu") if device.type == "mps" else device
    log_probabilities, labels = log_probabilities.to(place), labels.to(place)
    each = F.ctc_loss(log_probabilities, labels, frames.to(place), letters.to(place), blank, reduction="none")
    return each.to(device)
