"""`transformers.TrainingArguments` with this package's defaults, further flags, and checks."""

import os
import sys
from dataclasses import MISSING, dataclass, field

import torch
from transformers import TrainingArguments

from hf_transfer.arguments.checks import Range, check_ranges
from hf_transfer.errors import InputError, logger

_RANGES: dict[str, Range] = {
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

# Flags of TrainingArguments that would be accepted and change nothing here, with the reason.
_WITHOUT_EFFECT = {
    "dataloader_drop_last": "all examples of an epoch are trained on",
    "fp16_full_eval": "models are evaluated in float32, as they are saved",
    "bf16_full_eval": "models are evaluated in float32, as they are saved",
    "prediction_loss_only": "a run computes metrics before and after training",
    "eval_accumulation_steps": "the outputs that are collected for each example are small",
    "do_train": "a run always evaluates, trains and evaluates again",
    "do_eval": "a run always evaluates, trains and evaluates again; --eval_strategy evaluates during training",
    "do_predict": "a run always evaluates, trains and evaluates again",
    "hub_strategy": "the finished model is pushed, and no checkpoints",
    "hub_always_push": "the finished model is pushed, and no checkpoints",
    "hub_revision": "models are pushed to the main branch",
    "greater_is_better": "it is known for every metric",
    "remove_unused_columns": "examples hold only what the model takes",
    "label_names": "--label_column_name names the labels",
    "length_column_name": "lengths are computed from the examples",
    "include_for_metrics": "metrics are computed from predictions and labels",
    "batch_eval_metrics": "the outputs that are collected for each example are small",
    "eval_do_concat_batches": "the outputs that are collected for each example are small",
    "dataloader_in_order": "the order of batches is always reproducible",
    "eval_use_gather_object": "the outputs that are collected for each example are small",
}


@dataclass
class TransferTrainingArguments(TrainingArguments):
    """`transformers.TrainingArguments` with defaults for small datasets, further flags and checks.

    Every flag works, or is refused with the reason.
    """

    _argument_group_name = "training (every flag of transformers.TrainingArguments)"

    output_dir: str | None = field(
        default=None, metadata={"help": "Folder for the result. It appears when the run is finished and complete."}
    )
    learning_rate: float | None = field(
        default=None, metadata={"help": "Peak learning rate (default: depends on --method)."}
    )
    num_train_epochs: float | None = field(
        default=None, metadata={"help": "Passes over the training data (default: 3; more if that is only few steps)."}
    )
    per_device_train_batch_size: int = field(default=16, metadata={"help": "Examples per device and step."})
    per_device_eval_batch_size: int = field(default=32, metadata={"help": "Examples per device in evaluation."})
    warmup_steps: float = field(
        default=0.1, metadata={"help": "Warm-up steps; a number below 1 is a share of all steps."}
    )
    train_sampling_strategy: str = field(
        default="group_by_length",
        metadata={
            "help": "How training batches are drawn: group_by_length puts examples of similar length together; random "
            "draws any examples.",
            "choices": ["group_by_length", "random"],
        },
    )
    logging_steps: float = field(default=10, metadata={"help": "Log the training loss every so many steps."})
    save_total_limit: int | None = field(
        default=2, metadata={"help": "Number of checkpoints that are kept during training."}
    )
    logging_nan_inf_filter: bool = field(default=False, metadata={"help": "Hide NaN and infinite losses in the logs."})

    report_to: list[str] | None = field(
        default=None,
        metadata={
            "help": "Experiment trackers to report to: tensorboard, trackio, wandb or several; all: those installed."
        },
    )

    # One process prepares the data while the others wait; a large dataset takes longer than the default half hour.
    ddp_timeout: int = field(
        default=6 * 3600, metadata={"help": "Seconds after which a process stops waiting for the others."}
    )

    early_stopping_patience: int | None = field(
        default=None,
        metadata={
            "help": "Stop after this many evaluations without a better --metric_for_best_model, and keep the best "
            "checkpoint. Evaluates and saves every epoch unless --eval_strategy is given."
        },
    )
    resume_despite_changes: bool = field(
        default=False,
        metadata={"help": "Resume from a checkpoint even if data or arguments have changed since it was written."},
    )
    stop_when_sick: bool = field(
        default=True,
        metadata={"help": "Stop a run whose training has diverged or collapsed; false lets it continue."},
    )
    restore_callback_states_from_checkpoint: bool = field(
        default=True,
        metadata={"help": "Restore early stopping's patience and the other counters from the checkpoint."},
    )

    bf16: bool | None = field(
        default=None,
        metadata={"help": "Compute in bf16 with autocast (default: on GPUs that support it, unless --fp16 is given)."},
    )

    # Repeated here for mypy, which does not read transformers' annotations.
    use_cpu: bool = field(default=False, metadata={"help": "Train on the CPU even if there is a GPU."})
    ddp_find_unused_parameters: bool | None = field(
        default=False, metadata={"help": "Find parameters without gradients in each step, which takes time."}
    )
    disable_tqdm: bool | None = field(
        default=None, metadata={"help": "Show no progress bars (default: true if standard error is not a terminal)."}
    )

    def __post_init__(self) -> None:
        if not self.output_dir:
            raise InputError("--output_dir is missing: expected the folder to write the result to.")
        processes = int(os.environ.get("WORLD_SIZE", "1"))
        has_accelerator = torch.accelerator.is_available() and not self.use_cpu
        self._choose_device(processes, has_accelerator)
        self._normalise_resume_from_checkpoint()
        if self.early_stopping_patience is not None:
            self._set_up_early_stopping()
        if self.disable_tqdm is None:
            # A progress bar redraws itself with carriage returns, which makes a log file unreadable.
            self.disable_tqdm = not sys.stderr.isatty()
        if self.report_to is None:
            self.report_to = ["none"]
        self._refuse_sharding()
        self._refuse_flags_without_effect()
        try:
            super().__post_init__()
        except (ValueError, ImportError, TypeError, AttributeError) as error:
            raise InputError(f"The training arguments do not fit together: {' '.join(str(error).split())}") from error
        check_ranges(self, _RANGES)
        if self.torch_compile and not has_accelerator:
            logger.info("--torch_compile: on a CPU, compilation takes a minute or more before the first step.")
        self._use_one_gpu_per_process()
        if self.world_size != processes:
            raise InputError(
                f"{processes} processes were started (WORLD_SIZE), but training sees {self.world_size}: each would "
                "train alone and overwrite the result of the others. Start them with `accelerate launch --multi_gpu "
                "--num_processes N`, or run a single process."
            )

    def _choose_device(self, processes: int, has_accelerator: bool) -> None:
        """Set ``use_cpu`` and ``bf16`` to what suits the hardware where the user has not set them.

        Raises:
            InputError: what was asked for does not work with this device or with several processes.
        """
        if self.fp16 and not has_accelerator:
            raise InputError(
                "--fp16 needs a GPU, and none was found. Leave it out. (--bf16 works on CPUs too, but is slower than "
                "float32 on those without bf16 instructions.)"
            )
        if self.auto_find_batch_size and processes > 1:
            raise InputError(
                "--auto_find_batch_size works in a single process only: a process that starts again with a smaller "
                "batch would leave the others waiting. Leave it out; if a step does not fit into memory, halve "
                "--per_device_train_batch_size and double --gradient_accumulation_steps."
            )
        if processes > 1 and not has_accelerator and not self.use_cpu:
            # Without use_cpu each process believes that it is the only one, and all write the same folder.
            logger.info("No GPU: the %d processes train together on the CPU (--use_cpu).", processes)
        if self.bf16 is None:
            self.bf16 = self._should_use_bf16(has_accelerator)
        if (processes > 1 or self.bf16) and not has_accelerator:
            self.use_cpu = True

    def _should_use_bf16(self, has_accelerator: bool) -> bool:
        """Return whether the GPU supports bf16 and no other precision was asked for."""
        # `accelerate launch` sets "no" if no precision was given.
        other_precision = self.fp16 or os.environ.get("ACCELERATE_MIXED_PRECISION", "no") != "no"
        if other_precision or not has_accelerator or not torch.cuda.is_available():
            return False
        if not torch.cuda.is_bf16_supported(including_emulation=False):
            return False
        logger.info("The GPU computes in bf16 (--bf16 false for float32).")
        return True

    def _normalise_resume_from_checkpoint(self) -> None:
        """Set ``resume_from_checkpoint`` to "true" or None where it was given as a truth value.

        "true" means the newest checkpoint of the output folder.
        """
        value = str(getattr(self, "resume_from_checkpoint", None)).lower()
        if value in ("true", "yes", "on"):
            self.resume_from_checkpoint = "true"
        elif value in ("false", "no", "off", "none", ""):
            self.resume_from_checkpoint = None  # type: ignore[assignment]

    def _set_up_early_stopping(self) -> None:
        if str(self.eval_strategy) in ("no", "IntervalStrategy.NO"):  # type: ignore[has-type]
            self.eval_strategy = self.save_strategy = "epoch"
            logger.info("Evaluated and saved every epoch, for --early_stopping_patience.")
        self.load_best_model_at_end = True

    def _refuse_sharding(self) -> None:
        """Raise an error if FSDP or DeepSpeed is asked for.

        Evaluation and checkpoints do not support sharded models.
        """
        if self.fsdp or self.fsdp_config or os.environ.get("ACCELERATE_USE_FSDP") == "true":
            raise InputError(
                "FSDP is not supported: it has not been tested that a run with it gives the same result. Leave --fsdp "
                "out, and start with `accelerate launch --multi_gpu` instead of an FSDP config: each GPU then holds "
                "the whole model."
            )
        if self.deepspeed or os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true":
            raise InputError("DeepSpeed is not supported: expected `accelerate launch --multi_gpu`.")

    def _refuse_flags_without_effect(self) -> None:
        for name, reason in _WITHOUT_EFFECT.items():
            declared = TrainingArguments.__dataclass_fields__[name]
            default = declared.default if declared.default_factory is MISSING else declared.default_factory()
            if getattr(self, name) not in (default, None):
                raise InputError(f"--{name} has no effect here: {reason}. Leave it out.")

    def _use_one_gpu_per_process(self) -> None:
        """Set the number of GPUs of this process to one if several are visible, and log how to use all.

        Trainer would use `torch.nn.DataParallel`: it is slow, and changes what a training step is.
        """
        if self.n_gpu > 1:
            logger.info(
                "%d GPUs are visible and one is used (`accelerate launch --multi_gpu --num_processes %d` uses all).",
                self.n_gpu, self.n_gpu,
            )  # fmt: skip
            self._n_gpu = 1
