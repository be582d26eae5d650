"""Transcripts as target, learned with CTC: from frames to the letters that were said."""

from collections.abc import Mapping, Sequence, Set
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from datasets import Dataset, DatasetDict, Value
from transformers import PreTrainedModel, Wav2Vec2BertProcessor, Wav2Vec2Processor

from hf_transfer.arguments import DataArguments, ModelArguments
from hf_transfer.data.batches import pad_labels
from hf_transfer.data.column_readers import LeaveOut
from hf_transfer.data.splits import find_column
from hf_transfer.data.units import resampling_units, unit_names, unit_of_record
from hf_transfer.data.values import is_blank, is_missing, read_text
from hf_transfer.errors import InputError, logger
from hf_transfer.evaluation.bootstrap import ResampledMetrics
from hf_transfer.models import output_lengths
from hf_transfer.targets.transcripts import error_rates
from hf_transfer.targets.transcripts.ctc_loss import CTCLoss, spelling_frames
from hf_transfer.targets.transcripts.languages import load_language, restore_language, vocabularies
from hf_transfer.targets.transcripts.letters import (
    build_tokenizer,
    covers,
    letters_of,
    new_letters,
    normalise,
    spells,
    unknown_letters,
)
from hf_transfer.targets.transcripts.settings import TranscriptSettings
from hf_transfer.targets.transcripts.tags import say_tags
from hf_transfer.targets.transcripts.vocabulary import (
    label_ids,
    read_vocabulary,
    renew_head,
    respell,
    say_why_new,
    usable,
)
from hf_transfer.training.loss import Readout

TRANSCRIPT_COLUMNS = ("transcription", "sentence", "text", "transcript", "normalized_text", "raw_transcription")
# Clips without a word from this share on are worth a line.
SILENT = 0.2
# Letters a second that nobody speaks: the header's sampling rate is wrong, or the transcript another clip's.
FASTEST, SLOWEST = 35.0, 0.5


@dataclass(frozen=True)
class TranscriptTarget:
    """What was said in a clip: the column ``text``, in the letters of the model's vocabulary.

    Attributes:
        settings: which column it is, and the vocabulary.
    """

    settings: TranscriptSettings
    column: ClassVar[str] = "text"
    template: ClassVar[str] = "transcripts"
    headline: ClassVar[tuple[str, ...]] = ("wer", "cer")
    metrics: ClassVar[tuple[str, ...]] = ("wer", "cer", "empty_hypotheses")
    distinguishes_examples: ClassVar[bool] = False
    uses_validation_split: ClassVar[bool] = False
    requires_validation_split: ClassVar[bool] = False

    # --- data -------------------------------------------------------------------------------------------------

    def columns(
        self, splits: DatasetDict, inputs: Mapping[str, Sequence[str]], config: Any
    ) -> tuple[DatasetDict, dict[str, str]]:
        """As of `Target`; tables of the same data may name it differently."""
        found: dict[str, str] = {}
        known: dict[tuple[str, ...], str] = {}
        for name, split in splits.items():
            there = tuple(split.column_names)
            if there not in known:
                known[there] = find_column(
                    there, self.settings.text_column_name, TRANSCRIPT_COLUMNS, "text_column_name"
                )
            found[name] = known[there]
        return splits, found

    def readers(
        self, splits: DatasetDict, columns: Mapping[str, str], config: Any, model: ModelArguments
    ) -> Mapping[str, "TranscriptReader"]:
        """Readers into the letters of the kept vocabulary, or of one that will be built."""
        reader = TranscriptReader(frozenset(self._letters(model, splits, columns, fixed=config is not None)))
        return dict.fromkeys(splits, reader)

    def _letters(
        self, model: ModelArguments, splits: DatasetDict, columns: Mapping[str, str], *, fixed: bool
    ) -> set[str]:
        settings = self.settings
        vocabulary = read_vocabulary(model, settings.target_lang, needed=settings.vocabulary != "new", say=not fixed)
        if fixed or settings.vocabulary == "keep":
            flag = "--vocabulary keep: " if settings.vocabulary == "keep" else ""
            return usable(vocabulary, model, flag).letters
        texts = [_written(cell)[0] for cell in splits["train"][columns["train"]][:]]
        if vocabulary and not vocabulary.fault and settings.vocabulary == "auto" and covers(texts, vocabulary.letters):
            return vocabulary.letters
        letters = new_letters(texts)
        if vocabulary and settings.vocabulary == "auto":
            say_why_new(vocabulary, texts, letters, vocabularies(model))
        return letters

    def prepare_targets(
        self,
        read: Mapping[str, Dataset],
        readers: Mapping[str, Any],
        config: Any,
        data: DataArguments,
        leave_out: LeaveOut,
    ) -> tuple[DatasetDict, dict[str, dict[str, int]]]:
        """Of what is trained on, without the clips whose transcripts hold letters that the vocabulary lacks."""
        kept, left_out = DatasetDict(read), {}
        for name in ("train", "replay", *(["source"] if data.replay else [])):
            if name in read:
                kept[name] = _spellable(name, read[name], readers[name].letters, leave_out)
                left_out[name] = {"letters outside the vocabulary": len(read[name]) - len(kept[name])}
        return kept, left_out

    def strata(self, split: Dataset) -> list[Any]:
        """Its group, where there are groups."""
        return split["group"][:] if "group" in split.column_names else [""] * len(split)

    def check(self, splits: DatasetDict, identities: Mapping[str, list[str]]) -> list[str]:
        """Nothing."""
        return []

    def facts(self, splits: DatasetDict) -> dict[str, Any]:
        """As of `Target`."""
        return {"answer": ("wer", "Word error rate")}

    # --- model ------------------------------------------------------------------------------------------------

    def complete_processor(self, processor: Any, model: ModelArguments, splits: DatasetDict | None) -> Any:
        """The feature extractor with a tokenizer: the checkpoint's, or one that is built from the transcripts."""
        settings, new = self.settings, self.settings.vocabulary == "new" and splits is not None
        vocabulary = read_vocabulary(model, settings.target_lang, needed=not new)
        texts = splits["train"]["text"][:] if splits is not None else []
        if splits is None or settings.vocabulary == "keep":
            tokenizer = usable(vocabulary, model).tokenizer
        elif vocabulary and not (vocabulary.fault or new) and all(spells(vocabulary.letters, text) for text in texts):
            tokenizer = vocabulary.tokenizer
        else:
            tokenizer = build_tokenizer(texts)
            letters = "".join(sorted(letters_of(tokenizer) - {" "}))
            why = "The checkpoint's vocabulary is left" if vocabulary else "The checkpoint has no vocabulary"
            logger.info("%s: one of %d letters is built from the training transcripts: %s", why, len(letters), letters)
        kind = Wav2Vec2Processor if hasattr(processor, "do_normalize") else Wav2Vec2BertProcessor
        return kind(feature_extractor=processor, tokenizer=tokenizer)

    def config_settings(
        self, model: ModelArguments, splits: DatasetDict, processor: Any, *, pretrained: bool
    ) -> dict[str, Any]:
        """CTC's blank, and the number of letters where the checkpoint has no vocabulary of its own."""
        settings: dict[str, Any] = {"pad_token_id": processor.tokenizer.pad_token_id}
        if not pretrained or read_vocabulary(model, self.settings.target_lang, needed=False) is None:
            # A checkpoint's own counts no tokens that were added to it.
            settings["vocab_size"] = len(processor.tokenizer)
        return settings

    def adapt_head(
        self,
        loaded: Any,
        old: Any,
        new: list[str],
        model: ModelArguments,
        splits: DatasetDict,
        processor: Any,
        *,
        pretrained: bool,
    ) -> list[str]:
        """As of `Target`; and the weights of the language, of a multilingual checkpoint."""
        own = read_vocabulary(model, self.settings.target_lang, needed=False) if pretrained else None
        if own is None:
            return []
        if own.language:
            load_language(loaded, own.language, model.model_revision)
        if own.tokenizer.get_vocab() == processor.tokenizer.get_vocab():
            return []
        return renew_head(loaded, own.tokenizer, processor.tokenizer)

    def prepare_base(self, model: PreTrainedModel, name: str, revision: str) -> None:
        """The weights of its language."""
        restore_language(model, name, revision)

    def encoding(self, split: Dataset, processor: Any, config: Any) -> "CTCEncoding":
        """As of `Target`: token ids."""
        return CTCEncoding(processor.tokenizer, config.vocab_size)

    @staticmethod
    def pad(labels: list[Any]) -> torch.Tensor:
        """Token ids [batch, letters], padded with -100."""
        return pad_labels(labels)

    def loss_function(self, train: Dataset, model: Any, label_smoothing: float) -> CTCLoss:
        """CTC."""
        if label_smoothing:
            raise InputError("--label_smoothing_factor is of labels, and CTC has none. Leave it out.")
        return CTCLoss(model.config.pad_token_id, output_lengths(model))

    def readout(self, processor: Any, model: Any) -> Readout:
        """The text that each clip is heard as: the likeliest letter of each frame, repetitions and blanks removed."""
        to_frames, tokenizer = output_lengths(model), processor.tokenizer

        def read(outputs: Any, batch: Mapping[str, Any]) -> list[str]:
            ids, frames = outputs["logits"].argmax(dim=-1).cpu().numpy(), to_frames(batch["length"]).tolist()
            return [" ".join(tokenizer.decode(row[:n]).split()) for row, n in zip(ids, frames, strict=True)]

        return read

    def finalised(self, model: Any) -> AbstractContextManager[None]:
        """The model is shipped as it was trained."""
        return nullcontext()

    # --- quality ----------------------------------------------------------------------------------------------

    def decide(
        self, outputs: Any, split: Dataset | None, config: Any, identities: Sequence[str] | None
    ) -> dict[str, Any]:
        """Nothing."""
        return {}

    def compute_metrics(self, outputs: Any, split: Dataset, config: Any) -> dict[str, float]:
        """``wer``, ``cer`` and ``empty_hypotheses``."""
        return error_rates.compute_metrics(split["text"][:], list(outputs))

    def intervals(self, before: Any, after: Any, split: Dataset, config: Any, seed: int) -> dict[str, Any]:
        """As of `Target`, over whole speakers where enough are known."""
        return error_rates.intervals(split["text"][:], list(before), list(after), unit_names(split), seed)

    def error_analysis(self, outputs: Any, split: Dataset, config: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """The commonest ``errors``."""
        references, hypotheses = split["text"][:], list(outputs)
        errors = error_rates.commonest_errors(references, hypotheses)
        return {"errors": errors}, error_rates.worst_clips(references, hypotheses)

    def remarks(self, report: Mapping[str, Any]) -> list[str]:
        """That many clips are heard as nothing at all."""
        share = report["metrics"]["empty_hypotheses"]
        if share <= SILENT:
            return []
        return [f"It heard nothing at all in {share:.0%} of the clips: train longer (--num_train_epochs)."]

    def records(self, outputs: Any, split: Dataset, config: Any) -> list[dict[str, Any]]:
        """``reference``, ``prediction``, and how many of their words and letters are wrong."""
        references = split["text"][:]
        counts = error_rates.count_errors(references, list(outputs))
        return [
            {"reference": reference, "prediction": text} | {name: int(values[i]) for name, values in counts.items()}
            for i, (reference, text) in enumerate(zip(references, outputs, strict=True))
        ]

    def resampled_metrics(self, records: list[dict[str, Any]], facts: dict[str, Any]) -> ResampledMetrics[str]:
        """As of `Target`."""
        counts = {
            name: np.array([record[name] for record in records], dtype=float)
            for pair in error_rates.RATES.values()
            for name in pair
        }
        together = resampling_units([unit_of_record(record) for record in records], len(records))
        return ResampledMetrics(together, lambda weights: error_rates.rates(counts, weights))


@dataclass(frozen=True)
class TranscriptReader:
    """How the cells of a column of transcripts are read.

    Attributes:
        letters: that they are written in.
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
        """The transcript in the vocabulary's letters; and what is wrong, in an empty string where nothing is there."""
        text, problem = _written(value)
        spelt = "" if problem else normalise(text, self.letters)
        return spelt, problem if spelt or problem else ""

    def unusable_column_message(self, split: str, problem: str) -> str:
        """As of `CellReader`."""
        return (
            f"The {split} split has no transcripts: column {problem!r} is empty throughout. Name the right one: "
            "--text_column_name COLUMN."
        )

    def hint(self, problems: list[str], contents: list[Any]) -> str:
        """Nothing."""
        return ""

    def log_changes(self, split: str, cells: list[Any], contents: list[Any]) -> None:
        """Say with an example what the normaliser does to transcripts, and which tags they hold."""
        written = [_written(cell)[0] for cell in cells]
        say_tags(split, written, lambda text: spells(self.letters, text))
        changed = [(old, new) for old, new in zip(written, contents, strict=True) if old != new and new]
        if changed:
            old, new = changed[0]
            logger.info(
                "%d transcripts are written in the vocabulary's letters: %r as %r.", len(changed), old[:60], new[:60]
            )

    def has_unusual_pace(self, content: str, seconds: float) -> bool:
        """Whether nobody speaks so fast, or so slowly."""
        return not SLOWEST <= len(content) / seconds <= FASTEST


@dataclass(frozen=True)
class CTCEncoding:
    """Transcripts as the ids of their letters.

    Attributes:
        tokenizer: of the letters.
        classes: of the model's head.
    """

    tokenizer: Any
    classes: int
    unfit_reason: ClassVar[str] = "more letters than frames"
    remedy: ClassVar[str] = "is it another clip's transcript?"

    def respell(self, splits: DatasetDict) -> DatasetDict:
        """The splits with each text in the letters of the vocabulary that the model has in the end."""
        return respell(splits, letters_of(self.tokenizer, self.classes))

    def __call__(self, split: Dataset) -> list[list[int]]:
        """Token ids of each transcript."""
        return label_ids(self.tokenizer, split["text"][:], self.classes)

    def required_positions(self, labels: list[int]) -> int:
        """Frames that CTC needs to spell them."""
        return spelling_frames(labels)


def _written(cell: Any) -> tuple[str, str | None]:
    """The transcript in a cell of any type, and what keeps it from being used, if something does.

    An empty cell (None, NaN) is an empty transcript, of which nothing more need be said.
    """
    text, problem = read_text(cell)
    empty = is_missing(cell) or (isinstance(cell, str) and is_blank(cell))
    return "" if problem else text, "" if empty else problem


def _spellable(name: str, split: Dataset, letters: Set[str], leave_out: LeaveOut) -> Dataset:
    """Without the clips whose transcripts hold letters that the vocabulary lacks."""
    foreign, _ = unknown_letters(split["text"][:], letters)
    if not foreign:
        return split
    fits = [spells(letters, text) for text in split["text"][:]]
    shown = " ".join(letter if letter != " " else "(space)" for letter, _ in foreign.most_common(10))
    remedy = f"{shown}: write numbers as words, or --vocabulary new"
    kept = leave_out(name, split, fits, "letters outside the vocabulary", remedy)
    if not len(kept):
        raise InputError(f"No {name} transcript can be spelt in the checkpoint's vocabulary: --vocabulary new.")
    return kept
