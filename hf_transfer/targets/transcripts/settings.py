"""Settings of transcripts as target: their column and their vocabulary."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal


@dataclass
class TranscriptSettings:
    """Dataclass of the flags of transcripts as target: their column and their vocabulary."""

    flags_for_evaluation: ClassVar[tuple[str, ...]] = ("text_column_name",)

    text_column_name: str | None = field(default=None, metadata={"help": "Column of the transcripts."})
    vocabulary: Literal["auto", "keep", "new"] = field(
        default="auto",
        metadata={
            "help": "keep: the checkpoint's vocabulary; new: one built from the training transcripts; auto: a new one "
            "only if the checkpoint's cannot spell the transcripts."
        },
    )
    target_lang: str | None = field(
        default=None,
        metadata={
            "help": "Language of a multilingual checkpoint (MMS), for example `deu`: its vocabulary and adapter are "
            "used (default: the language that the checkpoint is set to)."
        },
    )
