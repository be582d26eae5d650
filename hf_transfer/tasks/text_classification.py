"""Text classification: one label a text, several, or one for a pair of texts."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from datasets import Dataset, DatasetDict, List
from datasets.fingerprint import Hasher
from transformers import AutoModelForSequenceClassification, DataCollatorWithPadding, PreTrainedModel

from hf_transfer.arguments import DataArguments, ModelArguments
from hf_transfer.data.examples import (
    contradictions,
    encode_labels,
    label_counts,
    learnable_labels,
    read_examples,
    several_in_a_cell,
)
from hf_transfer.data.label_form import label_form
from hf_transfer.data.leakage import UNIT, text_identity, usual_unit_column
from hf_transfer.data.splits import find_column, require_columns
from hf_transfer.data.values import read_text
from hf_transfer.errors import InputError, logger
from hf_transfer.evaluation import classification
from hf_transfer.evaluation.bootstrap import Resampled
from hf_transfer.evaluation.decision import Decision
from hf_transfer.models import load_config, load_pretrained, load_tokenizer, renew_unlike_head
from hf_transfer.tasks.text_models import (
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
from hf_transfer.tasks.text_pipeline import DecidingTextClassificationPipeline
from hf_transfer.tasks.text_settings import TextSettings
from hf_transfer.training.losses import ClassificationLoss, balanced_weights

TEXT_COLUMNS = ("text", "sentence", "sms", "message", "review", "content", "comment", "tweet", "body", "premise",
                "sentence1", "question1", "question")  # fmt: skip
PAIRED = {"text": "text_pair", "sentence1": "sentence2", "question1": "question2", "premise": "hypothesis"}
PAIR_COLUMNS = tuple(PAIRED.values())
LONGEST_SHOWN = 600  # letters of a text in a report
LABEL_COLUMNS = ("label", "labels", "sentiment", "category", "class", "target", "intent",
                 "is_duplicate")  # fmt: skip


@dataclass
class TextClassification(TextSettings):
    """A text classifier.

    The example splits have the columns ``text``, perhaps ``text_pair`` and ``group``, and ``label``: a `ClassLabel`,
    or a list of them where a text may have several.
    """

    pipeline_tag: ClassVar[str] = "text-classification"
    main_input: ClassVar[str] = "text"
    headline: ClassVar[tuple[str, ...]] = ("accuracy", "f1")
    metrics: ClassVar[tuple[str, ...]] = (
        "accuracy", "f1", "f1_macro", "f1_micro", "precision", "recall", "matthews_correlation", "roc_auc",
        "average_precision", "expected_calibration_error", "expected_calibration_error_uncalibrated",
    )  # fmt: skip
    greater_is_better: ClassVar[bool] = True
    decides: ClassVar[bool] = True
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
    ) -> tuple[DatasetDict, dict[str, dict[str, int]]]:
        train = next(iter(splits.values()))
        columns = self.input_columns(train.column_names)
        others = [name for name in train.column_names if name not in columns.values()]
        label = find_column(others, self.label_column_name, LABEL_COLUMNS, "label_column_name")
        columns |= {"label": label} | ({"group": data.group_column_name} if data.group_column_name else {})
        known = None if config is None else [config.id2label[i] for i in range(config.num_labels)]
        for name, split in splits.items():
            require_columns(split, name, columns)
        forms = label_form(splits, label, self.label_separator, self.class_names, known)
        read = {}
        for name, split in splits.items():
            unit = {UNIT: str(data.split_by)} if data.split_by in split.column_names else {}
            read[name] = read_examples(split, name, columns | unit, forms[name], drop=data.drop_incomplete)
        counts = {name: label_counts(split) for name, split in read.items()}
        if known is not None:
            names = known
            several = config.problem_type == "multi_label_classification"
        else:
            names = learnable_labels(read["train"], counts["train"], forms["train"].names, self.positive_label)
            several = isinstance(read["train"].features["label"], List)
            hint = "" if several else several_in_a_cell(names)
            if hint:
                logger.warning("%s", hint.strip())
            wanted = self.threshold is not None or self.max_false_positive_rate is not None
            if wanted and (several or len(names) != 2):
                raise InputError(f"A threshold needs exactly two labels, one a text; found {len(names)}: {names[:9]}.")
        encoded = encode_labels(read, counts, names, several=several)
        left_out = {name: {"incomplete": len(splits[name]) - len(split)} for name, split in encoded.items()}
        return encoded, left_out

    def strata(self, split: Dataset) -> list[Any]:
        labels = split["label"][:]
        return [str(sorted(label)) for label in labels] if _several(split) else labels

    def identities(self, split: Dataset) -> list[str]:
        return [text_identity(*texts) for texts in _texts(split)]

    def contents(self, split: Dataset) -> list[str]:
        return [hashlib.sha256(repr(texts).encode()).hexdigest() for texts in _texts(split)]

    def unit_column(self, columns: Sequence[str]) -> str | None:
        return usual_unit_column(columns, (self.text_column_name, self.text_pair_column_name, self.label_column_name))

    def check(self, splits: DatasetDict) -> list[str]:
        if self.class_weights == "balanced":
            weights = zip(_names(splits["train"]), _balanced_weights(splits["train"]).tolist(), strict=True)
            logger.info("Loss weights: %s.", ", ".join(f"{name} {weight:.2f}" for name, weight in weights))
        if self.chooses:
            validation = splits.get("validation")
            labels = [] if validation is None else validation["label"][:]
            classification.require_enough_to_fit(labels)
            if self.max_false_positive_rate is not None:
                classification.require_enough_negatives(
                    labels, self.max_false_positive_rate, _names(splits["train"])[0]
                )
        names = _names(splits["train"])
        tested = label_counts(splits["test"], names)
        untested = [name for name in names if not tested.get(name)]
        found = []
        if untested:
            shown = ", ".join(f"'{name}'" for name in untested[:5]) + (", ..." if len(untested) > 5 else "")
            found.append(f"No test example is {shown}: how well that is told is not measured.")
            logger.info("%s", found[0])
        return found + contradictions({name: (self.identities(split), split) for name, split in splits.items()}, names)

    def facts(self, splits: DatasetDict) -> dict[str, Any]:
        names = _names(splits["train"])
        return {
            "labels": names,
            "multi_label": _several(splits["train"]),
            "pairs": "text_pair" in splits["train"].column_names,
            "label_counts": {name: label_counts(split, names) for name, split in splits.items()},
            "majority_class_rate": None if _several(splits["train"]) else _majority_rate(splits["test"]),
            "answer": self._answer(splits["train"], names),
        }

    def _answer(self, train: Dataset, names: list[str]) -> tuple[str, str]:
        if len(names) == 2 and not _several(train):
            name = names[1][:40]
            return "f1", f"{name.capitalize() if name.isalpha() and name.islower() else name} F1"
        return ("f1", "Mean F1 of the labels") if _several(train) else ("accuracy", "Accuracy")

    # --- model ------------------------------------------------------------------------------------------------

    def load_processor(self, model: ModelArguments, splits: DatasetDict | None = None) -> Any:
        return load_tokenizer(model)

    def load_model(
        self, model: ModelArguments, splits: DatasetDict, processor: Any, *, pretrained: bool
    ) -> tuple[PreTrainedModel, list[str]]:
        names = _names(splits["train"])
        several = _several(splits["train"])
        id2label = dict(enumerate(names))
        old = load_config(model, self.auto_model)
        loaded, new = load_pretrained(
            self.auto_model,
            model,
            pretrained=pretrained,
            **usable_padding(old, processor, pretrained=pretrained),
            id2label=id2label,
            label2id={name: i for i, name in id2label.items()},
            problem_type="multi_label_classification" if several else "single_label_classification",
        )
        loaded.config.text_pairs = "text_pair" in splits["train"].column_names  # what prediction has to be given
        if hasattr(loaded.config, "calibration"):
            del loaded.config.calibration  # an earlier run's decision is not this one's
        require_rows_for_tokens(loaded, processor, str(model.model_name_or_path))
        return loaded, new + (renew_unlike_head(loaded, old, id2label, new) if pretrained else [])

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
        some = next(iter(splits.values()))
        names, several = _names(some), _several(some)
        # A decoder reads the last token that is not padding; what is behind it changes nothing.
        ignored = processor.pad_token_id if settle_padding(model, processor) else None
        settings = {"tokenizer": processor, "limit": limit, "num_labels": len(names) if several else None,
                    "ignored": ignored}  # fmt: skip
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
        require_known_words(next(iter(ready.values())), processor, name)
        require_inputs_that_fit(model, self.collator(processor), next(iter(ready.values())), name)
        return splits, ready

    def collator(self, processor: Any) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
        return DataCollatorWithPadding(processor)

    def readout(self, processor: Any, model: Any) -> Callable[..., list[Any]]:
        return lambda logits, lengths: list(logits.float().cpu().numpy())

    def loss_function(self, train: Dataset, model: Any, label_smoothing: float) -> ClassificationLoss:
        weights = _balanced_weights(train) if self.class_weights == "balanced" else None
        return ClassificationLoss(_several(train), label_smoothing, weights)

    def outputs(self, inputs: Any, predict: Callable[[Any], Any], pipeline: Any) -> Any:
        return predict(inputs)

    # --- quality ----------------------------------------------------------------------------------------------

    def decide(self, outputs: Any, split: Dataset | None, config: Any) -> dict[str, Any]:
        references = None if split is None else classification.references(split)
        several = getattr(config, "problem_type", None) == "multi_label_classification"
        logits = None if outputs is None else np.stack(outputs)
        return classification.decide(logits, references, config, several, self.threshold, self.max_false_positive_rate)

    def measure(self, outputs: Any, split: Dataset, config: Any) -> dict[str, float]:
        return classification.measure(np.stack(outputs), classification.references(split), _decision(split, config))

    def intervals(self, before: Any, after: Any, split: Dataset, config: Any, seed: int) -> dict[str, Any]:
        references = classification.references(split)
        decision = _decision(split, config)
        return classification.intervals(np.stack(before), np.stack(after), references, decision, seed)

    def findings(self, outputs: Any, split: Dataset, config: Any) -> dict[str, Any]:
        logits, decision, names = np.stack(outputs), _decision(split, config), _names(split)
        truth = classification.references(split)
        worst = classification.least_likely(logits, truth, decision, names)
        texts = split.select([one.pop("row") for one in worst])
        return classification.findings(logits, truth, decision) | {
            "worst": [{"text": text, **one} for text, one in zip(_shown_texts(texts), worst, strict=True)]
        }

    def media(self, inputs: Any, worst: list[dict[str, Any]]) -> list[str]:
        return []

    def predictions(self, outputs: Any, split: Dataset, config: Any) -> list[dict[str, Any]]:
        decision, names = _decision(split, config), _names(split)
        inputs = [name for name in ("text", "text_pair", "group") if name in split.column_names]
        records = classification.decided(decision.probabilities(np.stack(outputs)), decision, names)
        return [
            {name: example[name] for name in inputs}
            | {"label": [names[k] for k in example["label"]] if decision.multi_label else names[example["label"]]}
            | {"prediction": record.pop("label"), **record}
            for example, record in zip(split, records, strict=True)
        ]

    def example(self, record: dict[str, Any]) -> Any:
        return record["text"], record.get("text_pair"), record["label"]

    def resampled(self, records: list[dict[str, Any]], facts: dict[str, Any]) -> Resampled:
        names = facts["labels"]

        def ids(values: list[Any]) -> np.ndarray:
            if facts["multi_label"]:
                return np.array([[int(name in value) for name in names] for value in values])
            return np.array([names.index(value) for value in values])

        scores = np.array([[record["scores"][name] for name in names] for record in records])
        truth, labels = (ids([record[key] for record in records]) for key in ("label", "prediction"))
        return Resampled(
            np.arange(len(records)),
            classification.weighted_metrics(truth, labels, scores),
            classification.support(truth, labels, scores.shape[1]),
        )

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


def _names(split: Dataset) -> list[str]:
    feature = split.features["label"]
    return list(getattr(feature, "feature", feature).names)


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


def _several(split: Dataset) -> bool:
    return isinstance(split.features["label"], List)


def _decision(split: Dataset, config: Any) -> Decision:
    """The decision kept in `config`; the plain one for the labels of `split` where there is no config."""
    return Decision.read(config) if config is not None else Decision(multi_label=_several(split))


def _majority_rate(test: Dataset) -> float:
    """Accuracy on test of the best constant answer: what any classifier has to beat."""
    return Counter(test["label"][:]).most_common(1)[0][1] / len(test)


def _balanced_weights(train: Dataset) -> torch.Tensor:
    return balanced_weights(train["label"][:], len(_names(train)), multi_label=_several(train))


def _tokenize(
    batch: dict[str, list[Any]], tokenizer: Any, limit: int, num_labels: int | None, ignored: int | None
) -> dict[str, list[Any]]:
    """Model inputs of texts, with ``labels`` and ``length``.

    Args:
        batch: of examples.
        tokenizer: of the model.
        limit: most tokens.
        num_labels: where a text may have several labels.
        ignored: a token that is left out at the end of a text, but for its first.
    """
    encoded = dict(tokenizer(batch["text"], batch.get("text_pair"), truncation=True, max_length=limit))
    if ignored is not None:
        ends = [next((i for i in range(len(ids), 1, -1) if ids[i - 1] != ignored), 1) for ids in encoded["input_ids"]]
        encoded = {name: [row[:end] for row, end in zip(rows, ends, strict=True)] for name, rows in encoded.items()}
    if num_labels is None:
        encoded["labels"] = batch["label"]
    else:
        encoded["labels"] = [[float(k in label) for k in range(num_labels)] for label in batch["label"]]
    encoded["length"] = [len(ids) for ids in encoded["input_ids"]]
    return encoded
