"""Labels as the loss takes them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, overload

from datasets import Dataset, DatasetDict


@dataclass(frozen=True)
class LabelEncoding:
    """Labels as the loss takes them.

    Attributes:
        convert: what is done to the column; None for nothing.
    """

    convert: Callable[[list[Any]], Sequence[Any]] | None = None
    unfit_reason: ClassVar[str] = "nothing that the model could make a position of"
    remedy: ClassVar[str] = "is it empty?"

    def respell(self, splits: DatasetDict) -> DatasetDict:
        """As they are."""
        return splits

    def __call__(self, split: Dataset) -> Sequence[Any]:
        """The ``labels`` of each example."""
        labels = split["label"][:]
        return labels if self.convert is None else self.convert(labels)

    def required_positions(self, labels: Any) -> int:
        """One: a label is of an example as a whole."""
        return 1


@dataclass(frozen=True)
class OneHot:
    """From lists of label ids to 0 or 1 for each of the labels, made as they are asked for.

    Attributes:
        num_labels: how many there are.
    """

    num_labels: int

    def __call__(self, labels: list[list[int]]) -> "_OneHotLabels":
        return _OneHotLabels(labels, self.num_labels)


class _OneHotLabels(Sequence[list[float]]):
    def __init__(self, labels: list[list[int]], num_labels: int):
        self.labels, self.num_labels = labels, num_labels

    def __len__(self) -> int:
        return len(self.labels)

    @overload
    def __getitem__(self, i: int) -> list[float]: ...

    @overload
    def __getitem__(self, i: slice) -> list[list[float]]: ...

    def __getitem__(self, i: int | slice) -> Any:
        if isinstance(i, slice):
            return [self[k] for k in range(*i.indices(len(self)))]
        return [float(k in self.labels[i]) for k in range(self.num_labels)]
