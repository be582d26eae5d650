"""Activations of the frozen layers, computed for all examples before training."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from datasets import Dataset

from hf_transfer.arguments import MethodArguments
from hf_transfer.data.batches import Collator
from hf_transfer.methods.anatomy import Anatomy
from hf_transfer.methods.trainable import frozen_modules
from hf_transfer.training.activations.cached_examples import CachedExamples
from hf_transfer.training.activations.entry import Entry
from hf_transfer.training.activations.feature_cache import FeatureCache
from hf_transfer.training.trainer import TransferTrainer

if TYPE_CHECKING:
    from hf_transfer.inputs.input import ModelInputs

HEAD_ALONE = MethodArguments(method="frozen")


@dataclass(frozen=True)
class Precomputed:
    """Dataclass of cached activations of frozen layers, and the entry into the model above these layers.

    Attributes:
        entry: runs the model on activations.
        examples: of each split, with activations as inputs.
        collator: makes batches of these examples.
    """

    entry: Entry
    examples: Mapping[str, CachedExamples]
    collator: Collator

    @contextlib.contextmanager
    def used_by(self, trainer: TransferTrainer) -> Iterator[None]:
        """Context manager: let a trainer train and evaluate on the cached activations inside the block."""
        before = (trainer.train_dataset, trainer.eval_dataset, trainer.data_collator)
        trainer.with_all_modules = self.entry.with_all_modules
        trainer.train_dataset, trainer.eval_dataset = self.examples.get("train"), self.examples.get("validation")
        trainer.data_collator = self.collator
        try:
            with self.entry.skipping():
                yield
        finally:
            trainer.train_dataset, trainer.eval_dataset, trainer.data_collator = before
            trainer.with_all_modules = contextlib.nullcontext


def precompute(
    trainer: TransferTrainer,
    anatomy: Anatomy,
    method: MethodArguments,
    inputs: "Mapping[str, ModelInputs]",
    *,
    first_token_only: bool = False,
) -> Precomputed | None:
    """Return the activations of the layers that a method never trains, computed or read from the cache, or None.

    These are the layers below those that ``frozen`` trains; for other methods, the fixed front.

    Args:
        trainer: of the untrained model.
        anatomy: the model's parts.
        method: by which the model will be trained.
        inputs: preprocessed examples of each split.
        first_token_only: do it only where the rest of the model reads no more than the first position of an example.

    Returns:
        None where the model cannot be run from activations.
    """
    layers = method.trainable_layers if method.method == "frozen" else None
    args, depth = trainer.args, anatomy.depth(trainer.model)
    # Checkpointing of activations and NEFTune need the modules that would be skipped.
    needs_all_modules = args.gradient_checkpointing or args.activation_checkpointing or args.neftune_noise_alpha
    has_frozen_layers = anatomy.front is not None if layers is None else depth > 0 and layers < depth
    if needs_all_modules or not has_frozen_layers:
        return None
    first = None if layers is None else depth - layers
    frozen = frozen_modules(trainer.model, anatomy, method)
    cache = FeatureCache(trainer.model, anatomy, first, frozen, trainer.data_collator, trainer.accelerator)
    if not cache.enter(inputs) or (first_token_only and not cache.first_token_only):
        return None
    examples = cache.examples(inputs, args)
    return None if examples is None else Precomputed(cache.entry, examples, cache.cached_collator)


def precompute_for_run(
    trainer: TransferTrainer,
    anatomy: Anatomy,
    method: MethodArguments,
    inputs: "Mapping[str, ModelInputs]",
    measured: Mapping[str, Dataset],
) -> tuple[Precomputed | None, Precomputed | None]:
    """Return the activations that a run uses before training, and those that it uses in training and after it.

    Each is None where the model cannot be run from activations.

    Args:
        trainer: of the untrained model.
        anatomy: the model's parts.
        method: by which the model will be trained.
        inputs: preprocessed examples of each split.
        measured: the splits that are measured before and after training.
    """
    if method.method == "scratch":
        return None, None
    is_mixed_precision = trainer.accelerator.mixed_precision != "no"
    if is_mixed_precision:  # the model is measured in float32, in which it is shipped
        inputs = {name: inputs[name] for name in inputs if name not in measured}
    precomputed = precompute(trainer, anatomy, method, inputs)
    if method.head_first:
        return precompute(trainer, anatomy, HEAD_ALONE, inputs), precomputed
    # Models with a fixed front (of sounds) read all positions: there is no need to try.
    if precomputed is None and method.method != "frozen" and anatomy.front is None and not is_mixed_precision:
        measured_inputs = {name: inputs[name] for name in measured}
        return precompute(trainer, anatomy, HEAD_ALONE, measured_inputs, first_token_only=True), None
    return precomputed, precomputed


def predict(
    trainer: TransferTrainer, inputs: "Mapping[str, ModelInputs]", precomputed: Precomputed | None
) -> dict[str, np.ndarray]:
    """Return the predictions for each split, computed in float32, from cached activations where there are any.

    Args:
        trainer: of the model.
        inputs: preprocessed examples of each split.
        precomputed: their activations.

    Returns:
        For each split what the target's readout keeps of each example's outputs, [n].
    """
    if precomputed is None or trainer.accelerator.mixed_precision != "no":
        return {name: trainer.predict(dataset).predictions for name, dataset in inputs.items()}
    with precomputed.used_by(trainer):
        return {name: trainer.predict(precomputed.examples[name]).predictions for name in inputs}
