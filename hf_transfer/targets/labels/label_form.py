"""Finds the form of a label column: one label in each row, lists of labels, or vectors of 0 and 1 (multi-hot)."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset, LargeList, List

from hf_transfer.data.values import is_missing, quoted
from hf_transfer.errors import InputError, logger
from hf_transfer.targets.labels.label_reader import LabelReader
from hf_transfer.targets.labels.printed_lists import as_list


def label_readers(
    splits: Mapping[str, Dataset],
    column: str,
    separator: str | None,
    names: Sequence[str] | None,
    model_labels: Sequence[str] | None = None,
) -> dict[str, LabelReader]:
    """Return the `LabelReader` of each split's label column, by split.

    Lists of numbers must have one meaning in all splits.

    Args:
        splits: the user's rows.
        column: of the labels.
        separator: what separates several labels in a text.
        names: of the labels by id or place in a vector, as --class_names gives them.
        model_labels: names of the model's labels, where it is fine-tuned already.

    Raises:
        InputError: lists and single labels are mixed, vectors differ in length or hold scores, or `names` do not fit;
            the message says in which row.
    """
    readers, vectors = {}, _VectorCheck()
    for name, split in splits.items():
        readers[name] = _list_or_label_reader(name, split, column, separator, names, vectors)
    vector_names = names or next((reader.names for reader in readers.values() if reader.names), None) or model_labels
    width = vectors.width(len(vector_names) if vector_names else None)
    if width is None:
        if names is not None:
            _require_label_ids(splits, column, readers)
        return readers
    vector_names = tuple(vector_names or map(str, range(width)))
    if len(vector_names) != width:
        raise InputError(
            f"The labels are vectors of {width} numbers, and {len(vector_names)} names are given for them "
            f"({', '.join(vector_names[:5])}, ...): expected one name for each place (--class_names)."
        )
    logger.info("Labels are vectors of 0 and 1, a place for each label: %s (--class_names names them).",
                ", ".join(vector_names[:20]))  # fmt: skip
    return {
        name: replace(reader, kind="vector", names=vector_names) if reader.multi_label else reader
        for name, reader in readers.items()
    }


def _list_or_label_reader(
    name: str,
    split: Dataset,
    column: str,
    separator: str | None,
    names: Sequence[str] | None,
    vectors: "_VectorCheck",
) -> LabelReader:
    """Return the reader of a split's label column, as if no list were a vector of 0 and 1.

    The lists are added to `vectors`.
    """
    feature = split.features[column]
    item_feature = getattr(feature, "feature", feature)
    class_names = tuple(item_feature.names) if isinstance(item_feature, ClassLabel) else None
    forms = _FormCheck(name)
    for row, value in enumerate(_cells(split, column), start=1):
        items = as_list(value)
        forms.add(row, value, items)
        if items is not None:
            vectors.add(name, row, items)
    if "printed" in forms.first:
        logger.info("The labels of the %s split are lists that were printed into cells, as %s: an example may have "
                    "several.", name, quoted(forms.first["printed"][1]))  # fmt: skip
    forms.require_one_form(separator)
    multi_label = separator is not None or forms.lists > 0 or isinstance(feature, (List, LargeList))
    label_names = tuple(names) if names is not None and class_names is None else class_names
    return LabelReader("several" if multi_label else "one", label_names, separator)


def _cells(split: Dataset, column: str) -> Iterator[Any]:
    for batch in split.select_columns(column).iter(batch_size=1000):
        yield from batch[column]


class _FormCheck:
    """Counter of the lists and the single labels in a column, which keeps the first row of each."""

    def __init__(self, split: str):
        self.split, self.lists, self.single = split, 0, 0
        self.first: dict[str, tuple[int, Any]] = {}

    def add(self, row: int, value: Any, items: list[Any] | None) -> None:
        """Count a cell of the column as a list or a single label, unless it is empty."""
        if items is not None:
            self.lists += 1
            self.first.setdefault("list", (row, value))
            if isinstance(value, str):
                self.first.setdefault("printed", (row, value))
        elif not is_missing(value) and not isinstance(value, dict) and str(value).strip():
            self.single += 1
            self.first.setdefault("single", (row, value))

    def require_one_form(self, separator: str | None) -> None:
        """Raise an error if a column has both lists and single labels.

        Raises:
            InputError: there are; the message names a row with the rarer form.
        """
        if not self.lists or not self.single:
            return
        if self.lists <= self.single:
            rare, count, common = "list", self.lists, "single labels"
        else:
            rare, count, common = "single", self.single, "lists"
        row, value = self.first[rare]
        total = self.lists + self.single
        raise InputError(
            f"Row {row} of the {self.split} split has {quoted(value)} as its label, where {total - count} of {total} "
            f"rows have {common} (rows counted from 1, without the header). Write all labels as single ones, or all "
            f"as lists{' (without --label_separator)' if separator else ''}."
        )


class _VectorCheck:
    """Collector that finds out whether lists of numbers are vectors of 0 and 1 (multi-hot) or lists of label ids."""

    def __init__(self) -> None:
        self.lengths: Counter[int] = Counter()
        self.first: dict[int, tuple[str, int, list[Any]]] = {}
        self.only_bits, self.has_repeats, self.has_booleans = True, False, False

    def add(self, split: str, row: int, items: list[Any]) -> None:
        """Add the list in a row; raise an error if it holds scores instead of label ids or 0 and 1.

        Raises:
            InputError: it holds numbers that are neither label ids nor 0 and 1.
        """
        numbers = [item for item in items if isinstance(item, (int, float, np.number)) and not is_missing(item)]
        if any(float(number) != int(number) for number in numbers if np.isfinite(number)):
            raise InputError(
                f"Row {row} of the {split} split has {quoted(items)} as its label: the model cannot be trained on "
                "shares or scores of labels (soft labels). Give each row the label, or the labels, that it has: for "
                "example those with a share above one half."
            )
        self.lengths[len(items)] += 1
        self.first.setdefault(len(items), (split, row, items))
        are_bits = all(str(item) in ("0", "1", "0.0", "1.0", "True", "False") for item in items)
        self.only_bits = self.only_bits and are_bits
        self.has_repeats = self.has_repeats or len({str(item) for item in items}) < len(items)
        self.has_booleans = self.has_booleans or any(isinstance(item, (bool, np.bool_)) for item in items)

    def width(self, num_labels: int | None) -> int | None:
        """Return the length of the vectors of 0 and 1, or None if the lists hold label ids or names.

        No label is in a list twice. So lists of three or more numbers 0 and 1 are vectors, and lists of two are
        vectors if both numbers can be the same. Lists of one number hold labels.

        Args:
            num_labels: the number of labels, where it is known.

        Raises:
            InputError: they are vectors of different lengths.
        """
        has_pairs_only = set(self.lengths) == {2}
        if not self.lengths or not self.only_bits or not (self.has_repeats or self.has_booleans or has_pairs_only):
            return None
        length, _ = self.lengths.most_common(1)[0]
        if len(self.lengths) > 1:
            other = min(self.lengths, key=lambda each: self.lengths[each] if each != length else float("inf"))
            split, row, items = self.first[other]
            raise InputError(
                f"Row {row} of the {split} split has {quoted(items)} as its label, {other} numbers, where "
                f"{self.lengths[length]} rows have {length}: vectors of 0 and 1 have a place for each label."
            )
        if has_pairs_only and not self.has_repeats and num_labels not in (None, 2):
            return None
        return length if length > 0 else None


def _require_label_ids(splits: Mapping[str, Dataset], column: str, readers: Mapping[str, LabelReader]) -> None:
    """Raise an error if the labels that --class_names is to name are names already, and no ids.

    Raises:
        InputError: they are names already.
    """
    for name, reader in readers.items():
        for row, value in enumerate(_cells(splits[name], column), start=1):
            _, problem = reader.read(value)
            label, problem_without_names = replace(reader, names=None).read(value)
            if problem and not problem_without_names:
                raise InputError(
                    f"--class_names names labels that are numbers from 0, or vectors of 0 and 1; row {row} of the "
                    f"{name} split has {quoted(label)} as its label."
                )
