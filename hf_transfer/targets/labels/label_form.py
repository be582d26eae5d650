"""The form of a label column: one label a row, lists of labels, or vectors of 0 and 1; and how its cells are read."""

import ast
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
from datasets import ClassLabel, Dataset, LargeList, List, Value

from hf_transfer.data.values import as_text, is_blank, is_missing, quoted
from hf_transfer.errors import InputError, logger

# A list as Python, NumPy or JSON prints it: of quoted texts, numbers, true, false and null.
_TEXT, _NUMBER = r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\"""", r"-?[0-9]+(?:\.[0-9]*)?(?:e[+-]?[0-9]+)?"
_ITEM = rf"(?:{_TEXT}|{_NUMBER}|[Tt]rue|[Ff]alse|None|null|nan)"
_PRINTED = re.compile(rf"[\[({{]\s*(?:{_ITEM}(?:\s*,\s*|\s+|\s*(?=[\])}}])))*[\])}}]")
_ITEMS = re.compile(_ITEM)
_WORDS = {"true": True, "false": False, "none": None, "null": None, "nan": None}


# The flags that name another file for a split; of the others, by its name.
FILE_FLAGS = {"source": "--source_file", "replay": "--source_file"}


class LabelReader:
    """What reading labels has in common, whatever they are: see `TargetReader`."""

    required: ClassVar[bool] = True
    missing_reason: ClassVar[str] = "no label"
    unique_per_input: ClassVar[bool] = False  # examples with several labels in several rows are said: `contradictions`
    pace_description: ClassVar[str] = ""

    def unusable_column_message(self, split: str, problem: str) -> str | None:
        """What to say of a split without any label, if `problem` is that."""
        if not problem.startswith("no label"):
            return None
        return (
            f"The {split} split has no labels at all (the first is {problem.removeprefix('no label: ')}). Name "
            f"another file: {FILE_FLAGS.get(split, f'--{split}_file, or of a dataset --{split}_split_name')}."
        )

    def log_changes(self, split: str, cells: list[Any], contents: list[Any]) -> None:
        """Nothing: labels are read as they are."""

    def has_unusual_pace(self, content: Any, seconds: float) -> bool:
        """Never: a label has no pace."""
        return False


@dataclass(frozen=True)
class LabelForm(LabelReader):
    """How the cells of a label column are read.

    Attributes:
        kind: one label a cell, several, or a vector that has 1 where the example has the label of that place.
        names: of the labels by id or by place in a vector; None where the cells hold the names themselves.
        separator: of the labels in a text.
    """

    kind: Literal["one", "several", "vector"]
    names: tuple[str, ...] | None = None
    separator: str | None = None

    @property
    def several(self) -> bool:
        """Whether an example may have several labels."""
        return self.kind != "one"

    @property
    def feature(self) -> Value | List:
        """Of the column that `read` fills."""
        return List(Value("string")) if self.several else Value("string")

    def read(self, value: Any) -> tuple[Any, str | None]:
        """The name in a cell, or the list of names where there may be several; and what is wrong, if something is."""
        listed = as_list(value)
        if self.kind == "one":
            return ("", "a list and no label") if listed is not None else self._name(value)
        if listed is None and self.separator and isinstance(value, str):
            listed = value.split(self.separator) if value.strip() else []
        if listed is None:
            return [], "no label"
        if self.kind == "vector":
            return [name for name, there in zip(self.names or (), listed, strict=True) if float(there)], None
        found = [self._name(part) for part in listed]
        problem = next((problem for _, problem in found if problem), None)
        return ([], problem) if problem else (sorted({name for name, _ in found}), None)

    def hint(self, problems: list[str], contents: list[Any]) -> str:
        """As of `CellReader`: that some labels are made of others."""
        return several_in_a_cell({label for label in contents if isinstance(label, str)})

    def _name(self, value: Any) -> tuple[str, str | None]:
        if is_missing(value):
            return "", "no label"
        try:
            name = as_text(value).strip()
        except TypeError as error:
            return "", f"{error} and no label"
        if is_blank(name):
            return "", "no label"
        if "\0" in name:
            return "", "a NUL character or half a character in the label"
        if self.names is None or (name in self.names and not name.isdecimal()):
            return name, None
        known = name.isascii() and name.isdecimal() and int(name) < len(self.names)
        return (self.names[int(name)], None) if known else ("", "no label")  # the Hub's -1


def several_in_a_cell(names: Iterable[str]) -> str:
    """A hint where some labels are made of others, or nothing."""
    known = set(names)
    for name in sorted(known):
        for separator in (";", "|", ","):
            parts = [part.strip() for part in name.split(separator)]
            if len(parts) > 1 and set(parts) <= known:
                return f" Labels such as {name!r} hold others: --label_separator {separator!r} makes them several."
    return ""


def as_list(value: Any) -> list[Any] | None:
    """The items of a list, an array, or a list that was printed into a cell; None for anything else."""
    if isinstance(value, (list, tuple, set, frozenset)):
        return list(value)
    if isinstance(value, np.ndarray):
        return value.tolist()
    if not isinstance(value, str) or value.strip()[:1] not in ("[", "(", "{"):
        return None
    text = value.strip()
    if not _PRINTED.fullmatch(text) or _in_parentheses(text):
        return None
    return [_item(item) for item in _ITEMS.findall(text)]


def _in_parentheses(text: str) -> bool:
    """Whether this is a single label between parentheses: a tuple of one is printed with a comma, as ``(1,)``."""
    items = _ITEMS.findall(text)
    return text[0] == "(" and len(items) == 1 and text[1:-1].strip() == items[0]


def _item(text: str) -> Any:
    if text[0] in "'\"":
        for read in (json.loads, ast.literal_eval):
            try:
                return read(text)
            except (ValueError, SyntaxError):
                continue
        return text[1:-1]
    if text.casefold() in _WORDS:
        return _WORDS[text.casefold()]
    return float(text) if re.search("[.e]", text) else int(text)


def label_form(
    splits: Mapping[str, Dataset],
    column: str,
    separator: str | None,
    names: Sequence[str] | None,
    known: Sequence[str] | None = None,
) -> dict[str, LabelForm]:
    """How the label column of each split is read; lists of numbers are looked at in all splits together.

    Args:
        splits: the user's rows.
        column: of the labels.
        separator: of several labels in a text.
        names: of the labels by id or place in a vector, as --class_names gives them.
        known: of the model's labels, where there is a model already.

    Raises:
        InputError: lists and plain labels are mixed, vectors are of unequal length or hold shares, or `names` do not
            fit; the message says in which row.
    """
    forms, vectors = {}, _Vectors()
    for name, split in splits.items():
        feature = split.features[column]
        inner = getattr(feature, "feature", feature)
        of_class = tuple(inner.names) if isinstance(inner, ClassLabel) else None
        counted = _Counted(name)
        for row, value in enumerate(_values(split, column), start=1):
            listed = as_list(value)
            counted.add(row, value, listed)
            if listed is not None:
                vectors.add(name, row, listed)
        if "printed" in counted.first:
            logger.info("The labels of the %s split are lists that were printed into cells, as %s: a text may have "
                        "several.", name, quoted(counted.first["printed"][1]))  # fmt: skip
        several = separator is not None or counted.lists > 0 or isinstance(feature, (List, LargeList))
        counted.require_one_form(separator)
        given = tuple(names) if names is not None and of_class is None else of_class
        forms[name] = LabelForm("several" if several else "one", given, separator)
    place_names = names or next((f.names for f in forms.values() if f.names), None) or known
    width = vectors.width(len(place_names) if place_names else None)
    if width is None:
        if names is not None:
            _require_ids(splits, column, forms)
        return forms
    place_names = tuple(place_names or map(str, range(width)))
    if len(place_names) != width:
        raise InputError(
            f"The labels are vectors of {width} numbers, and {len(place_names)} names are given for them "
            f"({', '.join(place_names[:5])}, ...): expected as many (--class_names)."
        )
    logger.info("Labels are vectors of 0 and 1, a place for each label: %s (--class_names names them).",
                ", ".join(place_names[:20]))  # fmt: skip
    return {
        name: replace(form, kind="vector", names=place_names) if form.several else form for name, form in forms.items()
    }


def _values(split: Dataset, column: str) -> Iterator[Any]:
    for batch in split.select_columns(column).iter(batch_size=1000):
        yield from batch[column]


class _Counted:
    """Lists and plain labels in a column, with the first row of each."""

    def __init__(self, split: str):
        self.split, self.lists, self.plain = split, 0, 0
        self.first: dict[str, tuple[int, Any]] = {}

    def add(self, row: int, value: Any, listed: list[Any] | None) -> None:
        """Count a cell, unless it is empty."""
        if listed is not None:
            self.lists += 1
            self.first.setdefault("list", (row, value))
            if isinstance(value, str):
                self.first.setdefault("printed", (row, value))
        elif not is_missing(value) and not isinstance(value, dict) and str(value).strip():
            self.plain += 1
            self.first.setdefault("plain", (row, value))

    def require_one_form(self, separator: str | None) -> None:
        """Refuse lists beside plain labels, and name a row of those that are fewer."""
        if not self.lists or not self.plain:
            return
        rare, count, common = ("list", self.lists, "plain labels") if self.lists <= self.plain else (
            "plain", self.plain, "lists")  # fmt: skip
        row, value = self.first[rare]
        total = self.lists + self.plain
        raise InputError(
            f"Row {row} of the {self.split} split has {quoted(value)} as its label, where {total - count} of {total} "
            f"rows have {common} (rows counted from 1, without the header). Write all labels as plain ones, or all "
            f"as lists{' (without --label_separator)' if separator else ''}."
        )


class _Vectors:
    """Whether lists of numbers are vectors of 0 and 1 (multi-hot) or lists of label ids."""

    def __init__(self) -> None:
        self.lengths: Counter[int] = Counter()
        self.first: dict[int, tuple[str, int, list[Any]]] = {}
        self.only_bits, self.repeats, self.truths = True, False, False

    def add(self, split: str, row: int, items: list[Any]) -> None:
        """Look at the list of a row.

        Raises:
            InputError: it holds numbers that are no labels.
        """
        numbers = [item for item in items if isinstance(item, (int, float, np.number)) and not is_missing(item)]
        if any(float(number) != int(number) for number in numbers if np.isfinite(number)):
            raise InputError(
                f"Row {row} of the {split} split has {quoted(items)} as its label: shares or scores of labels (soft "
                "labels) cannot be learned from. Give each row the label, or the labels, that it has: for example "
                "those with a share above one half."
            )
        self.lengths[len(items)] += 1
        self.first.setdefault(len(items), (split, row, items))
        bits = all(str(item) in ("0", "1", "0.0", "1.0", "True", "False") for item in items)
        self.only_bits = self.only_bits and bits
        self.repeats = self.repeats or len({str(item) for item in items}) < len(items)
        self.truths = self.truths or any(isinstance(item, (bool, np.bool_)) for item in items)

    def width(self, known: int | None) -> int | None:
        """The length of the vectors; None where the lists hold labels.

        No label is in a list twice: three places of 0 and 1 are a vector, and two are one if both can be the same.
        Lists of one number are labels, as vectors they would tell one label only.

        Raises:
            InputError: they are vectors, but not of one length.
        """
        if not self.lengths or not self.only_bits or not (self.repeats or self.truths or set(self.lengths) == {2}):
            return None
        length, _ = self.lengths.most_common(1)[0]
        if len(self.lengths) > 1:
            other = min(self.lengths, key=lambda each: self.lengths[each] if each != length else float("inf"))
            split, row, items = self.first[other]
            raise InputError(
                f"Row {row} of the {split} split has {quoted(items)} as its label, {other} numbers, where "
                f"{self.lengths[length]} rows have {length}: vectors of 0 and 1 have a place for each label."
            )
        if set(self.lengths) == {2} and not self.repeats and known not in (None, 2):
            return None
        return length if length > 0 else None


def _require_ids(splits: Mapping[str, Dataset], column: str, forms: Mapping[str, LabelForm]) -> None:
    """Refuse --class_names for labels that are names already."""
    for name, form in forms.items():
        for row, value in enumerate(_values(splits[name], column), start=1):
            _, problem = form.read(value)
            raw, unreadable = replace(form, names=None).read(value)
            if problem and not unreadable:
                raise InputError(
                    f"--class_names names labels that are numbers from 0, or vectors of 0 and 1; row {row} of the "
                    f"{name} split has {quoted(raw)} as its label."
                )
