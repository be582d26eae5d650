"""What a run says of its cost: arithmetic counted as the method does it, padding, seconds by stage."""

import numpy as np
import pytest
from conftest import message_rows, write_csv
from transformers import AutoTokenizer

from hf_transfer import TextClassification, finetune

# Of the tiny BERT: layers, width, width in between.
LAYERS, WIDTH, INNER = 3, 32, 64
LINEAR = 4 * WIDTH * WIDTH + 2 * WIDTH * INNER  # weights of a layer
ATTENTION = 2 * 2 * WIDTH  # FLOPs of a pair of tokens in a layer, forward


def cost(tiny, tmp_path, **arguments):
    file = write_csv(tmp_path / "m.csv", message_rows(80))
    settings = {"num_train_epochs": 2, "disable_tqdm": True, "validation_size": 0, "test_file": str(file),
                "output_dir": str(tmp_path / "out")}  # fmt: skip
    report = finetune(
        TextClassification(), model_name_or_path=str(tiny()), train_file=str(file),
        **{**settings, **arguments},
    ).report  # fmt: skip
    tokenizer = AutoTokenizer.from_pretrained(tiny())
    return report, np.array([len(tokenizer(row["text"])["input_ids"]) for row in message_rows(80)])


@pytest.mark.parametrize(
    ("method", "linear", "attention"),
    [
        # Forward, and backward for activations and for weights.
        ({"method": "full"}, 6 * LAYERS * LINEAR, 3 * LAYERS * ATTENTION),
        ({"method": "scratch"}, 6 * LAYERS * LINEAR, 3 * LAYERS * ATTENTION),
        # The layers below were computed before, and what is read from there needs no gradient.
        ({"method": "frozen", "trainable_layers": 1}, 6 * LINEAR - 2 * 3 * WIDTH * WIDTH, 3 * ATTENTION),
    ],
)
def test_arithmetic_is_counted_as_the_method_does_it(tiny, tmp_path, method, linear, attention):
    report, lengths = cost(tiny, tmp_path, **method)
    expected = 2 * float((linear * lengths + attention * lengths**2).sum())
    assert report["training"]["flops"] == pytest.approx(expected, rel=1e-3)


def test_lora_has_no_gradients_of_the_weights_it_leaves(tiny, tmp_path):
    report, _ = cost(tiny, tmp_path, method="lora", lora_r=1)
    full, _ = cost(tiny, tmp_path, method="full", output_dir=str(tmp_path / "full"))
    assert 0.6 < report["training"]["flops"] / full["training"]["flops"] < 0.8


def test_a_head_that_reads_one_token_has_no_rate(tiny, tmp_path):
    report, _ = cost(tiny, tmp_path, method="frozen")
    assert report["training"]["flops"] is None
    assert report["training"]["flops_utilisation"] is None


def test_counting_moves_nothing(tiny, tmp_path, monkeypatch):
    """The weights are the same where nothing is counted."""
    from safetensors.torch import load_file

    first, _ = cost(tiny, tmp_path, method="full", output_dir=str(tmp_path / "a"))
    monkeypatch.setattr("hf_transfer.training.cost._flops_an_epoch", lambda *_: 1.0)
    second, _ = cost(tiny, tmp_path, method="full", output_dir=str(tmp_path / "b"))
    assert first["metrics"] == second["metrics"]
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in "ab")
    assert all((before[name] == after[name]).all() for name in before)


def test_the_summary_tells_speed_padding_and_memory(tiny, tmp_path):
    file = write_csv(tmp_path / "m.csv", message_rows(60))
    result = finetune(
        TextClassification(), model_name_or_path=str(tiny()), train_file=str(file), output_dir=str(tmp_path / "out"),
        max_steps=2, disable_tqdm=True,
    )  # fmt: skip
    (line,) = [line for line in str(result).splitlines() if "padding" in line]
    for word in ("tokens per second", "% of the positions are padding", "speed of a matrix product", "peak memory"):
        assert word in line
    assert {"data", "model", "preprocessing", "before", "training", "after", "writing", "total"} <= set(
        result.report["seconds"]
    )
