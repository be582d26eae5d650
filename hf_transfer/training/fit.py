"""Training with one method: the trainer, the settings that are left open, the steps."""

import contextlib
import copy
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

from datasets import DatasetDict
from transformers import EarlyStoppingCallback

from hf_transfer.arguments import Arguments, MethodArguments
from hf_transfer.errors import Failure, InputError, logger, nearest
from hf_transfer.evaluation.groups import group_summary_metrics, measure_groups
from hf_transfer.evaluation.metric_names import greater_is_better
from hf_transfer.methods.anatomy import Anatomy
from hf_transfer.methods.trainable import apply_method, default_learning_rate, frozen_modules
from hf_transfer.models import unwrap_peft
from hf_transfer.training.activations.entry_check import front_takes_lengths
from hf_transfer.training.activations.front import MaskedCollator, front_without_padding
from hf_transfer.training.activations.precomputed import HEAD_ALONE, Precomputed
from hf_transfer.training.cost import training_cost
from hf_transfer.training.interruption import checkpoint_on_signal
from hf_transfer.training.speed import faster_on_a_processor
from hf_transfer.training.standardisation import standardised_input
from hf_transfer.training.trainer import TransferTrainer

if TYPE_CHECKING:
    from hf_transfer.reporting.trackers import Tracking


@dataclass(frozen=True)
class Prepared:
    """What a model is trained and measured on.

    Attributes:
        arguments: of the run, the task among them.
        processor: of the model.
        splits: the examples by split, under our names.
        inputs: the `ModelInputs` of each split, in its order.
    """

    arguments: Arguments
    processor: Any
    splits: DatasetDict
    inputs: Mapping[str, Any]


def make_trainer(
    prepared: Prepared,
    model: Any,
    folder: Path,
    run: Mapping[str, Any] | None = None,
    tracking: "Tracking | None" = None,
) -> TransferTrainer:
    """A trainer of `model`, working in `folder`; it never pushes, and talks to no tracker but those of `tracking`.

    `run` is for its checkpoints: see `checkpoints.describe_run`.
    """
    arguments, processor, splits, inputs = prepared.arguments, prepared.processor, prepared.splits, prepared.inputs
    task = arguments.task
    args = copy.copy(arguments.training)
    args.output_dir, args.push_to_hub = str(folder), False
    args.hub_token = None  # checkpoints hold the arguments
    args.report_to = tracking.others if tracking else []
    validation = splits.get("validation")

    def compute_metrics(found: Any) -> dict[str, float]:
        groups = measure_groups(task, None, found.predictions, validation, None)
        measured = task.target.compute_metrics(found.predictions, validation, None) | group_summary_metrics(
            task, groups
        )
        # Of what nothing is known, no evaluation is better than another.
        return {name: 0.0 if math.isnan(value) else value for name, value in measured.items()}

    with _arguments_that_fit():
        trainer = TransferTrainer(
            model=model,
            args=args,
            data_collator=task.collator(processor),
            train_dataset=inputs.get("train"),
            eval_dataset=inputs.get("validation"),
            processing_class=processor,
            loss=task.target.loss_function(splits.get("train", splits["test"]), model, args.label_smoothing_factor),
            readout=task.target.readout(processor, model),
            run=run or {},
            compute_metrics=compute_metrics,
            callbacks=[tracking] if tracking else [],
        )
    if tracking:
        tracking.whole_model = lambda: trainer.whole_model()
    return trainer


@contextlib.contextmanager
def _arguments_that_fit() -> Iterator[None]:
    """What Trainer itself refuses, as one sentence."""
    try:
        yield
    except (ValueError, ImportError, RuntimeError, KeyError) as error:
        raise InputError(f"The training arguments do not fit together: {' '.join(str(error).split())}") from error


def settle_training(arguments: Arguments, config: Any, examples: int) -> None:
    """Fill in the learning rate and the number of epochs where the user leaves them open, and say so."""
    task, training = arguments.task, arguments.training
    _say_what_is_off(arguments, config)
    step = training.train_batch_size * training.gradient_accumulation_steps * training.world_size
    steps = max(1, math.ceil(examples / step))
    if training.learning_rate is None:
        training.learning_rate = default_learning_rate(arguments.method, config, task.learning_rates)
    if training.num_train_epochs is None:
        training.num_train_epochs = float(max(task.epochs, math.ceil(task.minimum_steps / steps)))
    if training.max_steps <= 0:
        logger.info(
            "%g epoch%s of %d step%s at a learning rate of %.2g (--num_train_epochs, --learning_rate).",
            training.num_train_epochs, "" if training.num_train_epochs == 1 else "s", steps, "" if steps == 1 else "s",
            training.learning_rate,
        )  # fmt: skip


def require_best_metric(arguments: Arguments) -> None:
    """Refuse before the data are read a --metric_for_best_model that the task never measures.

    Raises:
        InputError: it is none of its metrics, whatever the labels and groups are.
    """
    task, asked = arguments.task, arguments.training.metric_for_best_model
    name = (asked or "loss").removeprefix("eval_")
    known = ["loss", *task.target.metrics]
    of_groups = any(name.startswith(f"{metric}_") for metric in task.target.metrics)  # which there are, the data tell
    if name not in known and not (of_groups and arguments.data.group_column_name):
        raise InputError(f"--metric_for_best_model {name}: evaluation gives {', '.join(known)}.{nearest(name, known)}")


def settle_best_metric(arguments: Arguments, metrics: dict[str, float], splits: Any) -> None:
    """Refuse before training a --metric_for_best_model that is not measured; know whether more of it is better.

    Raises:
        InputError: no evaluation will give that metric.
    """
    task, training = arguments.task, arguments.training
    if training.metric_for_best_model is None:
        return
    name = training.metric_for_best_model.removeprefix("eval_")
    validation = splits.get("validation")
    groups = set(validation["group"]) if validation is not None and "group" in validation.column_names else set()
    known = ["loss", *metrics, *group_summary_metrics(task, dict.fromkeys(sorted(groups), metrics))]
    if name not in known:
        raise InputError(f"--metric_for_best_model {name}: evaluation gives {', '.join(known)}.{nearest(name, known)}")
    of_groups = name not in ("loss", *metrics)
    training.greater_is_better = greater_is_better(task.target.headline[0] if of_groups else name)


def fit(
    trainer: TransferTrainer,
    anatomy: Anatomy,
    method: MethodArguments,
    precomputed: Precomputed | None,
    checkpoint: Path | None,
) -> dict[str, Any]:
    """Train, from `checkpoint` and from `precomputed` activations where there are any; returns what it cost."""
    trainer.progress.started = time.perf_counter()
    examples = trainer.train_dataset
    with (
        _as_method(trainer, anatomy, method, precomputed) as padding_counts,
        faster_on_a_processor(trainer, anatomy) as without_padding,
        checkpoint_on_signal(trainer),
    ):
        try:
            trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        except UnpicklingError as error:
            # Loaded with weights_only: what holds more than tensors and numbers was not written by a run.
            raise Failure(f"{checkpoint} cannot be loaded: {' '.join(str(error).split())[:300]}") from error
        cost = training_cost(
            trainer, examples, cached=precomputed.examples["train"] if precomputed else None, packed=without_padding
        )
    _say_what_is_kept(trainer)  # a run that a signal stopped has not come so far
    return cost | {"padding_changes_outputs": padding_counts}


def in_float32(trainer: TransferTrainer) -> Any:
    """The trained model without accelerate's wrapper for mixed precision: it computes as it is shipped."""
    return trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)


def _say_what_is_kept(trainer: TransferTrainer) -> None:
    state, best = trainer.state, trainer.state.best_global_step
    if trainer.args.load_best_model_at_end and best:
        ended = "stopped early" if state.global_step < state.max_steps else "ended"
        logger.info("Training %s at step %d; the weights of step %d are kept, the best evaluation.",
                    ended, state.global_step, best)  # fmt: skip


def _say_what_is_off(arguments: Arguments, config: Any) -> None:
    """What the checkpoint's config or a flag asks of a trunk in train mode, and `frozen` does not do."""
    if arguments.method.method != "frozen":
        return
    off = list(arguments.task.input.train_mode_effects(config))
    if arguments.training.neftune_noise_alpha:
        off.append("NEFTune (--neftune_noise_alpha)")
    if off:
        logger.info("--method frozen leaves the trunk in eval mode: no %s.", ", no ".join(off))


@contextlib.contextmanager
def _as_method(
    trainer: TransferTrainer, anatomy: Anatomy, method: MethodArguments, precomputed: Precomputed | None
) -> Iterator[bool]:
    """Train as `method` does inside the block; yields whether padding changes what the model computes."""
    model = trainer.model
    whole = unwrap_peft(model)
    alone = trainer.train_dataset.padding_changes_outputs
    frozen = frozen_modules(model, anatomy, method)
    with contextlib.ExitStack() as stack:
        if precomputed is not None:
            stack.enter_context(precomputed.used_by(trainer))
            alone = False
        elif alone and front_takes_lengths(trainer, whole, anatomy):
            stack.enter_context(_masked(trainer, whole))
            stack.enter_context(front_without_padding(whole, anatomy))
            alone = False
        there = set(model.modules())  # a step goes over each of them
        trainer.frozen = [module for module in frozen if module in there]
        stack.callback(trainer.frozen.clear)
        if method.method == "frozen" and not method.trainable_layers:
            stack.enter_context(standardised_input(trainer, anatomy.head))
        yield alone


@contextlib.contextmanager
def _masked(trainer: TransferTrainer, plain: Any) -> Iterator[None]:
    collator = trainer.data_collator
    trainer.data_collator = MaskedCollator(collator, plain.main_input_name)
    try:
        yield
    finally:
        trainer.data_collator = collator


def fit_head(
    trainer: TransferTrainer, anatomy: Anatomy, arguments: Arguments, precomputed: Precomputed | None
) -> float:
    """Fit the head alone first, so that a random head does not distort the trunk (LP-FT).

    Returns the seconds that it takes, with those of the activations that it is fitted on.

    Kumar et al. 2022, https://arxiv.org/abs/2202.10054.
    """
    logger.info("The head is fitted on frozen features first (--head_first).")
    started = time.perf_counter()
    asked = trainer.args
    trainer.args = copy.copy(asked)
    trainer.args.learning_rate = arguments.task.learning_rates["head"]
    trainer.args.save_strategy = trainer.args.eval_strategy = "no"
    trainer.remove_callback(EarlyStoppingCallback)  # nothing is evaluated here
    apply_method(trainer.model, anatomy, HEAD_ALONE, revision=arguments.model.model_revision)
    with _as_method(trainer, anatomy, HEAD_ALONE, precomputed):
        trainer.train()
        activations = precomputed.examples["train"].seconds if precomputed else 0.0
    trainer.args = asked
    in_float32(trainer)  # another trainer wraps it anew
    return time.perf_counter() - started + activations
