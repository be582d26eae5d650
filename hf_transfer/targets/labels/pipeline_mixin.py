"""Mixin for pipelines whose model predicts labels or a number: turns logits into scores and predicted labels."""

from typing import Any, TypedDict

import numpy as np
import torch
from transformers import PreTrainedModel

from hf_transfer.targets.labels.decision import Decision
from hf_transfer.targets.labels.error_analysis import prediction_records
from hf_transfer.targets.labels.number_target import PROBLEM_TYPE, predicted_numbers


class LabelScore(TypedDict):
    """Dictionary of a label and its calibrated probability; if the model predicts a number, it is the score."""

    label: str
    score: float


class LabelPipelineMixin:
    """Mixin for a `transformers.Pipeline` whose model predicts labels or a number."""

    model: PreTrainedModel

    @property
    def predicts_number(self) -> bool:
        """Boolean: whether the model predicts a number instead of labels."""
        return self.model.config.problem_type == PROBLEM_TYPE

    @property
    def decision(self) -> Decision:
        """The `Decision` (temperature and threshold) that is stored in the model's config."""
        return Decision.read(self.model.config)

    @property
    def label_names(self) -> list[str]:
        """List of the model's label names, in the order of their ids."""
        return [self.model.config.id2label[i] for i in range(self.model.config.num_labels)]

    def label_scores(self, logits: torch.Tensor) -> list[LabelScore]:
        """Return ``label`` and ``score`` of every label, the most likely first, or the number as the only score.

        Args:
            logits: of one input, [1, num_labels].
        """
        if self.predicts_number:
            (number,) = predicted_numbers(logits, self.model.config).tolist()
            return [{"label": self.model.config.id2label[0], "score": number}]
        probabilities = self.decision.probabilities(logits.float().cpu().numpy())
        by_name = dict(zip(self.label_names, probabilities[0].tolist(), strict=True))
        return [{"label": name, "score": score} for name, score in sorted(by_name.items(), key=lambda item: -item[1])]

    def predicted_labels(self, scores: list[LabelScore]) -> list[LabelScore]:
        """Return those of an input's label scores that are predicted: one, or any number with several labels."""
        (record,) = self.prediction_records([scores])
        predicted = record["label"] if self.decision.multi_label else [record["label"]]
        return [score for score in scores if score["label"] in predicted]

    def prediction_records(self, scores: list[list[LabelScore]]) -> list[dict[str, Any]]:
        """Return for each input the ``label``, ``score`` and ``scores`` that ``predict`` writes, or ``prediction``.

        Args:
            scores: the `label_scores` of each input.
        """
        if self.model.config.num_labels == 1:
            return [{"prediction": number["score"]} for (number,) in scores]
        by_name = [{score["label"]: score["score"] for score in of_input} for of_input in scores]
        probabilities = np.array([[of_input[name] for name in self.label_names] for of_input in by_name])
        return prediction_records(probabilities, self.decision, self.label_names)
