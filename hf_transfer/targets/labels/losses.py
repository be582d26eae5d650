"""Losses of labels: cross-entropy, and the squared error of a number."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch.nn import functional as F

from hf_transfer.training.loss import TrainingPosition, add_counts, examples_counted, most_precise_dtype

# A model that gives one answer for so many examples and logs in a row has collapsed to it. At first all models do.
COLLAPSED_LOGS, COLLAPSED_EXAMPLES, SETTLING_SHARE = 10, 1000, 1 / 3
# Labels less even than this are answered with the commonest one for good reason.
COMMONEST_LABEL = 0.95
# Numbers whose spread is this small a part of that of the true ones are one, up to rounding. Before a small model has
# learned anything it may be a thousandth.
ONE_NUMBER = 1e-5


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


class OneAnswer:
    """`CollapseCheck` of a model that gives every example the same label, or the same number."""

    suspected = False  # the weights may be the best that there will be

    def __init__(self) -> None:
        self.logs = self.since = 0

    def check(self, figures: Mapping[str, float], position: TrainingPosition) -> str | None:
        """As of `CollapseCheck`."""
        if "commonest_prediction" in figures:
            one = figures["commonest_prediction"] >= 1.0 and figures["commonest_label"] <= COMMONEST_LABEL
            what = "label: the classifier has collapsed"
        else:
            one = figures.get("prediction_spread", math.inf) < ONE_NUMBER
            what = "number: the model has collapsed"
        if not one:
            self.logs, self.since = 0, position.step
            return None
        self.logs += 1
        examples = (position.step - self.since) * position.examples_per_step
        settled = position.step >= SETTLING_SHARE * position.last_step
        if settled and self.logs >= COLLAPSED_LOGS and examples >= COLLAPSED_EXAMPLES:
            return f"the last {examples} examples all got the same {what}"
        return None

    def final_warning(self) -> str | None:
        """Nothing."""
        return None


@dataclass
class ClassificationLoss:
    """Cross-entropy, or binary cross-entropy averaged over labels where an example may have several.

    Attributes:
        multi_label: whether an example may have several labels.
        label_smoothing: share of the target that is spread over all labels.
        class_weights: of each label [num_labels]; those of its positive examples where there may be several.
    """

    multi_label: bool = False
    label_smoothing: float = 0.0
    class_weights: torch.Tensor | None = None
    counts: list[torch.Tensor] = field(default_factory=list, repr=False)
    chance_loss: float = math.log(2)
    collapse_check: OneAnswer = field(default_factory=OneAnswer, repr=False)

    @property
    def starts_at_chance(self) -> bool:
        """Where an example has one label."""
        return not self.multi_label

    def weights(self, batch: Mapping[str, Any]) -> torch.Tensor:
        """The number of examples, [1]."""
        return examples_counted(batch)

    def __call__(self, outputs: Any, batch: Mapping[str, Any]) -> torch.Tensor:
        logits, labels, counted = outputs["logits"].float(), batch["labels"], batch["counted"]
        if self.class_weights is not None:  # kept there: to copy them each time would wait for the device
            self.class_weights = self.class_weights.to(logits.device)
        if self.multi_label:
            smooth = labels * (1 - self.label_smoothing) + self.label_smoothing / 2
            each = F.binary_cross_entropy_with_logits(
                logits, smooth, reduction="none", pos_weight=self.class_weights
            ).mean(dim=-1)
        else:
            each = F.cross_entropy(
                logits, labels, weight=self.class_weights, reduction="none", label_smoothing=self.label_smoothing
            )
            self.chance_loss = math.log(logits.shape[-1])
            if logits.requires_grad:
                self._count(logits.detach(), labels, counted)
        return torch.where(counted, each, 0.0).sum()[None]

    def _count(self, logits: torch.Tensor, labels: torch.Tensor, counted: torch.Tensor) -> None:
        size = logits.shape[-1]
        predicted = (F.one_hot(logits.argmax(dim=-1), size) * counted[:, None]).sum(dim=0)
        right = (F.one_hot(labels, size) * counted[:, None]).sum(dim=0)
        add_counts(self.counts, torch.stack([predicted, right]))

    def pop_figures(self) -> dict[str, float]:
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
        chance_loss: of always answering 0, the mean of standardised labels: 1 over all of them, and more on batches
            that hold labels far from the others.
    """

    chance_loss: float = 1.0
    counts: list[torch.Tensor] = field(default_factory=list, repr=False)
    collapse_check: OneAnswer = field(default_factory=OneAnswer, repr=False)
    starts_at_chance: ClassVar[bool] = False

    def weights(self, batch: Mapping[str, Any]) -> torch.Tensor:
        """The number of examples, [1]."""
        return examples_counted(batch)

    def __call__(self, outputs: Any, batch: Mapping[str, Any]) -> torch.Tensor:
        numbers, counted = outputs["logits"].float().squeeze(-1), batch["counted"]
        truth = batch["labels"].float()
        each = torch.where(counted, (numbers - truth).square(), 0.0)
        if numbers.requires_grad:
            self._count(numbers.detach(), truth, counted)
        return each.sum()[None]

    def _count(self, numbers: torch.Tensor, truth: torch.Tensor, counted: torch.Tensor) -> None:
        # Numbers that are almost the same differ in their last digits alone.
        both = torch.where(counted, torch.stack([numbers, truth]), 0.0).to(most_precise_dtype(numbers.device))
        sums = torch.stack([both.sum(dim=1), both.square().sum(dim=1)], dim=1).flatten()
        add_counts(self.counts, torch.cat([counted.sum().to(sums.dtype)[None], sums]))

    def pop_figures(self) -> dict[str, float]:
        """``prediction_spread``: the standard deviation of the predicted numbers over that of the true ones."""
        if not self.counts:
            return {}
        count, *sums = self.counts[0].tolist()
        self.counts.clear()
        self.chance_loss = max(1.0, sums[3] / count)
        predicted, true = (squares / count - (total / count) ** 2 for total, squares in (sums[:2], sums[2:]))
        return {"prediction_spread": math.sqrt(max(0.0, predicted) / true)} if true > 0 else {}
