"""Batches of example indices for training and evaluation, whose order depends on the seed alone."""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler
from transformers import TrainingArguments

if TYPE_CHECKING:
    from hf_transfer.inputs.input import ModelInputs

# The CPU is fastest when a batch's activations fit into its caches: see benchmarks/RESULTS.md.
MAX_POSITIONS_ON_CPU = 1024
# Examples of this many steps are sorted by length together: enough to save padding, few enough to stay random.
POOL_STEPS = 16


def max_positions(device: torch.device) -> int | None:
    """Return how many positions the fastest evaluation batch of a device has, or None where more are always faster."""
    return MAX_POSITIONS_ON_CPU if device.type == "cpu" else None


def two_short_examples(lengths: np.ndarray) -> list[int]:
    """Return the rows of two short examples of different lengths; one row if all lengths are equal.

    Args:
        lengths: of all examples, [n].
    """
    _, rows = np.unique(lengths, return_index=True)
    longer = min(max(1, len(rows) // 8), len(rows) - 1)
    return rows[np.unique([0, longer])].tolist()


class TrainingBatches(Sampler[list[int]]):
    """Sampler that yields the example indices of each training micro-batch of one process.

    An optimizer step has the same examples for any number of processes and accumulation steps: it is drawn first,
    sorted by length, and then cut into one piece for each micro-batch of each process. With their padding, all pieces
    have about the same size, so that no process waits for another one's long examples, and no piece needs much more
    memory. The last step of an epoch may have fewer examples than pieces; an empty piece is filled with one padding
    example, ``-1 - index``, which the loss does not count (see `PaddedExamples`).

    Args:
        lengths: of each example, in tokens or frames.
        step_size: examples in a step, over all processes.
        accumulation: micro-batches of a process in a step.
        processes: number of processes.
        rank: of this process.
        seed: of the random order, which is another one in each epoch.
        group_by_length: whether steps consist of examples of similar length.
        on_epoch: called with the number of each epoch before its first batch.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        *,
        step_size: int,
        accumulation: int,
        processes: int,
        rank: int,
        seed: int,
        group_by_length: bool,
        on_epoch: Callable[[int], None] | None = None,
    ):
        self.lengths = np.asarray(lengths)
        self.step_size = step_size
        self.accumulation, self.processes, self.rank = accumulation, processes, rank
        self.seed, self.group_by_length = seed, group_by_length
        self.epoch, self.on_epoch = 0, on_epoch

    def set_epoch(self, epoch: int) -> None:
        """Set the number of the epoch, in whose order batches are drawn from now on.

        Trainer calls it on the data loader, but on this sampler when it resumes in the middle of an epoch.
        """
        self.epoch = epoch
        if self.on_epoch is not None:
            self.on_epoch(epoch)

    def __len__(self) -> int:
        return -(-len(self.lengths) // self.step_size) * self.accumulation

    def __iter__(self) -> Iterator[list[int]]:
        for step in self._steps():
            pieces = cut_by_length(step, self.lengths[step], self.accumulation * self.processes)
            for i in range(self.accumulation):
                piece = pieces[i * self.processes + self.rank].tolist()
                yield piece or [-1 - int(step[0])]

    def _steps(self) -> list[np.ndarray]:
        generator = np.random.default_rng([self.seed, self.epoch])
        order = generator.permutation(len(self.lengths))
        if not self.group_by_length:
            return [self._by_length(order[i : i + self.step_size]) for i in range(0, len(order), self.step_size)]
        steps = []
        for start in range(0, len(order), self.step_size * POOL_STEPS):
            pool = self._by_length(order[start : start + self.step_size * POOL_STEPS])
            steps += [pool[i : i + self.step_size] for i in range(0, len(pool), self.step_size)]
        # The incomplete step, if any, stays last, as Trainer expects.
        last = steps.pop() if len(steps[-1]) < self.step_size else None
        shuffled = [steps[i] for i in generator.permutation(len(steps))]
        return [*shuffled, last] if last is not None else shuffled

    def _by_length(self, indices: np.ndarray) -> np.ndarray:
        return indices[np.argsort(self.lengths[indices], kind="stable")]

    def padding(self) -> float:
        """Return the share (0 to 1) of padding among the positions of an epoch's batches, over all processes."""
        padded = sum(
            len(piece) * int(self.lengths[piece[-1]])
            for step in self._steps()
            for piece in cut_by_length(step, self.lengths[step], self.accumulation * self.processes)
            if len(piece)
        )
        return 1 - float(self.lengths.sum()) / padded


def cut_by_length(indices: np.ndarray, lengths: np.ndarray, count: int) -> list[np.ndarray]:
    """Return example indices, sorted by length, cut into pieces whose largest padded size is minimal.

    The size of a padded piece is the number of its examples times the length of the longest.

    Args:
        indices: of the examples, [n].
        lengths: of the same examples, ascending, [n].
        count: number of pieces; the last ones are empty if fewer are enough.
    """
    if count == 1:
        return [indices]

    def cuts(max_size: int) -> list[int]:
        positions, start = [], 0
        for i, length in enumerate(lengths.tolist()):
            if (i + 1 - start) * length > max_size and i > start:
                positions.append(i)
                start = i
        return positions

    # Binary search for the smallest size that needs no more than `count` pieces.
    low, high = int(lengths.max()), len(lengths) * int(lengths.max())
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if len(cuts(middle)) < count else (middle + 1, high)
    pieces = np.split(indices, cuts(low))
    return pieces + [indices[:0]] * (count - len(pieces))


class EvaluationBatches(Sampler[list[int]]):
    """Sampler that yields the example indices of one process's evaluation batches, longest examples first.

    Examples of a batch have similar lengths; over all processes, every example comes once.

    Args:
        positions: of each example, in tokens or frames.
        batch_size: maximum number of examples in a batch.
        max_positions: maximum number of positions in a batch, including padding; None for any number.
        processes: number of processes.
        rank: of this process.
    """

    def __init__(
        self,
        positions: Sequence[int],
        *,
        batch_size: int,
        max_positions: int | None = None,
        processes: int = 1,
        rank: int = 0,
    ):
        order = np.argsort(-np.asarray(positions), kind="stable").tolist()
        batches, start = [], 0
        while start < len(order):
            size = batch_size
            if max_positions is not None:
                size = min(size, max(1, max_positions // max(1, int(positions[order[start]]))))
            batches.append(order[start : start + size])
            start += len(batches[-1])
        self.batches: list[list[int]] = batches[rank::processes]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)


def evaluation_batches(
    dataset: "ModelInputs", positions: np.ndarray, args: TrainingArguments, *, processes: int = 1, rank: int = 0
) -> EvaluationBatches:
    """Return the `EvaluationBatches` of one process, of a size that suits the device.

    They hold one example each where padding changes outputs.

    Args:
        dataset: the examples.
        positions: of the examples that are evaluated, [n]; batches hold indices into this array.
        args: the training arguments.
        processes: number of processes.
        rank: of this process.
    """
    return EvaluationBatches(
        positions.tolist(),
        batch_size=1 if dataset.padding_changes_outputs else args.per_device_eval_batch_size,
        max_positions=max_positions(args.device),
        processes=processes,
        rank=rank,
    )


class PaddedExamples(Dataset):
    """Dataset that returns example i for the index i; for ``-1 - i`` too, but marked as padding that no loss counts.

    See ``counted`` in `data.batches.Collator`.
    """

    def __init__(self, dataset: "ModelInputs"):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitems__(self, indices: list[int]) -> list[dict[str, Any]]:
        examples = self.dataset.__getitems__([i if i >= 0 else -1 - i for i in indices])
        return [
            example if i >= 0 else {**example, "counted": False} for i, example in zip(indices, examples, strict=True)
        ]
