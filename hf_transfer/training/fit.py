"""Training with one method: live, or from cached activations where the trunk does not change."""

import contextlib
import copy
import math
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from transformers import EarlyStoppingCallback

from hf_transfer.arguments import Arguments
from hf_transfer.errors import Failure, InputError, logger, nearest
from hf_transfer.evaluation.groups import measure_groups, over_groups
from hf_transfer.methods import Anatomy, default_learning_rate, train_last_layers
from hf_transfer.training.checkpoints import was_cached
from hf_transfer.training.cost import training_cost
from hf_transfer.training.dropout import quick_dropout
from hf_transfer.training.feature_cache import FeatureCache, collate_cached
from hf_transfer.training.interruption import checkpoint_on_signal
from hf_transfer.training.standardisation import standardised_input
from hf_transfer.training.trainer import TransferTrainer


def make_trainer(
    task: Any,
    arguments: Arguments,
    folder: Path,
    model: Any,
    processor: Any,
    splits: Any,
    inputs: Any,
    run: Mapping[str, Any] | None = None,
) -> TransferTrainer:
    """A trainer of `model` on the preprocessed `inputs`, working in `folder`; it never pushes.

    `run` is for its checkpoints: see `checkpoints.describe_run`.
    """
    args = copy.copy(arguments.training)
    args.output_dir, args.push_to_hub = str(folder), False
    args.hub_token = None  # checkpoints hold the arguments
    validation = splits.get("validation")

    def compute_metrics(found: Any) -> dict[str, float]:
        groups = measure_groups(task, None, found.predictions, validation, None)
        return task.measure(found.predictions, validation, None) | over_groups(task, groups)

    with _arguments_that_fit():
        return TransferTrainer(
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
        )


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
            "%g epochs of %d steps at a learning rate of %.2g (--num_train_epochs, --learning_rate).",
            training.num_train_epochs, steps, training.learning_rate,
        )  # fmt: skip


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
    training.greater_is_better = task.greater_is_better and not ("loss" in name or "error" in name)


def fit(
    trainer: TransferTrainer, anatomy: Anatomy, arguments: Arguments, folder: Path, checkpoint: Path | None
) -> dict[str, Any]:
    """Train, from `checkpoint` on where there is one, and say what it cost."""
    started = time.perf_counter()
    frozen = arguments.method.method == "frozen"
    layers = arguments.method.trainable_layers
    caching = _cached(trainer, anatomy, layers, folder) if frozen else contextlib.nullcontext(False)
    with quick_dropout(trainer.model), caching as cached, checkpoint_on_signal(trainer):
        if checkpoint is not None and was_cached(checkpoint) != cached:
            raise InputError(
                f"{checkpoint} was written by a run {'with' if was_cached(checkpoint) else 'without'} cached "
                "activations, and this one is the other way: is the disk fuller or emptier, or the model's device "
                "another? Make it as it was, or start anew in another --output_dir."
            )
        trainer.run = {**trainer.run, "cached": cached}
        try:
            trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        except UnpicklingError as error:
            # Loaded with weights_only: what holds more than tensors and numbers was not written by a run.
            raise Failure(f"{checkpoint} cannot be loaded: {' '.join(str(error).split())[:300]}") from error
    seconds = time.perf_counter() - started
    return training_cost(trainer, anatomy, arguments.method, seconds, cached=bool(cached))


def fit_head(trainer: TransferTrainer, anatomy: Anatomy, arguments: Arguments, folder: Path) -> None:
    """Fit the head alone first, so that a random head does not distort the trunk (LP-FT).

    Kumar et al. 2022, https://arxiv.org/abs/2202.10054.
    """
    logger.info("The head is fitted on frozen features first (--head_first).")
    asked = trainer.args
    trainer.args = copy.copy(asked)
    trainer.args.learning_rate = arguments.task.learning_rates["head"]
    trainer.args.save_strategy = trainer.args.eval_strategy = "no"
    trainer.remove_callback(EarlyStoppingCallback)  # nothing is evaluated here
    train_last_layers(trainer.model, anatomy, 0)
    with _cached(trainer, anatomy, 0, folder):
        trainer.train()
    trainer.args = asked


@contextlib.contextmanager
def _cached(trainer: TransferTrainer, anatomy: Anatomy, layers: int, folder: Path) -> Iterator[bool]:
    """Let the trainer work from cached activations inside the block, where the model allows it."""
    kept = (trainer.train_dataset, trainer.eval_dataset, trainer.data_collator)
    cache = None
    args = trainer.args
    # These reach into the modules that the cache takes out.
    untouched = not (args.gradient_checkpointing or args.activation_checkpointing or args.neftune_noise_alpha)
    if anatomy.layers is not None and untouched:
        cache = FeatureCache(trainer.model, anatomy.layers, layers, anatomy.trunk, folder / "features")
    examples = _examples(trainer, cache) if cache is not None else None
    if cache is None or examples is None:
        yield False
        return
    trainer.train_dataset, trainer.eval_dataset = examples
    trainer.data_collator = collate_cached
    try:
        with cache.skipping(), contextlib.ExitStack() as stack:
            if layers == 0:
                stack.enter_context(standardised_input(trainer.model, anatomy.head, examples[0]))
            yield True
    finally:
        trainer.train_dataset, trainer.eval_dataset, trainer.data_collator = kept
        if args.should_save:
            shutil.rmtree(folder / "features", ignore_errors=True)


def _examples(trainer: TransferTrainer, cache: FeatureCache) -> tuple[Any, Any] | None:
    args = trainer.args
    if not cache.enter(trainer.train_dataset, trainer.data_collator):
        return None
    found = []
    for name, dataset in (("train", trainer.train_dataset), ("validation", trainer.eval_dataset)):
        with args.main_process_first(local=False, desc="activations"):  # all machines see the folder
            examples = None if dataset is None else cache.compute(
                dataset, trainer.data_collator, args.per_device_eval_batch_size, name, main=args.should_save,
                show=not args.disable_tqdm,
            )  # fmt: skip
        if dataset is not None and examples is None:
            return None
        found.append(examples)
    return found[0], found[1]
