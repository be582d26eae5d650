"""What goes into a model: everything that differs between texts, audio and images, whatever is learned of them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Protocol

import numpy as np
from datasets import Dataset, DatasetDict
from transformers import PreTrainedModel

from hf_transfer.arguments import DataArguments, ModelArguments
from hf_transfer.data.column_readers import TargetEncoding, TargetReader


class ModelInputs(Protocol):
    """The examples of a split as a model takes them.

    Attributes:
        lengths: of each example [n], in what batches are made by: tokens, or samples.
        positions: how many positions the model computes of each [n]: tokens, or frames.
        labels: what the loss compares each with, as its target encodes it [n].
        unit: ``tokens`` or ``seconds``, in which lengths are reported.
        length_per_unit: of `lengths`, that make one `unit`.
        throughput_name: name in the report of how many units a second were trained on; None where positions say it.
        padding_changes_outputs: whether padding changes what the model computes, so that each runs by itself.
        is_augmented: whether training examples are another way in each epoch (augmentation).
        cache_keys: what tells the input of each from others, for caches [n].
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
        """Examples for `data.batches.Collator`, each with its ``labels`` and ``length``."""

    def set_epoch(self, epoch: int) -> None:
        """Vary the examples as in this epoch from now on."""

    def without_augmentation(self) -> "ModelInputs":
        """The examples as they are, whatever the epoch."""


class Input(Protocol):
    """From the user's columns to batches.

    Attributes:
        name: of the input, which its pipeline is given: ``text``, ``audio``.
        word: for one of them, in a sentence: ``text``, ``clip``.
        sample: what a model card gives the pipeline, as Python.
    """

    name: ClassVar[str]
    noun: ClassVar[str]
    pipeline_example: ClassVar[str]

    # --- data -------------------------------------------------------------------------------------------------

    def input_columns(self, columns: Sequence[str]) -> dict[str, str]:
        """Of the user's columns those that predictions are made from, by our names for them.

        Raises:
            InputError: there is none; the message names those that there are.
        """

    def metadata_columns(self, columns: Sequence[str]) -> dict[str, str]:
        """Of the user's columns what else is known of an example, as its speaker, by our names; perhaps none."""

    def prediction_input(self, own: str, value: Any, file: str) -> Any:
        """A cell of `file`, in the column that is ours by the name `own`, as the pipeline takes it."""

    def read(
        self,
        splits: Mapping[str, Dataset],
        columns: Mapping[str, Mapping[str, str]],
        target: str,
        readers: Mapping[str, TargetReader],
        data: DataArguments,
        model: ModelArguments,
    ) -> tuple[dict[str, Dataset], dict[str, dict[str, int]]]:
        """The examples of each split under our names, and how many rows of it were left out, by the reason.

        Args:
            splits: the user's rows.
            columns: of each split the user's column for each of ours; they are there.
            target: our name for the column of what is learned.
            readers: of that column, by split.
            data: where they lie, and whether rows that cannot be used are refused.
            model: to which decoded inputs are fitted.

        Raises:
            InputError: rows cannot be used, and are not to be left out.
        """

    def identities(self, split: Dataset) -> list[str]:
        """What makes two examples equal when splits are drawn and compared, an entry an example."""

    def content_hashes(self, split: Dataset) -> list[str]:
        """What changes with an example, however little of it changes, an entry an example."""

    def unit_column(self, columns: Sequence[str]) -> str | None:
        """Of the user's columns the one of speakers, patients or cameras, who are kept on one side of drawn splits."""

    def caveats(self, splits: DatasetDict) -> list[str]:
        """What makes the result flatter or narrower than it looks: said already, in sentences to be published."""

    def facts(self, splits: DatasetDict) -> dict[str, Any]:
        """What the report says of the inputs."""

    def leave_out(self, name: str, split: Dataset, fits: list[bool], reason: str, remedy: str) -> Dataset:
        """The examples that fit; the others are named and said.

        Args:
            name: of the split.
            split: examples under our names.
            fits: whether each does [n].
            reason: in a word or two, why others do not.
            remedy: what changes it.
        """

    # --- model ------------------------------------------------------------------------------------------------

    def require_settings(self, model: ModelArguments) -> None:
        """Refuse, before the data are read, settings that do not fit the model."""

    def load_processor(self, model: ModelArguments) -> Any:
        """The tokenizer, feature extractor or image processor that comes with the model."""

    def config_settings(self, old: Any, processor: Any, *, pretrained: bool) -> dict[str, Any]:
        """Settings of the model's config that the inputs need.

        Args:
            old: the checkpoint's config.
            processor: from `load_processor`.
            pretrained: whether the checkpoint's weights are loaded.
        """

    def prepare_model(self, model: PreTrainedModel, splits: DatasetDict, processor: Any, *, pretrained: bool) -> None:
        """Make the loaded model ready for the inputs, and note in its config what prediction has to know of them."""

    def model_inputs(
        self, splits: DatasetDict, processor: Any, model: PreTrainedModel, encoding: TargetEncoding, seed: int
    ) -> tuple[DatasetDict, dict[str, Any]]:
        """The splits without what the model cannot take, and the `ModelInputs` of each in its order."""

    def pad(self, processor: Any) -> Callable[[list[dict[str, Any]]], Mapping[str, Any]]:
        """From the model's inputs of examples to those of a padded batch."""

    def train_mode_effects(self, config: Any) -> list[str]:
        """What a model of this config does to its inputs in train mode alone, each with its flags."""

    # --- report -----------------------------------------------------------------------------------------------

    def display_rows(self, split: Dataset) -> list[dict[str, Any]]:
        """The examples as the report's page shows them."""

    def media_data_uris(self, inputs: Any, rows: Sequence[int]) -> list[str]:
        """Data URIs of what is to be heard or seen of these examples; empty where there is nothing."""

    def prediction_fields(self, split: Dataset) -> list[dict[str, Any]]:
        """The examples as ``predictions.jsonl`` has them."""

    def record_key(self, record: Mapping[str, Any]) -> tuple[Any, ...]:
        """What tells the input of such a record from others, whatever the model."""

    def predict_arguments(self, records: list[dict[str, Any]], told: Mapping[str, Any]) -> list[str]:
        """Arguments of ``hf-transfer predict`` that try the model on a test example.

        Args:
            records: the first of ``predictions.jsonl``.
            told: the arguments of the run, as ``arguments.yaml`` holds them.
        """
