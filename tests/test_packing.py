"""Layers without padding: the same outputs, gradients and weights as with it, for every family that allows it."""

import contextlib

import numpy as np
import pytest
import speech
import torch
from conftest import FAMILIES, WITHOUT_DROPOUT, message_rows, moved, write_csv
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

from hf_transfer import SpeechRecognition, TextClassification, finetune
from hf_transfer.training.speed.packing import Packing, _Gather, _Scatter, attention

pytestmark = pytest.mark.usefixtures("lean")


@pytest.fixture(autouse=True)
def tried_in_short_runs(monkeypatch):
    monkeypatch.setattr("hf_transfer.training.speed.packed_layers.STEPS_WORTH_TRYING", 0)


# DeBERTa's attention and WavLM's are functions of their own, and Conformer layers look at their neighbours.
UNPACKED = {"deberta-v2", "wavlm", "wav2vec2-bert", "wav2vec2-conformer"}
FULL = {"method": "full"}
OTHERS = [{"method": "lora"}, {"method": "frozen", "trainable_layers": 1}]


def both(monkeypatch, learn, **asked):
    """The report of the run without padding; its weights and those of a run with it, which are the same."""
    weights = "adapter_model" if asked["method"] == "lora" else "model"
    report, folder = learn("packed", **asked)
    own = load_file(folder / f"{weights}.safetensors")
    monkeypatch.setattr("hf_transfer.training.fit.packed", lambda *_: contextlib.nullcontext(False))
    _, folder = learn("padded", **asked)
    for name, value in load_file(folder / f"{weights}.safetensors").items():
        torch.testing.assert_close(own[name], value, atol=2e-5, rtol=0, msg=name)
    return report


@pytest.mark.parametrize(
    ("family", "asked"),
    [(name, FULL) for name in FAMILIES if name != "albert"]  # whose layers share weights
    + [(name, asked) for name in ("bert", "modernbert") for asked in OTHERS],
)
def test_texts(tiny, tmp_path, monkeypatch, family, asked):
    file = write_csv(tmp_path / "m.csv", message_rows(60))

    folder = tiny(family, **WITHOUT_DROPOUT.get(family, {}))

    def learn(name, **settings):
        run = finetune(
            TextClassification(), model_name_or_path=str(folder), train_file=str(file), num_train_epochs=1,
            output_dir=str(tmp_path / name), learning_rate=1e-3, disable_tqdm=True, **settings,
        )  # fmt: skip
        return run.report, tmp_path / name

    report = both(monkeypatch, learn, **asked)
    assert (report["training"]["padding"] == 0) == (family not in UNPACKED)
    if asked == FULL:  # which moves every weight
        _, kept = moved(folder, tmp_path / "packed")
        assert not kept, kept


@pytest.mark.parametrize(
    ("family", "asked"),
    [(name, FULL) for name in speech.FAMILIES]
    + [(name, asked) for name in ("wav2vec2-layer", "mms") for asked in OTHERS],
)
def test_speech(speech_model, accents, tmp_path, monkeypatch, family, asked):
    def learn(name, **settings):
        run = finetune(
            SpeechRecognition(speed_perturbation=0.0), model_name_or_path=str(speech_model(family)),
            dataset_name=str(accents), num_train_epochs=1, output_dir=str(tmp_path / name), learning_rate=1e-3,
            disable_tqdm=True, **settings,
        )  # fmt: skip
        return run.report, tmp_path / name

    report = both(monkeypatch, learn, **asked)
    assert (report["training"]["padding"] == 0) == (family not in UNPACKED)
    if asked == FULL:  # which moves all but the feature encoder
        changed, every = speech.moved(speech_model(family), tmp_path / "packed")
        assert every - changed - speech.unused(family, every) == set(filter(speech.in_encoder, every))


def test_checkpointed_layers(tiny, tmp_path, monkeypatch):
    file = write_csv(tmp_path / "m.csv", message_rows(60))

    def learn(name, **settings):
        run = finetune(
            TextClassification(), model_name_or_path=str(tiny()), train_file=str(file), num_train_epochs=1,
            output_dir=str(tmp_path / name), learning_rate=1e-3, disable_tqdm=True, activation_checkpointing=True,
            **settings,
        )  # fmt: skip
        return run.report, tmp_path / name

    assert both(monkeypatch, learn, method="full")["training"]["padding"] == 0


def test_a_layer_that_looks_at_its_neighbours_is_given_padding(tiny, tmp_path, monkeypatch):
    """What one row of all positions would change is found out before training, and left as it is."""
    file = write_csv(tmp_path / "m.csv", message_rows(60))
    folder = tiny()
    kind = type(AutoModelForSequenceClassification.from_pretrained(folder).bert.encoder.layer[0])
    forward = kind.forward

    def leaking(self, hidden_states, attention_mask=None, *args, **kwargs):
        return forward(self, hidden_states + 0.1 * hidden_states.roll(1, dims=1), attention_mask, *args, **kwargs)

    monkeypatch.setattr(kind, "forward", leaking)
    report = finetune(
        TextClassification(), model_name_or_path=str(folder), train_file=str(file), method="full", max_steps=2,
        output_dir=str(tmp_path / "out"), disable_tqdm=True,
    ).report  # fmt: skip
    assert report["training"]["padding"] > 0


def a_batch(counts, window=None):
    longest = max(counts)
    places = torch.arange(longest)
    mask = (places < torch.tensor(counts)[:, None])[:, None, None, :].expand(-1, 1, longest, -1)
    if window is not None:
        mask = mask & ((places[:, None] - places).abs() <= window)
    return mask, Packing(mask, np.array(counts))


@pytest.mark.parametrize("window", [None, 2])
@pytest.mark.parametrize("counts", [[3, 9, 1, 9, 4, 2, 7], [5, 2], [6, 1, 1, 1, 1, 1]])
def test_attention_within_examples(counts, window):
    torch.manual_seed(0)
    mask, packing = a_batch(counts, window)
    states = torch.randn(3, len(counts), max(counts), 8, requires_grad=True)
    module = torch.nn.Module()
    module.is_causal = False

    def split(each):
        return each.unflatten(-1, (2, 4)).transpose(1, 2)

    padded, _ = attention(module, *map(split, states), mask)
    row, _ = attention(module, *(split(packing.pack(each)) for each in states), packing)
    own = packing.unpack(row.flatten(2))
    assert row.shape == (1, sum(counts), 2, 4)
    for i, count in enumerate(counts):
        torch.testing.assert_close(own[i, :count], padded.flatten(2)[i, :count])
        assert (own[i, count:] == 0).all()
    weights = (
        torch.randn(len(counts), max(counts), 8)
        * (torch.arange(max(counts)) < torch.tensor(counts)[:, None])[..., None]
    )
    (theirs,) = torch.autograd.grad((padded.flatten(2) * weights).sum(), states, retain_graph=True)
    (ours,) = torch.autograd.grad((own * weights).sum(), states)
    torch.testing.assert_close(ours, theirs)


def test_gradients_of_rows_moved():
    rows = torch.tensor([4, 0, 2])
    few = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    many = torch.randn(5, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: _Gather.apply(x, rows), many)
    assert torch.autograd.gradcheck(lambda x: _Scatter.apply(x, rows, 5), few)
