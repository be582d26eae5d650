"""Tries on a few examples whether cached activations give what a training step computes."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hf_transfer.data.batches import to_device
from hf_transfer.methods.anatomy import Anatomy
from hf_transfer.models import output_tensors
from hf_transfer.training.activations.front import MaskedCollator, front_without_padding
from hf_transfer.training.batching import two_lengths
from hf_transfer.training.trials import same_draws, tolerance, train_mode

if TYPE_CHECKING:
    from hf_transfer.training.activations.feature_cache import FeatureCache

# A dataset and the index of an example in it.
Row = tuple[Any, int]


class EntryCheck:
    """What the cache and a training step make of a few examples.

    Args:
        cache: that is tried; its model knows where it is entered.
    """

    def __init__(self, cache: "FeatureCache"):
        self.cache, self.model = cache, cache.model
        self.tolerance = tolerance(self.model.device, cache.accelerator.mixed_precision)

    def difference(self, rows: Sequence[Row], frozen: Sequence[torch.nn.Module] | None = None) -> str | None:
        """In words, where a padded batch is not what its examples' activations make of it; None where it is.

        Args:
            rows: the batch.
            frozen: try it in train mode as well, with these modules in eval mode.
        """
        states = self.states(rows)
        found = self._neighbours_change(rows, states) or self._outputs_differ(rows, states)
        return found or (None if frozen is None else self._outputs_differ(rows, states, frozen))

    def states(self, rows: Sequence[Row]) -> list[np.ndarray]:
        """Activations of each row, [positions, width], computed together, padded, where the cache may do that."""
        if self._alone(rows):
            return [state for row in rows for state in self._captured([row])]
        return self._captured(rows)

    def neighbours_change(self, rows: Sequence[Row]) -> str | None:
        """In words, by how much activations depend on what else is in a batch; None where they do not."""
        return None if self._alone(rows) else self._neighbours_change(rows, self.states(rows))

    def _neighbours_change(self, rows: Sequence[Row], states: list[np.ndarray]) -> str | None:
        lengths = [_positions(row) for row in rows]
        # It is never padded.
        others = [i for i, length in enumerate(lengths) if length < max(lengths)]
        return _change([states[i] for i in others], [self._captured([rows[i]])[0] for i in others], self.tolerance)

    def padding_changes(self, rows: Sequence[Row]) -> str | None:
        """In words, by how much activations depend on what stands behind an example; None where they do not.

        A batch with something else there has the same shape, and the same rounding: what is read shows at once.
        """
        if self._alone(rows):
            return None
        return _change(self._captured(rows, _padded_otherwise), self.states(rows), self.tolerance / 100)

    def _outputs_differ(
        self, rows: Sequence[Row], states: list[np.ndarray], frozen: Sequence[torch.nn.Module] | None = None
    ) -> str | None:
        mode = contextlib.nullcontext() if frozen is None else train_mode(self.model, frozen)
        with self.cache.computing(), mode:
            with self._batch(rows) as batch, same_draws(self.model.device):
                live = output_tensors(self.model(**batch))
            with self.cache.entry.skipping(), same_draws(self.model.device):
                cached = output_tensors(self.model(**self.cache.batch(states)))
        positions = [len(rows) for rows in states]
        for own, found in zip(live, cached, strict=True):
            difference, limit = _apart(found, own, positions), self.tolerance * max(1.0, float(own.abs().max()))
            if not difference <= limit:
                return f"outputs that are computed from them differ by {difference:.2g}"
        return None

    def collated(self, rows: Sequence[Row]) -> dict[str, Any]:
        """The rows as one padded batch."""
        return self.cache.collator(_examples(rows))

    @staticmethod
    def _alone(rows: Sequence[Row]) -> bool:
        return any(dataset.padding_changes_outputs for dataset, _ in rows)

    def _captured(
        self, rows: Sequence[Row], change: Callable[[dict[str, Any]], dict[str, Any]] = dict
    ) -> list[np.ndarray]:
        positions = [int(dataset.positions[i]) for dataset, i in rows]
        return self.cache.captured(change(self.collated(rows)), positions)

    @contextlib.contextmanager
    def _batch(self, rows: Sequence[Row]) -> Iterator[dict[str, torch.Tensor]]:
        """The batch as a step is given it, while the model takes it as a step does."""
        if not self._alone(rows) or self.cache.anatomy.front is None:
            yield self.cache.on_device(self.collated(rows))
            return
        collator = MaskedCollator(self.cache.collator, self.model.main_input_name)
        with front_without_padding(self.model, self.cache.anatomy):
            yield self.cache.on_device(collator(_examples(rows)))


def _apart(found: torch.Tensor, expected: torch.Tensor, positions: Sequence[int]) -> float:
    """By how much outputs of a batch differ, both [batch, ...], where an example has some: not at its padding.

    Args:
        found: outputs.
        expected: outputs.
        positions: of each example, for outputs [batch, positions, ...].
    """
    of_positions = found.dim() > 2 and found.shape[1] == max(positions)
    rows = zip((found - expected).abs(), positions, strict=True)
    return max(float((row[:count] if of_positions else row).max()) for row, count in rows)


def front_takes_lengths(trainer: Any, model: Any, anatomy: Anatomy) -> bool:
    """Whether, with `front_without_padding`, outputs of training examples in a batch are those of each one alone.

    Args:
        trainer: of `model`.
        model: without adapters around it.
        anatomy: its parts.
    """
    if anatomy.front is None:
        return False
    examples, collator = trainer.train_dataset, MaskedCollator(trainer.data_collator, model.main_input_name)
    rows = two_lengths(examples.lengths)

    def outputs(indices: list[int]) -> list[torch.Tensor]:
        return output_tensors(model(**to_device(model.device, collator(examples.__getitems__(indices)))))

    model.eval()
    with front_without_padding(model, anatomy), torch.inference_mode(), trainer.accelerator.autocast():
        together, alone = outputs(rows), [outputs([i]) for i in rows]
    rounding = tolerance(model.device, trainer.accelerator.mixed_precision)
    for of_batch, *of_each in zip(together, *alone, strict=True):
        limit = rounding * max(1.0, float(of_batch.abs().max()))
        for row, own in zip(of_batch, of_each, strict=True):
            if not float((row[: own.shape[1]] - own[0]).abs().max()) <= limit:
                return False
    return True


def extremes(inputs: Mapping[str, Any]) -> list[Row]:
    """The shortest and the longest example of all splits."""
    every = {name: dataset.positions for name, dataset in inputs.items()}
    shortest = min(every, key=lambda name: every[name].min())
    longest = max(every, key=lambda name: every[name].max())
    return [
        (inputs[shortest], int(every[shortest].argmin())),
        (inputs[longest], int(every[longest].argmax())),
    ]


def _change(found: list[np.ndarray], expected: list[np.ndarray], tolerance: float) -> str | None:
    """In words, by how much activations differ, where that is more than a share of what their dimension reaches."""
    for own, other in zip(found, expected, strict=True):
        difference = np.abs(own - other)
        if not (difference <= tolerance * np.maximum(1.0, np.abs(other).max(axis=0))).all():
            return f"those of an example change by {difference.max():.2g} with its neighbours in a batch"
    return None


def _padded_otherwise(batch: dict[str, Any]) -> dict[str, Any]:
    """The batch with parts of its examples where their padding is."""
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
