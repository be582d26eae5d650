"""Protocols of inputs: what differs between texts, audio and images, whatever target is learned from them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Protocol, TypeAlias

import numpy as np
from datasets import Dataset, DatasetDict
from transformers import (
    FeatureExtractionMixin,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProcessorMixin,
)

from hf_transfer.arguments import DataArguments, ModelArguments
from hf_transfer.data.column_readers import TargetEncoding, TargetReader

Processor: TypeAlias = PreTrainedTokenizerBase | FeatureExtractionMixin | ProcessorMixin


class ModelInputs(Protocol):
    """Protocol of the examples of a split as inputs of a model: a dataset for `torch.utils.data.DataLoader`.

    Attributes:
        lengths: length of each example, by which batches are made, [n]: tokens, or samples of audio.
        positions: number of positions that the model computes for each example, [n]: tokens, or frames.
        labels: what the loss compares the outputs for each example with, as the target encodes it, [n].
        length_unit: unit of lengths in the report: ``tokens`` or ``seconds``.
        length_per_unit: number of steps in `lengths` that make one `length_unit`: the sampling rate for seconds.
        throughput_name: key of the report for the units that training processed per second; None if the number of
            positions per second says it.
        padding_changes_outputs: whether padding changes what the model computes, so that examples are evaluated one
            by one.
        is_augmented: whether examples differ from epoch to epoch (augmentation).
        cache_keys: for each example a key that identifies its input in caches, [n].
    """

    lengths: np.ndarray
    positions: np.ndarray
    labels: Sequence[Any]
    length_unit: str
    length_per_unit: float
    throughput_name: str | None
    padding_changes_outputs: bool
    is_augmented: bool
    cache_keys: Iterable[str]

    def __len__(self) -> int: ...

    def __getitems__(self, indices: list[int]) -> list[dict[str, Any]]:
        """Return the examples at these indices for `data.batches.Collator`, with ``labels`` and ``length``."""

    def set_epoch(self, epoch: int) -> None:
        """Set the number of the epoch, for which augmentation is drawn."""

    def without_augmentation(self) -> "ModelInputs":
        """Return the dataset with examples that are not augmented."""


class Input(Protocol):
    """Protocol of inputs of models: they read the user's columns, load the processor and make `ModelInputs`.

    Standard columns are ours (``text``, ``audio``), whatever the user's columns are called.

    Attributes:
        name: of the input, and of the argument with which its pipeline takes it: ``text``, ``audio``.
        noun: for one input in a sentence: ``text``, ``clip``.
        pipeline_example: argument of the pipeline in a model card's example, as Python source.
    """

    name: ClassVar[str]
    noun: ClassVar[str]
    pipeline_example: ClassVar[str]

    # --- data -------------------------------------------------------------------------------------------------

    def input_columns(self, columns: Sequence[str]) -> dict[str, str]:
        """Return the user's columns that predictions are made from, by the name of the standard column.

        Args:
            columns: of the user's table.

        Raises:
            InputError: a column is missing; the message lists those of the table.
        """

    def metadata_columns(self, columns: Sequence[str]) -> dict[str, str]:
        """Return the user's columns with further facts about examples, as the speaker, by standard column."""

    def prediction_input(self, standard_column: str, value: Any, file: str) -> Any:
        """Return the content of a table's cell in the form that the pipeline takes.

        Args:
            standard_column: that the cell is read for.
            value: of the cell.
            file: path of the table.
        """

    def read(
        self,
        splits: Mapping[str, Dataset],
        columns: Mapping[str, Mapping[str, str]],
        target: str,
        readers: Mapping[str, TargetReader],
        data: DataArguments,
        model: ModelArguments,
    ) -> tuple[dict[str, Dataset], dict[str, dict[str, int]]]:
        """Read the user's rows, and return them as examples in standard columns, with counts of rows left out.

        Args:
            splits: the user's rows.
            columns: for each split the user's column of each standard column; they are there.
            target: standard column of the target.
            readers: of the target's column, by split.
            data: the files, and whether rows that cannot be used are refused.
            model: the model that audio is decoded for.

        Returns:
            The examples of each split, and how many of its rows were left out, by reason.

        Raises:
            InputError: rows cannot be used, and are not to be left out.
        """

    def identities(self, split: Dataset) -> list[str]:
        """Return a key for each example, [n]; those with the same key count as equal when splits are drawn."""

    def content_hashes(self, split: Dataset) -> list[str]:
        """Return a hash of each example's input, [n]; any change of the input changes it."""

    def unit_column(self, columns: Sequence[str]) -> str | None:
        """Return the user's column of speakers, patients or cameras, which drawn splits keep whole, or None."""

    def caveats(self, splits: DatasetDict) -> list[str]:
        """Return and log sentences on why results may look better or more certain than they are, for the report."""

    def facts(self, splits: DatasetDict) -> dict[str, Any]:
        """Return by name what the report says about the inputs of all splits, ready for JSON."""

    def leave_out(self, name: str, split: Dataset, fits: list[bool], reason: str, remedy: str) -> Dataset:
        """Return the examples of a split that fit, and log the others.

        Args:
            name: of the split.
            split: examples in standard columns.
            fits: whether each example fits, [n].
            reason: in a word or two, why others do not.
            remedy: what the user can do about them.
        """

    # --- model ------------------------------------------------------------------------------------------------

    def require_settings(self, model: ModelArguments) -> None:
        """Raise an error if a setting is not possible with the model; this comes before the data are read.

        Raises:
            InputError: a setting is not.
        """

    def load_processor(self, model: ModelArguments) -> Processor:
        """Return the tokenizer, feature extractor or image processor that comes with the model."""

    def config_settings(self, old: PretrainedConfig, processor: Processor, *, pretrained: bool) -> dict[str, Any]:
        """Return by name the settings of the model's config that the inputs need.

        Args:
            old: the checkpoint's config.
            processor: from `load_processor`.
            pretrained: whether the checkpoint's weights are loaded.
        """

    def prepare_model(
        self, model: PreTrainedModel, splits: DatasetDict, processor: Processor, *, pretrained: bool
    ) -> None:
        """Prepare the loaded model for the inputs, and write into its config what prediction has to know.

        Args:
            model: changed in place.
            splits: examples in standard columns.
            processor: from `load_processor`.
            pretrained: whether the checkpoint's weights are loaded.
        """

    def model_inputs(
        self,
        splits: DatasetDict,
        processor: Processor,
        model: PreTrainedModel,
        encoding: TargetEncoding,
        seed: int,
    ) -> tuple[DatasetDict, dict[str, Any]]:
        """Return the splits without examples that the model cannot take, and the `ModelInputs` of each split.

        Args:
            splits: examples in standard columns.
            processor: from `load_processor`.
            model: that takes the inputs.
            encoding: of the targets.
            seed: of augmentation.
        """

    def pad(self, processor: Processor) -> Callable[[list[dict[str, Any]]], Mapping[str, Any]]:
        """Return a function that collates the model's inputs of examples into those of a padded batch."""

    def train_mode_effects(self, config: PretrainedConfig) -> list[str]:
        """Return texts on what a model with this config does to its inputs in train mode only, with the flags."""

    # --- report -----------------------------------------------------------------------------------------------

    def display_rows(self, split: Dataset) -> list[dict[str, Any]]:
        """Return for each example of a split the values that the report's page displays, by name."""

    def media_data_uris(self, inputs: Any, rows: Sequence[int]) -> list[str]:
        """Return examples as data URIs that a page can play or display; empty for inputs that are read.

        Args:
            inputs: the `ModelInputs` of a split.
            rows: indices of the examples.
        """

    def prediction_fields(self, split: Dataset) -> list[dict[str, Any]]:
        """Return for each example of a split the fields of its input in ``predictions.jsonl``, by name."""

    def record_key(self, record: Mapping[str, Any]) -> tuple[Any, ...]:
        """Return a key for the input of a record of ``predictions.jsonl``, the same whatever model predicted it."""

    def predict_arguments(self, records: list[dict[str, Any]], run_arguments: Mapping[str, Any]) -> list[str]:
        """Return a list of arguments of ``hf-transfer predict`` that try the model on a test example.

        Args:
            records: the first records of ``predictions.jsonl``.
            run_arguments: the arguments of the run, as ``arguments.yaml`` holds them.
        """
