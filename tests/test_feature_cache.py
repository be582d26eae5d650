"""Cached activations: the same outputs and the same training as without, for every family that allows it."""

import numpy as np
import pytest
import torch
from conftest import FAMILIES, message_rows, write_csv
from datasets import Dataset
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding

from hf_transfer import TextClassification, finetune
from hf_transfer.methods import Anatomy
from hf_transfer.training.feature_cache import CachedExamples, FeatureCache, collate_cached
from hf_transfer.training.standardisation import standardised_input


def prepared(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = message_rows(40)
    encoded = tokenizer([row["text"] for row in rows])
    columns = {**encoded, "labels": [int(row["label"] == "spam") for row in rows]}
    columns["length"] = [len(ids) for ids in encoded["input_ids"]]
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    return model, Dataset.from_dict(columns), DataCollatorWithPadding(tokenizer)


def outputs(model, batch):
    with torch.inference_mode():
        return model(**{name: value for name, value in batch.items() if name != "labels"})["logits"]


@pytest.mark.parametrize("layers", [0, 1])
@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "albert"])
def test_cached_and_live_outputs_agree(tiny, tmp_path, family, layers):
    model, dataset, collator = prepared(tiny(family))
    anatomy = Anatomy.of(model, [])
    cache = FeatureCache(model, anatomy.layers, layers, anatomy.trunk, tmp_path / "features")
    assert cache.enter(dataset, collator)
    examples = cache.compute(dataset, collator, 8, "train", main=True, show=False)
    assert cache.first_token_only == (layers == 0 and family != "modernbert")  # ModernBERT averages the tokens here
    indices = [0, 7, 30, 12, 3]
    live = outputs(model, collator([{k: v for k, v in dataset[i].items() if k != "length"} for i in indices]))
    names = [name for name, _ in model.named_modules()]
    with cache.skipping():
        cached = outputs(model, collate_cached(examples.__getitems__(indices)))
    torch.testing.assert_close(cached, live, atol=1e-5, rtol=0)
    assert [name for name, _ in model.named_modules()] == names  # and the model is whole again
    torch.testing.assert_close(outputs(model, collator(
        [{k: v for k, v in dataset[i].items() if k != "length"} for i in indices]
    )), live)  # fmt: skip


def test_a_model_that_cannot_be_entered_is_trained_live(tiny, tmp_path, caplog):
    file = write_csv(tmp_path / "m.csv", message_rows(60))
    with caplog.at_level("INFO", "hf_transfer"):
        report = finetune(
            TextClassification(), model_name_or_path=str(tiny("albert")), train_file=str(file), method="frozen",
            output_dir=str(tmp_path / "out"), max_steps=2, disable_tqdm=True,
        ).report  # fmt: skip
    assert report["training"]["cached_activations"] is False


def test_training_from_the_cache_is_training(tiny, tmp_path, monkeypatch):
    """The weights after an epoch from cached activations are those after an epoch through the frozen layers."""
    file = write_csv(tmp_path / "m.csv", message_rows(60))
    found = {}
    for name in ("cached", "live"):
        if name == "live":
            monkeypatch.setattr(FeatureCache, "enter", lambda *_: False)
        report = finetune(
            TextClassification(), model_name_or_path=str(tiny()), train_file=str(file), method="frozen",
            trainable_layers=1, output_dir=str(tmp_path / name), num_train_epochs=2, learning_rate=1e-3,
            disable_tqdm=True,
        ).report  # fmt: skip
        assert report["training"]["cached_activations"] == (name == "cached")
        found[name] = load_file(tmp_path / name / "model.safetensors")
    for key, value in found["live"].items():
        torch.testing.assert_close(found["cached"][key], value, atol=1e-5, rtol=0, msg=key)


def test_no_room_on_the_disk_means_no_cache(tiny, tmp_path, monkeypatch, caplog):
    import shutil

    model, dataset, collator = prepared(tiny())
    cache = FeatureCache(model, "bert.encoder.layer", 0, "bert", tmp_path)
    assert cache.enter(dataset, collator)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000})())
    with caplog.at_level("INFO", "hf_transfer"):
        assert cache.compute(dataset, collator, 8, "train", main=True, show=False) is None
    assert "not cached" in caplog.text


def test_standardising_the_heads_input_changes_nothing_but_the_coordinates(tiny, tmp_path):
    model, dataset, collator = prepared(tiny())
    anatomy = Anatomy.of(model, [])
    cache = FeatureCache(model, anatomy.layers, 0, anatomy.trunk, tmp_path)
    cache.enter(dataset, collator)
    examples = cache.compute(dataset, collator, 8, "train", main=True, show=False)
    assert isinstance(examples, CachedExamples)
    batch = collate_cached(examples.__getitems__(list(range(40))))
    seen = []
    with cache.skipping():
        live = outputs(model, batch)
        with standardised_input(model, anatomy.head, examples):
            inside = outputs(model, batch)
            hook = model.bert.pooler.dense.register_forward_hook(lambda _, args, out: seen.append(args[0]))
            outputs(model, batch)
            hook.remove()
        after = outputs(model, batch)
    torch.testing.assert_close(inside, live, atol=1e-5, rtol=0)
    torch.testing.assert_close(after, live, atol=1e-5, rtol=0)
    np.testing.assert_allclose(seen[0].mean(dim=0), 0, atol=1e-4)
    np.testing.assert_allclose(seen[0].std(dim=0, correction=0), 1, atol=1e-3)
