"""Settings of text inputs: columns and the most tokens."""

from dataclasses import dataclass, field
from typing import ClassVar

from hf_transfer.errors import InputError


@dataclass
class TextSettings:
    """Dataclass of the flags of texts as input: the columns, and the most tokens.

    Raises:
        InputError: a setting is out of its range.
    """

    flags_for_prediction: ClassVar[tuple[str, ...]] = ("text_column_name", "text_pair_column_name")
    flags_for_evaluation: ClassVar[tuple[str, ...]] = ("text_column_name", "text_pair_column_name")

    text_column_name: str | None = field(
        default=None, metadata={"help": "Column of the texts (default: the first with a usual name, such as text)."}
    )
    text_pair_column_name: str | None = field(
        default=None, metadata={"help": "Column of the second texts, if pairs of texts are classified."}
    )
    max_length: int | None = field(
        default=None,
        metadata={"help": "Most tokens of an input; longer texts are cut (default: the model's own limit)."},
    )

    def __post_init__(self) -> None:
        if self.max_length is not None and self.max_length < 4:
            raise InputError(f"--max_length is {self.max_length}: expected 4 tokens or more.")
