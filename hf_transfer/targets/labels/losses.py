"""Training losses for labels: cross-entropy, and the squared error of a number."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch.nn import functional as F

from hf_transfer.training.loss import TrainingPosition, add_counts, examples_counted, most_precise_dtype

# A model has collapsed if it gave the same answer to so many examples, in so many logs in a row. At the beginning of
# training all models do, so the first part of the steps does not count.
COLLAPSED_LOGS, COLLAPSED_EXAMPLES, SETTLING_SHARE = 10, 1000, 1 / 3
# Where the commonest label is more frequent than this, predicting it always is reasonable.
MAX_COMMONEST_LABEL = 0.95
# Predicted numbers are all the same, up to rounding, if their standard deviation is below this part of the labels'.
# Before a small model has learned anything, it may be a thousandth.
SAME_NUMBER_SPREAD = 1e-5


def balanced_weights(labels: Sequence[Any], num_labels: int, *, multi_label: bool) -> torch.Tensor:
    """Return the weight of each label in the loss, [num_labels]: n / (num_labels x count), as in scikit-learn.

    These average 1 over the training examples. Where an example may have several labels, the weight of a label is its
    number of negatives divided by its number of positives.

    Args:
        labels: the label id of each example, or its list of them.
        num_labels: number of labels.
        multi_label: whether an example may have several labels.
    """
    ids = [k for label in labels for k in label] if multi_label else labels
    counts = np.bincount(ids, minlength=num_labels)
    positives = np.maximum(counts, 1)
    weights = (len(labels) - counts) / positives if multi_label else len(labels) / (num_labels * positives)
    return torch.tensor(weights, dtype=torch.float32)


class ConstantPredictionCheck:
    """Check (a `CollapseCheck`) for a model that predicts the same label or number for every example."""

    suspected = False  # checkpoints are written all the same: these may be the best weights of the run

    def __init__(self) -> None:
        self.logs = self.since = 0  # logs in a row with the same answer, and the step before the first of them

    def check(self, figures: Mapping[str, float], position: TrainingPosition) -> str | None:
        """Return a clause that says that the model has collapsed, or None, from the figures of a log."""
        if "commonest_prediction" in figures:
            has_commonest_label = figures["commonest_label"] > MAX_COMMONEST_LABEL
            is_constant = figures["commonest_prediction"] >= 1.0 and not has_commonest_label
            answer = "label: the classifier has collapsed"
        else:
            is_constant = figures.get("prediction_spread", math.inf) < SAME_NUMBER_SPREAD
            answer = "number: the model has collapsed"
        if not is_constant:
            self.logs, self.since = 0, position.step
            return None
        self.logs += 1
        examples = (position.step - self.since) * position.examples_per_step
        has_settled = position.step >= SETTLING_SHARE * position.last_step
        if has_settled and self.logs >= COLLAPSED_LOGS and examples >= COLLAPSED_EXAMPLES:
            return f"the last {examples} examples all got the same {answer}"
        return None

    def final_warning(self) -> str | None:
        """Return None, as a constant prediction at the end gives no warning."""
        return None


@dataclass
class ClassificationLoss:
    """Training loss of labels, a callable dataclass: cross-entropy, or binary cross-entropy for several labels.

    The binary cross-entropy is averaged over labels.

    Attributes:
        multi_label: whether an example may have several labels.
        label_smoothing: the part of the target probability that is spread over all labels.
        class_weights: the weight of each label, [num_labels]; where an example may have several labels, it is the
            weight of the label's positive examples.
        counts: predicted and true labels of the training batches, counted since the last `pop_figures`.
        chance_loss: the loss of a model that gives every label the same probability.
        collapse_check: the check for a model that always predicts the same label.
    """

    multi_label: bool = False
    label_smoothing: float = 0.0
    class_weights: torch.Tensor | None = None
    counts: list[torch.Tensor] = field(default_factory=list, repr=False)
    chance_loss: float = math.log(2)
    collapse_check: ConstantPredictionCheck = field(default_factory=ConstantPredictionCheck, repr=False)

    @property
    def starts_at_chance(self) -> bool:
        """Boolean: whether the loss of a model with a new head is about `chance_loss`, as with one label."""
        return not self.multi_label

    def weights(self, batch: Mapping[str, Any]) -> torch.Tensor:
        """Return the number of examples in a batch that are counted, [1]."""
        return examples_counted(batch)

    def __call__(self, outputs: Any, batch: Mapping[str, Any]) -> torch.Tensor:
        logits, labels, counted = outputs["logits"].float(), batch["labels"], batch["counted"]
        if self.class_weights is not None:
            # They stay on the device: copying them in each step would make the host wait for it.
            self.class_weights = self.class_weights.to(logits.device)
        if self.multi_label:
            smooth = labels * (1 - self.label_smoothing) + self.label_smoothing / 2
            losses = F.binary_cross_entropy_with_logits(
                logits, smooth, reduction="none", pos_weight=self.class_weights
            ).mean(dim=-1)
        else:
            losses = F.cross_entropy(
                logits, labels, weight=self.class_weights, reduction="none", label_smoothing=self.label_smoothing
            )
            self.chance_loss = math.log(logits.shape[-1])
            if logits.requires_grad:
                self._count(logits.detach(), labels, counted)
        return torch.where(counted, losses, 0.0).sum()[None]

    def _count(self, logits: torch.Tensor, labels: torch.Tensor, counted: torch.Tensor) -> None:
        size = logits.shape[-1]
        predicted = (F.one_hot(logits.argmax(dim=-1), size) * counted[:, None]).sum(dim=0)
        actual = (F.one_hot(labels, size) * counted[:, None]).sum(dim=0)
        add_counts(self.counts, torch.stack([predicted, actual]))

    def pop_figures(self) -> dict[str, float]:
        """Return the shares of the ``commonest_prediction`` and ``commonest_label`` since the last call.

        They are counted only where an example has one label.
        """
        if not self.counts:
            return {}
        predicted, actual = self.counts[0].tolist()
        self.counts.clear()
        return {
            "commonest_prediction": max(predicted) / max(1, sum(predicted)),
            "commonest_label": max(actual) / max(1, sum(actual)),
        }


@dataclass
class SquaredErrorLoss:
    """Training loss of numbers, a callable dataclass: the squared error, in the unit of the given labels.

    Attributes:
        chance_loss: the loss of always predicting 0, the mean of standardised labels: 1 over all of them, and more on
            batches with labels far from the mean.
        counts: sums and squares of predicted and true numbers since the last `pop_figures`.
        collapse_check: the check for a model that always predicts the same number.
    """

    chance_loss: float = 1.0
    counts: list[torch.Tensor] = field(default_factory=list, repr=False)
    collapse_check: ConstantPredictionCheck = field(default_factory=ConstantPredictionCheck, repr=False)
    starts_at_chance: ClassVar[bool] = False

    def weights(self, batch: Mapping[str, Any]) -> torch.Tensor:
        """Return the number of examples in a batch that are counted, [1]."""
        return examples_counted(batch)

    def __call__(self, outputs: Any, batch: Mapping[str, Any]) -> torch.Tensor:
        numbers, counted = outputs["logits"].float().squeeze(-1), batch["counted"]
        labels = batch["labels"].float()
        losses = torch.where(counted, (numbers - labels).square(), 0.0)
        if numbers.requires_grad:
            self._count(numbers.detach(), labels, counted)
        return losses.sum()[None]

    def _count(self, numbers: torch.Tensor, labels: torch.Tensor, counted: torch.Tensor) -> None:
        # In double precision: numbers that are almost the same differ in their last digits only.
        both = torch.where(counted, torch.stack([numbers, labels]), 0.0).to(most_precise_dtype(numbers.device))
        sums = torch.stack([both.sum(dim=1), both.square().sum(dim=1)], dim=1).flatten()
        add_counts(self.counts, torch.cat([counted.sum().to(sums.dtype)[None], sums]))

    def pop_figures(self) -> dict[str, float]:
        """Return ``prediction_spread`` since the last call: the deviation of predictions over that of labels."""
        if not self.counts:
            return {}
        count, *sums = self.counts[0].tolist()
        self.counts.clear()
        self.chance_loss = max(1.0, sums[3] / count)
        predicted, actual = (squares / count - (total / count) ** 2 for total, squares in (sums[:2], sums[2:]))
        return {"prediction_spread": math.sqrt(max(0.0, predicted) / actual)} if actual > 0 else {}
