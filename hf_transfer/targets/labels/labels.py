"""Labels as target: one of several classes, or any number of them."""

from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from datasets import Dataset, DatasetDict, List

from hf_transfer.data.groups import NAMELESS
from hf_transfer.data.leakage import UNIT, drawn_together, unit_names
from hf_transfer.errors import InputError, logger
from hf_transfer.evaluation.bootstrap import Resampled
from hf_transfer.models import renew_unlike_head
from hf_transfer.targets.labels import classification
from hf_transfer.targets.labels.decision import Decision
from hf_transfer.targets.labels.examples import (
    contradictions,
    encode_labels,
    label_counts,
    learnable_labels,
    read_examples,
    several_in_a_cell,
)
from hf_transfer.targets.labels.label_form import label_form
from hf_transfer.targets.labels.label_scale import forget
from hf_transfer.training.losses import ClassificationLoss, balanced_weights


@dataclass(frozen=True)
class LabelTarget:
    """A label an example, or several: the column ``label`` holds a `ClassLabel`, or a list of them.

    Attributes:
        settings: ``label_separator``, ``class_names``, ``positive_label``, ``class_weights``, ``threshold``,
            ``max_false_positive_rate``: see `TextSettings`.
    """

    settings: Any
    template: ClassVar[str] = "text-classification"
    headline: ClassVar[tuple[str, ...]] = ("accuracy", "f1")
    metrics: ClassVar[tuple[str, ...]] = (
        "accuracy", "f1", "f1_macro", "f1_micro", "precision", "recall", "matthews_correlation", "roc_auc",
        "average_precision", "expected_calibration_error", "expected_calibration_error_uncalibrated",
    )  # fmt: skip
    label_columns: ClassVar[tuple[str, ...]] = (
        "label", "labels", "sentiment", "category", "class", "target", "intent", "is_duplicate"
    )  # fmt: skip
    decides: ClassVar[bool] = True

    @property
    def chooses(self) -> bool:
        """Whether a threshold is to be chosen on validation examples."""
        return self.settings.threshold == "best_f1" or self.settings.max_false_positive_rate is not None

    # --- data -------------------------------------------------------------------------------------------------

    def read(
        self,
        splits: Mapping[str, Dataset],
        columns: Mapping[str, dict[str, str]],
        config: Any,
        *,
        drop: bool,
    ) -> Mapping[str, Dataset]:
        settings = self.settings
        known = None if config is None else [config.id2label[i] for i in range(config.num_labels)]
        column = next(iter(columns.values()))["label"]
        forms = label_form(splits, column, settings.label_separator, settings.class_names, known)
        read = {
            name: read_examples(split, name, columns[name], forms[name], drop=drop) for name, split in splits.items()
        }
        counts = {name: label_counts(split) for name, split in read.items()}
        if known is not None:
            names = known
            several = config.problem_type == "multi_label_classification"
        else:
            names = learnable_labels(read["train"], counts["train"], forms["train"].names, settings.positive_label)
            several = isinstance(read["train"].features["label"], List)
            hint = "" if several else several_in_a_cell(names)
            if hint:
                logger.warning("%s", hint.strip())
            wanted = settings.threshold is not None or settings.max_false_positive_rate is not None
            if wanted and (several or len(names) != 2):
                raise InputError(f"A threshold needs exactly two labels, one a text; found {len(names)}: {names[:9]}.")
        return encode_labels(read, counts, names, several=several)

    def strata(self, split: Dataset) -> list[Any]:
        labels = split["label"][:]
        return [str(sorted(label)) for label in labels] if _several(split) else labels

    def check(self, splits: DatasetDict, identities: Mapping[str, list[str]]) -> list[str]:
        names = _names(splits["train"])
        if self.settings.class_weights == "balanced":
            weights = zip(names, _balanced_weights(splits["train"]).tolist(), strict=True)
            logger.info("Loss weights: %s.", ", ".join(f"{name} {weight:.2f}" for name, weight in weights))
        if self.chooses:
            validation = splits.get("validation")
            labels = [] if validation is None else validation["label"][:]
            classification.require_enough_to_fit(labels)
            if self.settings.max_false_positive_rate is not None:
                classification.require_enough_negatives(labels, self.settings.max_false_positive_rate, names[0])
        tested = label_counts(splits["test"], names)
        untested = [name for name in names if not tested.get(name)]
        found = []
        if untested:
            shown = ", ".join(f"'{name}'" for name in untested[:5]) + (", ..." if len(untested) > 5 else "")
            found.append(f"No test example is {shown}: how well that is told is not measured.")
            logger.info("%s", found[0])
        return found + contradictions({name: (identities[name], split) for name, split in splits.items()}, names)

    def facts(self, splits: DatasetDict) -> dict[str, Any]:
        names = _names(splits["train"])
        return {
            "labels": names,
            "multi_label": _several(splits["train"]),
            "pairs": "text_pair" in splits["train"].column_names,
            "label_counts": {name: label_counts(split, names) for name, split in splits.items()},
            "majority_class_rate": None if _several(splits["train"]) else _majority_rate(splits["test"]),
            "answer": self._answer(splits["train"], names),
        }

    def _answer(self, train: Dataset, names: list[str]) -> tuple[str, str]:
        if len(names) == 2 and not _several(train):
            name = names[1][:40]
            return "f1", f"{name.capitalize() if name.isalpha() and name.islower() else name} F1"
        return ("f1", "Mean F1 of the labels") if _several(train) else ("accuracy", "Accuracy")

    # --- model ------------------------------------------------------------------------------------------------

    def model_settings(self, splits: DatasetDict) -> dict[str, Any]:
        id2label = dict(enumerate(_names(splits["train"])))
        several = _several(splits["train"])
        return {
            "id2label": id2label,
            "label2id": {name: i for i, name in id2label.items()},
            "problem_type": "multi_label_classification" if several else "single_label_classification",
        }

    def fit_head(self, model: Any, old: Any, new: list[str], splits: DatasetDict, *, pretrained: bool) -> list[str]:
        forget(model.config)  # a number's
        names = _names(splits["train"])
        return renew_unlike_head(model, old, dict(enumerate(names)), new) if pretrained else []

    def model_labels(self, split: Dataset, config: Any) -> Callable[[list[Any]], list[Any]]:
        return _OneHot(len(_names(split))) if _several(split) else _as_they_are

    def loss_function(self, train: Dataset, label_smoothing: float) -> ClassificationLoss:
        weights = _balanced_weights(train) if self.settings.class_weights == "balanced" else None
        return ClassificationLoss(_several(train), label_smoothing, weights)

    def readout(self, model: Any) -> Callable[..., list[Any]]:
        return lambda logits, lengths: list(logits.float().cpu().numpy())

    def finished(self, model: Any) -> AbstractContextManager[None]:
        return nullcontext()

    # --- quality ----------------------------------------------------------------------------------------------

    def decide(self, outputs: Any, split: Dataset | None, config: Any) -> dict[str, Any]:
        references = None if split is None else classification.references(split)
        several = getattr(config, "problem_type", None) == "multi_label_classification"
        logits = None if outputs is None else np.stack(outputs)
        threshold, limit = self.settings.threshold, self.settings.max_false_positive_rate
        return classification.decide(logits, references, config, several, threshold, limit)

    def measure(self, outputs: Any, split: Dataset, config: Any) -> dict[str, float]:
        return classification.measure(np.stack(outputs), classification.references(split), _decision(split, config))

    def intervals(self, before: Any, after: Any, split: Dataset, config: Any, seed: int) -> dict[str, Any]:
        references = classification.references(split)
        decision = _decision(split, config)
        return classification.intervals(
            np.stack(before), np.stack(after), references, decision, seed, unit_names(split)
        )

    def findings(self, outputs: Any, split: Dataset, config: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        logits, decision, names = np.stack(outputs), _decision(split, config), _names(split)
        truth = classification.references(split)
        worst = classification.least_likely(logits, truth, decision, names)
        return classification.findings(logits, truth, decision, unit_names(split)), worst

    def records(self, outputs: Any, split: Dataset, config: Any) -> list[dict[str, Any]]:
        decision, names = _decision(split, config), _names(split)
        records = classification.decided(decision.probabilities(np.stack(outputs)), decision, names)
        return [
            {"label": [names[k] for k in label] if decision.multi_label else names[label]}
            | {"prediction": record.pop("label"), **record}
            for label, record in zip(split["label"][:], records, strict=True)
        ]

    def resampled(self, records: list[dict[str, Any]], facts: dict[str, Any]) -> Resampled:
        names = facts["labels"]

        def ids(values: list[Any]) -> np.ndarray:
            if facts["multi_label"]:
                return np.array([[int(name in value) for name in names] for value in values])
            return np.array([names.index(value) for value in values])

        scores = np.array([[record["scores"][name] for name in names] for record in records])
        truth, labels = (ids([record[key] for record in records]) for key in ("label", "prediction"))
        together = drawn_together([record.get(UNIT, NAMELESS) for record in records], len(records))
        return Resampled(
            together,
            classification.weighted_metrics(truth, labels, scores),
            classification.support(truth, labels, scores.shape[1], together),
            shares=classification.proportions(truth, labels, scores.shape[1]),
        )


@dataclass(frozen=True)
class _OneHot:
    """From lists of label ids to 0 or 1 for each of the labels."""

    num_labels: int

    def __call__(self, labels: list[list[int]]) -> list[list[float]]:
        return [[float(k in label) for k in range(self.num_labels)] for label in labels]


def _as_they_are(labels: list[int]) -> list[int]:
    return labels


def _names(split: Dataset) -> list[str]:
    feature = split.features["label"]
    return list(getattr(feature, "feature", feature).names)


def _several(split: Dataset) -> bool:
    return isinstance(split.features["label"], List)


def _decision(split: Dataset, config: Any) -> Decision:
    """The decision kept in `config`; the plain one for the labels of `split` where there is no config."""
    return Decision.read(config) if config is not None else Decision(multi_label=_several(split))


def _majority_rate(test: Dataset) -> float:
    """Accuracy on test of the best constant answer: what any classifier has to beat."""
    return Counter(test["label"][:]).most_common(1)[0][1] / len(test)


def _balanced_weights(train: Dataset) -> torch.Tensor:
    return balanced_weights(train["label"][:], len(_names(train)), multi_label=_several(train))
