"""Training with one method: live, or from cached activations where the trunk does not change."""

import contextlib
import copy
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

import numpy as np
from transformers import EarlyStoppingCallback

from hf_transfer.arguments import Arguments, MethodArguments
from hf_transfer.errors import Failure, InputError, logger, nearest
from hf_transfer.evaluation.groups import measure_groups, over_groups
from hf_transfer.methods import Anatomy, default_learning_rate, train_last_layers
from hf_transfer.training.cached_examples import CachedCollator, CachedExamples
from hf_transfer.training.checkpoints import was_cached
from hf_transfer.training.cost import training_cost
from hf_transfer.training.dropout import quick_dropout
from hf_transfer.training.entry import Entry
from hf_transfer.training.feature_cache import FeatureCache
from hf_transfer.training.interruption import checkpoint_on_signal
from hf_transfer.training.packing import packed
from hf_transfer.training.standardisation import standardised_input
from hf_transfer.training.trainer import TransferTrainer

if TYPE_CHECKING:
    from hf_transfer.reporting.trackers import Tracking


def make_trainer(
    task: Any,
    arguments: Arguments,
    folder: Path,
    model: Any,
    processor: Any,
    splits: Any,
    inputs: Any,
    run: Mapping[str, Any] | None = None,
    tracking: "Tracking | None" = None,
) -> TransferTrainer:
    """A trainer of `model` on the preprocessed `inputs`, working in `folder`; it never pushes.

    `run` is for its checkpoints: see `checkpoints.describe_run`. It talks to no tracker but those of `tracking`.
    """
    args = copy.copy(arguments.training)
    args.output_dir, args.push_to_hub = str(folder), False
    args.hub_token = None  # checkpoints hold the arguments
    args.report_to = tracking.others if tracking else []
    validation = splits.get("validation")

    def compute_metrics(found: Any) -> dict[str, float]:
        groups = measure_groups(task, None, found.predictions, validation, None)
        return task.measure(found.predictions, validation, None) | over_groups(task, groups)

    with _arguments_that_fit():
        trainer = TransferTrainer(
            model=model,
            args=args,
            data_collator=task.collator(processor),
            train_dataset=inputs.get("train"),
            eval_dataset=inputs.get("validation"),
            processing_class=processor,
            loss=task.loss_function(splits.get("train", splits["test"]), model, args.label_smoothing_factor),
            readout=task.readout(processor, model),
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
    known = ["loss", *task.metrics]
    of_groups = any(name.startswith(f"{metric}_") for metric in task.metrics)  # which there are, the data tell
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
    known = ["loss", *metrics, *over_groups(task, dict.fromkeys(sorted(groups), metrics))]
    if name not in known:
        raise InputError(f"--metric_for_best_model {name}: evaluation gives {', '.join(known)}.{nearest(name, known)}")
    lower = name == "loss" or name.startswith("expected_calibration_error")
    training.greater_is_better = task.greater_is_better and not lower


@dataclass(frozen=True)
class Constant:
    """The part of the work that training does not change, done.

    Attributes:
        entry: into the model above it.
        examples: by split, with activations as input.
        collator: of those.
        layers: how many layers are run above it; None where it is the fixed front alone.
    """

    entry: Entry
    examples: Mapping[str, CachedExamples]
    collator: CachedCollator
    layers: int | None

    @contextlib.contextmanager
    def beneath(self, trainer: TransferTrainer) -> Iterator[None]:
        """Let the trainer work from the activations inside the block."""
        kept = (trainer.train_dataset, trainer.eval_dataset, trainer.data_collator)
        trainer.whole_model = self.entry.whole
        trainer.train_dataset, trainer.eval_dataset = self.examples.get("train"), self.examples.get("validation")
        trainer.data_collator = self.collator
        try:
            with self.entry.skipping():
                yield
        finally:
            trainer.train_dataset, trainer.eval_dataset, trainer.data_collator = kept
            trainer.whole_model = contextlib.nullcontext


def constant_part(
    trainer: TransferTrainer, anatomy: Anatomy, inputs: Mapping[str, Any], layers: int | None, *, small: bool = False
) -> Constant | None:
    """What lies below the last `layers`, or the fixed front where that is None; nothing where it cannot be skipped.

    Args:
        trainer: of the untrained model.
        anatomy: the model's parts.
        inputs: preprocessed examples by split.
        layers: how many of the last layers are not constant.
        small: only where one position of each example is all that the rest of the model reads.
    """
    args, depth = trainer.args, anatomy.depth(trainer.model)
    # These reach into the modules that are skipped.
    reached = args.gradient_checkpointing or args.activation_checkpointing or args.neftune_noise_alpha
    if reached or (anatomy.front is None if layers is None else not depth or layers >= depth):
        return None
    first = None if layers is None else depth - layers
    cache = FeatureCache(trainer.model, anatomy, first, trainer.data_collator, trainer.accelerator)
    if not cache.enter(inputs.get("train", next(iter(inputs.values())))) or (small and not cache.first_token_only):
        return None
    examples = cache.examples(inputs, args)
    return None if examples is None else Constant(cache.entry, examples, cache.cached_collator, layers)


def constants(
    trainer: TransferTrainer, anatomy: Anatomy, method: MethodArguments, inputs: Mapping[str, Any], measured: Any
) -> tuple[Constant | None, Constant | None]:
    """What need not be computed twice: until training begins, and from then on.

    Args:
        trainer: of the untrained model.
        anatomy: the model's parts.
        method: what will be trained.
        inputs: preprocessed examples by split.
        measured: names of the splits that are measured before training.
    """
    if method.method == "scratch":
        return None, None
    mixed = trainer.accelerator.mixed_precision != "no"
    if mixed:  # what is measured before and after is computed as the model is shipped, in float32
        inputs = {name: inputs[name] for name in inputs if name not in measured}
    constant = constant_part(trainer, anatomy, inputs, method.trainable_layers if method.method == "frozen" else None)
    if method.head_first:
        return constant_part(trainer, anatomy, inputs, 0), constant
    # A recogniser reads every position: it would be looked at in vain.
    if constant is None and method.method != "frozen" and anatomy.front is None and not mixed:
        return constant_part(trainer, anatomy, {name: inputs[name] for name in measured}, 0, small=True), None
    return constant, constant


def predict(trainer: TransferTrainer, inputs: Mapping[str, Any], constant: Constant | None) -> dict[str, np.ndarray]:
    """What is kept of the outputs for each of `inputs`, [examples]; from their activations where there are any.

    Computed as the model is shipped, in float32.
    """
    if constant is None or trainer.accelerator.mixed_precision != "no":
        return {name: trainer.predict(dataset).predictions for name, dataset in inputs.items()}
    with constant.beneath(trainer):
        return {name: trainer.predict(constant.examples[name]).predictions for name in inputs}


def fit(
    trainer: TransferTrainer,
    anatomy: Anatomy,
    constant: Constant | None,
    checkpoint: Path | None,
) -> dict[str, Any]:
    """Train, from `checkpoint` on where there is one and from what is constant, and say what it cost."""
    trainer.progress.started = time.perf_counter()
    cached = constant is not None
    if checkpoint is not None and was_cached(checkpoint) != cached:
        raise InputError(
            f"{checkpoint} was written by a run {'with' if was_cached(checkpoint) else 'without'} cached "
            "activations, and this one is the other way: is the disk fuller or emptier, or the model's device "
            "another? Make it as it was, or start anew in another --output_dir."
        )
    trainer.run = {**trainer.run, "cached": cached}
    examples = trainer.train_dataset
    with (
        quick_dropout(trainer.model),
        _beneath(trainer, anatomy, constant),
        packed(trainer, anatomy) as without_padding,
        checkpoint_on_signal(trainer),
    ):
        try:
            trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        except UnpicklingError as error:
            # Loaded with weights_only: what holds more than tensors and numbers was not written by a run.
            raise Failure(f"{checkpoint} cannot be loaded: {' '.join(str(error).split())[:300]}") from error
        cost = training_cost(trainer, examples, cached=cached, packed=without_padding)
    _say_what_is_kept(trainer)  # a run that a signal stopped has not come so far
    return cost


def in_float32(trainer: TransferTrainer) -> Any:
    """The trained model without accelerate's wrapper for mixed precision: it computes as it is shipped."""
    return trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)


def _say_what_is_kept(trainer: TransferTrainer) -> None:
    state, best = trainer.state, trainer.state.best_global_step
    if trainer.args.load_best_model_at_end and best:
        ended = "stopped early" if state.global_step < state.max_steps else "ended"
        logger.info("Training %s at step %d; the weights of step %d are kept, the best evaluation.",
                    ended, state.global_step, best)  # fmt: skip


@contextlib.contextmanager
def _beneath(trainer: TransferTrainer, anatomy: Anatomy, constant: Constant | None) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        if constant is not None:
            stack.enter_context(constant.beneath(trainer))
            if constant.layers == 0:
                stack.enter_context(standardised_input(trainer, anatomy.head))
        yield


def fit_head(trainer: TransferTrainer, anatomy: Anatomy, arguments: Arguments, constant: Constant | None) -> float:
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
    train_last_layers(trainer.model, anatomy, 0)
    with _beneath(trainer, anatomy, constant):
        trainer.train()
        activations = getattr(trainer.train_dataset, "seconds", 0.0)
    trainer.args = asked
    in_float32(trainer)  # another trainer wraps it anew
    return time.perf_counter() - started + activations
