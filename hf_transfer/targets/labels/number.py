"""A number as target: ratings, prices, lengths; trained on the squared error of standardised labels."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from datasets import ClassLabel, Dataset, DatasetDict, LargeList, List

from hf_transfer.arguments import DataArguments, ModelArguments
from hf_transfer.data.batches import pad_labels
from hf_transfer.data.column_readers import LeaveOut
from hf_transfer.data.splits import find_column
from hf_transfer.data.units import resampling_units, unit_names, unit_of_record
from hf_transfer.errors import InputError, logger
from hf_transfer.evaluation.bootstrap import ResampledMetrics
from hf_transfer.evaluation.metric_format import format_metric
from hf_transfer.targets.labels import regression
from hf_transfer.targets.labels.decision import forget_decision
from hf_transfer.targets.labels.encoding import LabelEncoding
from hf_transfer.targets.labels.label_scale import LabelScale, in_label_unit, number_layer, standardise_head
from hf_transfer.targets.labels.losses import SquaredErrorLoss
from hf_transfer.targets.labels.number_form import NumberForm
from hf_transfer.targets.labels.settings import LabelSettings
from hf_transfer.training.loss import Readout

PROBLEM_TYPE = "regression"
# How many kinds of labels, by their size, a split is stratified by.
STRATA, BINS = 10, 24
# A standard deviation of fewer steps of float32 than these cannot be learned as it should be.
FEWEST_STEPS = 1000

NUMBER_COLUMNS = ("label", "labels", "score", "rating", "stars", "target", "value", "price")


@dataclass(frozen=True)
class NumberTarget:
    """A number an example: the column ``label`` holds float64.

    Attributes:
        settings: which column it is.
    """

    settings: LabelSettings
    column: ClassVar[str] = "label"
    distinguishes_examples: ClassVar[bool] = True
    template: ClassVar[str] = "number"
    headline: ClassVar[tuple[str, ...]] = ("mean_absolute_error", "mean_squared_error", "spearman")
    metrics: ClassVar[tuple[str, ...]] = headline
    uses_validation_split: ClassVar[bool] = False
    requires_validation_split: ClassVar[bool] = False

    # --- data -------------------------------------------------------------------------------------------------

    def columns(
        self, splits: DatasetDict, inputs: Mapping[str, Sequence[str]], config: Any
    ) -> tuple[DatasetDict, dict[str, str]]:
        """As of `Target`."""
        train = next(iter(splits))
        others = [name for name in splits[train].column_names if name not in inputs[train]]
        column = find_column(others, self.settings.label_column_name, NUMBER_COLUMNS, "label_column_name")
        return splits, dict.fromkeys(splits, column)

    def readers(
        self, splits: DatasetDict, columns: Mapping[str, str], config: Any, model: ModelArguments
    ) -> Mapping[str, NumberForm]:
        """How numbers are written."""
        return {name: _form(split, name, columns[name]) for name, split in splits.items()}

    def prepare_targets(
        self,
        read: Mapping[str, Dataset],
        readers: Mapping[str, Any],
        config: Any,
        data: DataArguments,
        leave_out: LeaveOut,
    ) -> tuple[DatasetDict, dict[str, dict[str, int]]]:
        """As they are; says their range."""
        if config is None:
            labels = read["train"]["label"][:]
            logger.info("Labels are numbers: %g to %g in training (--problem_type).", min(labels), max(labels))
        return DatasetDict(read), {}

    def strata(self, split: Dataset) -> list[Any]:
        """Which tenth of the labels each is among: equal labels are among the same."""
        labels = np.asarray(split["label"][:])
        edges = np.quantile(labels, np.arange(1, STRATA) / STRATA)
        return np.searchsorted(edges, labels).tolist()

    def check(self, splits: DatasetDict, identities: Mapping[str, list[str]]) -> list[str]:
        scale = LabelScale.of(splits["train"]["label"][:])
        found = []
        step = float(np.spacing(np.float32(np.abs(splits["train"]["label"][:]).max())))
        if step * FEWEST_STEPS > scale.deviation:
            found.append(
                f"The labels are about {scale.mean:g} and differ by {scale.deviation:.2g}, which models, computing in "
                f"float32, hardly tell apart at that size: subtract {scale.mean:g} from them."
            )
            logger.warning("%s", found[0])
        if np.ptp(splits["test"]["label"][:]) == 0:
            found.append("All test labels are the same number: whether their order is right is not measured.")
            logger.info("%s", found[-1])
        return found + _several_numbers(splits, identities)

    def facts(self, splits: DatasetDict) -> dict[str, Any]:
        labels = {name: np.asarray(split["label"][:]) for name, split in splits.items()}
        mean = float(labels["train"].mean())
        edges = np.histogram_bin_edges(np.concatenate(list(labels.values())), bins=BINS)
        always_mean = regression.compute_metrics(np.full(len(labels["test"]), mean), labels["test"])
        return {
            "numbers": {
                "edges": edges.tolist(),
                "splits": {
                    name: {
                        "lowest": float(own.min()),
                        "mean": float(own.mean()),
                        "median": float(np.median(own)),
                        "highest": float(own.max()),
                        "standard_deviation": float(own.std()),
                        "counts": np.histogram(own, edges)[0].tolist(),
                    }
                    for name, own in labels.items()
                },
            },
            "always_mean": {"value": mean, **{name: always_mean[name] for name in self.headline[:2]}},
            "answer": ("mean_absolute_error", "Mean absolute error"),
        }

    # --- model ------------------------------------------------------------------------------------------------

    def complete_processor(self, processor: Any, model: ModelArguments, splits: DatasetDict | None) -> Any:
        """As it is."""
        return processor

    def config_settings(
        self, model: ModelArguments, splits: DatasetDict, processor: Any, *, pretrained: bool
    ) -> dict[str, Any]:
        """One output, which is a number."""
        return {"id2label": {0: "LABEL_0"}, "label2id": {"LABEL_0": 0}, "problem_type": PROBLEM_TYPE}

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
        """As of `Target`; the last layer is written for standardised labels: see `label_scale`."""
        forget_decision(loaded.config)
        number_layer(loaded)  # refused before training, as it is written once more in the end
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

    def prepare_base(self, model: Any, name: str, revision: str) -> None:
        """Nothing."""

    def encoding(self, split: Dataset, processor: Any, config: Any) -> LabelEncoding:
        """As of `Target`: standardised labels."""
        return LabelEncoding(partial(LabelScale.standardised, LabelScale.read(config)))

    @staticmethod
    def pad(labels: list[Any]) -> torch.Tensor:
        """Numbers [batch]."""
        return pad_labels(labels)

    def loss_function(self, train: Dataset, model: Any, label_smoothing: float) -> SquaredErrorLoss:
        if label_smoothing:
            raise InputError("--label_smoothing_factor is of classes, and a number has none. Leave it out.")
        return SquaredErrorLoss()

    def readout(self, processor: Any, model: Any) -> Readout:
        """The number of each example in the unit of the labels."""
        return lambda outputs, batch: numbers_of(outputs["logits"], model.config).tolist()

    def finalised(self, model: Any) -> AbstractContextManager[None]:
        return in_label_unit(model)

    # --- quality ----------------------------------------------------------------------------------------------

    def decide(
        self, outputs: Any, split: Dataset | None, config: Any, identities: Sequence[str] | None
    ) -> dict[str, Any]:
        """Nothing: ``added`` is what is added to the outputs, where the model's last layer has no bias to hold it."""
        return {"added": LabelScale.read(config).mean}

    def compute_metrics(self, outputs: Any, split: Dataset, config: Any) -> dict[str, float]:
        return regression.compute_metrics(_floats(outputs), _floats(split["label"][:]))

    def intervals(self, before: Any, after: Any, split: Dataset, config: Any, seed: int) -> dict[str, Any]:
        return regression.intervals(
            _floats(before), _floats(after), _floats(split["label"][:]), seed, unit_names(split)
        )

    def error_analysis(self, outputs: Any, split: Dataset, config: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        numbers, truth = _floats(outputs), _floats(split["label"][:])
        return regression.findings(numbers, truth), regression.farthest(numbers, truth)

    def remarks(self, report: Mapping[str, Any]) -> list[str]:
        """How good the mean of the training labels alone would be."""
        name, constant = "mean_squared_error", report["data"]["always_mean"]
        told = (
            "Always answering the mean of the training labels, "
            f"{format_metric(constant['value'], 'mean_absolute_error')}: {name} {format_metric(constant[name], name)}."
        )
        own = report["metrics"][name]
        worse = f" That is {'better' if own > constant[name] else 'as good'}: do not ship this."
        return [told + ("" if own < constant[name] else worse)]

    def records(self, outputs: Any, split: Dataset, config: Any) -> list[dict[str, Any]]:
        labels = split["label"][:]
        return [{"label": label, "prediction": float(one)} for label, one in zip(labels, outputs, strict=True)]

    def resampled_metrics(self, records: list[dict[str, Any]], facts: dict[str, Any]) -> ResampledMetrics[str]:
        truth, numbers = (_floats([record[key] for record in records]) for key in ("label", "prediction"))
        units = resampling_units([unit_of_record(record) for record in records], len(records))
        return ResampledMetrics(units, regression.weighted_metrics(truth, numbers))


def _form(split: Dataset, name: str, column: str) -> NumberForm:
    feature = split.features[column]
    if isinstance(feature, (List, LargeList, dict)):
        raise InputError(
            f"Column {column!r} of the {name} split holds lists or objects; --problem_type regression takes a "
            "number a row."
        )
    return NumberForm(tuple(feature.names) if isinstance(feature, ClassLabel) else None)


def numbers_of(logits: Any, config: Any) -> np.ndarray:
    """The numbers [n], in the unit of the labels, that a model of `config` means by its logits [n, 1]."""
    return LabelScale.read(config).in_unit(logits.float().squeeze(-1).cpu().numpy())


def _floats(values: Any) -> np.ndarray:
    return np.asarray(values, dtype=np.float64)


def _several_numbers(splits: DatasetDict, identities: Mapping[str, list[str]]) -> list[str]:
    """In a sentence, that examples have one number here and another there."""
    lowest: dict[str, float] = {}
    highest: dict[str, float] = {}
    for name, split in splits.items():
        for identity, label in zip(identities[name], split["label"][:], strict=True):
            lowest[identity] = min(label, lowest.get(identity, label))
            highest[identity] = max(label, highest.get(identity, label))
    apart = [highest[identity] - lowest[identity] for identity in lowest if highest[identity] > lowest[identity]]
    if not apart:
        return []
    have = "text has" if len(apart) == 1 else "texts have"
    told = (
        f"{len(apart):,} {have} different labels in different rows, up to {max(apart):g} apart: no model can be "
        "right about each of them; it learns their mean."
    )
    logger.info("%s", told)
    return [told]
