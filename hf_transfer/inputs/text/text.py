"""Text inputs: from columns of texts, or of pairs of texts, to token ids."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from datasets import Dataset, DatasetDict, Value
from datasets.fingerprint import Hasher
from transformers import DataCollatorWithPadding, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from hf_transfer.arguments import DataArguments, ModelArguments
from hf_transfer.data.column_readers import CellReader, TargetEncoding, TargetReader, read_columns
from hf_transfer.data.leakage import text_identity
from hf_transfer.data.splits import find_column
from hf_transfer.data.units import usual_unit_column
from hf_transfer.data.values import read_text
from hf_transfer.errors import InputError, logger
from hf_transfer.inputs.input import ModelInputs, Processor
from hf_transfer.inputs.text.checks import (
    require_accepted_inputs,
    require_embedding_of_every_token,
    require_known_words,
)
from hf_transfer.inputs.text.padding import align_padding, padding_config_settings
from hf_transfer.inputs.text.positions import (
    DEFAULT_MAX_LENGTH,
    max_input_length,
    max_positions_in_config,
    smallest_limit,
)
from hf_transfer.inputs.text.settings import TextSettings
from hf_transfer.inputs.text.tokenized_texts import TokenizedTexts, tokenize
from hf_transfer.inputs.text.tokenizers import load_tokenizer
from hf_transfer.models import load_config

# Usual names of columns of texts, the likeliest first, and those of second texts beside them.
TEXT_COLUMNS = ("text", "sentence", "sms", "message", "review", "content", "comment", "comment_text", "tweet", "body",
                "premise", "sentence1", "question1", "question")  # fmt: skip
PAIR_COLUMN_OF = {"text": "text_pair", "sentence1": "sentence2", "question1": "question2", "premise": "hypothesis"}
PAIR_COLUMNS = tuple(PAIR_COLUMN_OF.values())
# Most letters of a text that a report shows.
MAX_SHOWN = 600
# Problems that `read_text` finds, as the log of training counts them: "2 x no text".
PROBLEMS_IN_TRAINING = {"there is no text": "no text"}


@dataclass(frozen=True)
class TextInput:
    """Dataclass of texts, or pairs of texts, as an input of models (an `Input`).

    The standard columns are ``text`` and ``text_pair``.

    Attributes:
        settings: the user's columns, and the most tokens.
        auto_model: the `transformers.AutoModelFor...` class of the task.
    """

    settings: TextSettings
    auto_model: Any
    name: ClassVar[str] = "text"
    noun: ClassVar[str] = "text"
    pipeline_example: ClassVar[str] = '"..."'

    # --- data -------------------------------------------------------------------------------------------------

    def input_columns(self, columns: Sequence[str]) -> dict[str, str]:
        """Return the user's columns of ``text`` and, for pairs, of ``text_pair``, by standard column."""
        settings = self.settings
        text = find_column(columns, settings.text_column_name, TEXT_COLUMNS, "text_column_name")
        if settings.text_pair_column_name is not None:
            pair = find_column(columns, settings.text_pair_column_name, PAIR_COLUMNS, "text_pair_column_name")
            return {"text": text, "text_pair": pair}
        if PAIR_COLUMN_OF.get(text) in columns:
            logger.info("Column %r is taken as --text_pair_column_name.", PAIR_COLUMN_OF[text])
            return {"text": text, "text_pair": PAIR_COLUMN_OF[text]}
        return {"text": text}

    def metadata_columns(self, columns: Sequence[str]) -> dict[str, str]:
        """Return an empty dictionary, as tables have no columns with further facts about texts."""
        return {}

    def prediction_input(self, standard_column: str, value: Any, file: str) -> Any:
        """Return the text in a cell, or the cell's value if it holds no text.

        The record of the prediction will say so.
        """
        text, problem = read_text(value)
        return value if problem else text

    def read(
        self,
        splits: Mapping[str, Dataset],
        columns: Mapping[str, Mapping[str, str]],
        target: str,
        readers: Mapping[str, TargetReader],
        data: DataArguments,
        model: ModelArguments,
    ) -> tuple[dict[str, Dataset], dict[str, dict[str, int]]]:
        """Read texts and targets; return examples in standard columns and the number of rows left out.

        Rows without a text or a target are an error, or left out with --drop_incomplete.
        """
        text_readers: dict[str, CellReader] = {"text": TextReader(), "text_pair": TextReader()}
        examples = {}
        for name, split in splits.items():
            all_readers = {**text_readers, target: readers[name]}
            present = {column: reader for column, reader in all_readers.items() if column in columns[name]}
            examples[name] = read_columns(split, name, columns[name], present, drop=data.drop_incomplete)
        return examples, {name: {"incomplete": len(splits[name]) - len(examples[name])} for name in examples}

    def identities(self, split: Dataset) -> list[str]:
        """Return a key for each example, [n], equal for texts that differ only in case, spaces and Unicode form."""
        return [text_identity(*texts) for texts in _texts(split)]

    def content_hashes(self, split: Dataset) -> list[str]:
        """Return a hash of each example's texts as they are, [n]."""
        return [hashlib.sha256(repr(texts).encode()).hexdigest() for texts in _texts(split)]

    def unit_column(self, columns: Sequence[str]) -> str | None:
        """Return the column with a usual name for speakers, patients or cameras, or None without one.

        A column of the texts is not returned.
        """
        return usual_unit_column(columns, (self.settings.text_column_name, self.settings.text_pair_column_name))

    def caveats(self, splits: DatasetDict) -> list[str]:
        """Return an empty list, as the toolkit knows of no caveat about texts."""
        return []

    def facts(self, splits: DatasetDict) -> dict[str, Any]:
        """Return an empty dictionary, as the report says no more about texts than about every input."""
        return {}

    def leave_out(self, name: str, split: Dataset, fits: list[bool], reason: str, remedy: str) -> Dataset:
        """Return the examples of a split that fit, and log how many do not."""
        if all(fits):
            return split
        logger.info("Left out of %s: %d x %s (%s).", name, fits.count(False), reason, remedy)
        return split.select([i for i, fit in enumerate(fits) if fit])

    # --- model ------------------------------------------------------------------------------------------------

    def require_settings(self, model: ModelArguments) -> None:
        """Raise an error if --max_length is more than the limits of the model's config and tokenizer.

        `model_inputs` checks it by the model itself.
        """
        if self.settings.max_length is not None:
            limit = max_positions_in_config(load_config(model, self.auto_model))
            self._require_length(smallest_limit(load_tokenizer(model).model_max_length, limit))

    def _require_length(self, limit: int | None) -> None:
        given = self.settings.max_length
        if limit is not None and given is not None and given > limit:
            raise InputError(
                f"--max_length {given} is more than the model takes: {limit} tokens. Lower it, or leave it out."
            )

    def load_processor(self, model: ModelArguments) -> PreTrainedTokenizerBase:
        """Return the tokenizer that comes with the model."""
        return load_tokenizer(model)

    def config_settings(self, old: PretrainedConfig, processor: Processor, *, pretrained: bool) -> dict[str, Any]:
        """Return the padding id as a setting of the model's config, if the checkpoint's cannot be kept."""
        return padding_config_settings(old, processor, pretrained=pretrained)

    def prepare_model(
        self, model: PreTrainedModel, splits: DatasetDict, processor: Processor, *, pretrained: bool
    ) -> None:
        """Note in the config whether inputs are pairs; raise an error if a token has no embedding in the model."""
        model.config.text_pairs = "text_pair" in splits["train"].column_names
        require_embedding_of_every_token(model, processor, str(model.name_or_path))

    def model_inputs(
        self, splits: DatasetDict, processor: Processor, model: PreTrainedModel, encoding: TargetEncoding, seed: int
    ) -> tuple[DatasetDict, dict[str, TokenizedTexts]]:
        """Tokenize all examples, cut to the most tokens, and return the splits and each one's `TokenizedTexts`."""
        limit = max_input_length(model, processor)
        self._require_length(limit)
        limit = self.settings.max_length or limit or DEFAULT_MAX_LENGTH
        # Saved with the tokenizer, so that prediction cuts texts where training did.
        processor.model_max_length = limit
        # A decoder reads the last token that is not padding, so padding ids at the end of a text change nothing.
        strip = processor.pad_token_id if align_padding(model, processor) else None
        settings = {"tokenizer": processor, "max_length": limit, "strip": strip}
        settings_hash = Hasher.hash([tokenize, settings])  # once for all splits: hashing a tokenizer takes a while
        padding_changes_outputs = getattr(model.config, "padding_changes_outputs", False)
        inputs = {}
        for name, split in splits.items():
            tokenized = split.map(
                tokenize,
                batched=True,
                remove_columns=split.column_names,
                fn_kwargs=settings,
                new_fingerprint=Hasher.hash([split._fingerprint, settings_hash]),
            )
            inputs[name] = TokenizedTexts(tokenized, encoding(split), padding_changes_outputs=padding_changes_outputs)
            cut = int((inputs[name].lengths >= limit).sum())
            if cut:
                logger.info("%d of %d texts in %s reach %d tokens and are cut there (--max_length).",
                            cut, len(split), name, limit)  # fmt: skip
        model_name = getattr(model, "name_or_path", "") or type(model).__name__
        require_known_words({name: texts.table for name, texts in inputs.items()}, processor, model_name)
        require_accepted_inputs(model, self.pad(processor), next(iter(inputs.values())), model_name)
        return splits, inputs

    def pad(self, processor: Processor) -> Callable[[list[dict[str, Any]]], Mapping[str, Any]]:
        """Return a function that pads token ids to [batch, tokens], with their ``attention_mask``."""
        return DataCollatorWithPadding(processor)

    def train_mode_effects(self, config: PretrainedConfig) -> list[str]:
        """Return an empty list, as models do not change texts in train mode."""
        return []

    # --- report -----------------------------------------------------------------------------------------------

    def display_rows(self, split: Dataset) -> list[dict[str, Any]]:
        """Return for each example a dictionary of its text, cut to `MAX_SHOWN` letters.

        The texts of a pair are joined.
        """
        pairs = zip(split["text"], split["text_pair"], strict=True) if "text_pair" in split.column_names else None
        texts = split["text"][:] if pairs is None else [f"{text} ⏐ {text_pair}" for text, text_pair in pairs]
        return [{"text": text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]} …"} for text in texts]

    def media_data_uris(self, inputs: ModelInputs, rows: Sequence[int]) -> list[str]:
        """Return an empty list, as texts are read and not played."""
        return []

    def prediction_fields(self, split: Dataset) -> list[dict[str, Any]]:
        """Return for each example a dictionary with its text, or the two texts of a pair."""
        return list(split.select_columns([name for name in ("text", "text_pair") if name in split.column_names]))

    def record_key(self, record: Mapping[str, Any]) -> tuple[Any, ...]:
        """Return the text in a record of ``predictions.jsonl``, and the second text or None, as a tuple."""
        return record["text"], record.get("text_pair")

    def predict_arguments(self, records: list[dict[str, Any]], run_arguments: Mapping[str, Any]) -> list[str]:
        """Return a list with a short text of the test split; for pairs, with the run's test file and columns."""
        if "text_pair" not in records[0]:
            return [_short_line([record["text"] for record in records])]
        arguments = ["--file", run_arguments.get("test_file") or run_arguments.get("train_file") or "FILE"]
        for flag in ("column_names", "delimiter", "text_column_name", "text_pair_column_name"):
            if flag in run_arguments:
                value = run_arguments[flag]
                arguments += [f"--{flag}", *([value] if isinstance(value, str) else value)]
        return arguments


@dataclass(frozen=True)
class TextReader:
    """Reader of the cells of a column of texts (a `CellReader`)."""

    feature: ClassVar[Value] = Value("string")

    def read(self, value: Any) -> tuple[str, str | None]:
        """Return the text in a cell, and what is wrong with it, or None if it can be used."""
        text, problem = read_text(value)
        return text, PROBLEMS_IN_TRAINING.get(problem or "", problem)

    def unusable_column_message(self, split: str, problem: str) -> str | None:
        """Return an error message for a column of objects or lists, or None for another problem."""
        if not problem.startswith("expected a text"):
            return None
        return (
            f"No row of the {split} split has a text ({problem}). Name a column of texts, or write the part that is "
            "meant into a column of its own."
        )

    def hint(self, problems: list[str], contents: list[Any]) -> str:
        """Return an empty string, as there is no remedy beyond the message."""
        return ""


def _texts(split: Dataset) -> Iterator[tuple[str, ...]]:
    """Yield for each example of a split a tuple of its text, or of its two texts."""
    names = [name for name in ("text", "text_pair") if name in split.column_names]
    return zip(*(split[name][:] for name in names), strict=True)


def _short_line(texts: list[str]) -> str:
    """Return the beginning, on one line, of the text nearest to 50 letters that does not look like a flag."""
    lines = [" ".join(text.split()) for text in texts]
    usable = (line for line in lines if line and line[0] != "-")
    line = min(usable, key=lambda line: abs(len(line) - 50), default="…")
    return line if len(line) <= 80 else line[:80].rpartition(" ")[0] or line[:80]
