"""Reads the cells of a column of transcripts into the letters of a vocabulary."""

from dataclasses import dataclass
from typing import Any, ClassVar

from datasets import Value

from hf_transfer.data.values import is_blank, is_missing, read_text
from hf_transfer.errors import logger
from hf_transfer.targets.transcripts.letters import normalise, spells
from hf_transfer.targets.transcripts.tags import log_tags

# Nobody speaks faster or slower, in letters per second: then the header's sampling rate is wrong, or the transcript
# belongs to another clip.
FASTEST, SLOWEST = 35.0, 0.5


@dataclass(frozen=True)
class TranscriptReader:
    """Reader of the cells of a column of transcripts (a `TargetReader`).

    Attributes:
        letters: of the vocabulary that transcripts are written in.
    """

    letters: frozenset[str]
    feature: ClassVar[Value] = Value("string")
    required: ClassVar[bool] = False
    missing_reason: ClassVar[str] = "empty transcript"
    unique_per_input: ClassVar[bool] = True
    pace_description: ClassVar[str] = (
        f"more than {FASTEST:g} or less than {SLOWEST:g} letters a second: is the sampling rate in the header wrong, "
        "or the transcript another clip's?"
    )

    def read(self, value: Any) -> tuple[str, str | None]:
        """Return the transcript in the vocabulary's letters, and what is wrong with the cell, or None.

        Of an empty cell the problem is an empty string: there is nothing to say but that it is empty.
        """
        text, problem = read_transcript(value)
        normalised = "" if problem else normalise(text, self.letters)
        return normalised, problem if normalised or problem else ""

    def unusable_column_message(self, split: str, problem: str) -> str:
        """Return an error message for a split whose transcripts are all unusable."""
        return (
            f"The {split} split has no transcripts: every cell of column {problem!r} is empty. Name the column of "
            "transcripts: --text_column_name COLUMN."
        )

    def hint(self, problems: list[str], contents: list[Any]) -> str:
        """Return an empty string, as there is no remedy for single cells."""
        return ""

    def log_changes(self, split: str, cells: list[Any], contents: list[Any]) -> None:
        """Log with an example how the transcripts of a split are normalised, and which tags they contain."""
        texts = [read_transcript(cell)[0] for cell in cells]
        log_tags(split, texts, lambda text: spells(self.letters, text))
        changed = [(old, new) for old, new in zip(texts, contents, strict=True) if old != new and new]
        if changed:
            old, new = changed[0]
            logger.info(
                "%d transcripts are written in the vocabulary's letters: %r as %r.", len(changed), old[:60], new[:60]
            )

    def has_unusual_pace(self, content: str, seconds: float) -> bool:
        """Return whether a transcript is too long or too short to be spoken in so many seconds."""
        return not SLOWEST <= len(content) / seconds <= FASTEST


def read_transcript(cell: Any) -> tuple[str, str | None]:
    """Return the transcript in a cell of any type, and the reason why it cannot be used, or None if it can be.

    An empty cell (None, NaN, spaces) gives ``("", "")``.
    """
    text, problem = read_text(cell)
    is_empty = is_missing(cell) or (isinstance(cell, str) and is_blank(cell))
    return "" if problem else text, "" if is_empty else problem
