"""Label target: one label, or several labels, for each example."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from datasets import Dataset, DatasetDict
from transformers import PretrainedConfig, PreTrainedModel

from hf_transfer.arguments import DataArguments, ModelArguments
from hf_transfer.data.batches import pad_labels
from hf_transfer.data.column_readers import LeaveOut
from hf_transfer.data.splits import find_column
from hf_transfer.data.units import unit_names, unit_numbers_of_split
from hf_transfer.errors import InputError, logger
from hf_transfer.evaluation.bootstrap import ResampledMetrics
from hf_transfer.targets.labels.classification_intervals import (
    classification_intervals,
    resampled_metrics_of_records,
)
from hf_transfer.targets.labels.classification_metrics import compute_metrics, reference_labels
from hf_transfer.targets.labels.decision import Decision, remove_decision
from hf_transfer.targets.labels.decision_fitting import fit_decision
from hf_transfer.targets.labels.encoding import LabelEncoding, MultiHot
from hf_transfer.targets.labels.error_analysis import (
    error_analysis,
    prediction_records,
    result_remarks,
    worst_examples,
)
from hf_transfer.targets.labels.head import match_head_to_labels
from hf_transfer.targets.labels.label_columns import join_label_columns, label_columns, label_columns_hint
from hf_transfer.targets.labels.label_form import label_readers
from hf_transfer.targets.labels.label_names import (
    contradictions,
    encode_labels,
    is_multi_label,
    label_counts,
    label_names,
    learnable_labels,
    untested_labels,
)
from hf_transfer.targets.labels.label_reader import LabelReader, separator_hint
from hf_transfer.targets.labels.label_scale import remove_label_scale
from hf_transfer.targets.labels.losses import ClassificationLoss, balanced_weights
from hf_transfer.targets.labels.settings import LabelSettings
from hf_transfer.targets.labels.thresholds import require_enough_negatives, require_enough_to_fit
from hf_transfer.training.loss import Readout

# Usual names of a label column.
LABEL_COLUMNS = ("label", "labels", "sentiment", "category", "class", "target", "intent", "is_duplicate")


@dataclass(frozen=True)
class LabelTarget:
    """Dataclass of the target of one label or several for each example (a `Target`).

    The column ``label`` holds a `ClassLabel`, or a list of them.

    Attributes:
        settings: the label column, how labels are separated and named, and how the decision is made.
    """

    settings: LabelSettings
    column: ClassVar[str] = "label"
    distinguishes_examples: ClassVar[bool] = True
    quoting_entries: ClassVar[tuple[str, ...]] = ()
    template: ClassVar[str] = "labels"
    headline: ClassVar[tuple[str, ...]] = ("accuracy", "f1")
    metrics: ClassVar[tuple[str, ...]] = (
        "accuracy", "f1", "f1_macro", "f1_micro", "precision", "recall", "matthews_correlation", "roc_auc",
        "average_precision", "expected_calibration_error", "expected_calibration_error_uncalibrated",
    )  # fmt: skip
    uses_validation_split: ClassVar[bool] = True

    @property
    def requires_validation_split(self) -> bool:
        """Boolean: whether a threshold has to be chosen on the validation split."""
        return self.settings.threshold == "best_f1" or self.settings.max_false_positive_rate is not None

    # --- data -------------------------------------------------------------------------------------------------

    def columns(
        self, splits: DatasetDict, inputs: Mapping[str, Sequence[str]], config: PretrainedConfig | None
    ) -> tuple[DatasetDict, dict[str, str]]:
        """Return the splits and the label column of each; columns of 0 and 1 for each label are joined first."""
        settings, train = self.settings, next(iter(splits))
        others = [name for name in splits[train].column_names if name not in inputs[train]]
        labels = [] if settings.label_column_name else self._named_label_columns(config, others)
        if labels:
            column = f"({', '.join(labels)})"  # as messages name it
            splits = DatasetDict(
                {name: join_label_columns(split, name, labels, column) for name, split in splits.items()}
            )
            return splits, dict.fromkeys(splits, column)
        column = find_column(
            others, settings.label_column_name, LABEL_COLUMNS, "label_column_name",
            hint=lambda: label_columns_hint(splits[train], others),
        )  # fmt: skip
        return splits, dict.fromkeys(splits, column)

    def _named_label_columns(self, config: PretrainedConfig | None, columns: Sequence[str]) -> list[str]:
        """Return the columns, one for each label, that --class_names or a model's labels name; or an empty list."""
        names: Sequence[str] | None = self.settings.class_names
        source = "--class_names"
        if names is None and getattr(config, "problem_type", None) == "multi_label_classification":
            model_labels = _model_labels(config) or []
            names, source = model_labels if set(model_labels) <= set(columns) else None, "the model's labels"
        return label_columns(names, columns, LABEL_COLUMNS, source)

    def readers(
        self, splits: DatasetDict, columns: Mapping[str, str], config: PretrainedConfig | None, model: ModelArguments
    ) -> Mapping[str, LabelReader]:
        """Return the `LabelReader` of each split's label column, by split."""
        settings, column = self.settings, next(iter(columns.values()))
        return label_readers(splits, column, settings.label_separator, settings.class_names, _model_labels(config))

    def prepare_targets(
        self,
        read: Mapping[str, Dataset],
        readers: Mapping[str, LabelReader],
        config: PretrainedConfig | None,
        data: DataArguments,
        leave_out: LeaveOut,
    ) -> tuple[DatasetDict, dict[str, dict[str, int]]]:
        """Return the splits with label ids in place of names, and empty counts, as no example is left out.

        Raises:
            InputError: nothing can be learned from the labels, or a threshold is set and there are not two labels.
        """
        counts = {name: label_counts(split) for name, split in read.items()}
        names = _model_labels(config)
        if config is not None and names is not None:
            multi_label = config.problem_type == "multi_label_classification"
            return encode_labels(read, counts, names, multi_label=multi_label), {}
        settings, multi_label = self.settings, is_multi_label(read["train"])
        names = learnable_labels(read["train"], counts["train"], readers["train"].names, settings.positive_label)
        hint = "" if multi_label else separator_hint(names)
        if hint:
            logger.warning("%s", hint.strip())
        has_threshold = settings.threshold is not None or settings.max_false_positive_rate is not None
        if has_threshold and (multi_label or len(names) != 2):
            raise InputError(
                "--threshold and --max_false_positive_rate need exactly two labels, and one label for each example; "
                f"found {len(names)} labels: {names[:9]}."
            )
        return encode_labels(read, counts, names, multi_label=multi_label), {}

    def strata(self, split: Dataset) -> list[str] | list[int]:
        """Return the label, or the set of labels, of each example, [n]: drawn splits are stratified by it."""
        labels = split["label"][:]
        return [str(sorted(label)) for label in labels] if is_multi_label(split) else labels

    def check(
        self, splits: DatasetDict, identities: Mapping[str, list[str]], describe: Callable[[Dataset, int], str]
    ) -> list[str]:
        """Return sentences on labels without test examples and on contradictions.

        An error is raised if a threshold cannot be chosen.
        """
        names = label_names(splits["train"])
        if self.settings.class_weights == "balanced":
            weights = zip(names, _balanced_weights(splits["train"]).tolist(), strict=True)
            logger.info("Loss weights: %s.", ", ".join(f"{name} {weight:.2f}" for name, weight in weights))
        if self.requires_validation_split:
            validation = splits.get("validation")
            labels = [] if validation is None else validation["label"][:]
            require_enough_to_fit(labels)
            limit = self.settings.max_false_positive_rate
            if validation is not None and limit is not None:
                unit_numbers = unit_numbers_of_split(validation, identities["validation"])
                require_enough_negatives(labels, limit, names[0], unit_numbers)
        caveats = untested_labels(splits["test"], names)
        examples = {name: (identities[name], split) for name, split in splits.items()}
        return caveats + contradictions(examples, names, describe)

    def facts(self, splits: DatasetDict) -> dict[str, Any]:
        """Return the labels, their counts, and the accuracy of always predicting the most frequent one, by name."""
        names, multi_label = label_names(splits["train"]), is_multi_label(splits["train"])
        return {
            "labels": names,
            "multi_label": multi_label,
            "label_counts": {name: label_counts(split, names) for name, split in splits.items()},
            "majority_class_rate": None if multi_label else _majority_rate(splits["test"]),
            "answer": _answer(names, multi_label=multi_label),
        }

    # --- model ------------------------------------------------------------------------------------------------

    def complete_processor(self, processor: Any, model: ModelArguments, splits: DatasetDict | None) -> Any:
        """Return the processor unchanged, as labels need no tokenizer."""
        return processor

    def config_settings(
        self, model: ModelArguments, splits: DatasetDict, processor: Any, *, pretrained: bool
    ) -> dict[str, Any]:
        """Return the labels, and whether an example may have several, as settings of the model's config."""
        id2label = dict(enumerate(label_names(splits["train"])))
        multi_label = is_multi_label(splits["train"])
        return {
            "id2label": id2label,
            "label2id": {name: i for i, name in id2label.items()},
            "problem_type": "multi_label_classification" if multi_label else "single_label_classification",
        }

    def adapt_head(
        self,
        loaded: PreTrainedModel,
        old: PretrainedConfig,
        new: list[str],
        model: ModelArguments,
        splits: DatasetDict,
        processor: Any,
        *,
        pretrained: bool,
    ) -> list[str]:
        """Keep the head for the same labels, or initialise it; return the names of the new parameters.

        The decision or scale of an earlier run is removed.
        """
        remove_decision(loaded.config)
        remove_label_scale(loaded.config)
        id2label = dict(enumerate(label_names(splits["train"])))
        return match_head_to_labels(loaded, old, id2label, new) if pretrained else []

    def prepare_base(self, model: PreTrainedModel, name: str, revision: str) -> None:
        """Do nothing, as the base model of an adapter needs no preparation for labels."""

    def encoding(self, split: Dataset, processor: Any, config: PretrainedConfig) -> LabelEncoding:
        """Return the encoding of labels as ids, or as vectors of 0 and 1 if an example may have several."""
        return LabelEncoding(MultiHot(len(label_names(split))) if is_multi_label(split) else None)

    @staticmethod
    def pad(labels: list[Any]) -> torch.Tensor:
        """Return the labels of a batch: label ids [batch], or vectors of 0 and 1 [batch, num_labels]."""
        return pad_labels(labels)

    def loss_function(self, train: Dataset, model: PreTrainedModel, label_smoothing: float) -> ClassificationLoss:
        weights = _balanced_weights(train) if self.settings.class_weights == "balanced" else None
        return ClassificationLoss(is_multi_label(train), label_smoothing, weights)

    def readout(self, processor: Any, model: PreTrainedModel) -> Readout:
        """Return the function that takes the logits [num_labels] of each example from a batch's outputs."""
        return lambda outputs, batch: list(outputs["logits"].float().cpu().numpy())

    def finalised(self, model: PreTrainedModel) -> AbstractContextManager[None]:
        return nullcontext()

    # --- quality ----------------------------------------------------------------------------------------------

    def decide(
        self,
        outputs: np.ndarray | None,
        split: Dataset | None,
        config: PretrainedConfig,
        identities: Sequence[str] | None,
    ) -> dict[str, Any]:
        """Fit temperature and threshold on the validation split, store them in the config, and return them."""
        return fit_decision(
            None if outputs is None else _logits(outputs),
            None if split is None else reference_labels(split),
            config,
            multi_label=getattr(config, "problem_type", None) == "multi_label_classification",
            threshold=self.settings.threshold,
            max_false_positive_rate=self.settings.max_false_positive_rate,
            unit_numbers=None if split is None or identities is None else unit_numbers_of_split(split, identities),
        )

    def compute_metrics(
        self, outputs: np.ndarray, split: Dataset, config: PretrainedConfig | None
    ) -> dict[str, float]:
        return compute_metrics(_logits(outputs), reference_labels(split), _decision(split, config))

    def intervals(
        self, before: np.ndarray, after: np.ndarray, split: Dataset, config: PretrainedConfig, seed: int
    ) -> dict[str, Any]:
        return classification_intervals(
            _logits(before),
            _logits(after),
            reference_labels(split),
            _decision(split, config),
            seed,
            unit_names(split),
        )

    def error_analysis(
        self, outputs: np.ndarray, split: Dataset, config: PretrainedConfig
    ) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        logits, references, decision = _logits(outputs), reference_labels(split), _decision(split, config)
        worst = worst_examples(logits, references, decision, label_names(split))
        return error_analysis(logits, references, decision, unit_names(split)), worst

    def remarks(self, report: Mapping[str, Any]) -> list[str]:
        return result_remarks(report)

    def records(self, outputs: np.ndarray, split: Dataset, config: PretrainedConfig) -> list[dict[str, Any]]:
        """Return for each example ``label``, ``prediction``, its ``score``, and the ``scores`` of all labels."""
        decision, names = _decision(split, config), label_names(split)
        records = prediction_records(decision.probabilities(_logits(outputs)), decision, names)
        return [
            {"label": [names[k] for k in label] if decision.multi_label else names[label]}
            | {"prediction": record.pop("label"), **record}
            for label, record in zip(split["label"][:], records, strict=True)
        ]

    def resampled_metrics(self, records: list[dict[str, Any]], facts: dict[str, Any]) -> ResampledMetrics[str]:
        return resampled_metrics_of_records(records, facts["labels"], multi_label=facts["multi_label"])


def _model_labels(config: PretrainedConfig | None) -> list[str] | None:
    """Return the labels of a fine-tuned model, in the order of their ids, or None without a config."""
    return None if config is None else [config.id2label[i] for i in range(config.num_labels)]


def _logits(outputs: np.ndarray) -> np.ndarray:
    """Return the outputs of examples as one array of logits, [n, num_labels]."""
    return np.stack(list(outputs))


def _decision(split: Dataset, config: PretrainedConfig | None) -> Decision:
    """Return the decision that is stored in `config`, or the default one for the split's labels without a config."""
    return Decision.read(config) if config is not None else Decision(multi_label=is_multi_label(split))


def _answer(names: Sequence[str], *, multi_label: bool) -> tuple[str, str]:
    """Return the name of the metric that sums up the result, and what it is called in a sentence."""
    if len(names) == 2 and not multi_label:
        name = names[1][:40]
        return "f1", f"{name.capitalize() if name.isalpha() and name.islower() else name} F1"
    return ("f1", "Mean F1 of the labels") if multi_label else ("accuracy", "Accuracy")


def _majority_rate(test: Dataset) -> float:
    """Return the accuracy of always predicting the most frequent test label, which a classifier has to exceed."""
    return Counter(test["label"][:]).most_common(1)[0][1] / len(test)


def _balanced_weights(train: Dataset) -> torch.Tensor:
    return balanced_weights(train["label"][:], len(label_names(train)), multi_label=is_multi_label(train))
