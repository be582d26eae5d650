"""Transcripts as the token ids that the CTC loss learns, in the letters of the model's vocabulary."""

from dataclasses import dataclass
from typing import ClassVar

from datasets import Dataset, DatasetDict
from transformers import PreTrainedTokenizerBase

from hf_transfer.errors import logger
from hf_transfer.targets.transcripts.ctc_loss import required_frames
from hf_transfer.targets.transcripts.letters import letters_of, listed_letters, normalise, spells, unknown_letters


@dataclass(frozen=True)
class CTCEncoding:
    """Encoding of transcripts as token ids, which the CTC loss takes (a `TargetEncoding`).

    Attributes:
        tokenizer: of the model's vocabulary.
        classes: number of classes of the model's head.
    """

    tokenizer: PreTrainedTokenizerBase
    classes: int
    unfit_reason: ClassVar[str] = "more letters than frames"
    remedy: ClassVar[str] = "is it another clip's transcript?"

    def respell(self, splits: DatasetDict) -> DatasetDict:
        """Return the splits with each transcript in the letters of the model's vocabulary.

        Logs the letters in splits other than training that the vocabulary lacks: each of them counts as an error.
        """
        letters = letters_of(self.tokenizer, self.classes)
        respelled = DatasetDict()
        for name, split in splits.items():
            texts = [normalise(text, letters) for text in split["text"][:]]
            changed = texts != split["text"][:]
            respelled[name] = split.remove_columns("text").add_column("text", texts) if changed else split
            unknown, _ = unknown_letters(texts, letters)
            if unknown and name != "train":
                count = sum(not spells(letters, text) for text in texts)
                logger.info(
                    "%d of %d %s transcripts hold letters that the vocabulary lacks (%s): these always count as "
                    "errors.", count, len(texts), name, listed_letters(unknown),
                )  # fmt: skip
        return respelled

    def __call__(self, split: Dataset) -> list[list[int]]:
        """Return the token ids of the transcript of each example of a split, as lists."""
        return label_ids(self.tokenizer, split["text"][:], self.classes)

    def required_positions(self, labels: list[int]) -> int:
        """Return the number of frames that CTC needs to write the token ids `labels`."""
        return required_frames(labels)


def label_ids(tokenizer: PreTrainedTokenizerBase, texts: list[str], classes: int) -> list[list[int]]:
    """Return the token ids of each text, as lists; a token without a class becomes unknown, or is left out.

    torch's CTC loss would read outside its input where a label is not below the number of classes.

    Args:
        tokenizer: of the model's vocabulary.
        texts: transcripts in its letters.
        classes: number of classes of the model's head.
    """
    unknown = [i for i in (tokenizer.unk_token_id,) if i is not None and i < classes]
    return [
        [i for each in tokenizer(text).input_ids for i in ([each] if each is not None and each < classes else unknown)]
        for text in texts
    ]
