"""`transformers.TrainingArguments` as it is used here: its flags, other defaults, what is refused."""

import math
import os
import sys
from dataclasses import MISSING, dataclass, field
from typing import Any

import torch
from transformers import TrainingArguments

from hf_transfer.errors import InputError, logger

# Lowest and highest value of what the parser takes as any number.
Range = tuple[float, float | None]
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

# Flags of TrainingArguments that would be taken without a word and change nothing.
WITHOUT_EFFECT = {
    "dataloader_drop_last": "every example of an epoch is trained on",
    "fp16_full_eval": "models are measured as they are shipped, in float32",
    "bf16_full_eval": "models are measured as they are shipped, in float32",
    "prediction_loss_only": "a run measures before and after",
    "eval_accumulation_steps": "what is kept of an example is small",
    "do_train": "a run measures, trains and measures",
    "do_eval": "a run measures, trains and measures; --eval_strategy evaluates in between",
    "do_predict": "a run measures, trains and measures",
    "hub_strategy": "the finished result is pushed, not checkpoints",
    "hub_always_push": "the finished result is pushed, not checkpoints",
    "hub_revision": "pushes go to the main branch",
    "greater_is_better": "it is known of every metric",
    "remove_unused_columns": "examples hold what the model takes and nothing else",
    "label_names": "labels are found by --label_column_name",
    "length_column_name": "lengths are counted",
    "include_for_metrics": "metrics are made of predictions and labels",
    "batch_eval_metrics": "what is kept of an example is small",
    "eval_do_concat_batches": "what is kept of an example is small",
    "dataloader_in_order": "batches come in an order that can be repeated",
    "eval_use_gather_object": "what is kept of an example is small",
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

    bf16: bool | None = field(
        default=None,
        metadata={"help": "Compute in bf16 under autocast (default: on GPUs that have it, unless --fp16 is given)."},
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
                "--fp16 needs a GPU and none was found. Leave it out. (--bf16 works on processors too; on those "
                "without arithmetic of that kind it is slower than float32.)"
            )
        if self.auto_find_batch_size and joined > 1:
            raise InputError(
                "--auto_find_batch_size works in a single process: one that begins anew would be waited for by the "
                "others. Leave it out, and raise --gradient_accumulation_steps where a step does not fit."
            )
        if joined > 1 and not accelerator and not self.use_cpu:
            # Without this each process believes that it is alone, and all write the same folder.
            logger.info("No accelerator: the %d processes are joined on the CPU (--use_cpu).", joined)
        if self.bf16 is None:
            self.bf16 = self._has_bf16(accelerator)
        if (joined > 1 or self.bf16) and not accelerator:
            self.use_cpu = True
        asked = str(getattr(self, "resume_from_checkpoint", None)).lower()
        if asked in ("true", "yes", "on", "false", "no", "off", "none", ""):
            # "true" is the newest checkpoint of the output folder.
            self.resume_from_checkpoint = "true" if asked in ("true", "yes", "on") else None
        if self.early_stopping_patience is not None:
            self._evaluate_for_early_stopping()
        if self.disable_tqdm is None:
            # A bar redraws itself with carriage returns: in a log file that is noise.
            self.disable_tqdm = not sys.stderr.isatty()
        if self.report_to is None:
            self.report_to = ["none"]
        self._refuse_sharding()
        for name, why in WITHOUT_EFFECT.items():
            own = TrainingArguments.__dataclass_fields__[name]
            default = own.default if own.default_factory is MISSING else own.default_factory()
            if getattr(self, name) not in (default, None):
                raise InputError(f"--{name} has no effect here: {why}. Leave it out.")
        try:
            super().__post_init__()
        except (ValueError, ImportError, TypeError, AttributeError) as error:
            raise InputError(f"The training arguments do not fit together: {' '.join(str(error).split())}") from error
        check_ranges(self, TRAINING_RANGES)
        if self.torch_compile and not accelerator:
            logger.info("--torch_compile: a processor compiles for a minute or more before the first steps.")
        if self.n_gpu > 1:
            # Trainer would put the model into nn.DataParallel: slower, and not what a step is here.
            logger.info(
                "%d GPUs are visible and one is used (`accelerate launch --multi_gpu --num_processes %d` uses all).",
                self.n_gpu, self.n_gpu,
            )  # fmt: skip
            self._n_gpu = 1
        if self.world_size != joined:
            raise InputError(
                f"{joined} processes were started (WORLD_SIZE) but training sees {self.world_size}: each would "
                "work alone and overwrite the others. Start them with `accelerate launch --multi_gpu "
                "--num_processes N`, or run a single process."
            )

    def _has_bf16(self, accelerator: bool) -> bool:
        """Whether the GPU computes in bf16 and nobody has asked for another precision."""
        # `accelerate launch` sets "no" where it was asked for nothing.
        asked = self.fp16 or os.environ.get("ACCELERATE_MIXED_PRECISION", "no") != "no"
        if asked or not accelerator or not torch.cuda.is_available():
            return False
        if not torch.cuda.is_bf16_supported(including_emulation=False):
            return False
        logger.info("The GPU computes in bf16 (--bf16 false for float32).")
        return True

    def _refuse_sharding(self) -> None:
        """Models shared among GPUs: their evaluation and their checkpoints would have to be written for it."""
        if self.fsdp or self.fsdp_config or os.environ.get("ACCELERATE_USE_FSDP") == "true":
            raise InputError(
                "FSDP is not supported: no machine with two GPUs has shown yet that a run with it ends, and with the "
                "same result. Leave --fsdp out, and start with `accelerate launch --multi_gpu` instead of an FSDP "
                "config: the whole model is on each GPU then."
            )
        if self.deepspeed or os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true":
            raise InputError("DeepSpeed is not supported: expected `accelerate launch --multi_gpu`.")

    def _evaluate_for_early_stopping(self) -> None:
        if str(self.eval_strategy) in ("no", "IntervalStrategy.NO"):  # type: ignore[has-type]
            self.eval_strategy = self.save_strategy = "epoch"
            logger.info("Evaluated and saved every epoch, for --early_stopping_patience.")
        self.load_best_model_at_end = True


def check_ranges(part: Any, ranges: dict[str, Range]) -> None:
    """Refuse values of `part` that are out of their ranges.

    Raises:
        InputError: one is.
    """
    for name, (low, high) in ranges.items():
        value = getattr(part, name)
        if value is None:
            continue
        if not isinstance(value, (int, float)) or not low <= value <= (math.inf if high is None else high):
            wanted = f"{low:g} or more" if high is None else f"{low:g} to {high:g}"
            raise InputError(f"--{name} is {value!r}: expected a number, {wanted}.")
