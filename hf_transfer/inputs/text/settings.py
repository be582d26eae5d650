"""Settings of texts as input: columns, and how long they may be."""

from dataclasses import dataclass, field
from typing import ClassVar

from hf_transfer.errors import InputError


@dataclass
class TextSettings:
    """Settings of texts as input.

    Raises:
        InputError: one of them is out of its range.
    """

    flags_for_prediction: ClassVar[tuple[str, ...]] = ("text_column_name", "text_pair_column_name")
    flags_for_evaluation: ClassVar[tuple[str, ...]] = ("text_column_name", "text_pair_column_name")

    text_column_name: str | None = field(default=None, metadata={"help": "Column of the texts."})
    text_pair_column_name: str | None = field(
        default=None, metadata={"help": "Column of the second texts, where pairs are classified."}
    )
    max_length: int | None = field(
        default=None, metadata={"help": "Longest input in tokens (default: the model's own limit)."}
    )

    def __post_init__(self) -> None:
        if self.max_length is not None and self.max_length < 4:
            raise InputError(f"--max_length is {self.max_length}: expected 4 tokens or more.")
