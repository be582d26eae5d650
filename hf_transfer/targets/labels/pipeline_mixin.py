"""What a pipeline answers with: labels by a model's decision, or a number."""

from typing import Any

import numpy as np

from hf_transfer.targets.labels.classification import decided
from hf_transfer.targets.labels.decision import Decision
from hf_transfer.targets.labels.number import PROBLEM_TYPE, numbers_of


class LabelPipelineMixin:
    """Of a `transformers.Pipeline` whose model predicts labels or a number: how its logits become answers."""

    model: Any

    @property
    def predicts_number(self) -> bool:
        """Whether it is a number that is predicted."""
        return self.model.config.problem_type == PROBLEM_TYPE

    @property
    def decision(self) -> Decision:
        """The temperature and threshold kept in the model's config."""
        return Decision.read(self.model.config)

    @property
    def names(self) -> list[str]:
        """The labels, by id."""
        return [self.model.config.id2label[i] for i in range(self.model.config.num_labels)]

    def label_scores(self, logits: Any) -> list[dict[str, Any]]:
        """``label`` and ``score`` of every label, the likeliest first, of logits [1, labels]; or the number."""
        if self.predicts_number:
            (number,) = numbers_of(logits, self.model.config).tolist()
            return [{"label": self.model.config.id2label[0], "score": number}]
        probabilities = self.decision.probabilities(logits.float().cpu().numpy())
        by_name = dict(zip(self.names, probabilities[0].tolist(), strict=True))
        return [{"label": name, "score": score} for name, score in sorted(by_name.items(), key=lambda one: -one[1])]

    def predicted_labels(self, scores: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Of such answers those that are decided for: one, or any number where an example may have several labels."""
        (record,) = self.prediction_records([scores])
        decided_for = record["label"] if self.decision.multi_label else [record["label"]]
        return [one for one in scores if one["label"] in decided_for]

    def prediction_records(self, scores: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
        """What ``predict`` writes of each input: ``label``, ``score`` and ``scores``; or ``prediction``."""
        if self.model.config.num_labels == 1:
            return [{"prediction": number["score"]} for (number,) in scores]
        by_name = [{one["label"]: one["score"] for one in own} for own in scores]
        probabilities = np.array([[own[name] for name in self.names] for own in by_name])
        return decided(probabilities, self.decision, self.names)
