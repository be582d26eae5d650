"""Arguments: one vocabulary for flags, YAML keys and Python keywords.

The names are those of the transformers example scripts and of `transformers.TrainingArguments`.
"""

import dataclasses
import math
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args, get_origin, get_type_hints

import torch
from transformers import TrainingArguments

from hf_transfer.errors import InputError, logger, nearest

# Lowest and highest value of what the parser takes as any number.
Range = tuple[float, float | None]
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
TRAINING_RANGES: dict[str, Range] = {
    "learning_rate": (0, None),
    "num_train_epochs": (1e-6, None),
    "seed": (0, None),
    "weight_decay": (0, None),
    "label_smoothing_factor": (0, 1),
    "max_grad_norm": (0, None),
    "warmup_steps": (0, None),
    "dataloader_num_workers": (0, None),
    "per_device_train_batch_size": (1, None),
    "per_device_eval_batch_size": (1, None),
    "gradient_accumulation_steps": (1, None),
    "early_stopping_patience": (1, None),
}


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
    lora_r: int = field(default=16, metadata={"help": "Rank of the LoRA matrices."})
    lora_alpha: int = field(default=32, metadata={"help": "Scale of the LoRA update, over its rank."})
    lora_dropout: float = field(default=0.0, metadata={"help": "Dropout on the LoRA path."})
    lora_variant: Literal["lora", "rslora", "dora", "pissa"] = field(
        default="lora",
        metadata={"help": "LoRA, rank-stabilised LoRA, DoRA, or LoRA from principal components."},
    )
    merge: bool = field(
        default=False, metadata={"help": "Write plain weights instead of an adapter, after --method lora."}
    )
    head_first: bool = field(
        default=False,
        metadata={"help": "Fit the head on frozen features before --method full or lora (LP-FT)."},
    )


# Flags of TrainingArguments that would be taken without a word and change nothing.
WITHOUT_EFFECT = {
    "dataloader_drop_last": "every example of an epoch is trained on",
    "fp16_full_eval": "models are measured as they are shipped, in float32, or under --fp16",
    "bf16_full_eval": "models are measured as they are shipped, in float32, or under --bf16",
    "prediction_loss_only": "a run measures before and after",
    "eval_accumulation_steps": "what is kept of an example is small",
    "do_train": "a run measures, trains and measures",
    "do_eval": "a run measures, trains and measures; --eval_strategy evaluates in between",
    "do_predict": "a run measures, trains and measures",
    "hub_strategy": "the finished result is pushed, not checkpoints",
    "hub_always_push": "the finished result is pushed, not checkpoints",
    "hub_revision": "pushes go to the main branch",
    "greater_is_better": "it is known of every metric",
}


@dataclass
class TransferTrainingArguments(TrainingArguments):
    """`transformers.TrainingArguments` with defaults for small datasets; every flag of it works."""

    _argument_group_name = "training (every flag of transformers.TrainingArguments)"

    output_dir: str | None = field(
        default=None, metadata={"help": "Folder for the result: complete when it appears, absent before."}
    )
    learning_rate: float | None = field(
        default=None, metadata={"help": "Peak learning rate (default: the method's own)."}
    )
    num_train_epochs: float | None = field(
        default=None, metadata={"help": "Passes over the training data (default: 3, more where that is few steps)."}
    )
    per_device_train_batch_size: int = field(default=16, metadata={"help": "Examples per device and step."})
    per_device_eval_batch_size: int = field(default=32, metadata={"help": "Examples per device in evaluation."})
    warmup_steps: float = field(default=0.1, metadata={"help": "Warm-up steps; below 1, the share of all steps."})
    train_sampling_strategy: str = field(
        default="group_by_length",
        metadata={
            "help": "How training batches are drawn: examples of similar length together, or any at random.",
            "choices": ["group_by_length", "random"],
        },
    )
    logging_steps: float = field(default=10, metadata={"help": "Log the training loss every so many steps."})
    save_total_limit: int | None = field(default=2, metadata={"help": "Checkpoints kept during training."})
    logging_nan_inf_filter: bool = field(default=False, metadata={"help": "Hide NaN and infinite losses in the logs."})

    report_to: list[str] | None = field(
        default=None,
        metadata={"help": "Trackers to report to: tensorboard, trackio, wandb or several; `all` that are installed."},
    )

    # The others wait while one process tokenizes or decodes: for a thousand hours of speech more than half an hour.
    ddp_timeout: int = field(default=6 * 3600, metadata={"help": "Seconds that processes wait for each other."})

    early_stopping_patience: int | None = field(
        default=None,
        metadata={
            "help": "Stop after so many evaluations without a better --metric_for_best_model, and keep the best "
            "checkpoint; evaluates and saves every epoch unless told otherwise."
        },
    )
    resume_despite_changes: bool = field(
        default=False, metadata={"help": "Go on from a checkpoint that other data or arguments led to."}
    )
    stop_when_sick: bool = field(
        default=True,
        metadata={"help": "Stop a run that has diverged or collapsed; `false` lets it go on."},
    )
    restore_callback_states_from_checkpoint: bool = field(
        default=True, metadata={"help": "Go on with the patience and the other counters of the checkpoint."}
    )

    # Declared anew for type checkers, which do not see transformers' annotations.
    use_cpu: bool = field(default=False, metadata={"help": "Train on the CPU even where there is an accelerator."})
    ddp_find_unused_parameters: bool | None = field(
        default=False, metadata={"help": "Look for parameters without gradients in each step; costs time."}
    )
    disable_tqdm: bool | None = field(
        default=None, metadata={"help": "Show no progress bars (default: where standard error is no terminal)."}
    )

    def __post_init__(self) -> None:
        if not self.output_dir:
            raise InputError("--output_dir is missing: expected the folder to write the result to.")
        joined = int(os.environ.get("WORLD_SIZE", "1"))
        accelerator = torch.accelerator.is_available() and not self.use_cpu
        if self.fp16 and not accelerator:
            raise InputError(
                "--fp16 needs a GPU and none was found. Leave it out, or use --bf16, which CPUs have too."
            )
        if joined > 1 and not accelerator and not self.use_cpu:
            # Without this each process believes that it is alone, and all write the same folder.
            logger.info("No accelerator: the %d processes are joined on the CPU (--use_cpu).", joined)
        if (joined > 1 or self.bf16) and not accelerator:
            self.use_cpu = True
        asked = str(getattr(self, "resume_from_checkpoint", None)).lower()
        if asked in ("true", "false", "none", ""):
            # "true" is the newest checkpoint of the output folder.
            self.resume_from_checkpoint = "true" if asked == "true" else None
        if self.early_stopping_patience is not None:
            self._evaluate_for_early_stopping()
        if self.disable_tqdm is None:
            # A bar redraws itself with carriage returns: in a log file that is noise.
            self.disable_tqdm = not sys.stderr.isatty()
        if self.report_to is None:
            self.report_to = ["none"]
        self._refuse_sharding(accelerator)
        for name, why in WITHOUT_EFFECT.items():
            default = TrainingArguments.__dataclass_fields__[name].default
            if getattr(self, name) not in (default, None, False):
                raise InputError(f"--{name} has no effect here: {why}. Leave it out.")
        try:
            super().__post_init__()
        except (ValueError, ImportError, TypeError, AttributeError) as error:
            raise InputError(f"The training arguments do not fit together: {' '.join(str(error).split())}") from error
        _check_ranges(self, TRAINING_RANGES)
        if self.world_size != joined:
            raise InputError(
                f"{joined} processes were started (WORLD_SIZE) but training sees {self.world_size}: each would "
                "work alone and overwrite the others. Start them with `accelerate launch --multi_gpu "
                "--num_processes N`, or run a single process."
            )

    def _refuse_sharding(self, accelerator: bool) -> None:
        """FSDP needs GPUs to share a model among; DeepSpeed's own steps are not ours."""
        fsdp = self.fsdp or os.environ.get("ACCELERATE_USE_FSDP") == "true"
        if fsdp and not (accelerator and torch.accelerator.device_count() > 1):
            raise InputError(
                "FSDP shares a model among two GPUs or more, and there are fewer here. Leave --fsdp out, or start "
                "with `accelerate launch --multi_gpu` instead of an FSDP config."
            )
        if self.deepspeed or os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true":
            raise InputError("DeepSpeed is not supported: expected `accelerate launch --multi_gpu`, or FSDP.")

    def _evaluate_for_early_stopping(self) -> None:
        if str(self.eval_strategy) in ("no", "IntervalStrategy.NO"):  # type: ignore[has-type]
            self.eval_strategy = self.save_strategy = "epoch"
            logger.info("Evaluated and saved every epoch, for --early_stopping_patience.")
        self.load_best_model_at_end = True


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
        _check_ranges(self.data, DATA_RANGES)
        _check_ranges(self.method, METHOD_RANGES)
        for name in ("source_group", "target_group"):
            if getattr(self.data, name) is not None and not self.data.group_column_name:
                raise InputError(f"--{name} names a group, but --group_column_name is missing: where are the groups?")
        if self.data.source_group is not None and self.data.source_file:
            raise InputError("--source_file and --source_group are both given: expected one of them.")
        if self.data.replay and not (self.data.source_file or self.data.source_group is not None):
            raise InputError("--replay needs source examples: expected --source_file or --source_group too.")
        sharded = self.training.fsdp or os.environ.get("ACCELERATE_USE_FSDP") == "true"
        if sharded and self.method.method != "full":
            raise InputError(f"FSDP works with --method full, not with {self.method.method}.")
        if self.method.trainable_layers and self.method.method != "frozen":
            raise InputError(f"--trainable_layers belongs to --method frozen, not to {self.method.method}.")
        if self.method.merge and self.method.method != "lora":
            raise InputError(f"--merge belongs to --method lora, not to {self.method.method}.")
        if self.method.head_first and self.method.method not in ("full", "lora"):
            raise InputError(f"--head_first belongs to --method full or lora, not to {self.method.method}.")

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
        kept = {"output_dir", "seed", "learning_rate", "num_train_epochs", "per_device_train_batch_size"}
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
        }
        for name, default in defaults.items():
            value = training.get(name)
            if name in unrepeatable or value in (None, [], {}):
                continue
            if default is None and value is False:
                continue  # filled in by TrainingArguments
            if name in kept or value != getattr(default, "value", default):
                values[name] = value
        return values


def _check_choices(part: Any) -> None:
    """Refuse values that are none of a field's choices: Python keywords do not pass the command line's parser."""
    for name, hint in get_type_hints(type(part)).items():
        choices = get_args(hint) if get_origin(hint) is Literal else ()
        value = getattr(part, name)
        if choices and value not in choices:
            raise InputError(f"--{name} is {value!r}: expected one of {', '.join(choices)}.{nearest(value, choices)}")


def _check_ranges(part: Any, ranges: dict[str, Range]) -> None:
    for name, (low, high) in ranges.items():
        value = getattr(part, name)
        if value is None:
            continue
        if not isinstance(value, (int, float)) or not low <= value <= (math.inf if high is None else high):
            wanted = f"{low:g} or more" if high is None else f"{low:g} to {high:g}"
            raise InputError(f"--{name} is {value!r}: expected a number, {wanted}.")
