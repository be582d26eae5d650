"""Batches: each example once, the same steps however the work is divided."""

import itertools
import json
import tempfile

import numpy as np
import pytest
import torch
from conftest import FAMILIES, message_rows
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer, Trainer, TrainingArguments

from hf_transfer import TextClassification, finetune
from hf_transfer.data.batches import Collator, pad_labels
from hf_transfer.inputs.text.padding import align_padding
from hf_transfer.targets.labels.losses import ClassificationLoss, SquaredErrorLoss
from hf_transfer.training.batching import EvaluationBatches, PaddedExamples, TrainingBatches, cut_by_length

pytestmark = pytest.mark.usefixtures("lean")

LENGTHS = np.random.default_rng(0).integers(3, 60, 101)


def steps(
    processes: int, accumulation: int, batch_size: int, *, epoch: int = 0, group: bool = True
) -> list[list[int]]:
    """The examples of each optimizer step, gathered from all processes."""
    ranks = []
    for rank in range(processes):
        batches = TrainingBatches(
            LENGTHS, step_size=batch_size * accumulation * processes, accumulation=accumulation, processes=processes,
            rank=rank, seed=3, group_by_length=group,
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
            TrainingBatches([5, 6], step_size=8, accumulation=1, processes=4, rank=rank, seed=0, group_by_length=True)
        )
        assert len(batches) == 1
        assert len(batches[0]) == 1  # a real example or a padding one


@pytest.mark.parametrize("count", [1, 2, 3])
def test_pieces_are_as_even_as_can_be(count):
    """No way to cut a step leaves a smaller largest piece, padding included."""

    def largest(pieces, lengths):
        return max(len(piece) * max(lengths[i] for i in piece) for piece in pieces if len(piece))

    source = np.random.default_rng(1)
    for _ in range(50):
        lengths = np.sort(source.integers(1, 40, source.integers(1, 9)))
        indices = np.arange(len(lengths))
        pieces = cut_by_length(indices, lengths, count)
        assert len(pieces) == count
        assert np.concatenate(pieces).tolist() == indices.tolist()
        cuts = itertools.combinations_with_replacement(range(len(lengths) + 1), count - 1)
        best = min(largest(np.split(indices, cut), lengths) for cut in cuts)
        assert largest(pieces, lengths) == best


def test_the_share_of_padding_is_what_the_batches_hold():
    batches = TrainingBatches(LENGTHS, step_size=16, accumulation=2, processes=1, rank=0, seed=3, group_by_length=True)
    padded = sum(len(batch) * max(LENGTHS[i] for i in batch) for batch in batches)
    assert batches.padding() == pytest.approx(1 - LENGTHS.sum() / padded)


def test_grouping_saves_padding():
    def padding(group: bool) -> float:
        batches = TrainingBatches(
            LENGTHS, step_size=8, accumulation=1, processes=1, rank=0, seed=0, group_by_length=group
        )
        padded = sum(len(b) * LENGTHS[b].max() for b in batches)
        return padded / LENGTHS.sum() - 1

    assert padding(True) < 0.5 * padding(False)


def test_evaluation_sees_every_example_once_over_processes():
    seen = [
        i for rank in range(3) for b in EvaluationBatches(LENGTHS, batch_size=7, processes=3, rank=rank) for i in b
    ]
    assert sorted(seen) == list(range(101))


@pytest.mark.parametrize("labels", ["one", "several", "numbers"])
def test_the_weights_do_not_depend_on_the_division(tiny, tmp_path, labels):
    """9 training examples: the last step has one, and with eight micro-batches seven of them are padding."""
    rows = [{"text": row["text"] + " see" * (i % 7), "label": row["label"]} for i, row in enumerate(message_rows(12))]
    if labels == "several":
        rows = [{**row, "label": [["a"], ["a", "b"], [], ["b"]][i % 4]} for i, row in enumerate(rows)]
    if labels == "numbers":
        rows = [{**row, "label": -100 * (i % 3)} for i, row in enumerate(rows)]
    task = TextClassification(problem_type="regression" if labels == "numbers" else "classification")
    (tmp_path / "m.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    weights = []
    for batch, accumulation in ((8, 1), (1, 8), (2, 4)):
        output = tmp_path / f"{batch}x{accumulation}"
        finetune(
            task, model_name_or_path=str(tiny()), train_file=str(tmp_path / "m.jsonl"),
            output_dir=str(output), per_device_train_batch_size=batch, gradient_accumulation_steps=accumulation,
            num_train_epochs=2, learning_rate=1e-3, validation_size=0.0, test_size=0.25, disable_tqdm=True,
        )  # fmt: skip
        weights.append(load_file(output / "model.safetensors"))
    for other in weights[1:]:
        for name, value in weights[0].items():
            # The layer that makes numbers is in their unit.
            relative = 1e-5 if labels == "numbers" else 0
            torch.testing.assert_close(other[name], value, atol=1e-5, rtol=relative, msg=name)


def test_padding_among_numbers_counts_nothing_and_a_number_of_minus_100_does():
    class Numbers:
        def __getitems__(self, indices):
            return [{"labels": [-100.0, 2.0][i], "length": 1} for i in indices]

    batch = Collator(lambda examples: {}, pad_labels)(PaddedExamples(Numbers()).__getitems__([0, -2]))
    assert batch["counted"].tolist() == [True, False]
    loss = SquaredErrorLoss()
    assert loss({"logits": torch.ones(2, 1)}, batch).tolist() == [101**2]
    assert loss.weights(batch).tolist() == [1]


def test_the_stock_trainer_depends_on_the_division(tiny):
    """What the test above would find without this project's trainer: the gradients grow with accumulation."""
    rows = [{"input_ids": [2, 7 + i, 3], "labels": i % 2} for i in range(8)]

    def first_gradient(batch: int, accumulation: int, folder: str) -> float:
        torch.manual_seed(0)
        model = AutoModelForSequenceClassification.from_pretrained(tiny())
        arguments = TrainingArguments(
            folder, per_device_train_batch_size=batch, gradient_accumulation_steps=accumulation, max_steps=1,
            logging_steps=1, disable_tqdm=True, use_cpu=True, save_strategy="no", max_grad_norm=1e9, seed=1,
        )  # fmt: skip
        trainer = Trainer(model, arguments, train_dataset=rows)
        trainer.train()
        return trainer.state.log_history[0]["grad_norm"]

    with tempfile.TemporaryDirectory() as folder:
        assert first_gradient(2, 4, folder) > 2 * first_gradient(8, 1, folder)


def test_every_epoch_of_a_run_draws_its_own_order(tiny, tmp_path, monkeypatch):
    orders: list[list[list[int]]] = []
    draw = TrainingBatches.__iter__

    def watched(self):
        orders.append(list(draw(self)))
        return iter(orders[-1])

    monkeypatch.setattr(TrainingBatches, "__iter__", watched)
    (tmp_path / "m.jsonl").write_text("\n".join(json.dumps(row) for row in message_rows(60)))
    finetune(
        TextClassification(), model_name_or_path=str(tiny()), train_file=str(tmp_path / "m.jsonl"),
        output_dir=str(tmp_path / "out"), num_train_epochs=3, disable_tqdm=True,
    )  # fmt: skip
    assert len(orders) == 3
    assert orders[0] != orders[1] != orders[2] != orders[0]


@pytest.mark.parametrize("family", FAMILIES)
def test_loss_and_gradients_do_not_depend_on_neighbours(tiny, family):
    tokenizer = AutoTokenizer.from_pretrained(tiny(family))
    torch.manual_seed(1)
    model = AutoModelForSequenceClassification.from_pretrained(tiny(family)).eval()
    align_padding(model, tokenizer)
    texts = {"free prize": 0, "see you at home for dinner tomorrow or call mum now please not late": 1}

    def losses(some):
        inputs = tokenizer(list(some), padding=True, return_tensors="pt")
        batch = {"labels": torch.tensor([texts[text] for text in some]), "counted": torch.ones(len(some), dtype=bool)}
        value = ClassificationLoss()(model(**inputs), batch)
        value.backward()  # gradients of batches add up
        return value.item()

    together = losses(texts)
    of_both = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    assert together == pytest.approx(sum(losses([text]) for text in texts), rel=1e-5)
    for name, parameter in model.named_parameters():
        if name in of_both:
            torch.testing.assert_close(parameter.grad, of_both[name], atol=1e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize("processes", [1, 3])
def test_evaluation_batches_hold_no_more_positions_than_told(processes):
    batches = [
        b
        for rank in range(processes)
        for b in EvaluationBatches(LENGTHS, batch_size=7, max_positions=60, processes=processes, rank=rank)
    ]
    assert sorted(i for b in batches for i in b) == list(range(len(LENGTHS)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(LENGTHS[i] for i in batch) <= 60
    assert max(map(len, batches)) == 7
    assert len(batches) < len(LENGTHS)
