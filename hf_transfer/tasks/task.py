"""A task: an input with a target, the model class that ties them, and what it is trained with by default."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from datasets import Dataset, DatasetDict
from transformers import PreTrainedModel

from hf_transfer.arguments import DataArguments, ModelArguments
from hf_transfer.data.batches import Collator
from hf_transfer.data.splits import require_columns
from hf_transfer.data.units import UNIT
from hf_transfer.errors import InputError
from hf_transfer.inputs.input import Input
from hf_transfer.models import load_config, load_pretrained
from hf_transfer.targets.target import Target


class Task:
    """An input with a target.

    A task is a dataclass of the settings of both, which are flags as well, with what is said below. The run asks
    `input` and `target` for what is theirs, and the methods here for what they do together.
    """

    pipeline_tag: ClassVar[str]
    """The task's name on the Hub."""
    defaults: ClassVar[Mapping[str, Any]]
    """Arguments by flag name, the model among them, that a run has unless the user says otherwise."""
    learning_rates: ClassVar[Mapping[str, float]]
    """Peak learning rates by method, and of a head alone (``head``): see `methods.default_learning_rate`."""
    epochs: ClassVar[int]
    """Passes over the training data, unless the user says otherwise,"""
    minimum_steps: ClassVar[int]
    """or as many more as make this number of steps."""
    auto_model: ClassVar[Any]
    """The `transformers.AutoModelFor...` class."""
    architecture_suffixes: ClassVar[tuple[str, ...]]
    """How the architectures of its models end in a config.json."""

    pipeline_flags: ClassVar[Mapping[str, str]] = {}
    """Further flags of ``hf-transfer predict`` with their help; ``use_NAME`` of the pipeline takes what is given."""

    @property
    def input(self) -> Input:
        """What goes in."""
        raise NotImplementedError

    @property
    def target(self) -> Target:
        """What is learned."""
        raise NotImplementedError

    def pipeline(self, model: Any, processor: Any) -> Any:
        """The `transformers.Pipeline` that uses the model as it was measured."""
        raise NotImplementedError

    @classmethod
    def claims(cls, config: Any) -> bool:
        """Whether a model of `config` is one of this task, whoever trained it."""
        # Names end alike for other inputs: Wav2Vec2ForSequenceClassification classifies audio.
        known = type(config) in cls.auto_model._model_mapping or getattr(config, "auto_map", None)
        architectures = getattr(config, "architectures", None) or []
        return bool(known) and any(name.endswith(cls.architecture_suffixes) for name in architectures)

    @classmethod
    def settings_of(cls, config: Any) -> dict[str, Any]:
        """The settings that the config of a fine-tuned model decides."""
        return {}

    @classmethod
    def flags_for(cls, use: Literal["prediction", "evaluation"]) -> list[str]:
        """The settings of input and target that are flags of ``hf-transfer predict`` or ``evaluate``."""
        return [name for half in cls.__mro__ for name in vars(half).get(f"flags_for_{use}", ())]

    # --- data -------------------------------------------------------------------------------------------------

    def read(
        self, splits: DatasetDict, data: DataArguments, model: ModelArguments, config: Any = None
    ) -> tuple[DatasetDict, dict[str, dict[str, int]], dict[str, str]]:
        """The user's rows under our names, every one checked.

        Args:
            splits: the user's rows.
            data: where they lie, and their further columns.
            model: to which they are fitted.
            config: of a fine-tuned model, whose labels are expected; None where they are learned.

        Returns:
            The examples; for each split how many rows were left out, by the reason; and the user's column for each of
            ours, in the first split.
        """
        inputs = self._input_columns(splits)
        splits, target = self.target.columns(
            splits, {name: list(own.values()) for name, own in inputs.items()}, config
        )
        columns = {
            name: {
                **inputs[name],
                self.target.column: target[name],
                **self.input.metadata_columns(split.column_names),
                **({"group": data.group_column_name} if data.group_column_name else {}),
                **({UNIT: str(data.split_by)} if data.split_by in split.column_names else {}),
            }
            for name, split in splits.items()
        }
        for name, split in splits.items():
            require_columns(split, name, columns[name])
        if data.split_by in target.values():
            raise InputError(
                f"--split_by {data.split_by}: that is what is learned, and each value of it would be on one side."
            )
        readers = self.target.readers(splits, target, config, model)
        read, left_out = self.input.read(splits, columns, self.target.column, readers, data, model)
        settled, more = self.target.prepare_targets(read, readers, config, data, self.input.leave_out)
        return settled, {name: left_out[name] | more.get(name, {}) for name in left_out}, next(iter(columns.values()))

    def _input_columns(self, splits: DatasetDict) -> dict[str, dict[str, str]]:
        """Of each split the columns of its inputs; a table that has those of the first is read by them."""
        found: dict[str, dict[str, str]] = {}
        for name, split in splits.items():
            alike = [found[other] for other in found if set(found[other].values()) <= set(split.column_names)]
            if not alike:
                columns = self.input.input_columns(split.column_names)
                alike = [{own: column for own, column in columns.items() if hasattr(self, f"{own}_column_name")}]
            found[name] = alike[0]
        return found

    def unit_column(self, columns: Sequence[str]) -> str | None:
        """Of the user's columns the one of speakers, patients or cameras, who are kept on one side of drawn splits."""
        target = getattr(self, f"{self.target.column}_column_name")
        return self.input.unit_column([name for name in columns if name != target])

    def identities(self, split: Dataset) -> list[str]:
        """What makes two examples equal when splits are drawn and compared, an entry an example."""
        return self.input.identities(split)

    def check(self, splits: DatasetDict) -> list[str]:
        """Refuse before training what would fail after it.

        Returns:
            What makes the result flatter or narrower than it looks: said already, in sentences that may be published.
        """
        identities = {name: self.input.identities(split) for name, split in splits.items()}
        return self.input.caveats(splits) + self.target.check(splits, identities)

    def facts(self, splits: DatasetDict) -> dict[str, Any]:
        """What the report, card and page say of the examples."""
        return self.input.facts(splits) | self.target.facts(splits)

    # --- model ------------------------------------------------------------------------------------------------

    def load_processor(self, model: ModelArguments, splits: DatasetDict | None = None) -> Any:
        """The tokenizer or processor that comes with the model, made to fit the splits where it must be."""
        return self.target.complete_processor(self.input.load_processor(model), model, splits)

    def load_model(
        self, model: ModelArguments, splits: DatasetDict, processor: Any, *, pretrained: bool
    ) -> tuple[PreTrainedModel, list[str]]:
        """The model for these examples, and the names of its newly initialised parameters."""
        old = load_config(model, self.auto_model)
        loaded, new = load_pretrained(
            self.auto_model,
            model,
            pretrained=pretrained,
            **self.input.config_settings(old, processor, pretrained=pretrained),
            **self.target.config_settings(model, splits, processor, pretrained=pretrained),
        )
        new += self.target.adapt_head(loaded, old, new, model, splits, processor, pretrained=pretrained)
        self.input.prepare_model(loaded, splits, processor, pretrained=pretrained)
        return loaded, new

    def model_inputs(
        self, splits: DatasetDict, processor: Any, model: PreTrainedModel, seed: int
    ) -> tuple[DatasetDict, dict[str, Any]]:
        """The splits without what the model cannot take, and the `ModelInputs` of each in its order."""
        encoding = self.target.encoding(next(iter(splits.values())), processor, model.config)
        return self.input.model_inputs(splits, processor, model, encoding, seed)

    def collator(self, processor: Any) -> Collator:
        """From examples of `ModelInputs` to a padded batch."""
        return Collator(self.input.pad(processor), self.target.pad)

    def decide(self, outputs: Any, split: Dataset | None, config: Any) -> dict[str, Any]:
        """Fit on the validation split's outputs how outputs become decisions, and keep it in the config."""
        identities = None if split is None else self.input.identities(split)
        return self.target.decide(outputs, split, config, identities)

    # --- report -----------------------------------------------------------------------------------------------

    def error_analysis(self, outputs: Any, split: Dataset, config: Any) -> dict[str, Any]:
        """What else the report says of the outputs; ``worst`` are examples, which are not published."""
        found, worst = self.target.error_analysis(outputs, split, config)
        shown = self.input.display_rows(split.select([one["row"] for one in worst]))
        return found | {"worst": [example | one for example, one in zip(shown, worst, strict=True)]}

    def predictions(self, outputs: Any, split: Dataset, config: Any) -> list[dict[str, Any]]:
        """A JSON-ready record an example: input, group, what was to be predicted and what was."""
        known = split.select_columns([name for name in ("group", UNIT) if name in split.column_names])
        others = known if known.column_names else [{}] * len(split)
        records = zip(
            self.input.prediction_fields(split), others, self.target.records(outputs, split, config), strict=True
        )
        return [{**example, **other, **record} for example, other, record in records]

    def example(self, record: dict[str, Any]) -> tuple[Any, ...]:
        """What tells the example of such a record from others, whatever the model."""
        own = (record[self.target.column],) if self.target.distinguishes_examples else ()
        return *self.input.record_key(record), *own
