"""What is learned: everything that differs between labels, numbers and transcripts, whatever goes in."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar, Protocol

from datasets import Dataset, DatasetDict

from hf_transfer.arguments import DataArguments, ModelArguments
from hf_transfer.data.column_readers import LeaveOut, TargetEncoding, TargetReader
from hf_transfer.evaluation.bootstrap import ResampledMetrics
from hf_transfer.training.loss import Loss, Readout


class Target(Protocol):
    """What is predicted of an example, from its column to the report.

    Attributes:
        column: our name for the column: ``label``, ``text``; ``--<column>_column_name`` names the user's.
        template: name of its part of card and page (``reporting/cards/targets/NAME.md``, ``pages/targets/NAME.html``).
        headline: the metrics that summaries name, the one that decides first; see `evaluation.metric_names`.
        metrics: every metric that `compute_metrics` may give; which of them it does, the labels decide.
        distinguishes_examples: whether records of one input with different targets are different examples.
    """

    column: ClassVar[str]
    template: ClassVar[str]
    headline: ClassVar[tuple[str, ...]]
    metrics: ClassVar[tuple[str, ...]]
    distinguishes_examples: ClassVar[bool]

    @property
    def uses_validation_split(self) -> bool:
        """Whether `decide` needs a validation split; where not, none is made unless training is evaluated."""

    @property
    def requires_validation_split(self) -> bool:
        """Whether something is to be chosen on validation examples: without them, `check` refuses."""

    # --- data -------------------------------------------------------------------------------------------------

    def columns(
        self, splits: DatasetDict, inputs: Mapping[str, Sequence[str]], config: Any
    ) -> tuple[DatasetDict, dict[str, str]]:
        """The user's column in each split; it may be one that is made of several, and added.

        Args:
            splits: the user's rows.
            inputs: columns of each split that are used already.
            config: of a fine-tuned model, whose labels are expected; None where they are learned.
        """

    def readers(
        self, splits: DatasetDict, columns: Mapping[str, str], config: Any, model: ModelArguments
    ) -> Mapping[str, TargetReader]:
        """How the column of each split is read."""

    def prepare_targets(
        self,
        read: Mapping[str, Dataset],
        readers: Mapping[str, Any],
        config: Any,
        data: DataArguments,
        leave_out: LeaveOut,
    ) -> tuple[DatasetDict, dict[str, dict[str, int]]]:
        """The splits with the target as the model is to learn it, and what was left out of each, by the reason."""

    def strata(self, split: Dataset) -> list[Any]:
        """What each example is stratified by when a split is made."""

    def check(self, splits: DatasetDict, identities: Mapping[str, list[str]]) -> list[str]:
        """Refuse before training what would fail after it.

        Returns:
            What makes the result flatter or narrower than it looks: said already, in sentences that may be published.
        """

    def facts(self, splits: DatasetDict) -> dict[str, Any]:
        """What the report, card and page say of the target.

        ``answer`` is the metric that a run's result is told by in a sentence, and its name there.
        """

    # --- model ------------------------------------------------------------------------------------------------

    def complete_processor(self, processor: Any, model: ModelArguments, splits: DatasetDict | None) -> Any:
        """The input's processor with what turns targets into ids and back, made to fit the splits where it must be."""

    def config_settings(
        self, model: ModelArguments, splits: DatasetDict, processor: Any, *, pretrained: bool
    ) -> dict[str, Any]:
        """Settings of the model's config, as ``id2label``, ``problem_type``."""

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
        """Keep a checkpoint's head where it is of this target, and say so; make it anew where it is not.

        Args:
            loaded: the model, with a head of the right size.
            old: the checkpoint's config.
            new: names of parameters that did not come from the checkpoint.
            model: which checkpoint it is.
            splits: the examples.
            processor: from `complete_processor`.
            pretrained: whether the checkpoint's weights were loaded.

        Returns:
            The names of the parameters that were made anew here.
        """

    def prepare_base(self, model: Any, name: str, revision: str) -> None:
        """Make the base model `name` of a LoRA adapter, as it was loaded, the one that the adapter was trained on."""

    def encoding(self, split: Dataset, processor: Any, config: Any) -> TargetEncoding:
        """How the targets of a split become the ``labels`` of the loss."""

    @staticmethod
    def pad(labels: list[Any]) -> Any:
        """From the labels of examples, as `encoding` makes them, to those of a batch."""

    def loss_function(self, train: Dataset, model: Any, label_smoothing: float) -> Loss:
        """What is minimised."""

    def readout(self, processor: Any, model: Any) -> Readout:
        """What the methods below are given of each example: logits, a number, what is generated, boxes."""

    def finalised(self, model: Any) -> AbstractContextManager[None]:
        """Make of the trained model what is measured and shipped; where the block raises, it is as it was trained."""

    # --- quality ----------------------------------------------------------------------------------------------

    def decide(
        self, outputs: Any, split: Dataset | None, config: Any, identities: Sequence[str] | None
    ) -> dict[str, Any]:
        """Fit on the validation split's outputs how outputs become decisions, and keep it in the config.

        Args:
            outputs: of the examples; None without a validation split.
            split: the examples.
            config: of the model.
            identities: what makes two of them equal, an entry an example.
        """

    def compute_metrics(self, outputs: Any, split: Dataset, config: Any) -> dict[str, float]:
        """Metrics of model outputs on a split, with the decision kept in the config."""

    def intervals(self, before: Any, after: Any, split: Dataset, config: Any, seed: int) -> dict[str, Any]:
        """95 % bootstrap intervals of the metrics after training and of what was gained."""

    def error_analysis(self, outputs: Any, split: Dataset, config: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """What else the report says of the outputs, and the worst examples by their ``row``."""

    def remarks(self, report: Mapping[str, Any]) -> list[str]:
        """What the summary says of the result beside its metrics, in sentences.

        Args:
            report: with ``data``, ``metrics``, ``decision`` and the findings.
        """

    def records(self, outputs: Any, split: Dataset, config: Any) -> list[dict[str, Any]]:
        """What is known of each example: its target, what was predicted, scores. JSON-ready."""

    def resampled_metrics(self, records: list[dict[str, Any]], facts: dict[str, Any]) -> ResampledMetrics[str]:
        """The metrics of such records, under resampling.

        Args:
            records: as ``predictions.jsonl`` holds them.
            facts: of the data, as in the report.
        """
