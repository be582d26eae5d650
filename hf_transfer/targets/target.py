"""What a target tells its task: everything that differs between labels and numbers, whatever goes in."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

from datasets import Dataset, DatasetDict

from hf_transfer.evaluation.bootstrap import Resampled


class Target(Protocol):
    """What is predicted of an example, from its column ``label`` to the report.

    Its methods are those of `hf_transfer.tasks.task.Task` of the same names; of a split they read ``label`` alone.
    """

    @property
    def template(self) -> str: ...

    @property
    def headline(self) -> tuple[str, ...]: ...

    @property
    def metrics(self) -> tuple[str, ...]: ...

    @property
    def label_columns(self) -> tuple[str, ...]:
        """What a column of labels is usually called, the likeliest first."""

    @property
    def decides(self) -> bool: ...

    @property
    def chooses(self) -> bool: ...

    def read(
        self,
        splits: Mapping[str, Dataset],
        columns: Mapping[str, dict[str, str]],
        config: Any,
        *,
        drop: bool,
    ) -> Mapping[str, Dataset]:
        """The user's splits under our names, with the column ``label`` as this target has it.

        Args:
            splits: the user's rows.
            columns: for each split the user's column for each of ours.
            config: of a fine-tuned model, whose labels are expected; None where they are learned.
            drop: leave out rows that cannot be used, instead of refusing them.
        """

    def strata(self, split: Dataset) -> list[Any]: ...

    def check(self, splits: DatasetDict, identities: Mapping[str, list[str]]) -> list[str]: ...

    def facts(self, splits: DatasetDict) -> dict[str, Any]: ...

    def model_settings(self, splits: DatasetDict) -> dict[str, Any]:
        """Of the model's config: ``id2label``, ``label2id``, ``problem_type``."""

    def fit_head(self, model: Any, old: Any, new: list[str], splits: DatasetDict, *, pretrained: bool) -> list[str]:
        """Keep a checkpoint's head where it is of this target, and say so; make it anew where it is not.

        Args:
            model: loaded with a head of the right size.
            old: the checkpoint's config.
            new: names of parameters that did not come from the checkpoint.
            splits: the examples.
            pretrained: whether the checkpoint's weights were loaded.

        Returns:
            The names of the parameters that were made anew here.
        """

    def model_labels(self, split: Dataset, config: Any) -> Callable[[list[Any]], list[Any]]:
        """From a batch of the column ``label`` to the ``labels`` that the loss takes."""

    def loss_function(self, train: Dataset, label_smoothing: float) -> Any: ...

    def readout(self, model: Any) -> Callable[..., list[Any]]: ...

    def finished(self, model: Any) -> AbstractContextManager[None]: ...

    def decide(self, outputs: Any, split: Dataset | None, config: Any) -> dict[str, Any]: ...

    def measure(self, outputs: Any, split: Dataset, config: Any) -> dict[str, float]: ...

    def intervals(self, before: Any, after: Any, split: Dataset, config: Any, seed: int) -> dict[str, Any]: ...

    def findings(self, outputs: Any, split: Dataset, config: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """What the report says of the outputs, and the worst examples by their ``row``."""

    def records(self, outputs: Any, split: Dataset, config: Any) -> list[dict[str, Any]]:
        """``label``, ``prediction`` and what else is known of each example."""

    def resampled(self, records: list[dict[str, Any]], facts: dict[str, Any]) -> Resampled: ...
