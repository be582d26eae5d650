"""What a task tells the run: everything that differs between text, speech and whatever comes next."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar, Protocol

from datasets import Dataset, DatasetDict
from transformers import PreTrainedModel

from hf_transfer.arguments import DataArguments, ModelArguments
from hf_transfer.evaluation.bootstrap import Resampled


class Task(Protocol):
    """A dataclass of the task's own settings (they are flags as well) with the methods that a run needs.

    A new task is one file with such a class, a recipe and a test; the run itself stays as it is.
    """

    pipeline_tag: ClassVar[str]
    """The task's name on the Hub."""
    main_input: ClassVar[str]
    """What the pipeline is given in the first place: ``text``, ``audio``."""
    defaults: ClassVar[Mapping[str, Any]]
    """Training arguments by flag name that are the task's own unless the user says otherwise, however a run starts."""
    learning_rates: ClassVar[Mapping[str, float]]
    """Peak learning rates by method, and of a head alone (``head``): see `methods.default_learning_rate`."""
    epochs: ClassVar[int]
    """Passes over the training data, unless the user says otherwise,"""
    minimum_steps: ClassVar[int]
    """or as many more as make this number of steps."""
    auto_model: ClassVar[Any]
    """The `transformers.AutoModelFor...` class."""
    architecture_suffix: ClassVar[str]
    """How the architectures of its models end in a config.json."""

    @property
    def template(self) -> str:
        """The name of its model card, ``reporting/cards/<name>.md``, and of its page, ``pages/<name>.html``."""

    @property
    def headline(self) -> tuple[str, ...]:
        """The metrics that summaries name, the one that decides first; see `evaluation.metric_names`."""

    @property
    def metrics(self) -> tuple[str, ...]:
        """Every metric that `measure` may give; which of them it does, the labels decide."""

    @property
    def decides(self) -> bool:
        """Whether `decide` needs a validation split; where not, none is made unless training is evaluated."""

    @property
    def chooses(self) -> bool:
        """Whether something is to be chosen on validation examples: without them, `check` refuses."""

    @classmethod
    def settings_of(cls, config: Any) -> dict[str, Any]:
        """The settings that the config of a fine-tuned model decides."""

    def require_settings(self, model: ModelArguments) -> None:
        """Refuse, before the data are read, settings that do not fit the model."""

    def standardise(
        self, splits: DatasetDict, data: DataArguments, model: ModelArguments, config: Any = None
    ) -> tuple[DatasetDict, dict[str, dict[str, int]], dict[str, str]]:
        """The user's columns under the task's own names, every row checked; labels as in `config`, if there is one.

        And for each split how many rows were left out, by the reason; and the user's column for each of the task's,
        in the first split.
        """

    def input_columns(self, columns: Sequence[str]) -> dict[str, str]:
        """For prediction: the column of each input of the pipeline, by its name there."""

    def prediction_input(self, own: str, value: Any, file: str) -> Any:
        """A cell of `file` as the input of the pipeline that is called `own`."""

    def strata(self, split: Dataset) -> list[Any]:
        """What each example is stratified by when a split is made."""

    def identities(self, split: Dataset) -> list[str]:
        """What makes two examples equal when splits are drawn and compared, an entry an example."""

    def contents(self, split: Dataset) -> list[str]:
        """What changes with an example, however little of it changes, an entry an example."""

    def unit_column(self, columns: Sequence[str]) -> str | None:
        """Of the user's columns the one of speakers, patients or cameras, who are kept on one side of drawn splits."""

    def check(self, splits: DatasetDict) -> list[str]:
        """Refuse before training what would fail after it.

        Returns:
            What makes the result flatter or narrower than it looks: said already, in sentences that may be published.
        """

    def load_processor(self, model: ModelArguments, splits: DatasetDict | None = None) -> Any:
        """The tokenizer or processor that comes with the model, made to fit the splits where it must be."""

    def load_model(
        self, model: ModelArguments, splits: DatasetDict, processor: Any, *, pretrained: bool
    ) -> tuple[PreTrainedModel, list[str]]:
        """The model for these labels, and the names of its newly initialised parameters."""

    def prepare_base(self, model: PreTrainedModel, name: str, revision: str) -> None:
        """Make the base model `name` of a LoRA adapter, as it was loaded, the one that the adapter was trained on."""

    def preprocess(
        self, splits: DatasetDict, processor: Any, model: PreTrainedModel, seed: int
    ) -> tuple[DatasetDict, Mapping[str, Any]]:
        """The splits without what the model cannot take, and its inputs with ``labels`` and ``length`` in their order.

        The inputs of a split have ``len()``, the columns ``["length"]`` and ``["labels"]``, and
        ``__getitems__(indices)``.
        """

    def collator(self, processor: Any) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
        """From preprocessed examples to a padded batch."""

    def loss_function(self, train: Dataset, model: Any, label_smoothing: float) -> Any:
        """A `hf_transfer.training.trainer.Loss`."""

    def readout(self, processor: Any, model: Any) -> Callable[..., list[Any]]:
        """``readout(logits, lengths)``: what is kept of each example's output, for the methods below."""

    def outputs(self, inputs: Any, predict: Callable[[Any], Any], pipeline: Any) -> Any:
        """What is kept of each example's output, as `pipeline` would compute it.

        Args:
            inputs: of a split, from `preprocess`.
            predict: what the trainer computes of such inputs in batches.
            pipeline: that uses the same model.
        """

    def finished(self, model: Any) -> AbstractContextManager[None]:
        """Make of the trained model what is measured and shipped; where the block raises, it is as it was trained."""

    def decide(self, outputs: Any, split: Dataset | None, config: Any) -> dict[str, Any]:
        """Fit on the validation split's outputs how outputs become decisions, and keep it in the config."""

    def measure(self, outputs: Any, split: Dataset, config: Any) -> dict[str, float]:
        """Metrics of model outputs on a split, with the decision kept in the config."""

    def intervals(self, before: Any, after: Any, split: Dataset, config: Any, seed: int) -> dict[str, Any]:
        """95 % bootstrap intervals of the metrics after training and of what was gained."""

    def findings(self, outputs: Any, split: Dataset, config: Any) -> dict[str, Any]:
        """What else the report says of the outputs; ``worst`` are examples, which are not published."""

    def media(self, inputs: Any, worst: list[dict[str, Any]]) -> list[str]:
        """Data URIs of what is to be heard or seen of the `worst` examples, as many; empty where there is nothing."""

    def predictions(self, outputs: Any, split: Dataset, config: Any) -> list[dict[str, Any]]:
        """A JSON-ready record an example: input, reference, prediction, scores."""

    def resampled(self, records: list[dict[str, Any]], facts: dict[str, Any]) -> Resampled:
        """The metrics of such records, under resampling.

        Args:
            records: from `predictions`, as ``predictions.jsonl`` holds them.
            facts: of the data, as in the report.
        """

    def example(self, record: dict[str, Any]) -> Any:
        """What tells the example of such a record from others, whatever the model."""

    def to_try(self, records: list[dict[str, Any]], told: Mapping[str, Any]) -> list[str]:
        """Arguments of ``hf-transfer predict`` that try the model on a test example.

        Args:
            records: the first from `predictions`.
            told: the arguments of the run, as ``arguments.yaml`` holds them.
        """

    def pipeline(self, model: Any, processor: Any) -> Any:
        """The `transformers.Pipeline` that uses the model as it was measured."""

    def facts(self, splits: DatasetDict) -> dict[str, Any]:
        """What the report, card and page say of the data and labels.

        ``answer`` is the metric that a run's result is told by in a sentence, and its name there.
        """
