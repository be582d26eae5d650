"""Checking on a few examples that a model gives the same outputs from cached activations as in a training step."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import PreTrainedModel

from hf_transfer.data.batches import to_device
from hf_transfer.methods.anatomy import Anatomy
from hf_transfer.models import output_tensors
from hf_transfer.training.activations.front import MaskedCollator, front_without_padding
from hf_transfer.training.batching import two_short_examples
from hf_transfer.training.equivalence import rounding_tolerance, same_random_numbers, train_mode

if TYPE_CHECKING:
    from hf_transfer.inputs.input import ModelInputs
    from hf_transfer.training.activations.feature_cache import FeatureCache
    from hf_transfer.training.trainer import TransferTrainer

# A dataset, and the index of an example in it.
Row = tuple["ModelInputs", int]


class EntryCheck:
    """Comparison of a model's outputs from cached activations with those of a training step, on a few examples.

    Args:
        cache: whose entry and collators are checked.
    """

    def __init__(self, cache: "FeatureCache"):
        self.cache, self.model = cache, cache.model
        self.tolerance = rounding_tolerance(self.model.device, cache.accelerator.mixed_precision)

    def difference(self, rows: Sequence[Row], frozen: Sequence[torch.nn.Module] | None = None) -> str | None:
        """Return a clause on how outputs from cached activations differ from those for a padded batch, or None.

        Args:
            rows: the examples of the batch.
            frozen: compare in train mode too, with these modules in eval mode; None for eval mode only.

        Returns:
            A clause that says what differs, or None.
        """
        states = self.states(rows)
        return (
            self._difference_when_alone(rows, states)
            or self._difference_of_outputs(rows, states)
            or (None if frozen is None else self._difference_of_outputs(rows, states, frozen))
        )

    def states(self, rows: Sequence[Row]) -> list[np.ndarray]:
        """Return each example's activations, [positions, width], computed in one batch if padding has no effect."""
        if self._padding_changes_outputs(rows):
            return [state for row in rows for state in self._captured([row])]
        return self._captured(rows)

    def difference_when_alone(self, rows: Sequence[Row]) -> str | None:
        """Return a clause on how activations in a batch differ from those of each example alone, or None.

        Returns:
            A clause that says how much they differ, or None.
        """
        if self._padding_changes_outputs(rows):
            return None
        return self._difference_when_alone(rows, self.states(rows))

    def _difference_when_alone(self, rows: Sequence[Row], states: list[np.ndarray]) -> str | None:
        lengths = [_positions(row) for row in rows]
        padded = [i for i, length in enumerate(lengths) if length < max(lengths)]
        alone = [self._captured([rows[i]])[0] for i in padded]
        return _describe_difference([states[i] for i in padded], alone, self.tolerance)

    def difference_with_other_padding(self, rows: Sequence[Row]) -> str | None:
        """Return a clause on how activations change when a batch's padding holds other values, or None.

        Both batches have the same shape, and so the same rounding: if the model reads the padding, it shows.

        Returns:
            A clause that says how much they differ, or None.
        """
        if self._padding_changes_outputs(rows):
            return None
        other = self._captured(rows, _with_other_padding)
        return _describe_difference(other, self.states(rows), self.tolerance / 100)

    def _difference_of_outputs(
        self, rows: Sequence[Row], states: list[np.ndarray], frozen: Sequence[torch.nn.Module] | None = None
    ) -> str | None:
        mode = contextlib.nullcontext() if frozen is None else train_mode(self.model, frozen)
        with self.cache.computing(), mode:
            with self._batch_of_step(rows) as batch, same_random_numbers(self.model.device):
                expected_outputs = output_tensors(self.model(**batch))
            with self.cache.entry.skipping(), same_random_numbers(self.model.device):
                cached_outputs = output_tensors(self.model(**self.cache.batch(states)))
        positions = [len(state) for state in states]
        for expected, cached in zip(expected_outputs, cached_outputs, strict=True):
            difference = _largest_difference(cached, expected, positions)
            if not difference <= self.tolerance * max(1.0, float(expected.abs().max())):
                return f"outputs that are computed from them differ by {difference:.2g}"
        return None

    def collated(self, rows: Sequence[Row]) -> dict[str, Any]:
        """Return the examples of some rows as one padded batch, as the collator makes it."""
        return self.cache.collator(_examples(rows))

    @staticmethod
    def _padding_changes_outputs(rows: Sequence[Row]) -> bool:
        return any(dataset.padding_changes_outputs for dataset, _ in rows)

    def _captured(
        self, rows: Sequence[Row], change: Callable[[dict[str, Any]], dict[str, Any]] = dict
    ) -> list[np.ndarray]:
        positions = [_positions(row) for row in rows]
        return self.cache.captured(change(self.collated(rows)), positions)

    @contextlib.contextmanager
    def _batch_of_step(self, rows: Sequence[Row]) -> Iterator[dict[str, torch.Tensor]]:
        """Context manager: yield the examples as a training step's batch, and run the model as such a step does."""
        if not self._padding_changes_outputs(rows) or self.cache.anatomy.front is None:
            yield self.cache.on_device(self.collated(rows))
            return
        collator = MaskedCollator(self.cache.collator, self.model.main_input_name)
        with front_without_padding(self.model, self.cache.anatomy):
            yield self.cache.on_device(collator(_examples(rows)))


def front_matches_single_examples(trainer: "TransferTrainer", model: PreTrainedModel, anatomy: Anatomy) -> bool:
    """Return whether `front_without_padding` makes a batch's outputs equal those for each example alone.

    Args:
        trainer: of the model; two of its training examples are tried.
        model: without adapters around it.
        anatomy: its parts.
    """
    if anatomy.front is None:
        return False
    examples, collator = trainer.train_dataset, MaskedCollator(trainer.data_collator, model.main_input_name)
    rows = two_short_examples(examples.lengths)

    def outputs(indices: list[int]) -> list[torch.Tensor]:
        return output_tensors(model(**to_device(model.device, collator(examples.__getitems__(indices)))))

    model.eval()
    with front_without_padding(model, anatomy), torch.inference_mode(), trainer.accelerator.autocast():
        together, alone = outputs(rows), [outputs([i]) for i in rows]
    tolerance = rounding_tolerance(model.device, trainer.accelerator.mixed_precision)
    for of_batch, *of_each in zip(together, *alone, strict=True):
        limit = tolerance * max(1.0, float(of_batch.abs().max()))
        for row, single in zip(of_batch, of_each, strict=True):
            if not float((row[: single.shape[1]] - single[0]).abs().max()) <= limit:
                return False
    return True


def shortest_and_longest(inputs: "Mapping[str, ModelInputs]") -> list[Row]:
    """Return the shortest and the longest example of all splits, each as its dataset and its index there."""
    positions = {name: dataset.positions for name, dataset in inputs.items()}
    shortest = min(positions, key=lambda name: positions[name].min())
    longest = max(positions, key=lambda name: positions[name].max())
    return [
        (inputs[shortest], int(positions[shortest].argmin())),
        (inputs[longest], int(positions[longest].argmax())),
    ]


def _largest_difference(outputs: torch.Tensor, expected: torch.Tensor, positions: Sequence[int]) -> float:
    """Return the largest absolute difference between two outputs of a batch, padding left out.

    Args:
        outputs: [batch, ...], or [batch, positions, ...].
        expected: of the same shape.
        positions: number of positions of each example.
    """
    has_positions = outputs.dim() > 2 and outputs.shape[1] == max(positions)
    rows = zip((outputs - expected).abs(), positions, strict=True)
    return max(float((row[:count] if has_positions else row).max()) for row, count in rows)


def _describe_difference(states: list[np.ndarray], expected: list[np.ndarray], tolerance: float) -> str | None:
    """Return a clause on how much two lists of activations differ, or None if that is within the tolerance.

    The tolerance is a share of the largest value in the same dimension.
    """
    for of_example, other in zip(states, expected, strict=True):
        difference = np.abs(of_example - other)
        if not (difference <= tolerance * np.maximum(1.0, np.abs(other).max(axis=0))).all():
            return f"those of an example change by {difference.max():.2g} with the other examples in its batch"
    return None


def _with_other_padding(batch: dict[str, Any]) -> dict[str, Any]:
    """Return a copy of the batch with values of its examples in place of their padding."""
    if "attention_mask" not in batch:  # nothing is padded
        return batch
    mask = batch["attention_mask"] > 0
    changed = dict(batch)
    for name, value in batch.items():
        if name != "attention_mask" and isinstance(value, torch.Tensor) and value.shape[:2] == mask.shape:
            changed[name] = value.clone()
            real = value[mask]
            changed[name][~mask] = real[torch.arange(int((~mask).sum()), device=real.device) % len(real)]
    return changed


def _examples(rows: Sequence[Row]) -> list[dict[str, Any]]:
    return [dataset.__getitems__([i])[0] for dataset, i in rows]


def _positions(row: Row) -> int:
    dataset, i = row
    return int(dataset.positions[i])
