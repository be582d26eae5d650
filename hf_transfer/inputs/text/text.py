"""Texts, and pairs of them, as input."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from datasets import Dataset, DatasetDict, Value
from datasets.fingerprint import Hasher
from transformers import DataCollatorWithPadding, PreTrainedModel

from hf_transfer.arguments import DataArguments, ModelArguments
from hf_transfer.data.column_readers import CellReader, TargetEncoding, TargetReader, read_columns
from hf_transfer.data.leakage import text_identity
from hf_transfer.data.splits import find_column
from hf_transfer.data.units import usual_unit_column
from hf_transfer.data.values import read_text
from hf_transfer.errors import InputError, logger
from hf_transfer.inputs.text.models import (
    DEFAULT_LENGTH,
    least_limit,
    longest_input,
    named_positions,
    require_inputs_that_fit,
    require_known_words,
    require_rows_for_tokens,
    settle_padding,
    usable_padding,
)
from hf_transfer.inputs.text.settings import TextSettings
from hf_transfer.inputs.text.tokenizers import load_tokenizer
from hf_transfer.models import load_config

TEXT_COLUMNS = ("text", "sentence", "sms", "message", "review", "content", "comment", "comment_text", "tweet", "body",
                "premise", "sentence1", "question1", "question")  # fmt: skip
PAIRED = {"text": "text_pair", "sentence1": "sentence2", "question1": "question2", "premise": "hypothesis"}
PAIR_COLUMNS = tuple(PAIRED.values())
LONGEST_SHOWN = 600  # letters of a text in a report
# What `read_text` finds, in the words of a count.
IN_TRAINING = {"there is no text": "no text"}


@dataclass(frozen=True)
class TextInput:
    """A text an example, or two: the columns ``text`` and perhaps ``text_pair``.

    Attributes:
        settings: which columns they are, and how long they may be.
        auto_model: the `transformers.AutoModelFor...` class of the task.
    """

    settings: TextSettings
    auto_model: Any
    name: ClassVar[str] = "text"
    noun: ClassVar[str] = "text"
    pipeline_example: ClassVar[str] = '"..."'

    # --- data -------------------------------------------------------------------------------------------------

    def input_columns(self, columns: Sequence[str]) -> dict[str, str]:
        """As of `Input`: ``text``, and ``text_pair`` for pairs."""
        settings = self.settings
        text = find_column(columns, settings.text_column_name, TEXT_COLUMNS, "text_column_name")
        if settings.text_pair_column_name is not None:
            pair = find_column(columns, settings.text_pair_column_name, PAIR_COLUMNS, "text_pair_column_name")
            return {"text": text, "text_pair": pair}
        if text in PAIRED and PAIRED[text] in columns:
            logger.info("Column %r is taken as --text_pair_column_name.", PAIRED[text])
            return {"text": text, "text_pair": PAIRED[text]}
        return {"text": text}

    def metadata_columns(self, columns: Sequence[str]) -> dict[str, str]:
        """None."""
        return {}

    def prediction_input(self, own: str, value: Any, file: str) -> Any:
        """A text; what is none as it is, which the pipeline's record says."""
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
        """As of `Input`: rows without a text or target are refused, or left out with --drop_incomplete."""
        texts: dict[str, CellReader] = {"text": TextReader(), "text_pair": TextReader()}
        read = {}
        for name, split in splits.items():
            own = {key: reader for key, reader in {**texts, target: readers[name]}.items() if key in columns[name]}
            read[name] = read_columns(split, name, columns[name], own, drop=data.drop_incomplete)
        return read, {name: {"incomplete": len(splits[name]) - len(read[name])} for name in read}

    def identities(self, split: Dataset) -> list[str]:
        """Texts that differ in case, spacing or Unicode form alone are equal."""
        return [text_identity(*texts) for texts in _texts(split)]

    def content_hashes(self, split: Dataset) -> list[str]:
        """Digests of the texts as they are."""
        return [hashlib.sha256(repr(texts).encode()).hexdigest() for texts in _texts(split)]

    def unit_column(self, columns: Sequence[str]) -> str | None:
        """One that is named so, unless it is one of the texts'."""
        return usual_unit_column(columns, (self.settings.text_column_name, self.settings.text_pair_column_name))

    def caveats(self, splits: DatasetDict) -> list[str]:
        """None."""
        return []

    def facts(self, splits: DatasetDict) -> dict[str, Any]:
        """``pairs``: whether there are two texts an example."""
        return {"pairs": "text_pair" in splits["train"].column_names}

    def leave_out(self, name: str, split: Dataset, fits: list[bool], reason: str, remedy: str) -> Dataset:
        """As of `Input`."""
        if all(fits):
            return split
        logger.info("Left out of %s: %d x %s (%s).", name, fits.count(False), reason, remedy)
        return split.select([i for i, fit in enumerate(fits) if fit])

    # --- model ------------------------------------------------------------------------------------------------

    def require_settings(self, model: ModelArguments) -> None:
        """By what config and tokenizer name; `model_inputs` asks the model itself."""
        if self.settings.max_length is not None:
            named = named_positions(load_config(model, self.auto_model))
            self._require_length(least_limit(load_tokenizer(model).model_max_length, named))

    def _require_length(self, limit: int | None) -> None:
        asked = self.settings.max_length
        if limit is not None and asked is not None and asked > limit:
            raise InputError(f"--max_length {asked} is more than the model takes: {limit} tokens.")

    def load_processor(self, model: ModelArguments) -> Any:
        """The tokenizer."""
        return load_tokenizer(model)

    def config_settings(self, old: Any, processor: Any, *, pretrained: bool) -> dict[str, Any]:
        """The padding id."""
        return usable_padding(old, processor, pretrained=pretrained)

    def prepare_model(self, model: PreTrainedModel, splits: DatasetDict, processor: Any, *, pretrained: bool) -> None:
        """Note whether pairs are to be given; refuse a tokenizer with more tokens than the model knows."""
        model.config.text_pairs = "text_pair" in splits["train"].column_names
        require_rows_for_tokens(model, processor, str(model.name_or_path))

    def model_inputs(
        self, splits: DatasetDict, processor: Any, model: PreTrainedModel, encoding: TargetEncoding, seed: int
    ) -> tuple[DatasetDict, dict[str, "TokenizedTexts"]]:
        """Token ids of all examples, cut where they are longer than the model takes."""
        limit = longest_input(model, processor)
        self._require_length(limit)
        limit = self.settings.max_length or limit or DEFAULT_LENGTH
        # The tokenizer takes the limit along, so that prediction cuts where training did.
        processor.model_max_length = limit
        # A decoder reads the last token that is not padding; what is behind it changes nothing.
        ignored = processor.pad_token_id if settle_padding(model, processor) else None
        settings = {"tokenizer": processor, "limit": limit, "ignored": ignored}
        made_by = Hasher.hash([_tokenize, settings])  # once: for a tokenizer this takes a while
        alone = getattr(model.config, "padding_changes_outputs", False)
        ready = {}
        for name, split in splits.items():
            tokenized = split.map(
                _tokenize,
                batched=True,
                remove_columns=split.column_names,
                fn_kwargs=settings,
                new_fingerprint=Hasher.hash([split._fingerprint, made_by]),
            )
            ready[name] = TokenizedTexts(tokenized, encoding(split), padding_changes_outputs=alone)
            cut = int((ready[name].lengths >= limit).sum())
            if cut:
                logger.info("%d of %d texts in %s reach %d tokens and are cut there (--max_length).",
                            cut, len(split), name, limit)  # fmt: skip
        name = getattr(model, "name_or_path", "") or type(model).__name__
        require_known_words({split: inputs.table for split, inputs in ready.items()}, processor, name)
        require_inputs_that_fit(model, self.pad(processor), next(iter(ready.values())), name)
        return splits, ready

    def pad(self, processor: Any) -> Callable[[list[dict[str, Any]]], Mapping[str, Any]]:
        """Token ids [batch, tokens] with their ``attention_mask``."""
        return DataCollatorWithPadding(processor)

    def train_mode_effects(self, config: Any) -> list[str]:
        """Nothing."""
        return []

    # --- report -----------------------------------------------------------------------------------------------

    def display_rows(self, split: Dataset) -> list[dict[str, Any]]:
        """Texts, or pairs of them, as far as a table shows them."""
        both = zip(split["text"], split["text_pair"], strict=True) if "text_pair" in split.column_names else None
        whole = split["text"][:] if both is None else [f"{text} ⏐ {pair}" for text, pair in both]
        return [{"text": text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]} …"} for text in whole]

    def media_data_uris(self, inputs: Any, rows: Sequence[int]) -> list[str]:
        """None: texts are read."""
        return []

    def prediction_fields(self, split: Dataset) -> list[dict[str, Any]]:
        """The texts."""
        return list(split.select_columns([name for name in ("text", "text_pair") if name in split.column_names]))

    def record_key(self, record: Mapping[str, Any]) -> tuple[Any, ...]:
        """The texts."""
        return record["text"], record.get("text_pair")

    def predict_arguments(self, records: list[dict[str, Any]], told: Mapping[str, Any]) -> list[str]:
        """A short text of the test split; of pairs, the file."""
        if "text_pair" not in records[0]:
            return [_short([record["text"] for record in records])]
        given = ["--file", told.get("test_file") or told.get("train_file") or "FILE"]
        for name in ("column_names", "delimiter", "text_column_name", "text_pair_column_name"):
            if name in told:
                given += [f"--{name}", *([told[name]] if isinstance(told[name], str) else told[name])]
        return given


@dataclass(frozen=True)
class TextReader:
    """How the cells of a column of texts are read."""

    feature: ClassVar[Value] = Value("string")

    def read(self, value: Any) -> tuple[str, str | None]:
        """The text in a cell; and what is wrong, if something is."""
        text, problem = read_text(value)
        return text, IN_TRAINING.get(problem or "", problem)

    def unusable_column_message(self, split: str, problem: str) -> str | None:
        """As of `CellReader`."""
        if not problem.startswith("expected a text"):
            return None
        return (
            f"No row of the {split} split has a text ({problem}). Name a column of texts, or write the part that is "
            "meant into a column of its own."
        )

    def hint(self, problems: list[str], contents: list[Any]) -> str:
        """Nothing."""
        return ""


class TokenizedTexts:
    """The texts of a split as `ModelInputs`.

    Args:
        table: with the columns of the tokenizer and ``length``, in tokens.
        labels: of each text.
        padding_changes_outputs: whether each is to be computed by itself.
    """

    length_unit, length_per_unit, throughput_name = "tokens", 1.0, None
    is_augmented = False

    def __init__(self, table: Dataset, labels: Sequence[Any], *, padding_changes_outputs: bool):
        self.table, self.labels, self.padding_changes_outputs = table, labels, padding_changes_outputs
        self.lengths = self.positions = np.asarray(table["length"][:])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitems__(self, indices: list[int]) -> list[dict[str, Any]]:
        rows = self.table.__getitems__(indices)
        return [{**row, "labels": self.labels[i]} for i, row in zip(indices, rows, strict=True)]

    @property
    def cache_keys(self) -> Iterator[str]:
        """The token ids of each text."""
        rows = self.table.remove_columns("length")
        for start in range(0, len(rows), 1000):
            yield from (repr(tuple(row)) for row in zip(*rows[start : start + 1000].values(), strict=True))

    def set_epoch(self, epoch: int) -> None:
        """Texts are the same in each epoch."""

    def without_augmentation(self) -> "TokenizedTexts":
        """The same."""
        return self


def _texts(split: Dataset) -> Iterator[tuple[str, ...]]:
    """The text of each example, or the pair of them."""
    names = [name for name in ("text", "text_pair") if name in split.column_names]
    return zip(*(split[name][:] for name in names), strict=True)


def _short(texts: list[str]) -> str:
    """The beginning of one of the texts, on one line; of none that looks like a flag."""
    lines = [" ".join(text.split()) for text in texts]
    text = min((line for line in lines if line and line[0] != "-"), key=lambda line: abs(len(line) - 50), default="…")
    return text if len(text) <= 80 else text[:80].rpartition(" ")[0] or text[:80]


def _tokenize(batch: dict[str, list[Any]], tokenizer: Any, limit: int, ignored: int | None) -> dict[str, list[Any]]:
    """Model inputs of texts, with their ``length``.

    Args:
        batch: of examples.
        tokenizer: of the model.
        limit: most tokens.
        ignored: a token that is left out at the end of a text, but for its first.
    """
    encoded = dict(tokenizer(batch["text"], batch.get("text_pair"), truncation=True, max_length=limit))
    if ignored is not None:
        ends = [next((i for i in range(len(ids), 1, -1) if ids[i - 1] != ignored), 1) for ids in encoded["input_ids"]]
        encoded = {name: [row[:end] for row, end in zip(rows, ends, strict=True)] for name, rows in encoded.items()}
    encoded["length"] = [len(ids) for ids in encoded["input_ids"]]
    return encoded
