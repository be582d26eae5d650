"""Which examples a process sees when, decided by the seed alone: not by how the work is divided."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

# A processor is fastest where a batch's activations stay near it: see benchmarks/RESULTS.md. An accelerator is not.
POSITIONS_ON_A_PROCESSOR = 1024
# Examples of this many steps are sorted by length together: enough to save padding, few enough to stay random.
POOL_STEPS = 16


def most_positions(device: torch.device) -> int | None:
    """The most positions a batch that nothing is learned from, for speed; None where more are always faster."""
    return POSITIONS_ON_A_PROCESSOR if device.type == "cpu" else None


def two_lengths(lengths: np.ndarray) -> list[int]:
    """Rows of two examples of different lengths, of the shorter ones: what to check a model's ways on.

    A single row where all are as long.
    """
    _, rows = np.unique(lengths, return_index=True)
    longer = min(max(1, len(rows) // 8), len(rows) - 1)
    return rows[np.unique([0, longer])].tolist()


class TrainingBatches(Sampler[list[int]]):
    """Micro-batches of one process.

    An optimizer step covers the same examples however many processes and accumulation steps it is spread over: it is
    drawn first, sorted by length, and then cut into one piece for each, all of about the same size with their padding:
    no process waits for another one's long examples, and no piece needs much more memory. A piece that stays empty
    (the last step of an epoch may have fewer examples than there are pieces) is one padding example, ``-1 - index``.

    Args:
        lengths: of each example, in tokens or frames.
        step_size: examples a step.
        accumulation: micro-batches a process and step.
        processes: how many there are.
        rank: of this process.
        seed: of the order; each epoch draws anew.
        group_by_length: whether steps are drawn from examples of similar length.
        on_epoch: told of each epoch before its first batch: examples that change from epoch to epoch.
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
        """Draw the order of this epoch from now on.

        Trainer calls it on the data loader, but on this sampler alone where it goes on in the middle of an epoch.
        """
        self.epoch = epoch
        if self.on_epoch is not None:
            self.on_epoch(epoch)

    def __len__(self) -> int:
        return -(-len(self.lengths) // self.step_size) * self.accumulation

    def __iter__(self) -> Iterator[list[int]]:
        for step in self._steps():
            pieces = divided(step, self.lengths[step], self.accumulation * self.processes)
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
        # The short step, if any, stays last: Trainer counts the epoch by it.
        last = steps.pop() if len(steps[-1]) < self.step_size else None
        shuffled = [steps[i] for i in generator.permutation(len(steps))]
        return [*shuffled, last] if last is not None else shuffled

    def _by_length(self, indices: np.ndarray) -> np.ndarray:
        return indices[np.argsort(self.lengths[indices], kind="stable")]

    def padding(self) -> float:
        """Share of an epoch's positions that are padding, over all processes."""
        padded = sum(
            len(piece) * int(self.lengths[piece[-1]])
            for step in self._steps()
            for piece in divided(step, self.lengths[step], self.accumulation * self.processes)
            if len(piece)
        )
        return 1 - float(self.lengths.sum()) / padded


def divided(indices: np.ndarray, lengths: np.ndarray, count: int) -> list[np.ndarray]:
    """Cut `indices`, whose `lengths` ascend, into `count` pieces so that the largest is as small as can be.

    A piece is as large as its examples times the longest of them.
    """
    if count == 1:
        return [indices]

    def ends(limit: int) -> list[int]:
        found, start = [], 0
        for end, length in enumerate(lengths.tolist()):
            if (end + 1 - start) * length > limit and end > start:
                found.append(end)
                start = end
        return found

    low, high = int(lengths.max()), len(lengths) * int(lengths.max())
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if len(ends(middle)) < count else (middle + 1, high)
    pieces = np.split(indices, ends(low))
    return pieces + [indices[:0]] * (count - len(pieces))


class EvaluationBatches(Sampler[list[int]]):
    """Every example once over all processes, longest first, in batches of similar length.

    Args:
        positions: of each example, in tokens or frames.
        batch_size: the most examples a batch.
        most_positions: the most positions a batch, padding included; None for any number.
        processes: how many there are.
        rank: of this process.
    """

    def __init__(
        self,
        positions: Sequence[int],
        *,
        batch_size: int,
        most_positions: int | None = None,
        processes: int = 1,
        rank: int = 0,
    ):
        order = np.argsort(-np.asarray(positions), kind="stable").tolist()
        batches, start = [], 0
        while start < len(order):
            fit = (
                batch_size
                if most_positions is None
                else max(1, most_positions // max(1, int(positions[order[start]])))
            )
            batches.append(order[start : start + min(batch_size, fit)])
            start += len(batches[-1])
        self.batches: list[list[int]] = batches[rank::processes]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)


def evaluation_batches(
    dataset: Any, positions: np.ndarray, args: Any, *, processes: int = 1, rank: int = 0
) -> EvaluationBatches:
    """Batches of a dataset's examples as the training arguments and the device allow them.

    Args:
        dataset: whose clips may have to be computed one by one (``alone``).
        positions: of those of its examples that are wanted.
        args: the training arguments.
        processes: how many there are.
        rank: of this process.
    """
    return EvaluationBatches(
        positions.tolist(),
        batch_size=1 if dataset.padding_changes_outputs else args.per_device_eval_batch_size,
        most_positions=most_positions(args.device),
        processes=processes,
        rank=rank,
    )


class PaddedExamples(Dataset):
    """The examples of a dataset, and for an index ``-1 - i`` example i as one that no loss counts.

    See `data.batches.Collator`.
    """

    def __init__(self, dataset: Any):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitems__(self, indices: list[int]) -> list[dict[str, Any]]:
        examples = self.dataset.__getitems__([i if i >= 0 else -1 - i for i in indices])
        return [
            example if i >= 0 else {**example, "counted": False} for i, example in zip(indices, examples, strict=True)
        ]
