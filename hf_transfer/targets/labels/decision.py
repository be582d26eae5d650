"""The decision of a classifier: temperature and threshold, by which logits become probabilities and labels."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import expit, softmax

from hf_transfer.evaluation.metrics import Array

if TYPE_CHECKING:
    from transformers import PretrainedConfig


@dataclass(frozen=True)
class Decision:
    """Dataclass of the temperature and threshold by which a classifier's logits become probabilities and labels.

    Attributes:
        temperature: the logits are divided by it (Guo et al. 2017, https://arxiv.org/abs/1706.04599).
        threshold: with two labels, label 1 is predicted from this probability on; where an example may have several
            labels, each label is. None: the most likely label, or the labels from a probability of 0.5 on.
        multi_label: whether an example may have several labels.
    """

    temperature: float = 1.0
    threshold: float | None = None
    multi_label: bool = False

    def probabilities(self, logits: Array) -> Array:
        """Return calibrated probabilities [n, num_labels] from logits [n, num_labels]."""
        scaled = np.asarray(logits, dtype=np.float64) / self.temperature
        return expit(scaled) if self.multi_label else softmax(scaled, axis=-1)

    def labels(self, probabilities: Array) -> Array:
        """Return the predicted label ids [n], or a 0/1 matrix [n, num_labels] if there may be several labels."""
        if self.multi_label:
            return (probabilities >= (0.5 if self.threshold is None else self.threshold)).astype(np.int64)
        if self.threshold is None:
            return probabilities.argmax(axis=-1)
        return (probabilities[:, 1] >= self.threshold).astype(np.int64)

    def write(self, config: "PretrainedConfig") -> None:
        """Store the decision in a model's config, which is saved and loaded with the weights."""
        config.calibration = {"temperature": self.temperature, "threshold": self.threshold}

    @classmethod
    def read(cls, config: "PretrainedConfig") -> "Decision":
        """Return the decision that is stored in a model's config, or the default one if the config has no decision."""
        stored = getattr(config, "calibration", None) or {}
        multi_label = getattr(config, "problem_type", None) == "multi_label_classification"
        return cls(stored.get("temperature") or 1.0, stored.get("threshold"), multi_label)


def remove_decision(config: "PretrainedConfig") -> None:
    """Remove from a checkpoint's config the decision that an earlier run has stored there."""
    if hasattr(config, "calibration"):
        del config.calibration
