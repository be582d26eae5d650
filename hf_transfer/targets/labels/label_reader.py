"""Reads the cells of a label column: one label, several labels, or a vector of 0 and 1."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from datasets import List, Value

from hf_transfer.data.values import as_text, is_blank, is_missing
from hf_transfer.targets.labels.printed_lists import as_list
from hf_transfer.targets.labels.reader_base import LabelReaderBase


@dataclass(frozen=True)
class LabelReader(LabelReaderBase):
    """Reader of the label names in the cells of a column (a `TargetReader`).

    Attributes:
        kind: whether a cell holds one label, several labels, or a vector with a 1 at the place of each label.
        names: of the labels, by id or by place in the vector; None where the cells hold the names themselves.
        separator: what separates several labels in a text.
    """

    kind: Literal["one", "several", "vector"]
    names: tuple[str, ...] | None = None
    separator: str | None = None

    @property
    def multi_label(self) -> bool:
        """Boolean: whether an example may have several labels."""
        return self.kind != "one"

    @property
    def feature(self) -> Value | List:
        """The `datasets` feature (a type of column) of the labels that `read` returns."""
        return List(Value("string")) if self.multi_label else Value("string")

    def read(self, value: Any) -> tuple[str | list[str], str | None]:
        """Return the label name in a cell, or the list of names, and what is wrong with the cell, or None."""
        items = as_list(value)
        if self.kind == "one":
            return ("", "a list instead of a label") if items is not None else self._read_name(value)
        if items is None and self.separator and isinstance(value, str):
            items = value.split(self.separator) if value.strip() else []
        if items is None:
            return [], "no label"
        if self.kind == "vector":
            return [name for name, bit in zip(self.names or (), items, strict=True) if float(bit)], None
        labels = [self._read_name(item) for item in items]
        problem = next((problem for _, problem in labels if problem), None)
        return ([], problem) if problem else (sorted({name for name, _ in labels}), None)

    def hint(self, problems: list[str], contents: list[Any]) -> str:
        """Return a sentence on --label_separator if a cell seems to hold several labels, or an empty string."""
        return separator_hint({label for label in contents if isinstance(label, str)})

    def _read_name(self, value: Any) -> tuple[str, str | None]:
        if is_missing(value):
            return "", "no label"
        try:
            name = as_text(value).strip()
        except TypeError as error:
            return "", f"{error} instead of a label"
        if is_blank(name):
            return "", "no label"
        if "\0" in name:
            return "", "a NUL character or half a character in the label"
        if self.names is None or (name in self.names and not name.isdecimal()):
            return name, None
        is_id = name.isascii() and name.isdecimal() and int(name) < len(self.names)
        return (self.names[int(name)], None) if is_id else ("", "no label")  # -1, as test sets on the Hub have it


def separator_hint(names: Iterable[str]) -> str:
    """Return a sentence that names --label_separator if a label consists of others, or an empty string."""
    known = set(names)
    for name in sorted(known):
        for separator in (";", "|", ","):
            parts = [part.strip() for part in name.split(separator)]
            if len(parts) > 1 and set(parts) <= known:
                return (
                    f" Labels such as {name!r} consist of others: --label_separator {separator!r} reads them as "
                    "several labels."
                )
    return ""
