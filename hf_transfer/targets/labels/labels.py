"""Labels as target: one of several classes, or any number of them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from datasets import Dataset, DatasetDict, List

from hf_transfer.arguments import DataArguments, ModelArguments
from hf_transfer.data.batches import pad_labels
from hf_transfer.data.column_readers import LeaveOut
from hf_transfer.data.splits import find_column
from hf_transfer.data.units import resampling_units, unit_names, unit_numbers_of_split, unit_of_record
from hf_transfer.errors import InputError, logger
from hf_transfer.evaluation.bootstrap import ResampledMetrics
from hf_transfer.targets.labels import classification
from hf_transfer.targets.labels.decision import Decision, forget_decision
from hf_transfer.targets.labels.encoding import LabelEncoding, OneHot
from hf_transfer.targets.labels.examples import (
    contradictions,
    encode_labels,
    label_counts,
    learnable_labels,
)
from hf_transfer.targets.labels.head import renew_unlike_head
from hf_transfer.targets.labels.label_columns import hint_of, joined, label_columns
from hf_transfer.targets.labels.label_form import LabelForm, label_form, several_in_a_cell
from hf_transfer.targets.labels.label_scale import forget
from hf_transfer.targets.labels.losses import ClassificationLoss, balanced_weights
from hf_transfer.targets.labels.settings import LabelSettings
from hf_transfer.training.loss import Readout

LABEL_COLUMNS = ("label", "labels", "sentiment", "category", "class", "target", "intent", "is_duplicate")


@dataclass(frozen=True)
class LabelTarget:
    """A label an example, or several: the column ``label`` holds a `ClassLabel`, or a list of them.

    Attributes:
        settings: which column it is, how labels are separated and named, how scores become decisions.
    """

    settings: LabelSettings
    column: ClassVar[str] = "label"
    distinguishes_examples: ClassVar[bool] = True
    template: ClassVar[str] = "labels"
    headline: ClassVar[tuple[str, ...]] = ("accuracy", "f1")
    metrics: ClassVar[tuple[str, ...]] = (
        "accuracy", "f1", "f1_macro", "f1_micro", "precision", "recall", "matthews_correlation", "roc_auc",
        "average_precision", "expected_calibration_error", "expected_calibration_error_uncalibrated",
    )  # fmt: skip
    uses_validation_split: ClassVar[bool] = True

    @property
    def requires_validation_split(self) -> bool:
        """Whether a threshold is to be chosen on validation examples."""
        return self.settings.threshold == "best_f1" or self.settings.max_false_positive_rate is not None

    # --- data -------------------------------------------------------------------------------------------------

    def columns(
        self, splits: DatasetDict, inputs: Mapping[str, Sequence[str]], config: Any
    ) -> tuple[DatasetDict, dict[str, str]]:
        """As of `Target`; where each label has a column of 0 and 1, they are joined into one."""
        settings, train = self.settings, next(iter(splits))
        others = [name for name in splits[train].column_names if name not in inputs[train]]
        names = [] if settings.label_column_name else self._named_columns(config, others)
        if names:
            column = f"({', '.join(names)})"  # in messages
            splits = DatasetDict({name: joined(split, name, names, column) for name, split in splits.items()})
            return splits, dict.fromkeys(splits, column)
        column = find_column(
            others, settings.label_column_name, LABEL_COLUMNS, "label_column_name",
            hint=lambda: hint_of(splits[train], others),
        )  # fmt: skip
        return splits, dict.fromkeys(splits, column)

    def _named_columns(self, config: Any, columns: Sequence[str]) -> list[str]:
        """The columns that --class_names names; or a model's labels, where the table to measure it on has them all."""
        names, source = self.settings.class_names, "--class_names"
        if names is None and getattr(config, "problem_type", None) == "multi_label_classification":
            own = _known(config) or []
            names, source = own if set(own) <= set(columns) else None, "the model's labels"
        return label_columns(names, columns, LABEL_COLUMNS, source)

    def readers(
        self, splits: DatasetDict, columns: Mapping[str, str], config: Any, model: ModelArguments
    ) -> Mapping[str, LabelForm]:
        """The forms of the labels of each split."""
        settings, column = self.settings, next(iter(columns.values()))
        return label_form(splits, column, settings.label_separator, settings.class_names, _known(config))

    def prepare_targets(
        self,
        read: Mapping[str, Dataset],
        readers: Mapping[str, Any],
        config: Any,
        data: DataArguments,
        leave_out: LeaveOut,
    ) -> tuple[DatasetDict, dict[str, dict[str, int]]]:
        """Label ids instead of names; refuses labels from which nothing can be learned."""
        settings = self.settings
        counts = {name: label_counts(split) for name, split in read.items()}
        names = _known(config)
        if names is not None:
            several = config.problem_type == "multi_label_classification"
        else:
            given = readers["train"].names
            names = learnable_labels(read["train"], counts["train"], given, settings.positive_label)
            several = isinstance(read["train"].features["label"], List)
            hint = "" if several else several_in_a_cell(names)
            if hint:
                logger.warning("%s", hint.strip())
            wanted = settings.threshold is not None or settings.max_false_positive_rate is not None
            if wanted and (several or len(names) != 2):
                raise InputError(
                    f"A threshold needs exactly two labels, one an example; found {len(names)}: {names[:9]}."
                )
        return encode_labels(read, counts, names, several=several), {}

    def strata(self, split: Dataset) -> list[Any]:
        labels = split["label"][:]
        return [str(sorted(label)) for label in labels] if _several(split) else labels

    def check(self, splits: DatasetDict, identities: Mapping[str, list[str]]) -> list[str]:
        names = _names(splits["train"])
        if self.settings.class_weights == "balanced":
            weights = zip(names, _balanced_weights(splits["train"]).tolist(), strict=True)
            logger.info("Loss weights: %s.", ", ".join(f"{name} {weight:.2f}" for name, weight in weights))
        if self.requires_validation_split:
            validation = splits.get("validation")
            labels = [] if validation is None else validation["label"][:]
            classification.require_enough_to_fit(labels)
            if self.settings.max_false_positive_rate is not None:
                limit = self.settings.max_false_positive_rate
                together = (
                    np.arange(0) if validation is None else unit_numbers_of_split(validation, identities["validation"])
                )
                classification.require_enough_negatives(labels, limit, names[0], together)
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

    def complete_processor(self, processor: Any, model: ModelArguments, splits: DatasetDict | None) -> Any:
        """As it is."""
        return processor

    def config_settings(
        self, model: ModelArguments, splits: DatasetDict, processor: Any, *, pretrained: bool
    ) -> dict[str, Any]:
        """The labels, and whether an example may have several."""
        id2label = dict(enumerate(_names(splits["train"])))
        several = _several(splits["train"])
        return {
            "id2label": id2label,
            "label2id": {name: i for i, name in id2label.items()},
            "problem_type": "multi_label_classification" if several else "single_label_classification",
        }

    def adapt_head(
        self,
        loaded: Any,
        old: Any,
        new: list[str],
        model: ModelArguments,
        splits: DatasetDict,
        processor: Any,
        *,
        pretrained: bool,
    ) -> list[str]:
        """As of `Target`; a decision or scale that an earlier run has left in the config is not this one's."""
        forget_decision(loaded.config)
        forget(loaded.config)  # a number's
        names = _names(splits["train"])
        return renew_unlike_head(loaded, old, dict(enumerate(names)), new) if pretrained else []

    def prepare_base(self, model: Any, name: str, revision: str) -> None:
        """Nothing."""

    def encoding(self, split: Dataset, processor: Any, config: Any) -> LabelEncoding:
        """As of `Target`: label ids, or 0 or 1 for each label where there may be several."""
        return LabelEncoding(OneHot(len(_names(split))) if _several(split) else None)

    @staticmethod
    def pad(labels: list[Any]) -> torch.Tensor:
        """Label ids [batch], or 0 or 1 for each label [batch, labels]."""
        return pad_labels(labels)

    def loss_function(self, train: Dataset, model: Any, label_smoothing: float) -> ClassificationLoss:
        weights = _balanced_weights(train) if self.settings.class_weights == "balanced" else None
        return ClassificationLoss(_several(train), label_smoothing, weights)

    def readout(self, processor: Any, model: Any) -> Readout:
        """The logits of each example [labels]."""
        return lambda outputs, batch: list(outputs["logits"].float().cpu().numpy())

    def finalised(self, model: Any) -> AbstractContextManager[None]:
        return nullcontext()

    # --- quality ----------------------------------------------------------------------------------------------

    def decide(
        self, outputs: Any, split: Dataset | None, config: Any, identities: Sequence[str] | None
    ) -> dict[str, Any]:
        """Temperature and threshold."""
        references = None if split is None else classification.references(split)
        several = getattr(config, "problem_type", None) == "multi_label_classification"
        logits = None if outputs is None else np.stack(outputs)
        threshold, limit = self.settings.threshold, self.settings.max_false_positive_rate
        together = None if split is None or identities is None else unit_numbers_of_split(split, identities)
        return classification.decide(logits, references, config, several, threshold, limit, together)

    def compute_metrics(self, outputs: Any, split: Dataset, config: Any) -> dict[str, float]:
        return classification.compute_metrics(
            np.stack(outputs), classification.references(split), _decision(split, config)
        )

    def intervals(self, before: Any, after: Any, split: Dataset, config: Any, seed: int) -> dict[str, Any]:
        references = classification.references(split)
        decision = _decision(split, config)
        return classification.intervals(
            np.stack(before), np.stack(after), references, decision, seed, unit_names(split)
        )

    def error_analysis(self, outputs: Any, split: Dataset, config: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        logits, decision, names = np.stack(outputs), _decision(split, config), _names(split)
        truth = classification.references(split)
        worst = classification.least_likely(logits, truth, decision, names)
        return classification.findings(logits, truth, decision, unit_names(split)), worst

    def remarks(self, report: Mapping[str, Any]) -> list[str]:
        """How good the commonest label alone would be; and the false alarms, where a threshold was chosen."""
        rate, accuracy, told = report["data"]["majority_class_rate"], report["metrics"]["accuracy"], []
        if rate is not None:
            better = f" That is {'better' if rate > accuracy else 'as good'}: do not ship this."
            ending = "" if rate < accuracy else better
            told.append(f"Always answering the commonest label: accuracy {rate:.3f}.{ending}")
        if "false_positives" in report and report["decision"]["threshold"] is not None:
            found, (no, yes) = report["false_positives"], report["data"]["labels"]
            low, high = found["interval"]
            taken = f"{found['count']} of {found['of']} test examples of '{no}' are taken for '{yes}'"
            told.append(f"{taken}, {low:.1%} to {high:.1%} (95 %).")
        return told

    def records(self, outputs: Any, split: Dataset, config: Any) -> list[dict[str, Any]]:
        decision, names = _decision(split, config), _names(split)
        records = classification.decided(decision.probabilities(np.stack(outputs)), decision, names)
        return [
            {"label": [names[k] for k in label] if decision.multi_label else names[label]}
            | {"prediction": record.pop("label"), **record}
            for label, record in zip(split["label"][:], records, strict=True)
        ]

    def resampled_metrics(self, records: list[dict[str, Any]], facts: dict[str, Any]) -> ResampledMetrics[str]:
        names = facts["labels"]

        def ids(values: list[Any]) -> np.ndarray:
            if facts["multi_label"]:
                return np.array([[int(name in value) for name in names] for value in values])
            return np.array([names.index(value) for value in values])

        scores = np.array([[record["scores"][name] for name in names] for record in records])
        truth, labels = (ids([record[key] for record in records]) for key in ("label", "prediction"))
        together = resampling_units([unit_of_record(record) for record in records], len(records))
        return ResampledMetrics(
            together,
            classification.weighted_metrics(truth, labels, scores),
            classification.support(truth, labels, scores.shape[1], together),
            formula_intervals=classification.proportions(truth, labels, scores.shape[1]),
        )


def _known(config: Any) -> list[str] | None:
    """The labels of a fine-tuned model."""
    return None if config is None else [config.id2label[i] for i in range(config.num_labels)]


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
