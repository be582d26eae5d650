"""Batches: each example once, the same steps however the work is divided."""

import numpy as np
import pytest

from hf_transfer.training.batching import EvaluationBatches, TrainingBatches

LENGTHS = np.random.default_rng(0).integers(3, 60, 101)


def steps(
    processes: int, accumulation: int, batch_size: int, *, epoch: int = 0, group: bool = True
) -> list[list[int]]:
    """The examples of each optimizer step, gathered from all processes."""
    ranks = []
    for rank in range(processes):
        batches = TrainingBatches(
            LENGTHS, batch_size=batch_size, accumulation=accumulation, processes=processes, rank=rank, seed=3,
            group_by_length=group,
        )  # fmt: skip
        batches.set_epoch(epoch)
        found = list(batches)
        assert len(found) == len(batches)
        ranks.append(found)
    assert len({len(found) for found in ranks}) == 1
    return [
        sorted(i for found in ranks for batch in found[k : k + accumulation] for i in batch if i >= 0)
        for k in range(0, len(ranks[0]), accumulation)
    ]


@pytest.mark.parametrize("group", [True, False])
@pytest.mark.parametrize(("processes", "accumulation", "batch"), [(1, 2, 4), (2, 1, 4), (2, 2, 2), (4, 2, 1)])
def test_steps_do_not_depend_on_the_division(processes, accumulation, batch, group):
    assert steps(processes, accumulation, batch, group=group) == steps(1, 1, 8, group=group)


def test_an_epoch_is_every_example_once_and_epochs_differ():
    first, second = steps(2, 2, 2), steps(2, 2, 2, epoch=1)
    for epoch in (first, second):
        assert sorted(i for step in epoch for i in step) == list(range(101))
        assert [len(step) for step in epoch] == [8] * 12 + [5]
    assert first != second


def test_every_process_has_something_to_do_in_a_short_step():
    for rank in range(4):
        batches = list(
            TrainingBatches([5, 6], batch_size=2, accumulation=1, processes=4, rank=rank, seed=0, group_by_length=True)
        )
        assert len(batches) == 1
        assert len(batches[0]) == 1  # a real example or a padding one


def test_grouping_saves_padding():
    def padding(group: bool) -> float:
        batches = TrainingBatches(
            LENGTHS, batch_size=8, accumulation=1, processes=1, rank=0, seed=0, group_by_length=group
        )
        padded = sum(len(b) * LENGTHS[b].max() for b in batches)
        return padded / LENGTHS.sum() - 1

    assert padding(True) < 0.5 * padding(False)


def test_evaluation_sees_every_example_once_over_processes():
    seen = [
        i for rank in range(3) for b in EvaluationBatches(LENGTHS, batch_size=7, processes=3, rank=rank) for i in b
    ]
    assert sorted(seen) == list(range(101))
