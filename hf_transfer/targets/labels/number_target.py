"""Number target: ratings, prices, lengths; trained on the squared error of standardised labels."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from datasets import ClassLabel, Dataset, DatasetDict, LargeList, List
from numpy.typing import ArrayLike
from transformers import PretrainedConfig, PreTrainedModel

from hf_transfer.arguments import DataArguments, ModelArguments
from hf_transfer.data.batches import pad_labels
from hf_transfer.data.column_readers import LeaveOut
from hf_transfer.data.splits import find_column
from hf_transfer.data.units import resampling_units, unit_names, unit_of_record
from hf_transfer.errors import InputError, logger
from hf_transfer.evaluation.bootstrap import ResampledMetrics
from hf_transfer.evaluation.metric_format import format_metric
from hf_transfer.targets.labels import regression
from hf_transfer.targets.labels.decision import remove_decision
from hf_transfer.targets.labels.encoding import LabelEncoding
from hf_transfer.targets.labels.label_scale import LabelScale, in_label_unit, number_layer, standardise_head
from hf_transfer.targets.labels.losses import SquaredErrorLoss
from hf_transfer.targets.labels.number_reader import NumberReader
from hf_transfer.targets.labels.settings import LabelSettings
from hf_transfer.training.loss import Readout

PROBLEM_TYPE = "regression"
# Splits are stratified by quantiles of the labels: so many ranges. The report's histogram has so many bins.
STRATA, BINS = 10, 24
# Labels whose standard deviation is fewer steps of float32 than these are hard to tell apart for a model.
MIN_FLOAT32_STEPS = 1000
# Usual names of a column of numbers.
NUMBER_COLUMNS = ("label", "labels", "score", "rating", "stars", "target", "value", "price")


@dataclass(frozen=True)
class NumberTarget:
    """Dataclass of the target of one number for each example (a `Target`): the column ``label`` holds float64.

    Attributes:
        settings: the label column.
    """

    settings: LabelSettings
    column: ClassVar[str] = "label"
    distinguishes_examples: ClassVar[bool] = True
    quoting_entries: ClassVar[tuple[str, ...]] = ()
    template: ClassVar[str] = "number"
    headline: ClassVar[tuple[str, ...]] = ("mean_absolute_error", "mean_squared_error", "spearman")
    metrics: ClassVar[tuple[str, ...]] = headline
    uses_validation_split: ClassVar[bool] = False
    requires_validation_split: ClassVar[bool] = False

    # --- data -------------------------------------------------------------------------------------------------

    def columns(
        self, splits: DatasetDict, inputs: Mapping[str, Sequence[str]], config: PretrainedConfig | None
    ) -> tuple[DatasetDict, dict[str, str]]:
        """Return the splits unchanged, and the name of the column of numbers in each."""
        train = next(iter(splits))
        others = [name for name in splits[train].column_names if name not in inputs[train]]
        column = find_column(others, self.settings.label_column_name, NUMBER_COLUMNS, "label_column_name")
        return splits, dict.fromkeys(splits, column)

    def readers(
        self, splits: DatasetDict, columns: Mapping[str, str], config: PretrainedConfig | None, model: ModelArguments
    ) -> Mapping[str, NumberReader]:
        """Return the `NumberReader` of each split's column of numbers, by split."""
        return {name: _number_reader(split, name, columns[name]) for name, split in splits.items()}

    def prepare_targets(
        self,
        read: Mapping[str, Dataset],
        readers: Mapping[str, NumberReader],
        config: PretrainedConfig | None,
        data: DataArguments,
        leave_out: LeaveOut,
    ) -> tuple[DatasetDict, dict[str, dict[str, int]]]:
        """Return the splits unchanged, and empty counts; log the range of the training labels."""
        if config is None:
            labels = read["train"]["label"][:]
            logger.info("Labels are numbers: %g to %g in training (--problem_type).", min(labels), max(labels))
        return DatasetDict(read), {}

    def strata(self, split: Dataset) -> list[int]:
        """Return for each example which tenth of the labels it is in, [n]; equal labels are in the same tenth."""
        labels = np.asarray(split["label"][:])
        edges = np.quantile(labels, np.arange(1, STRATA) / STRATA)
        return np.searchsorted(edges, labels).tolist()

    def check(
        self, splits: DatasetDict, identities: Mapping[str, list[str]], describe: Callable[[Dataset, int], str]
    ) -> list[str]:
        """Return sentences on what the labels make doubtful, which are logged.

        That is: labels too close together for float32, a constant test split, and equal inputs with different labels.
        """
        scale = LabelScale.of(splits["train"]["label"][:])
        caveats = []
        float32_step = float(np.spacing(np.float32(np.abs(splits["train"]["label"][:]).max())))
        if float32_step * MIN_FLOAT32_STEPS > scale.deviation:
            caveats.append(
                f"The labels are about {scale.mean:g} and differ by {scale.deviation:.2g}, which models, computing in "
                f"float32, can hardly tell apart at that size: subtract {scale.mean:g} from them."
            )
            logger.warning("%s", caveats[0])
        if np.ptp(splits["test"]["label"][:]) == 0:
            caveats.append("All test labels are the same number: whether their order is right is not measured.")
            logger.info("%s", caveats[-1])
        return caveats + _contradictions(splits, identities)

    def facts(self, splits: DatasetDict) -> dict[str, Any]:
        """Return the labels' distribution, and the metrics of always predicting the training mean, by name."""
        labels = {name: np.asarray(split["label"][:]) for name, split in splits.items()}
        mean = float(labels["train"].mean())
        edges = np.histogram_bin_edges(np.concatenate(list(labels.values())), bins=BINS)
        always_mean = regression.compute_metrics(np.full(len(labels["test"]), mean), labels["test"])
        return {
            "numbers": {
                "edges": edges.tolist(),
                "splits": {
                    name: {
                        "lowest": float(numbers.min()),
                        "mean": float(numbers.mean()),
                        "median": float(np.median(numbers)),
                        "highest": float(numbers.max()),
                        "standard_deviation": float(numbers.std()),
                        "counts": np.histogram(numbers, edges)[0].tolist(),
                    }
                    for name, numbers in labels.items()
                },
            },
            "always_mean": {"value": mean, **{name: always_mean[name] for name in self.headline[:2]}},
            "answer": ("mean_absolute_error", "Mean absolute error"),
        }

    # --- model ------------------------------------------------------------------------------------------------

    def complete_processor(self, processor: Any, model: ModelArguments, splits: DatasetDict | None) -> Any:
        """Return the processor unchanged, as numbers need no tokenizer."""
        return processor

    def config_settings(
        self, model: ModelArguments, splits: DatasetDict, processor: Any, *, pretrained: bool
    ) -> dict[str, Any]:
        """Return the settings of the config of a model with one output, which is a number."""
        return {"id2label": {0: "LABEL_0"}, "label2id": {"LABEL_0": 0}, "problem_type": PROBLEM_TYPE}

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
        """Prepare the head for standardised labels, and return an empty list: no parameter is initialised here.

        See `label_scale`. The decision of an earlier run is removed.
        """
        remove_decision(loaded.config)
        number_layer(loaded)  # a model without one is refused now: its last layer has to be rewritten at the end
        scale = LabelScale.of(splits["train"]["label"][:])
        trunk = f"{loaded.base_model_prefix}."
        if not pretrained or any(not name.startswith(trunk) for name in new):
            if pretrained and type(loaded).__name__ in (old.architectures or ()):
                logger.info("The checkpoint's head has %d labels, and a number is learned: a new head is made.",
                            old.num_labels)  # fmt: skip
            scale.write(loaded.config)
            return []
        logger.info("The checkpoint's regression head is kept.")
        standardise_head(loaded, scale)
        return []

    def prepare_base(self, model: PreTrainedModel, name: str, revision: str) -> None:
        """Do nothing, as the base model of an adapter needs no preparation for numbers."""

    def encoding(self, split: Dataset, processor: Any, config: PretrainedConfig) -> LabelEncoding:
        """Return the encoding of labels as standardised numbers (mean 0, standard deviation 1)."""
        return LabelEncoding(LabelScale.read(config).standardise)

    @staticmethod
    def pad(labels: list[Any]) -> torch.Tensor:
        """Return the labels of a batch, which are numbers, as a tensor [batch]."""
        return pad_labels(labels)

    def loss_function(self, train: Dataset, model: PreTrainedModel, label_smoothing: float) -> SquaredErrorLoss:
        if label_smoothing:
            raise InputError(
                "--label_smoothing_factor is for classes, and --problem_type regression learns numbers. Leave it out."
            )
        return SquaredErrorLoss()

    def readout(self, processor: Any, model: PreTrainedModel) -> Readout:
        """Return a function from a model's outputs for a batch to a list of numbers, in the unit of the labels."""
        return lambda outputs, batch: predicted_numbers(outputs["logits"], model.config).tolist()

    def finalised(self, model: PreTrainedModel) -> AbstractContextManager[None]:
        return in_label_unit(model)

    # --- quality ----------------------------------------------------------------------------------------------

    def decide(
        self,
        outputs: np.ndarray | None,
        split: Dataset | None,
        config: PretrainedConfig,
        identities: Sequence[str] | None,
    ) -> dict[str, Any]:
        """Return ``added``: the number that is added to the outputs of a model whose last layer has no bias."""
        return {"added": LabelScale.read(config).mean}

    def compute_metrics(
        self, outputs: np.ndarray, split: Dataset, config: PretrainedConfig | None
    ) -> dict[str, float]:
        return regression.compute_metrics(_as_floats(outputs), _as_floats(split["label"][:]))

    def intervals(
        self, before: np.ndarray, after: np.ndarray, split: Dataset, config: PretrainedConfig, seed: int
    ) -> dict[str, Any]:
        references = _as_floats(split["label"][:])
        return regression.regression_intervals(
            _as_floats(before), _as_floats(after), references, seed, unit_names(split)
        )

    def error_analysis(
        self, outputs: np.ndarray, split: Dataset, config: PretrainedConfig
    ) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        numbers, references = _as_floats(outputs), _as_floats(split["label"][:])
        return regression.error_analysis(numbers, references), regression.worst_examples(numbers, references)

    def remarks(self, report: Mapping[str, Any]) -> list[str]:
        """Return a list of a sentence that compares the result with always predicting the training labels' mean."""
        name, always_mean = "mean_squared_error", report["data"]["always_mean"]
        remark = (
            "Always predicting the mean of the training labels, "
            f"{format_metric(always_mean['value'], 'mean_absolute_error')}: "
            f"{name} {format_metric(always_mean[name], name)}."
        )
        error = report["metrics"][name]
        verdict = f" That is {'better' if error > always_mean[name] else 'as good'}: do not ship this."
        return [remark + ("" if error < always_mean[name] else verdict)]

    def records(self, outputs: np.ndarray, split: Dataset, config: PretrainedConfig) -> list[dict[str, Any]]:
        """Return for each example its ``label`` and the ``prediction``, both numbers."""
        labels = split["label"][:]
        return [{"label": label, "prediction": float(number)} for label, number in zip(labels, outputs, strict=True)]

    def resampled_metrics(self, records: list[dict[str, Any]], facts: dict[str, Any]) -> ResampledMetrics[str]:
        references, numbers = (_as_floats([record[key] for record in records]) for key in ("label", "prediction"))
        unit_numbers = resampling_units([unit_of_record(record) for record in records], len(records))
        return ResampledMetrics(unit_numbers, regression.weighted_metrics(references, numbers))


def _number_reader(split: Dataset, name: str, column: str) -> NumberReader:
    feature = split.features[column]
    if isinstance(feature, (List, LargeList, dict)):
        raise InputError(
            f"Column {column!r} of the {name} split holds lists or objects; --problem_type regression takes a "
            "number a row."
        )
    return NumberReader(tuple(feature.names) if isinstance(feature, ClassLabel) else None)


def predicted_numbers(logits: torch.Tensor, config: PretrainedConfig) -> np.ndarray:
    """Return the numbers [n] that a model predicts, in the unit of the labels, from its logits [n, 1].

    Args:
        logits: of a model with one output, [n, 1].
        config: of that model, with its `LabelScale`.
    """
    return LabelScale.read(config).in_label_unit(logits.float().squeeze(-1).cpu().numpy())


def _as_floats(values: ArrayLike) -> np.ndarray:
    return np.asarray(values, dtype=np.float64)


def _contradictions(splits: DatasetDict, identities: Mapping[str, list[str]]) -> list[str]:
    """Return and log a sentence if equal examples have different numbers; else return an empty list."""
    lowest: dict[str, float] = {}
    highest: dict[str, float] = {}
    for name, split in splits.items():
        for identity, label in zip(identities[name], split["label"][:], strict=True):
            lowest[identity] = min(label, lowest.get(identity, label))
            highest[identity] = max(label, highest.get(identity, label))
    differences = [highest[identity] - lowest[identity] for identity in lowest]
    differences = [difference for difference in differences if difference > 0]
    if not differences:
        return []
    have = "example has" if len(differences) == 1 else "examples have"
    caveat = (
        f"{len(differences):,} {have} different labels in different rows, up to {max(differences):g} apart: no model "
        "can predict each of them; it learns their mean."
    )
    logger.info("%s", caveat)
    return [caveat]
