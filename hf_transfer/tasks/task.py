"""What a task tells the run: everything that differs between text, speech and whatever comes next."""

from collections.abc import Callable
from typing import Any, ClassVar, Protocol

from datasets import Dataset, DatasetDict
from transformers import PreTrainedModel

from hf_transfer.arguments import DataArguments, ModelArguments


class Task(Protocol):
    """A dataclass of the task's own settings (they are flags as well) with the methods that a run needs.

    A new task is one file with such a class, a recipe and a test; the run itself stays as it is.
    """

    pipeline_tag: ClassVar[str]
    """The task's name on the Hub."""
    main_metric: ClassVar[str]
    """The metric that summaries name first."""
    auto_model: ClassVar[Any]
    """The `transformers.AutoModelFor...` class."""
    architecture_suffix: ClassVar[str]
    """How the architectures of its models end in a config.json."""
    usage: ClassVar[str]
    """A line of Python for the model card that calls the pipeline ``classify``."""

    def standardise(self, splits: DatasetDict, data: DataArguments, config: Any = None) -> DatasetDict:
        """The user's columns under the task's own names, every row checked; labels as in `config`, if there is one."""

    def strata(self, split: Dataset) -> list[Any]:
        """What each example is stratified by when a split is made."""

    def identities(self, split: Dataset) -> list[int]:
        """What makes two examples the same when splits are compared, an entry an example."""

    def check(self, splits: DatasetDict) -> None:
        """Refuse before training what would fail after it."""

    def load_processor(self, model: ModelArguments) -> Any:
        """The tokenizer or processor that comes with the model."""

    def load_model(
        self, model: ModelArguments, splits: DatasetDict, *, pretrained: bool
    ) -> tuple[PreTrainedModel, list[str]]:
        """The model for these labels, and the names of its newly initialised parameters."""

    def preprocess(self, splits: DatasetDict, processor: Any, model: PreTrainedModel) -> DatasetDict:
        """Model inputs with ``labels`` and ``length``, in the order of the splits."""

    def collator(self, processor: Any) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
        """From preprocessed examples to a padded batch."""

    def loss_function(self, train: Dataset, label_smoothing: float) -> Callable[..., Any]:
        """For `Trainer(compute_loss_func=...)`: the sum over examples divided by `num_items_in_batch` examples."""

    def decide(self, outputs: Any, split: Dataset | None, config: Any) -> dict[str, Any]:
        """Fit on the validation split's outputs how outputs become decisions, and keep it in the config."""

    def measure(self, outputs: Any, split: Dataset, config: Any) -> dict[str, float]:
        """Metrics of model outputs on a split, with the decision kept in the config."""

    def intervals(self, before: Any, after: Any, split: Dataset, config: Any, seed: int) -> dict[str, Any]:
        """95 % bootstrap intervals of the metrics after training and of what was gained."""

    def predictions(self, outputs: Any, split: Dataset, config: Any) -> list[dict[str, Any]]:
        """A JSON-ready record an example: input, reference, prediction, scores."""

    def pipeline(self, model: Any, processor: Any) -> Any:
        """The `transformers.Pipeline` that uses the model as it was measured."""

    def facts(self, splits: DatasetDict) -> dict[str, Any]:
        """What the report and card say of the data and labels."""
