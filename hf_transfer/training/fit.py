"""Training a model with one method: making the trainer, and running it."""

import contextlib
import copy
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

import torch
from datasets import DatasetDict
from transformers import EarlyStoppingCallback, EvalPrediction, PreTrainedModel

from hf_transfer.arguments import Arguments, MethodArguments
from hf_transfer.errors import Failure, InputError, logger
from hf_transfer.evaluation.groups import group_summary_metrics, measure_groups
from hf_transfer.methods.anatomy import Anatomy
from hf_transfer.methods.trainable import apply_method, frozen_modules
from hf_transfer.models import unwrap_peft
from hf_transfer.training.activations.entry_check import front_matches_single_examples
from hf_transfer.training.activations.front import MaskedCollator, front_without_padding
from hf_transfer.training.activations.precomputed import HEAD_ALONE, Precomputed
from hf_transfer.training.cost import training_cost
from hf_transfer.training.interruption import checkpoint_on_signal
from hf_transfer.training.speed.packed_layers import packed
from hf_transfer.training.standardisation import standardised_input
from hf_transfer.training.trainer import TransferTrainer

if TYPE_CHECKING:
    from hf_transfer.inputs.input import ModelInputs
    from hf_transfer.reporting.trackers import Tracking


@dataclass(frozen=True)
class PreparedData:
    """Dataclass of the data that a model is trained and evaluated on, with the arguments and the processor.

    Attributes:
        arguments: of the run, including the task.
        processor: the tokenizer, feature extractor or processor of the model.
        splits: the examples of each split, with this package's column names.
        inputs: the same examples as model inputs, in the same order.
    """

    arguments: Arguments
    processor: Any
    splits: DatasetDict
    inputs: "Mapping[str, ModelInputs]"


def make_trainer(
    prepared: PreparedData,
    model: torch.nn.Module,
    folder: Path,
    run: Mapping[str, Any] | None = None,
    tracking: "Tracking | None" = None,
) -> TransferTrainer:
    """Return a `TransferTrainer` that trains a model on the prepared data and evaluates it.

    Args:
        prepared: data and arguments.
        model: as `apply_method` returns it, or untrained, for evaluation.
        folder: for its checkpoints. The trainer never pushes to the Hub.
        run: description of the run for its checkpoints, from `resuming.describe_run`.
        tracking: the experiment trackers; None for no tracker.
    """
    arguments, processor, splits, inputs = prepared.arguments, prepared.processor, prepared.splits, prepared.inputs
    task = arguments.task
    args = copy.copy(arguments.training)
    args.output_dir, args.push_to_hub = str(folder), False
    args.hub_token = None  # checkpoints contain the arguments
    args.report_to = tracking.others if tracking else []
    validation = splits.get("validation")

    def compute_metrics(evaluated: EvalPrediction) -> dict[str, float]:
        groups = measure_groups(task, None, evaluated.predictions, validation, None)
        metrics = task.target.compute_metrics(evaluated.predictions, validation, None)
        metrics |= group_summary_metrics(task, groups)
        # A metric that is not defined must not make one evaluation the best.
        return {name: 0.0 if math.isnan(value) else value for name, value in metrics.items()}

    with _explain_refused_arguments():
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
        tracking.with_all_modules = lambda: trainer.with_all_modules()
    return trainer


@contextlib.contextmanager
def _explain_refused_arguments() -> Iterator[None]:
    """Context manager: turn an error of Trainer's constructor into an `InputError` of one sentence."""
    try:
        yield
    except (ValueError, ImportError, RuntimeError, KeyError) as error:
        raise InputError(f"The training arguments do not fit together: {' '.join(str(error).split())}") from error


def fit(
    trainer: TransferTrainer,
    anatomy: Anatomy,
    method: MethodArguments,
    precomputed: Precomputed | None,
    checkpoint: Path | None,
) -> dict[str, Any]:
    """Train the trainer's model by a method, perhaps from a checkpoint on, and return the throughput and the cost.

    Args:
        trainer: of the model as `apply_method` returned it.
        anatomy: the model's parts.
        method: the method and its settings.
        precomputed: activations of frozen layers to train from, if there are any.
        checkpoint: to resume from, if there is one.

    Returns:
        Throughput and cost for the report: see `training_cost`.
    """
    trainer.resumable_state.training_started = time.perf_counter()
    examples = trainer.train_dataset
    with (
        _prepared_for_method(trainer, anatomy, method, precomputed) as padding_changes_outputs,
        packed(trainer, anatomy) as without_padding,
        checkpoint_on_signal(trainer),
    ):
        try:
            trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        except UnpicklingError as error:
            # With weights_only, torch refuses files that hold more than tensors and numbers: no run writes such files.
            raise Failure(f"{checkpoint} cannot be loaded: {' '.join(str(error).split())[:300]}") from error
        cost = training_cost(
            trainer, examples, cached=precomputed.examples["train"] if precomputed else None, packed=without_padding
        )
    _log_best_step(trainer)  # not reached by a run that a signal stops
    return cost | {"padding_changes_outputs": padding_changes_outputs}


def trained_model(trainer: TransferTrainer) -> PreTrainedModel:
    """Return the model of a trainer after training, in float32, without accelerate's mixed-precision wrapper."""
    return trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)


def _log_best_step(trainer: TransferTrainer) -> None:
    state, best = trainer.state, trainer.state.best_global_step
    if trainer.args.load_best_model_at_end and best:
        ended = "stopped early" if state.global_step < state.max_steps else "ended"
        logger.info("Training %s at step %d; the weights of step %d, which had the best evaluation, are kept.",
                    ended, state.global_step, best)  # fmt: skip


@contextlib.contextmanager
def _prepared_for_method(
    trainer: TransferTrainer, anatomy: Anatomy, method: MethodArguments, precomputed: Precomputed | None
) -> Iterator[bool]:
    """Context manager: set the trainer up for a training method; yield whether padding changes outputs.

    Inside the block it trains on the cached activations, if there are any, keeps the frozen modules in eval mode, and
    standardises the input of a head that is trained alone.

    Yields:
        Whether padding changes what the model computes.
    """
    model = trainer.model
    base_model = unwrap_peft(model)
    padding_changes_outputs = trainer.train_dataset.padding_changes_outputs
    frozen = frozen_modules(model, anatomy, method)
    with contextlib.ExitStack() as stack:
        if precomputed is not None:
            stack.enter_context(precomputed.used_by(trainer))
            padding_changes_outputs = False
        elif padding_changes_outputs and front_matches_single_examples(trainer, base_model, anatomy):
            stack.enter_context(_with_attention_mask(trainer, base_model))
            stack.enter_context(front_without_padding(base_model, anatomy))
            padding_changes_outputs = False
        # Modules that are skipped (see `Entry.skipping`) are not part of the model now.
        present = set(model.modules())
        trainer.frozen_modules = [module for module in frozen if module in present]
        stack.callback(trainer.frozen_modules.clear)
        if method.method == "frozen" and not method.trainable_layers:
            stack.enter_context(standardised_input(trainer, anatomy.head))
        yield padding_changes_outputs


@contextlib.contextmanager
def _with_attention_mask(trainer: TransferTrainer, model: PreTrainedModel) -> Iterator[None]:
    """Context manager: let the trainer's batches hold an ``attention_mask`` inside the block."""
    collator = trainer.data_collator
    trainer.data_collator = MaskedCollator(collator, model.main_input_name)
    try:
        yield
    finally:
        trainer.data_collator = collator


def fit_head(
    trainer: TransferTrainer, anatomy: Anatomy, arguments: Arguments, precomputed: Precomputed | None
) -> float:
    """Train the head of the trainer's model alone, with a frozen trunk, and return the seconds that this took.

    It comes before fine-tuning, so that a random head does not distort the trunk (linear probing, then fine-tuning):
    Kumar et al. 2022, https://arxiv.org/abs/2202.10054.

    Args:
        trainer: of the untrained model, which is used for this only.
        anatomy: the model's parts.
        arguments: of the run.
        precomputed: activations of the trunk, if there are any.

    Returns:
        The seconds that it took, including those in which the activations were computed.
    """
    logger.info("The head is trained on features of the frozen trunk first (--head_first).")
    started = time.perf_counter()
    args = trainer.args
    trainer.args = copy.copy(args)
    trainer.args.learning_rate = arguments.task.learning_rates["head"]
    trainer.args.save_strategy = trainer.args.eval_strategy = "no"
    trainer.remove_callback(EarlyStoppingCallback)  # it needs evaluations
    apply_method(trainer.model, anatomy, HEAD_ALONE, revision=arguments.model.model_revision)
    with _prepared_for_method(trainer, anatomy, HEAD_ALONE, precomputed):
        trainer.train()
        activations_seconds = precomputed.examples["train"].seconds if precomputed else 0.0
    trainer.args = args
    trained_model(trainer)  # removes accelerate's wrapper, as another trainer will add its own
    return time.perf_counter() - started + activations_seconds
