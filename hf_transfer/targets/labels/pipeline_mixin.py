"""Mixin for pipelines whose model predicts labels or a number: turns logits into scores and predicted labels."""

from typing import Any, TypedDict

import numpy as np
import torch
from transformers import PreTrainedModel

from hf_transfer.targets.labels.decision import Decision
from hf_transfer.targets.labels.error_analysis import prediction_records
from hf_transfer.targets.labels.number_target import PROBLEM_TYPE, predicted_numbers


class LabelScore(TypedDict):
    """A label with its calibrated probability; of a model that predicts a number, the number is the score."""

    label: str
    score: float


class LabelPipelineMixin:
    """Mixin for a `transformers.Pipeline` whose model predicts labels or a number."""

    model: PreTrainedModel

    @property
    def predicts_number(self) -> bool:
        """Whether the model predicts a number."""
        return self.model.config.problem_type == PROBLEM_TYPE

    @property
    def decision(self) -> Decision:
        """The temperature and threshold stored in the model's config."""
        return Decision.read(self.model.config)

    @property
    def label_names(self) -> list[str]:
        """The label names, by id."""
        return [self.model.config.id2label[i] for i in range(self.model.config.num_labels)]

    def label_scores(self, logits: torch.Tensor) -> list[LabelScore]:
        """Return ``label`` and ``score`` of every label, the most likely first; or the number as the only score.

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
        """Return those of the `label_scores` that are predicted: one, or any number with several labels."""
        (record,) = self.prediction_records([scores])
        predicted = record["label"] if self.decision.multi_label else [record["label"]]
        return [score for score in scores if score["label"] in predicted]

    def prediction_records(self, scores: list[list[LabelScore]]) -> list[dict[str, Any]]:
        """Return what ``predict`` writes for each input: ``label``, ``score`` and ``scores``; or ``prediction``.

        Args:
            scores: the `label_scores` of each input.
        """
        if self.model.config.num_labels == 1:
            return [{"prediction": number["score"]} for (number,) in scores]
        by_name = [{score["label"]: score["score"] for score in of_input} for of_input in scores]
        probabilities = np.array([[of_input[name] for name in self.label_names] for of_input in by_name])
        return prediction_records(probabilities, self.decision, self.label_names)
