"""Transcripts as target: the text that is spoken in a clip, learned letter by letter with CTC."""

from collections.abc import Callable, Mapping, Sequence, Set
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from datasets import Dataset, DatasetDict
from transformers import (
    PretrainedConfig,
    PreTrainedModel,
    ProcessorMixin,
    Wav2Vec2BertProcessor,
    Wav2Vec2Processor,
)

from hf_transfer.arguments import DataArguments, ModelArguments
from hf_transfer.data.batches import pad_labels
from hf_transfer.data.column_readers import LeaveOut
from hf_transfer.data.splits import find_column
from hf_transfer.data.units import resampling_units, unit_names, unit_of_record
from hf_transfer.errors import InputError, logger
from hf_transfer.evaluation.bootstrap import ResampledMetrics
from hf_transfer.models import output_lengths
from hf_transfer.targets.transcripts import error_rates
from hf_transfer.targets.transcripts.ctc_encoding import CTCEncoding
from hf_transfer.targets.transcripts.ctc_head import replace_head
from hf_transfer.targets.transcripts.ctc_loss import CTCLoss
from hf_transfer.targets.transcripts.languages import load_language, restore_language, vocabularies
from hf_transfer.targets.transcripts.letters import (
    build_tokenizer,
    covers,
    letters_of,
    listed_letters,
    new_letters,
    spells,
    unknown_letters,
)
from hf_transfer.targets.transcripts.settings import TranscriptSettings
from hf_transfer.targets.transcripts.transcript_reader import TranscriptReader, read_transcript
from hf_transfer.targets.transcripts.vocabulary import log_why_new, read_vocabulary, require_usable
from hf_transfer.training.loss import Readout

TRANSCRIPT_COLUMNS = ("transcription", "sentence", "text", "transcript", "normalized_text", "raw_transcription")
# With a larger share of clips in which nothing is recognised, the summary says so.
MAX_EMPTY_SHARE = 0.2


@dataclass(frozen=True)
class TranscriptTarget:
    """Dataclass of the target of the text that is spoken in a clip (a `Target`): the column ``text``.

    It is written in the letters of the model's vocabulary.

    The methods are described in `Target`.

    Attributes:
        settings: the column and the vocabulary.
    """

    settings: TranscriptSettings
    column: ClassVar[str] = "text"
    template: ClassVar[str] = "transcripts"
    headline: ClassVar[tuple[str, ...]] = ("wer", "cer")
    metrics: ClassVar[tuple[str, ...]] = ("wer", "cer", "empty_hypotheses")
    distinguishes_examples: ClassVar[bool] = False
    quoting_entries: ClassVar[tuple[str, ...]] = ("errors",)
    uses_validation_split: ClassVar[bool] = False
    requires_validation_split: ClassVar[bool] = False

    # --- data -------------------------------------------------------------------------------------------------

    def columns(
        self, splits: DatasetDict, inputs: Mapping[str, Sequence[str]], config: PretrainedConfig | None
    ) -> tuple[DatasetDict, dict[str, str]]:
        """Return the splits and the name of the column of transcripts in each.

        Tables of the same data may name it differently.
        """
        columns: dict[str, str] = {}
        by_table: dict[tuple[str, ...], str] = {}  # so that tables with the same columns are logged once
        for name, split in splits.items():
            names = tuple(split.column_names)
            if names not in by_table:
                by_table[names] = find_column(
                    names, self.settings.text_column_name, TRANSCRIPT_COLUMNS, "text_column_name"
                )
            columns[name] = by_table[names]
        return splits, columns

    def readers(
        self, splits: DatasetDict, columns: Mapping[str, str], config: PretrainedConfig | None, model: ModelArguments
    ) -> Mapping[str, TranscriptReader]:
        """Return by split the reader of transcripts, in the letters of the checkpoint's or a new vocabulary."""
        reader = TranscriptReader(frozenset(self._letters(model, splits, columns, is_finetuned=config is not None)))
        return dict.fromkeys(splits, reader)

    def _letters(
        self, model: ModelArguments, splits: DatasetDict, columns: Mapping[str, str], *, is_finetuned: bool
    ) -> set[str]:
        """Return the letters of the vocabulary that the model will have, as a set."""
        settings = self.settings
        if settings.vocabulary == "new" and not is_finetuned:
            return new_letters(_read_texts(splits["train"], columns["train"]))
        vocabulary = read_vocabulary(model, settings.target_lang, log_repairs=not is_finetuned)
        if is_finetuned or settings.vocabulary == "keep":
            flag = "--vocabulary keep: " if settings.vocabulary == "keep" else ""
            return require_usable(vocabulary, model, flag).letters
        texts = _read_texts(splits["train"], columns["train"])
        if vocabulary and not vocabulary.fault and covers(texts, vocabulary.letters):
            return vocabulary.letters
        letters = new_letters(texts)
        if vocabulary:
            log_why_new(vocabulary, texts, letters, vocabularies(model))
        return letters

    def prepare_targets(
        self,
        read: Mapping[str, Dataset],
        readers: Mapping[str, Any],
        config: PretrainedConfig | None,
        data: DataArguments,
        leave_out: LeaveOut,
    ) -> tuple[DatasetDict, dict[str, dict[str, int]]]:
        """Return the splits without training clips whose letters the vocabulary lacks, and their counts."""
        splits, left_out = DatasetDict(read), {}
        for name in ("train", "replay", *(["source"] if data.replay else [])):
            if name in read:
                splits[name] = _without_unknown_letters(name, read[name], readers[name].letters, leave_out)
                left_out[name] = {"letters outside the vocabulary": len(read[name]) - len(splits[name])}
        return splits, left_out

    def strata(self, split: Dataset) -> list[Any]:
        """Return the group of each example, [n], or an empty string for each if there are no groups."""
        return split["group"][:] if "group" in split.column_names else [""] * len(split)

    def check(
        self, splits: DatasetDict, identities: Mapping[str, list[str]], describe: Callable[[Dataset, int], str]
    ) -> list[str]:
        """Return an empty list of caveats, as all transcripts can be measured."""
        return []

    def facts(self, splits: DatasetDict) -> dict[str, Any]:
        """Return ``answer``: the key of the main metric and its name in a sentence."""
        return {"answer": ("wer", "Word error rate")}

    # --- model ------------------------------------------------------------------------------------------------

    def complete_processor(self, processor: Any, model: ModelArguments, splits: DatasetDict | None) -> ProcessorMixin:
        """Return a processor of the feature extractor and a tokenizer: the checkpoint's, or a new one.

        The new one is built from the transcripts.
        """
        settings, is_new = self.settings, self.settings.vocabulary == "new" and splits is not None
        vocabulary = read_vocabulary(model, settings.target_lang, required=not is_new)
        texts = splits["train"]["text"][:] if splits is not None else []
        if splits is None or settings.vocabulary == "keep":
            tokenizer = require_usable(vocabulary, model).tokenizer
        elif (
            vocabulary and not (vocabulary.fault or is_new) and all(spells(vocabulary.letters, text) for text in texts)
        ):
            tokenizer = vocabulary.tokenizer
        else:
            tokenizer = build_tokenizer(texts)
            letters = "".join(sorted(letters_of(tokenizer) - {" "}))
            why = "The checkpoint's vocabulary is not used" if vocabulary else "The checkpoint has no vocabulary"
            logger.info("%s: one of %d letters is built from the training transcripts: %s", why, len(letters), letters)
        processor_class = Wav2Vec2Processor if hasattr(processor, "do_normalize") else Wav2Vec2BertProcessor
        return processor_class(feature_extractor=processor, tokenizer=tokenizer)

    def config_settings(
        self, model: ModelArguments, splits: DatasetDict, processor: ProcessorMixin, *, pretrained: bool
    ) -> dict[str, Any]:
        """Return settings of the config: the id of CTC's blank, and a new vocabulary's size.

        The size is set if the checkpoint has no vocabulary.
        """
        settings: dict[str, Any] = {"pad_token_id": processor.tokenizer.pad_token_id}
        if not pretrained or read_vocabulary(model, self.settings.target_lang, required=False) is None:
            # Not of a checkpoint's vocabulary: its head has no classes for tokens that were added to the tokenizer.
            settings["vocab_size"] = len(processor.tokenizer)
        return settings

    def adapt_head(
        self,
        loaded: PreTrainedModel,
        old: PretrainedConfig,
        new: list[str],
        model: ModelArguments,
        splits: DatasetDict,
        processor: ProcessorMixin,
        *,
        pretrained: bool,
    ) -> list[str]:
        """Load the weights of the chosen language, and replace the head if the vocabulary is new.

        Languages are those of a multilingual checkpoint. Returned are the names of the new parameters.
        """
        checkpoint = read_vocabulary(model, self.settings.target_lang, required=False) if pretrained else None
        if checkpoint is None:
            return []
        if checkpoint.language:
            load_language(loaded, checkpoint.language, model.model_revision)
        if checkpoint.tokenizer.get_vocab() == processor.tokenizer.get_vocab():
            return []
        return replace_head(loaded, checkpoint.tokenizer, processor.tokenizer)

    def prepare_base(self, model: PreTrainedModel, name: str, revision: str) -> None:
        """Load into a base model the weights of the config's language, of a multilingual checkpoint."""
        restore_language(model, name, revision)

    def encoding(self, split: Dataset, processor: ProcessorMixin, config: PretrainedConfig) -> CTCEncoding:
        """Return the encoding of transcripts as token ids of the processor's tokenizer."""
        return CTCEncoding(processor.tokenizer, config.vocab_size)

    @staticmethod
    def pad(labels: list[list[int]]) -> torch.Tensor:
        """Return the labels of a batch, which are token ids, [batch, letters], padded with -100."""
        return pad_labels(labels)

    def loss_function(self, train: Dataset, model: PreTrainedModel, label_smoothing: float) -> CTCLoss:
        """Return the CTC loss of the model; raise an error if label smoothing is asked for."""
        if label_smoothing:
            raise InputError(
                "--label_smoothing_factor does not work with CTC: it is for classification. Leave it out."
            )
        return CTCLoss(model.config.pad_token_id, output_lengths(model))

    def readout(self, processor: ProcessorMixin, model: PreTrainedModel) -> Readout:
        """Return the function that decodes a batch's outputs greedily to texts, one for each clip.

        It takes the most probable letter of each frame, without repetitions and blanks.
        """
        frames_of, tokenizer = output_lengths(model), processor.tokenizer

        def read(outputs: Any, batch: Mapping[str, Any]) -> list[str]:
            ids, frames = outputs["logits"].argmax(dim=-1).cpu().numpy(), frames_of(batch["length"]).tolist()
            return [" ".join(tokenizer.decode(row[:n]).split()) for row, n in zip(ids, frames, strict=True)]

        return read

    def finalised(self, model: PreTrainedModel) -> AbstractContextManager[None]:
        """Return a context manager that changes nothing, as the model is saved as it was trained."""
        return nullcontext()

    # --- quality ----------------------------------------------------------------------------------------------

    def decide(
        self,
        outputs: Sequence[str] | None,
        split: Dataset | None,
        config: PretrainedConfig,
        identities: Sequence[str] | None,
    ) -> dict[str, Any]:
        """Return an empty dictionary, as decoding has no settings to fit."""
        return {}

    def compute_metrics(
        self, outputs: Sequence[str], split: Dataset, config: PretrainedConfig | None
    ) -> dict[str, float]:
        """Return ``wer``, ``cer`` and ``empty_hypotheses`` (shares) of the texts that were recognised."""
        return error_rates.compute_metrics(split["text"][:], list(outputs))

    def intervals(
        self, before: Sequence[str], after: Sequence[str], split: Dataset, config: PretrainedConfig, seed: int
    ) -> dict[str, Any]:
        """Return 95 % intervals of the error rates, over whole speakers if enough of them are known."""
        return error_rates.intervals(split["text"][:], list(before), list(after), unit_names(split), seed)

    def error_analysis(
        self, outputs: Sequence[str], split: Dataset, config: PretrainedConfig
    ) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Return the most frequent ``errors``, and the clips with the highest word error rates."""
        references, hypotheses = split["text"][:], list(outputs)
        errors = error_rates.most_frequent_errors(references, hypotheses)
        return {"errors": errors}, error_rates.worst_clips(references, hypotheses)

    def remarks(self, report: Mapping[str, Any]) -> list[str]:
        """Return a sentence if no word is recognised in many clips, as a list; else an empty list."""
        share = report["metrics"]["empty_hypotheses"]
        if share <= MAX_EMPTY_SHARE:
            return []
        return [f"Nothing was recognised in {share:.0%} of the clips: train longer (--num_train_epochs)."]

    def records(self, outputs: Sequence[str], split: Dataset, config: PretrainedConfig) -> list[dict[str, Any]]:
        """Return for each clip ``reference``, ``prediction`` and the counts of words, letters and errors."""
        references = split["text"][:]
        counts = error_rates.count_errors(references, list(outputs))
        return [
            {"reference": reference, "prediction": text} | {name: int(values[i]) for name, values in counts.items()}
            for i, (reference, text) in enumerate(zip(references, outputs, strict=True))
        ]

    def resampled_metrics(self, records: list[dict[str, Any]], facts: dict[str, Any]) -> ResampledMetrics[str]:
        """Return the error rates of prediction records as `ResampledMetrics`, for the bootstrap."""
        counts = {
            name: np.array([record[name] for record in records], dtype=float)
            for pair in error_rates.RATES.values()
            for name in pair
        }
        units = resampling_units([unit_of_record(record) for record in records], len(records))
        return ResampledMetrics(units, lambda weights: error_rates.rates(counts, weights))


def _read_texts(split: Dataset, column: str) -> list[str]:
    """Return the transcripts of a split, not normalised, with empty ones for cells that cannot be used."""
    return [read_transcript(cell)[0] for cell in split[column][:]]


def _without_unknown_letters(name: str, split: Dataset, letters: Set[str], leave_out: LeaveOut) -> Dataset:
    """Return a split without the clips whose transcripts hold letters that the vocabulary lacks."""
    unknown, _ = unknown_letters(split["text"][:], letters)
    if not unknown:
        return split
    fits = [spells(letters, text) for text in split["text"][:]]
    remedy = f"{listed_letters(unknown)}: write numbers as words, or --vocabulary new"
    kept = leave_out(name, split, fits, "letters outside the vocabulary", remedy)
    if not len(kept):
        raise InputError(
            f"No {name} transcript can be spelt in the checkpoint's vocabulary. Use --vocabulary new, which builds "
            "one from the training transcripts."
        )
    return kept
