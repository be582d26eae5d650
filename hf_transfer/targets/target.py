"""The protocol of targets: what a model learns to predict, from the user's column to the report."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar, Protocol, TypeAlias

import torch
from datasets import Dataset, DatasetDict
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin

from hf_transfer.arguments import DataArguments, ModelArguments
from hf_transfer.data.column_readers import LeaveOut, TargetEncoding, TargetReader
from hf_transfer.evaluation.bootstrap import ResampledMetrics
from hf_transfer.training.loss import Loss, Readout

Processor: TypeAlias = PreTrainedTokenizerBase | ProcessorMixin
# One entry for each example, as the target's `readout` gives it: Sequence[np.ndarray], Sequence[float], Sequence[str].
Outputs: TypeAlias = Any


class Target(Protocol):
    """Protocol of targets: what is predicted for an example, such as labels, a number or a transcript.

    Attributes:
        column: standard name of the column, ``label`` or ``text``; the flag ``--<column>_column_name`` names the
            user's column.
        template: name of the target's templates: ``reporting/cards/targets/NAME.md`` and
            ``reporting/pages/targets/NAME.html``.
        headline: the metrics in summaries, the main one first; see `evaluation.metric_names`.
        metrics: all metrics that `compute_metrics` can return; which of them it does depends on the labels.
        distinguishes_examples: whether records with the same input but different targets are different examples.
        quoting_entries: names of the entries of `error_analysis` that quote examples, and are not published.
    """

    column: ClassVar[str]
    template: ClassVar[str]
    headline: ClassVar[tuple[str, ...]]
    metrics: ClassVar[tuple[str, ...]]
    distinguishes_examples: ClassVar[bool]
    quoting_entries: ClassVar[tuple[str, ...]]

    @property
    def uses_validation_split(self) -> bool:
        """Boolean: whether `decide` uses a validation split.

        If not, none is drawn unless training evaluates on it.
        """

    @property
    def requires_validation_split(self) -> bool:
        """Boolean: whether the settings choose something on validation examples.

        `check` then refuses data without them.
        """

    # --- data -------------------------------------------------------------------------------------------------

    def columns(
        self, splits: DatasetDict, inputs: Mapping[str, Sequence[str]], config: PretrainedConfig | None
    ) -> tuple[DatasetDict, dict[str, str]]:
        """Find the user's column of targets in each split, and return the splits and the columns' names.

        If it has to be made of several columns, it is added.

        Args:
            splits: the user's rows.
            inputs: the columns of each split that the input uses.
            config: of a fine-tuned model, whose labels are expected; None where the labels are learned.

        Returns:
            The splits, and the name of the column in each.
        """

    def readers(
        self, splits: DatasetDict, columns: Mapping[str, str], config: PretrainedConfig | None, model: ModelArguments
    ) -> Mapping[str, TargetReader]:
        """Return the reader of each split's column of targets, by split; arguments as of `columns`."""

    def prepare_targets(
        self,
        read: Mapping[str, Dataset],
        readers: Mapping[str, Any],
        config: PretrainedConfig | None,
        data: DataArguments,
        leave_out: LeaveOut,
    ) -> tuple[DatasetDict, dict[str, dict[str, int]]]:
        """Return the splits with the targets that the model learns, without examples that it cannot learn.

        Args:
            read: splits that the `readers` have read.
            readers: from the method of that name.
            config: of a fine-tuned model; None where the labels are learned.
            data: the arguments on data.
            leave_out: drops examples and logs that.

        Returns:
            The splits, and for each the number of examples left out, by the reason.
        """

    def strata(self, split: Dataset) -> list[Any]:
        """Return the stratum of each example, [n]: drawn splits get the same share of each stratum."""

    def check(
        self, splits: DatasetDict, identities: Mapping[str, list[str]], describe: Callable[[Dataset, int], str]
    ) -> list[str]:
        """Raise an error, before training, for data that would make the run fail; return caveats.

        Data that would make its results meaningless are refused, too.

        Args:
            splits: the examples.
            identities: by split, for each example a string that equal inputs share.
            describe: ``describe(split, row)`` names an example's input in a sentence: ``text 'win a prize'``.

        Returns:
            Sentences on what makes the result look better or more certain than it is. They are logged already, and
            may be published.
        """

    def facts(self, splits: DatasetDict) -> dict[str, Any]:
        """Return by name what report, card and page say of the targets in the data.

        ``answer`` is the main metric of the run and the name that a sentence gives it.
        """

    # --- model ------------------------------------------------------------------------------------------------

    def complete_processor(self, processor: Any, model: ModelArguments, splits: DatasetDict | None) -> Processor:
        """Return the input's processor with what turns targets into ids and back, such as a CTC tokenizer.

        Args:
            processor: of the input: a tokenizer or a feature extractor.
            model: the checkpoint.
            splits: examples that a new vocabulary is built from; None for a model that is only used.
        """

    def config_settings(
        self, model: ModelArguments, splits: DatasetDict, processor: Processor, *, pretrained: bool
    ) -> dict[str, Any]:
        """Return by name the settings of the model's config that depend on the target, as ``id2label``."""

    def adapt_head(
        self,
        loaded: PreTrainedModel,
        old: PretrainedConfig,
        new: list[str],
        model: ModelArguments,
        splits: DatasetDict,
        processor: Processor,
        *,
        pretrained: bool,
    ) -> list[str]:
        """Keep the checkpoint's head if it fits this target, else initialise it; return the new parameters' names.

        Args:
            loaded: the model, with a head of the right size.
            old: the checkpoint's config.
            new: names of parameters that were not in the checkpoint.
            model: the checkpoint.
            splits: the examples.
            processor: from `complete_processor`.
            pretrained: whether the checkpoint's weights were loaded.

        Returns:
            The names of the parameters that were initialised here.
        """

    def prepare_base(self, model: PreTrainedModel, name: str, revision: str) -> None:
        """Change a LoRA adapter's base model into the one that the adapter was trained on.

        Args:
            model: the base model as it was loaded.
            name: its Hub id or folder.
            revision: its revision on the Hub.
        """

    def encoding(self, split: Dataset, processor: Processor, config: PretrainedConfig) -> TargetEncoding:
        """Return the function that encodes the targets of a split as the ``labels`` that the loss takes."""

    @staticmethod
    def pad(labels: list[Any]) -> torch.Tensor:
        """Return the ``labels`` of a batch as a tensor, from those of its examples, which `encoding` made."""

    def loss_function(self, train: Dataset, model: PreTrainedModel, label_smoothing: float) -> Loss:
        """Return the training loss of this target, a callable that takes a batch's outputs and the batch."""

    def readout(self, processor: Processor, model: PreTrainedModel) -> Readout:
        """Return the function that takes from a batch's outputs what evaluation keeps: logits, a number, a text."""

    def finalised(self, model: PreTrainedModel) -> AbstractContextManager[None]:
        """Return a context manager that brings the trained model into the form that is measured and saved.

        It undoes that if the block raises.
        """

    # --- quality ----------------------------------------------------------------------------------------------

    def decide(
        self,
        outputs: Outputs | None,
        split: Dataset | None,
        config: PretrainedConfig,
        identities: Sequence[str] | None,
    ) -> dict[str, Any]:
        """Fit on the validation split how outputs become predictions (temperature, threshold), and return it.

        It is saved in `config`.

        Args:
            outputs: of the validation examples; None without a validation split.
            split: the validation examples.
            config: of the model.
            identities: for each example a string that equal inputs share.

        Returns:
            ``decision`` of the report.
        """

    def compute_metrics(self, outputs: Outputs, split: Dataset, config: PretrainedConfig | None) -> dict[str, float]:
        """Return by name the metrics of outputs on a split, with the decision in the config, if it is given."""

    def intervals(
        self, before: Outputs, after: Outputs, split: Dataset, config: PretrainedConfig, seed: int
    ) -> dict[str, Any]:
        """Return 95 % confidence intervals of the metrics ``after`` training, and of their change (``gain``).

        Args:
            before: outputs of the untrained model.
            after: outputs of the trained model.
            split: the examples.
            config: of the trained model, with its decision.
            seed: of the bootstrap.
        """

    def error_analysis(
        self, outputs: Outputs, split: Dataset, config: PretrainedConfig
    ) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Return more entries of the report, such as a confusion matrix, and the worst examples by ``row``."""

    def remarks(self, report: Mapping[str, Any]) -> list[str]:
        """Return sentences on the result that the summary shows below its metrics.

        Args:
            report: with ``data``, ``metrics``, ``decision`` and the entries of `error_analysis`.
        """

    def records(self, outputs: Outputs, split: Dataset, config: PretrainedConfig) -> list[dict[str, Any]]:
        """Return a JSON-ready record for each example: its target, the prediction, scores."""

    def resampled_metrics(self, records: list[dict[str, Any]], facts: dict[str, Any]) -> ResampledMetrics[str]:
        """Return the metrics of prediction records as `ResampledMetrics`, for the bootstrap.

        Args:
            records: as in ``predictions.jsonl``.
            facts: ``data`` of the report.
        """
