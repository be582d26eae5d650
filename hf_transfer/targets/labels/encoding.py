"""Encodes the labels of a split in the form that the loss takes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, overload

from datasets import Dataset, DatasetDict


@dataclass(frozen=True)
class LabelEncoding:
    """Encoding of labels in the form that the loss takes (a `TargetEncoding`).

    Attributes:
        convert: converts the column ``label``; None leaves it as it is.
    """

    convert: Callable[[list[Any]], Sequence[Any]] | None = None
    unfit_reason: ClassVar[str] = "no position in the model's output"
    remedy: ClassVar[str] = "is it empty?"

    def respell(self, splits: DatasetDict) -> DatasetDict:
        """Return the splits unchanged, as labels have one spelling."""
        return splits

    def __call__(self, split: Dataset) -> Sequence[Any]:
        """Return the ``labels`` of each example of a split, in the form that the loss takes, [n]."""
        labels = split["label"][:]
        return labels if self.convert is None else self.convert(labels)

    def required_positions(self, labels: Any) -> int:
        """Return 1, as a label belongs to the whole example, so one position of the output is enough."""
        return 1


@dataclass(frozen=True)
class MultiHot:
    """Callable from lists of label ids to a vector of 0 and 1 for each example, computed when it is asked for.

    Attributes:
        num_labels: the length of the vectors.
    """

    num_labels: int

    def __call__(self, labels: list[list[int]]) -> "_MultiHotLabels":
        return _MultiHotLabels(labels, self.num_labels)


class _MultiHotLabels(Sequence[list[float]]):
    def __init__(self, labels: list[list[int]], num_labels: int):
        self.labels, self.num_labels = labels, num_labels

    def __len__(self) -> int:
        return len(self.labels)

    @overload
    def __getitem__(self, i: int) -> list[float]: ...

    @overload
    def __getitem__(self, i: slice) -> list[list[float]]: ...

    def __getitem__(self, i: int | slice) -> list[float] | list[list[float]]:
        if isinstance(i, slice):
            return [self[k] for k in range(*i.indices(len(self)))]
        return [float(k in self.labels[i]) for k in range(self.num_labels)]
