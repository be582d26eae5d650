"""Arguments: one vocabulary for flags, YAML keys and Python keywords.

The names are those of the transformers example scripts and of `transformers.TrainingArguments`.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from hf_transfer.errors import InputError, nearest
from hf_transfer.training_arguments import Range, TransferTrainingArguments, check_ranges

DATA_RANGES: dict[str, Range] = {
    "test_size": (0, 0.99),
    "validation_size": (0, 0.99),
    "replay": (0, None),
    "max_train_samples": (1, None),
    "max_eval_samples": (1, None),
    "split_seed": (0, None),
}
METHOD_RANGES: dict[str, Range] = {
    "trainable_layers": (0, None),
    "lora_r": (1, None),
    "lora_alpha": (1, None),
    "lora_dropout": (0, 0.99),
}


# Settings of --method lora, which other methods refuse, and their defaults.
LORA: dict[str, Any] = {"lora_r": 16, "lora_alpha": 32, "lora_dropout": 0.0, "lora_variant": "lora"}


@dataclass
class ModelArguments:
    _argument_group_name = "model"

    model_name_or_path: str | None = field(
        default=None, metadata={"help": "Hub id or local folder of the pretrained model."}
    )
    model_revision: str = field(default="main", metadata={"help": "Branch, tag or commit of a model on the Hub."})
    trust_remote_code: bool = field(
        default=False,
        metadata={"help": "Run Python code that comes with the model: only for authors you trust."},
    )


@dataclass
class DataArguments:
    _argument_group_name = "data"

    dataset_name: str | None = field(
        default=None, metadata={"help": "Hub id of a dataset, or a local folder of data files."}
    )
    dataset_config_name: str | None = field(
        default=None, metadata={"help": "Configuration of the dataset on the Hub."}
    )
    dataset_revision: str | None = field(
        default=None, metadata={"help": "Branch, tag or commit of a dataset on the Hub (default: main)."}
    )
    train_file: str | None = field(
        default=None, metadata={"help": "Local CSV, TSV, JSON, JSONL or Parquet file to train on."}
    )
    validation_file: str | None = field(default=None, metadata={"help": "Local file to choose and calibrate on."})
    test_file: str | None = field(default=None, metadata={"help": "Local file to measure on."})
    train_split_name: str = field(default="train", metadata={"help": "Split of the dataset to train on."})
    validation_split_name: str = field(
        default="validation", metadata={"help": "Split of the dataset to choose and calibrate on."}
    )
    test_split_name: str = field(default="test", metadata={"help": "Split of the dataset to measure on."})
    column_names: list[str] | None = field(
        default=None, metadata={"help": "Column names of a CSV or TSV file that has no header."}
    )
    delimiter: str | None = field(
        default=None, metadata={"help": "Delimiter of CSV and TSV files (default: by the file's ending)."}
    )
    group_column_name: str | None = field(
        default=None, metadata={"help": "Column by which results are reported too: accent, speaker, domain."}
    )
    source_file: str | None = field(
        default=None,
        metadata={"help": "Local file of what the model knew before, to measure what is forgotten (and to replay)."},
    )
    source_group: str | None = field(
        default=None,
        metadata={
            "help": "Value of the group column that marks what the model knew before: measured apart, and trained "
            "on only as far as --replay says."
        },
    )
    target_group: list[str] | None = field(
        default=None,
        metadata={
            "help": "Values of the group column to adapt to; others are left out (default: all but the source)."
        },
    )
    replay: float = field(
        default=0.0,
        metadata={"help": "Source examples mixed into training, as a share of the other training examples."},
    )
    test_size: float = field(
        default=0.2,
        metadata={"help": "Share of the training split to measure on where there is no test split."},
    )
    validation_size: float | None = field(
        default=None,
        metadata={
            "help": "Share of the training split to choose on where there is no validation split; 0: none "
            "(default: a tenth, at most 400 examples)."
        },
    )
    split_by: str | None = field(
        default=None,
        metadata={
            "help": "Column whose values (speakers, patients, cameras) are each kept on one side of the splits that "
            "are drawn (default: one that is named so; others are named here)."
        },
    )
    split_seed: int | None = field(
        default=None,
        metadata={
            "help": "Seed of the splits that are made where there are none and of --max_eval_samples "
            "(default: --seed)."
        },
    )
    max_train_samples: int | None = field(
        default=None, metadata={"help": "Train on this many examples, drawn by the seed."}
    )
    max_eval_samples: int | None = field(
        default=None, metadata={"help": "Validate and test on this many examples each, drawn by the seed."}
    )
    drop_incomplete: bool = field(
        default=False, metadata={"help": "Leave out rows without input or label, counted, instead of stopping."}
    )
    deduplicate: bool = field(
        default=False, metadata={"help": "Remove from training what validation or test hold as well."}
    )

    def names_data(self) -> bool:
        """Whether the data are a file's or the Hub's, and not in memory."""
        return bool(self.train_file or self.dataset_name)


@dataclass
class MethodArguments:
    _argument_group_name = "method"

    method: Literal["full", "lora", "frozen", "scratch"] = field(
        default="full",
        metadata={
            "help": "What is trained: every weight; LoRA adapters and the head; the head (and the last "
            "--trainable_layers); every weight from random initialisation."
        },
    )
    trainable_layers: int = field(
        default=0,
        metadata={"help": "Layers, counted from the last, that --method frozen trains with the head."},
    )
    lora_r: int | None = field(default=None, metadata={"help": "Rank of the LoRA matrices (default: 16)."})
    lora_alpha: int | None = field(
        default=None, metadata={"help": "Scale of the LoRA update, over its rank (default: 32)."}
    )
    lora_dropout: float | None = field(default=None, metadata={"help": "Dropout on the LoRA path (default: 0)."})
    lora_variant: Literal["lora", "rslora", "dora", "pissa"] | None = field(
        default=None,
        metadata={"help": "LoRA, rank-stabilised LoRA, DoRA, or LoRA from principal components (default: lora)."},
    )
    merge: bool = field(
        default=False, metadata={"help": "Write plain weights instead of an adapter, after --method lora."}
    )
    head_first: bool = field(
        default=False,
        metadata={"help": "Fit the head on frozen features before --method full or lora (LP-FT)."},
    )

    def __post_init__(self) -> None:
        if self.method == "lora":
            for name, default in LORA.items():
                if getattr(self, name) is None:
                    setattr(self, name, default)

    @property
    def leaves_adapter(self) -> bool:
        """Whether an adapter is written, and not whole weights."""
        return self.method == "lora" and not self.merge


# Settings that belong to some methods only; the others do without.
OF_METHODS = {"trainable_layers": ("frozen",), "merge": ("lora",), "head_first": ("full", "lora"),
              **dict.fromkeys(LORA, ("lora",))}  # fmt: skip


def fitting(values: Mapping[str, Any], method: str) -> dict[str, Any]:
    """The arguments without those that only other methods take."""
    return {key: value for key, value in values.items() if method in OF_METHODS.get(key, (method,))}


# Arguments that do not change what a run leads to.
OF_NO_EFFECT = ("output_dir", "hub_", "logging_", "save_total_limit", "dataloader_", "ddp_", "resume_", "use_cpu",
                "run_name", "project", "trackio_")  # fmt: skip


def differences(
    told: Mapping[str, Any], now: Mapping[str, Any], may_differ: tuple[str, ...]
) -> dict[str, tuple[Any, Any]]:
    """The arguments that two runs do not share, with both values; those that begin as `may_differ` says left aside."""
    names = [name for name in sorted({*told, *now}) if not name.startswith(may_differ)]
    return {name: (told.get(name), now.get(name)) for name in names if told.get(name) != now.get(name)}


@dataclass
class Arguments:
    """Everything a run is told: the task (with its own settings) and the four groups that all tasks share."""

    task: Any
    model: ModelArguments
    data: DataArguments
    method: MethodArguments
    training: TransferTrainingArguments

    def __post_init__(self) -> None:
        for part in (self.model, self.data, self.task, self.method):
            _check_choices(part)
        if not self.model.model_name_or_path:
            raise InputError("--model_name_or_path is missing: expected a Hub id or a local model folder.")
        if self.data.train_file and self.data.dataset_name:
            raise InputError("--train_file and --dataset_name are both given: expected one source of training data.")
        if self.data.dataset_revision and not self.data.dataset_name:
            raise InputError("--dataset_revision belongs to a dataset on the Hub: expected --dataset_name too.")
        check_ranges(self.data, DATA_RANGES)
        check_ranges(self.method, METHOD_RANGES)
        for name in ("source_group", "target_group"):
            if getattr(self.data, name) is not None and not self.data.group_column_name:
                raise InputError(f"--{name} names a group, but --group_column_name is missing: where are the groups?")
        if self.data.source_group is not None and self.data.source_file:
            raise InputError("--source_file and --source_group are both given: expected one of them.")
        if self.data.source_group is not None and self.data.split_by == self.data.group_column_name:
            raise InputError(
                f"--source_group is trained and tested on, and --split_by {self.data.split_by} keeps each value of "
                "that column on one side. Name another column, or leave one of the two out."
            )
        if self.data.replay and not (self.data.source_file or self.data.source_group is not None):
            raise InputError("--replay needs source examples: expected --source_file or --source_group too.")
        if self.method.trainable_layers and self.method.method != "frozen":
            raise InputError(f"--trainable_layers belongs to --method frozen, not to {self.method.method}.")
        if self.method.merge and self.method.method != "lora":
            raise InputError(f"--merge belongs to --method lora, not to {self.method.method}.")
        if self.method.head_first and self.method.method not in ("full", "lora"):
            raise InputError(f"--head_first belongs to --method full or lora, not to {self.method.method}.")
        for name in LORA:
            if getattr(self.method, name) is not None and self.method.method != "lora":
                raise InputError(f"--{name} belongs to --method lora, not to {self.method.method}.")

    def as_dict(self) -> dict[str, Any]:
        """What was set, by flag name: all that a repetition of the run needs; never a token."""
        values = {
            key: value
            for part in (self.model, self.data, self.task, self.method)
            for key, value in dataclasses.asdict(part).items()
            if value is not None
        }
        training = self.training.to_dict()
        defaults = {f.name: f.default for f in dataclasses.fields(TransferTrainingArguments) if f.init}
        kept = {"output_dir", "seed", "learning_rate", "num_train_epochs", "per_device_train_batch_size", "bf16"}
        kept |= set(self.task.defaults)  # which may differ from those of the dataclass
        unrepeatable = {
            "hub_token",
            "resume_from_checkpoint",
            "resume_despite_changes",
            "disable_tqdm",
            "use_cpu",
            "push_to_hub",
            "debug",
            "accelerator_config",
            "fsdp_config",
            "report_to",
            # Filled in by TrainingArguments, or known of the metric.
            "do_eval",
            "greater_is_better",
        }
        for name, default in defaults.items():
            value = training.get(name)
            if name in unrepeatable or value in (None, [], {}):
                continue
            if default is None and value is False and name not in kept:
                continue  # filled in by TrainingArguments
            if name in kept or value != getattr(default, "value", default):
                values[name] = value
        return values


def _check_choices(part: Any) -> None:
    """Refuse values that are none of a field's choices: Python keywords do not pass the command line's parser."""
    for name, hint in get_type_hints(type(part)).items():
        kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)  # ... | None
        choices = [choice for kind in kinds if get_origin(kind) is Literal for choice in get_args(kind)]
        value = getattr(part, name)
        if choices and value not in choices and not (value is None and NoneType in kinds):
            raise InputError(f"--{name} is {value!r}: expected one of {', '.join(choices)}.{nearest(value, choices)}")
