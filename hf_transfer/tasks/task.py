"""The base class of tasks: an input, a target, the model class that ties them, and the default arguments."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

from datasets import Dataset, DatasetDict
from transformers import Pipeline, PretrainedConfig, PreTrainedModel

from hf_transfer.arguments import DataArguments, ModelArguments
from hf_transfer.data.batches import Collator
from hf_transfer.data.splits import require_columns
from hf_transfer.data.units import UNIT
from hf_transfer.errors import InputError
from hf_transfer.inputs.input import Input, ModelInputs, Processor
from hf_transfer.models import load_config, load_pretrained
from hf_transfer.targets.target import Target


@dataclass
class Task:
    """Base class of tasks, dataclasses of flags that tie an input to a target.

    A task is a dataclass whose fields are the settings of its input and of its target; each field is a flag as well.
    A run asks `input` and `target` for what concerns one of them, and the methods here for what needs both.
    """

    pipeline_tag: ClassVar[str]
    """The task's pipeline tag on the Hub."""
    defaults: ClassVar[Mapping[str, Any]]
    """Default arguments by flag name, among them the model."""
    learning_rates: ClassVar[Mapping[str, float]]
    """Default peak learning rates by method, and of a head that is trained alone (``head``).

    `methods.default_learning_rate` chooses among them.
    """
    epochs: ClassVar[int]
    """Default number of passes over the training data, or more where these make fewer than `minimum_steps`."""
    minimum_steps: ClassVar[int]
    """The fewest training steps that a run takes by default."""
    auto_model: ClassVar[Any]
    """The `transformers.AutoModelFor...` class."""
    architecture_suffixes: ClassVar[tuple[str, ...]]
    """Endings of the names of its models' architectures in a config.json."""

    pipeline_flags: ClassVar[Mapping[str, str]] = {}
    """Further flags of ``hf-transfer predict`` with their help; the pipeline's method ``use_NAME`` takes the value."""

    @property
    def input(self) -> Input:
        """The `Input` of the task: what the model is given."""
        raise NotImplementedError

    @property
    def target(self) -> Target:
        """The `Target` of the task: what the model learns to predict."""
        raise NotImplementedError

    def pipeline(self, model: PreTrainedModel, processor: Processor) -> Pipeline:
        """Return the `transformers.Pipeline` of a model, which predicts as the model was measured."""
        raise NotImplementedError

    @classmethod
    def has_models_of(cls, config: PretrainedConfig) -> bool:
        """Return whether a fine-tuned model with this config is a model of this task, whoever trained it."""
        # The ending alone does not tell the input: Wav2Vec2ForSequenceClassification classifies audio.
        is_supported = type(config) in cls.auto_model._model_mapping or getattr(config, "auto_map", None)
        architectures = getattr(config, "architectures", None) or []
        return bool(is_supported) and any(name.endswith(cls.architecture_suffixes) for name in architectures)

    @classmethod
    def settings_from_config(cls, config: PretrainedConfig) -> dict[str, Any]:
        """Return by name the settings of the task that are kept in the config of a fine-tuned model."""
        return {}

    @classmethod
    def setting_names(cls) -> set[str]:
        """Return the names of the settings of the task's input and target, which are flags."""
        return {field.name for field in fields(cls)}

    @classmethod
    def flags_for(cls, use: Literal["prediction", "evaluation"]) -> list[str]:
        """Return the names of the settings that are flags of ``hf-transfer predict`` or ``evaluate``."""
        return [name for base in cls.__mro__ for name in vars(base).get(f"flags_for_{use}", ())]

    # --- data -------------------------------------------------------------------------------------------------

    def read(
        self, splits: DatasetDict, data: DataArguments, model: ModelArguments, config: PretrainedConfig | None = None
    ) -> tuple[DatasetDict, dict[str, dict[str, int]], dict[str, str]]:
        """Check the user's rows, and return them as examples in standard columns (``text``, ``label``, ...).

        Rows that are left out are counted.

        Args:
            splits: the user's rows.
            data: where the data is, and the further columns that the user names.
            model: the model that the examples are prepared for.
            config: of a fine-tuned model, whose labels are expected; None where the labels are learned.

        Returns:
            The examples; for each split the number of rows left out, by reason; and the user's column for each
            standard column, in the first split.

        Raises:
            InputError: a column or a value cannot be used.
        """
        input_columns = self._input_columns(splits)
        splits, target_columns = self.target.columns(
            splits, {name: list(columns.values()) for name, columns in input_columns.items()}, config
        )
        columns = {
            name: {
                **input_columns[name],
                self.target.column: target_columns[name],
                **self.input.metadata_columns(split.column_names),
                **({"group": data.group_column_name} if data.group_column_name else {}),
                **({UNIT: str(data.split_by)} if data.split_by in split.column_names else {}),
            }
            for name, split in splits.items()
        }
        for name, split in splits.items():
            require_columns(split, name, columns[name])
        if data.split_by in target_columns.values():
            raise InputError(
                f"--split_by {data.split_by}: that column is the target, so each of its values would be in one split "
                "only. Name another column."
            )
        readers = self.target.readers(splits, target_columns, config, model)
        read, left_out = self.input.read(splits, columns, self.target.column, readers, data, model)
        examples, left_out_by_target = self.target.prepare_targets(read, readers, config, data, self.input.leave_out)
        left_out = {name: counts | left_out_by_target.get(name, {}) for name, counts in left_out.items()}
        return examples, left_out, next(iter(columns.values()))

    def _input_columns(self, splits: DatasetDict) -> dict[str, dict[str, str]]:
        """Return by split the user's columns of inputs; those of an earlier split if the table has them."""
        by_split: dict[str, dict[str, str]] = {}
        for name, split in splits.items():
            shared = next(
                (found for found in by_split.values() if set(found.values()) <= set(split.column_names)), None
            )
            if shared is None:
                columns = self.input.input_columns(split.column_names)
                shared = {
                    standard: name for standard, name in columns.items() if hasattr(self, f"{standard}_column_name")
                }
            by_split[name] = shared
        return by_split

    def unit_column(self, columns: Sequence[str]) -> str | None:
        """Return the column of speakers, patients or cameras, which drawn splits keep whole, or None."""
        target = getattr(self, f"{self.target.column}_column_name")
        return self.input.unit_column([name for name in columns if name != target])

    def identities(self, split: Dataset) -> list[str]:
        """Return a string for each example, [n]; those with equal strings are kept in one of the drawn splits."""
        return self.input.identities(split)

    def check(self, splits: DatasetDict) -> list[str]:
        """Raise an error, before training, if the splits cannot be trained on or measured; return caveats.

        Returns:
            Caveats: why the result may be too good, or hold for few cases only. They have been logged, and may be
            published.

        Raises:
            InputError: the splits cannot be trained on or measured.
        """
        identities = {name: self.input.identities(split) for name, split in splits.items()}
        return self.input.caveats(splits) + self.target.check(splits, identities, self._describe_input)

    def _describe_input(self, split: Dataset, row: int) -> str:
        """Return the noun of an example's input and how a page displays it: ``text 'win a prize'``."""
        (fields,) = self.input.display_rows(split.select([row]))
        shown = " ".join(" ".join(str(value) for value in fields.values()).split())
        return f"{self.input.noun} '{shown if len(shown) <= 60 else f'{shown[:59]}…'}'"

    def facts(self, splits: DatasetDict) -> dict[str, Any]:
        """Return by name facts about the examples for the report, the card and the page."""
        return self.input.facts(splits) | self.target.facts(splits)

    # --- model ------------------------------------------------------------------------------------------------

    def load_processor(self, model: ModelArguments, splits: DatasetDict | None = None) -> Processor:
        """Return the tokenizer or processor that comes with the model, adapted to the splits if needed."""
        return self.target.complete_processor(self.input.load_processor(model), model, splits)

    def load_model(
        self, model: ModelArguments, splits: DatasetDict, processor: Processor, *, pretrained: bool
    ) -> tuple[PreTrainedModel, list[str]]:
        """Load a pretrained model, adapt it to these examples, and return it and its new parameters' names.

        Returns:
            The model, and the names of its newly initialised parameters.
        """
        checkpoint_config = load_config(model, self.auto_model)
        loaded, new = load_pretrained(
            self.auto_model,
            model,
            pretrained=pretrained,
            **self.input.config_settings(checkpoint_config, processor, pretrained=pretrained),
            **self.target.config_settings(model, splits, processor, pretrained=pretrained),
        )
        new += self.target.adapt_head(loaded, checkpoint_config, new, model, splits, processor, pretrained=pretrained)
        self.input.prepare_model(loaded, splits, processor, pretrained=pretrained)
        return loaded, new

    def model_inputs(
        self, splits: DatasetDict, processor: Processor, model: PreTrainedModel, seed: int
    ) -> tuple[DatasetDict, dict[str, ModelInputs]]:
        """Return the splits without examples that the model cannot take, and the `ModelInputs` of each.

        They are in the same order.
        """
        encoding = self.target.encoding(next(iter(splits.values())), processor, model.config)
        return self.input.model_inputs(splits, processor, model, encoding, seed)

    def collator(self, processor: Processor) -> Collator:
        """Return the `Collator` that makes a padded batch of examples of `ModelInputs`."""
        return Collator(self.input.pad(processor), self.target.pad)

    def decide(self, outputs: Any, split: Dataset | None, config: PretrainedConfig) -> dict[str, Any]:
        """Fit on the validation outputs how outputs become decisions, keep it in the config, and return it."""
        identities = None if split is None else self.input.identities(split)
        return self.target.decide(outputs, split, config, identities)

    # --- report -----------------------------------------------------------------------------------------------

    def error_analysis(self, outputs: Any, split: Dataset, config: PretrainedConfig) -> dict[str, Any]:
        """Return by name the report's entries beside metrics; ``worst`` are examples, never published."""
        analysis, worst = self.target.error_analysis(outputs, split, config)
        inputs = self.input.display_rows(split.select([record["row"] for record in worst]))
        return analysis | {"worst": [example | record for example, record in zip(inputs, worst, strict=True)]}

    def predictions(self, outputs: Any, split: Dataset, config: PretrainedConfig) -> list[dict[str, Any]]:
        """Return a JSON-ready record for each example: input, group, reference and prediction."""
        groups = split.select_columns([name for name in ("group", UNIT) if name in split.column_names])
        group_records = groups if groups.column_names else [{}] * len(split)
        target_records = self.target.records(outputs, split, config)
        records = zip(self.input.prediction_fields(split), group_records, target_records, strict=True)
        return [{**example, **group, **prediction} for example, group, prediction in records]

    def example_key(self, record: dict[str, Any]) -> tuple[Any, ...]:
        """Return a key that tells the example of a prediction record from others, whatever model predicted it."""
        reference = (record[self.target.column],) if self.target.distinguishes_examples else ()
        return *self.input.record_key(record), *reference
