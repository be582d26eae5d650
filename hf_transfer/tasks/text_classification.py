"""Text classification: a label, several or a number for a text or a pair of texts."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from datasets import Dataset, DatasetDict
from datasets.fingerprint import Hasher
from transformers import AutoModelForSequenceClassification, DataCollatorWithPadding, PreTrainedModel

from hf_transfer.arguments import DataArguments, ModelArguments
from hf_transfer.data.leakage import UNIT, text_identity, usual_unit_column
from hf_transfer.data.splits import find_column, require_columns
from hf_transfer.data.values import read_text
from hf_transfer.errors import InputError, logger
from hf_transfer.evaluation.bootstrap import Resampled
from hf_transfer.inputs.text.models import (
    DEFAULT_LENGTH,
    NO_LIMIT,
    least_limit,
    longest_input,
    named_positions,
    require_inputs_that_fit,
    require_known_words,
    require_rows_for_tokens,
    settle_padding,
    usable_padding,
)
from hf_transfer.models import load_config, load_pretrained, load_tokenizer
from hf_transfer.targets.labels.label_columns import hint_of, joined, label_columns
from hf_transfer.targets.labels.labels import LabelTarget
from hf_transfer.targets.labels.number import PROBLEM_TYPE, NumberTarget
from hf_transfer.targets.target import Target
from hf_transfer.tasks.text_pipeline import DecidingTextClassificationPipeline
from hf_transfer.tasks.text_settings import TextSettings

TEXT_COLUMNS = ("text", "sentence", "sms", "message", "review", "content", "comment", "comment_text", "tweet", "body",
                "premise", "sentence1", "question1", "question")  # fmt: skip
PAIRED = {"text": "text_pair", "sentence1": "sentence2", "question1": "question2", "premise": "hypothesis"}
PAIR_COLUMNS = tuple(PAIRED.values())
LONGEST_SHOWN = 600  # letters of a text in a report


@dataclass
class TextClassification(TextSettings):
    """A text classifier.

    The example splits have the columns ``text``, perhaps ``text_pair`` and ``group``, and ``label``: see `target`.
    """

    pipeline_tag: ClassVar[str] = "text-classification"
    main_input: ClassVar[str] = "text"
    defaults: ClassVar[Mapping[str, Any]] = {"per_device_train_batch_size": 16, "per_device_eval_batch_size": 32}
    # Full: the top of the BERT paper's range (Devlin et al. 2019, appendix A.3). LoRA wants about ten times that
    # (Schulman et al. 2025, "LoRA Without Regret"). A head alone sees standardised inputs.
    learning_rates: ClassVar[Mapping[str, float]] = {
        "full": 5e-5,
        "lora": 5e-4,
        "frozen": 5e-5,
        "scratch": 1e-4,
        "head": 5e-4,
    }
    # Three epochs as in the BERT paper; on a few dozen examples that is too few steps to leave the start (Zhang et al.
    # 2021, https://arxiv.org/abs/2006.05987).
    epochs: ClassVar[int] = 3
    minimum_steps: ClassVar[int] = 100
    auto_model: ClassVar[Any] = AutoModelForSequenceClassification
    architecture_suffix: ClassVar[str] = "ForSequenceClassification"
    _argument_group_name: ClassVar[str] = "text classification"

    @property
    def target(self) -> Target:
        """What is predicted of a text."""
        return NumberTarget() if self.problem_type == PROBLEM_TYPE else LabelTarget(self)

    @property
    def template(self) -> str:
        return self.target.template

    @property
    def headline(self) -> tuple[str, ...]:
        return self.target.headline

    @property
    def metrics(self) -> tuple[str, ...]:
        return self.target.metrics

    @property
    def decides(self) -> bool:
        return self.target.decides

    @property
    def chooses(self) -> bool:
        return self.target.chooses

    @classmethod
    def settings_of(cls, config: Any) -> dict[str, Any]:
        return {"problem_type": PROBLEM_TYPE} if config.problem_type == PROBLEM_TYPE else {}

    # --- data -------------------------------------------------------------------------------------------------

    def input_columns(self, columns: Sequence[str]) -> dict[str, str]:
        text = find_column(columns, self.text_column_name, TEXT_COLUMNS, "text_column_name")
        if self.text_pair_column_name is not None:
            pair = find_column(columns, self.text_pair_column_name, PAIR_COLUMNS, "text_pair_column_name")
            return {"text": text, "text_pair": pair}
        if text in PAIRED and PAIRED[text] in columns:
            logger.info("Column %r is taken as --text_pair_column_name.", PAIRED[text])
            return {"text": text, "text_pair": PAIRED[text]}
        return {"text": text}

    def prediction_input(self, own: str, value: Any, file: str) -> Any:
        text, problem = read_text(value)
        return value if problem else text

    def standardise(
        self, splits: DatasetDict, data: DataArguments, model: ModelArguments, config: Any = None
    ) -> tuple[DatasetDict, dict[str, dict[str, int]], dict[str, str]]:
        train = next(iter(splits.values()))
        columns = self.input_columns(train.column_names)
        others = [name for name in train.column_names if name not in columns.values()]
        usual = self.target.label_columns
        labels = [] if self.label_column_name else label_columns(self._class_names(config, others), others, usual)
        if labels:
            label = f"({', '.join(labels)})"  # in messages
            splits = DatasetDict({name: joined(split, name, labels, label) for name, split in splits.items()})
        else:
            label = find_column(
                others, self.label_column_name, usual, "label_column_name",
                hint=lambda: "" if self.problem_type == PROBLEM_TYPE else hint_of(train, others),
            )  # fmt: skip
        columns |= {"label": label} | ({"group": data.group_column_name} if data.group_column_name else {})
        columns_of = {}
        for name, split in splits.items():
            require_columns(split, name, columns)
            unit = {UNIT: str(data.split_by)} if data.split_by in split.column_names else {}
            columns_of[name] = columns | unit
        read = DatasetDict(self.target.read(splits, columns_of, config, drop=data.drop_incomplete))
        left_out = {name: {"incomplete": len(splits[name]) - len(split)} for name, split in read.items()}
        return read, left_out, columns

    def _class_names(self, config: Any, columns: Sequence[str]) -> list[str] | None:
        """As given; or those of a model, where the table to measure it on has a column for each."""
        if self.class_names is not None or config is None:
            return self.class_names
        names = [config.id2label[i] for i in range(config.num_labels)]
        return names if len(names) > 1 and set(names) <= set(columns) else None

    def strata(self, split: Dataset) -> list[Any]:
        return self.target.strata(split)

    def identities(self, split: Dataset) -> list[str]:
        return [text_identity(*texts) for texts in _texts(split)]

    def contents(self, split: Dataset) -> list[str]:
        return [hashlib.sha256(repr(texts).encode()).hexdigest() for texts in _texts(split)]

    def unit_column(self, columns: Sequence[str]) -> str | None:
        return usual_unit_column(columns, (self.text_column_name, self.text_pair_column_name, self.label_column_name))

    def check(self, splits: DatasetDict) -> list[str]:
        return self.target.check(splits, {name: self.identities(split) for name, split in splits.items()})

    def facts(self, splits: DatasetDict) -> dict[str, Any]:
        return self.target.facts(splits)

    # --- model ------------------------------------------------------------------------------------------------

    def load_processor(self, model: ModelArguments, splits: DatasetDict | None = None) -> Any:
        return load_tokenizer(model)

    def load_model(
        self, model: ModelArguments, splits: DatasetDict, processor: Any, *, pretrained: bool
    ) -> tuple[PreTrainedModel, list[str]]:
        old = load_config(model, self.auto_model)
        loaded, new = load_pretrained(
            self.auto_model,
            model,
            pretrained=pretrained,
            **usable_padding(old, processor, pretrained=pretrained),
            **self.target.model_settings(splits),
        )
        loaded.config.text_pairs = "text_pair" in splits["train"].column_names  # what prediction has to be given
        if hasattr(loaded.config, "calibration"):
            del loaded.config.calibration  # an earlier run's decision is not this one's
        require_rows_for_tokens(loaded, processor, str(model.model_name_or_path))
        return loaded, new + self.target.fit_head(loaded, old, new, splits, pretrained=pretrained)

    def require_settings(self, model: ModelArguments) -> None:
        """What its config and tokenizer name is known before any data are read; `preprocess` asks the model itself."""
        if self.max_length is not None:
            named = named_positions(load_config(model, self.auto_model))
            self._require_length(least_limit(load_tokenizer(model).model_max_length, named))

    def _require_length(self, limit: int | None) -> None:
        if limit is not None and self.max_length is not None and self.max_length > limit:
            raise InputError(f"--max_length {self.max_length} is more than the model takes: {limit} tokens.")

    def prepare_base(self, model: PreTrainedModel, name: str, revision: str) -> None:
        pass

    def preprocess(
        self, splits: DatasetDict, processor: Any, model: PreTrainedModel, seed: int
    ) -> tuple[DatasetDict, DatasetDict]:
        limit = longest_input(model, processor)
        self._require_length(limit)
        limit = self.max_length or limit or DEFAULT_LENGTH
        # The tokenizer takes the limit along, so that prediction cuts where training did.
        processor.model_max_length = limit
        # A decoder reads the last token that is not padding; what is behind it changes nothing.
        ignored = processor.pad_token_id if settle_padding(model, processor) else None
        labels = self.target.model_labels(next(iter(splits.values())), model.config)
        settings = {"tokenizer": processor, "limit": limit, "labels": labels, "ignored": ignored}
        made_by = Hasher.hash([_tokenize, settings])  # once: for a tokenizer this takes a while
        ready = DatasetDict()
        for name, split in splits.items():
            ready[name] = split.map(
                _tokenize,
                batched=True,
                remove_columns=split.column_names,
                fn_kwargs=settings,
                new_fingerprint=Hasher.hash([split._fingerprint, made_by]),
            )
            ready[name].alone = getattr(model.config, "padding_changes_outputs", False)
            cut = int((np.asarray(ready[name]["length"][:]) >= limit).sum())
            if cut:
                logger.info("%d of %d texts in %s reach %d tokens and are cut there (--max_length).",
                            cut, len(split), name, limit)  # fmt: skip
        name = getattr(model, "name_or_path", "") or type(model).__name__
        require_known_words(ready, processor, name)
        require_inputs_that_fit(model, self.collator(processor), next(iter(ready.values())), name)
        return splits, ready

    def collator(self, processor: Any) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
        return DataCollatorWithPadding(processor)

    def readout(self, processor: Any, model: Any) -> Callable[..., list[Any]]:
        return self.target.readout(model)

    def loss_function(self, train: Dataset, model: Any, label_smoothing: float) -> Any:
        return self.target.loss_function(train, label_smoothing)

    def finished(self, model: Any) -> AbstractContextManager[None]:
        return self.target.finished(model)

    def outputs(self, inputs: Any, predict: Callable[[Any], Any], pipeline: Any) -> Any:
        return predict(inputs)

    # --- quality ----------------------------------------------------------------------------------------------

    def decide(self, outputs: Any, split: Dataset | None, config: Any) -> dict[str, Any]:
        return self.target.decide(outputs, split, config)

    def measure(self, outputs: Any, split: Dataset, config: Any) -> dict[str, float]:
        return self.target.measure(outputs, split, config)

    def intervals(self, before: Any, after: Any, split: Dataset, config: Any, seed: int) -> dict[str, Any]:
        return self.target.intervals(before, after, split, config, seed)

    def findings(self, outputs: Any, split: Dataset, config: Any) -> dict[str, Any]:
        found, worst = self.target.findings(outputs, split, config)
        texts = _shown_texts(split.select([one.pop("row") for one in worst]))
        return found | {"worst": [{"text": text, **one} for text, one in zip(texts, worst, strict=True)]}

    def media(self, inputs: Any, worst: list[dict[str, Any]]) -> list[str]:
        return []

    def predictions(self, outputs: Any, split: Dataset, config: Any) -> list[dict[str, Any]]:
        inputs = split.select_columns(
            [name for name in ("text", "text_pair", "group", UNIT) if name in split.column_names]
        )
        records = self.target.records(outputs, split, config)
        return [{**example, **record} for example, record in zip(inputs, records, strict=True)]

    def example(self, record: dict[str, Any]) -> Any:
        return record["text"], record.get("text_pair"), record["label"]

    def resampled(self, records: list[dict[str, Any]], facts: dict[str, Any]) -> Resampled:
        return self.target.resampled(records, facts)

    def to_try(self, records: list[dict[str, Any]], told: Mapping[str, Any]) -> list[str]:
        if "text_pair" not in records[0]:
            return [_short([record["text"] for record in records])]
        given = ["--file", told.get("test_file") or told.get("train_file") or "FILE"]
        for name in ("column_names", "delimiter", "text_column_name", "text_pair_column_name"):
            if name in told:
                given += [f"--{name}", *([told[name]] if isinstance(told[name], str) else told[name])]
        return given

    def pipeline(self, model: Any, processor: Any) -> Any:
        if not hasattr(model.config, "padding_changes_outputs"):  # not one of ours
            settle_padding(model, processor)
        if processor.model_max_length >= NO_LIMIT:
            processor.model_max_length = longest_input(model, processor) or DEFAULT_LENGTH
        return DecidingTextClassificationPipeline(model=model, tokenizer=processor)


def _texts(split: Dataset) -> Iterator[tuple[str, ...]]:
    """The text of each example, or the pair of them."""
    names = [name for name in ("text", "text_pair") if name in split.column_names]
    return zip(*(split[name][:] for name in names), strict=True)


def _shown_texts(split: Dataset) -> list[str]:
    """Texts, or pairs of them, as far as a table shows them."""
    both = zip(split["text"], split["text_pair"], strict=True) if "text_pair" in split.column_names else None
    whole = split["text"][:] if both is None else [f"{text} ⏐ {pair}" for text, pair in both]
    return [text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]} …" for text in whole]


def _short(texts: list[str]) -> str:
    """The beginning of one of the texts, on one line; of none that looks like a flag."""
    lines = [" ".join(text.split()) for text in texts]
    text = min((line for line in lines if line and line[0] != "-"), key=lambda line: abs(len(line) - 50), default="…")
    return text if len(text) <= 80 else text[:80].rpartition(" ")[0] or text[:80]


def _tokenize(
    batch: dict[str, list[Any]],
    tokenizer: Any,
    limit: int,
    labels: Callable[[list[Any]], list[Any]],
    ignored: int | None,
) -> dict[str, list[Any]]:
    """Model inputs of texts, with ``labels`` and ``length``.

    Args:
        batch: of examples.
        tokenizer: of the model.
        limit: most tokens.
        labels: see `Target.model_labels`.
        ignored: a token that is left out at the end of a text, but for its first.
    """
    encoded = dict(tokenizer(batch["text"], batch.get("text_pair"), truncation=True, max_length=limit))
    if ignored is not None:
        ends = [next((i for i in range(len(ids), 1, -1) if ids[i - 1] != ignored), 1) for ids in encoded["input_ids"]]
        encoded = {name: [row[:end] for row, end in zip(rows, ends, strict=True)] for name, rows in encoded.items()}
    encoded["labels"] = labels(batch["label"])
    encoded["length"] = [len(ids) for ids in encoded["input_ids"]]
    return encoded
