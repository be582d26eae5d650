"""Settings of transcripts as target: their column, and the vocabulary that they are written in."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal


@dataclass
class TranscriptSettings:
    """Settings of transcripts as target."""

    flags_for_evaluation: ClassVar[tuple[str, ...]] = ("text_column_name",)

    text_column_name: str | None = field(default=None, metadata={"help": "Column of the transcripts."})
    vocabulary: Literal["auto", "keep", "new"] = field(
        default="auto",
        metadata={
            "help": "Keep the checkpoint's vocabulary, build a new one from the training transcripts, or the second "
            "only where the first cannot spell them."
        },
    )
    target_lang: str | None = field(
        default=None,
        metadata={
            "help": "Language of a multilingual checkpoint (MMS), as `deu`: its vocabulary and adapter are taken "
            "(default: the one that the checkpoint is set to)."
        },
    )
