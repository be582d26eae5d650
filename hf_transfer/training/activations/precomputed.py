"""Activations of the layers that a method leaves frozen, computed before training for all examples."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from hf_transfer.arguments import MethodArguments
from hf_transfer.data.batches import Collator
from hf_transfer.methods.anatomy import Anatomy
from hf_transfer.methods.trainable import frozen_modules
from hf_transfer.training.activations.cached_examples import CachedExamples
from hf_transfer.training.activations.entry import Entry
from hf_transfer.training.activations.feature_cache import FeatureCache
from hf_transfer.training.trainer import TransferTrainer

HEAD_ALONE = MethodArguments(method="frozen")


@dataclass(frozen=True)
class Precomputed:
    """Activations of frozen layers, and the model that takes them in place of its inputs.

    Attributes:
        entry: into the model above those layers.
        examples: by split, with activations as input.
        collator: of those.
    """

    entry: Entry
    examples: Mapping[str, CachedExamples]
    collator: Collator

    @contextlib.contextmanager
    def used_by(self, trainer: TransferTrainer) -> Iterator[None]:
        """Let `trainer` train and measure from the activations inside the block."""
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


def precompute(
    trainer: TransferTrainer,
    anatomy: Anatomy,
    method: MethodArguments,
    inputs: Mapping[str, Any],
    *,
    small: bool = False,
) -> Precomputed | None:
    """The activations below the layers that ``frozen`` trains, or of the fixed front of the other methods.

    None where the model cannot be entered there.

    Args:
        trainer: of the untrained model.
        anatomy: the model's parts.
        method: what will be trained.
        inputs: preprocessed examples by split.
        small: only where one position of each example is all that the rest of the model reads.
    """
    layers = method.trainable_layers if method.method == "frozen" else None
    args, depth = trainer.args, anatomy.depth(trainer.model)
    # These reach into the modules that are skipped.
    reached = args.gradient_checkpointing or args.activation_checkpointing or args.neftune_noise_alpha
    if reached or (anatomy.front is None if layers is None else not depth or layers >= depth):
        return None
    first = None if layers is None else depth - layers
    frozen = frozen_modules(trainer.model, anatomy, method)
    cache = FeatureCache(trainer.model, anatomy, first, frozen, trainer.data_collator, trainer.accelerator)
    if not cache.enter(inputs) or (small and not cache.first_token_only):
        return None
    examples = cache.examples(inputs, args)
    return None if examples is None else Precomputed(cache.entry, examples, cache.cached_collator)


def precompute_for_run(
    trainer: TransferTrainer, anatomy: Anatomy, method: MethodArguments, inputs: Mapping[str, Any], measured: Any
) -> tuple[Precomputed | None, Precomputed | None]:
    """The activations that are used until training begins, and those that are used from then on.

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
    precomputed = precompute(trainer, anatomy, method, inputs)
    if method.head_first:
        return precompute(trainer, anatomy, HEAD_ALONE, inputs), precomputed
    # A recogniser reads every position: it would be looked at in vain.
    if precomputed is None and method.method != "frozen" and anatomy.front is None and not mixed:
        test = {name: inputs[name] for name in measured}
        return precompute(trainer, anatomy, HEAD_ALONE, test, small=True), None
    return precomputed, precomputed


def predict(
    trainer: TransferTrainer, inputs: Mapping[str, Any], precomputed: Precomputed | None
) -> dict[str, np.ndarray]:
    """What is kept of the outputs for each of `inputs`, [examples]; from their activations where there are any.

    Computed as the model is shipped, in float32.
    """
    if precomputed is None or trainer.accelerator.mixed_precision != "no":
        return {name: trainer.predict(dataset).predictions for name, dataset in inputs.items()}
    with precomputed.used_by(trainer):
        return {name: trainer.predict(precomputed.examples[name]).predictions for name in inputs}
