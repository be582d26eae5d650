"""Cached activations: the same outputs and the same training as without, for every family that allows it."""

import contextlib
import json
import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from conftest import DECODERS, FAMILIES, message_rows, write_csv
from datasets import Dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding

from hf_transfer import SpeechRecognition, TextClassification, finetune, load_finetuned
from hf_transfer.arguments import MethodArguments, TransferTrainingArguments
from hf_transfer.data.batches import Collator, model_inputs_of, pad_labels
from hf_transfer.inputs.text.padding import align_padding
from hf_transfer.inputs.text.tokenized_texts import TokenizedTexts
from hf_transfer.methods.anatomy import Anatomy
from hf_transfer.methods.trainable import frozen_modules
from hf_transfer.training.activations.activation_store import ActivationStore, _Shard
from hf_transfer.training.activations.feature_cache import FeatureCache
from hf_transfer.training.standardisation import standardised_input

pytestmark = pytest.mark.usefixtures("lean")


def prepared(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = message_rows(40)
    encoded = tokenizer([row["text"] for row in rows])
    table = Dataset.from_dict({**encoded, "length": [len(ids) for ids in encoded["input_ids"]]})
    labels = [int(row["label"] == "spam") for row in rows]
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    align_padding(model, tokenizer)
    alone = getattr(model.config, "padding_changes_outputs", False)
    return (
        model,
        TokenizedTexts(table, labels, padding_changes_outputs=alone),
        Collator(DataCollatorWithPadding(tokenizer), pad_labels),
    )


def from_cache(model, dataset, collator, layers, folder):
    """The cache below the last `layers`, and the examples from it."""
    anatomy = Anatomy.of(model, [])
    args = TransferTrainingArguments(str(folder), per_device_eval_batch_size=8, disable_tqdm=True, use_cpu=True)
    frozen = frozen_modules(model, anatomy, MethodArguments(method="frozen", trainable_layers=layers))
    cache = FeatureCache(model, anatomy, anatomy.depth(model) - layers, frozen, collator, Accelerator(cpu=True))
    assert cache.enter({"train": dataset})
    return cache, cache.examples({"train": dataset}, args)["train"]


def outputs(model, batch):
    with torch.inference_mode():
        return model(**model_inputs_of(batch))["logits"]


@pytest.mark.parametrize("layers", [0, 1])
@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "albert"])
def test_cached_and_live_outputs_agree(tiny, tmp_path, family, layers):
    model, dataset, collator = prepared(tiny(family))
    cache, examples = from_cache(model, dataset, collator, layers, tmp_path)
    # ModernBERT averages the tokens here; decoders read the last.
    assert cache.first_token_only == (layers == 0 and family not in ("modernbert", *DECODERS))
    # Where one module adds up what attention gives and what it was given, nothing behind it is computed of the others.
    adds_up = cache.first_token_only and family != "distilbert"
    batch = {name: value for name, value in collator(dataset.__getitems__([0, 1, 2, 3])).items() if name != "length"}
    assert (cache.entry.capture(batch).shape[1] == 1) == adds_up
    indices = [0, 7, 30, 12, 3]
    live = outputs(model, collator(dataset.__getitems__(indices)))
    names = [name for name, _ in model.named_modules()]
    with cache.entry.skipping():
        cached = outputs(model, cache.cached_collator(examples.__getitems__(indices)))
    torch.testing.assert_close(cached, live, atol=1e-5, rtol=0)
    assert [name for name, _ in model.named_modules()] == names  # and the model is whole again
    torch.testing.assert_close(outputs(model, collator(dataset.__getitems__(indices))), live)


@pytest.mark.parametrize("mixes", ["the next", "several alone"])
def test_positions_that_are_read_behind_attention_are_not_left_out(tiny, tmp_path, mixes, monkeypatch):
    """A last layer whose output at the first position is made of others as well, or cannot be made by itself."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    model, dataset, collator = prepared(tiny())
    part = model.bert.encoder.layer[-1].attention.output
    plain = part.forward

    def forward(states, given):
        if mixes == "several alone" and states.shape[1] < 2:
            raise ValueError("expected two positions")
        return plain(states + states.roll(-1, dims=1) * (mixes == "the next"), given)

    part.forward = forward
    cache, examples = from_cache(model, dataset, collator, 0, tmp_path)
    assert cache.first_token_only
    live = outputs(model, collator(dataset.__getitems__([3])))
    with cache.entry.skipping():
        torch.testing.assert_close(outputs(model, cache.cached_collator(examples.__getitems__([3]))), live)


def test_a_model_that_cannot_be_entered_is_trained_live(tiny, tmp_path, caplog):
    file = write_csv(tmp_path / "m.csv", message_rows(60))
    with caplog.at_level("INFO", "hf_transfer"):
        report = finetune(
            TextClassification(), model_name_or_path=str(tiny("albert")), train_file=str(file), method="frozen",
            output_dir=str(tmp_path / "out"), max_steps=2, disable_tqdm=True,
        ).report  # fmt: skip
    assert report["training"]["cached_activations"] is False


def test_activations_that_are_gone_are_not_taken_for_others(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    store = ActivationStore("key")
    with store.shard(2, 4, 1) as shard:
        for digest in (10, 30):
            shard.add(digest, np.full((1, 4), digest, np.float32))
    files, kept = store.find({"train": np.array([30, 10], np.uint64)})
    assert [files[file][row][0] for file, row, _ in kept["train"][0]] == [30, 10]
    for gone in (20, 40):
        assert store.find({"train": np.array([10, gone], np.uint64)}) is None


def test_no_room_on_the_disk_means_no_cache(tiny, tmp_path, monkeypatch, caplog):
    import shutil

    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    file = write_csv(tmp_path / "m.csv", message_rows(60))
    monkeypatch.setattr("hf_transfer.reporting.output_folder.OutputFolder.require_space", lambda *_: None)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000})())
    with caplog.at_level("INFO", "hf_transfer"):
        report = finetune(
            TextClassification(), model_name_or_path=str(tiny()), train_file=str(file), method="frozen",
            output_dir=str(tmp_path / "out"), max_steps=2, disable_tqdm=True,
        ).report  # fmt: skip
    assert "Activations are not cached: they need 0.0 GB" in caplog.text
    assert report["training"]["cached_activations"] is False


def test_standardising_the_heads_input_changes_nothing_but_the_coordinates(tiny, tmp_path):
    model, dataset, collator = prepared(tiny())
    cache, examples = from_cache(model, dataset, collator, 0, tmp_path)
    trainer = SimpleNamespace(
        model=model, train_dataset=examples, data_collator=cache.cached_collator, resumable_state=SimpleNamespace(),
        args=SimpleNamespace(per_device_eval_batch_size=8, device=model.device, world_size=1, process_index=0),
        accelerator=Accelerator(cpu=True),
    )  # fmt: skip
    batch = cache.cached_collator(examples.__getitems__(list(range(40))))
    seen = []
    with cache.entry.skipping():
        live = outputs(model, batch)
        with standardised_input(trainer, Anatomy.of(model, []).head):
            inside = outputs(model, batch)
            hook = model.bert.pooler.dense.register_forward_hook(lambda _, args, out: seen.append(args[0]))
            outputs(model, batch)
            hook.remove()
        after = outputs(model, batch)
    torch.testing.assert_close(inside, live, atol=1e-5, rtol=0)
    torch.testing.assert_close(after, live, atol=1e-5, rtol=0)
    np.testing.assert_allclose(seen[0].mean(dim=0), 0, atol=1e-4)
    np.testing.assert_allclose(seen[0].std(dim=0, correction=0), 1, atol=1e-3)


@pytest.mark.parametrize("kind", ["text", "speech"])
def test_padding_does_not_count_in_a_heads_coordinates(tiny, speech_model, accents, tmp_path, monkeypatch, kind):
    seen = []

    @contextlib.contextmanager
    def looking(trainer, head):
        with standardised_input(trainer, head):
            linear = trainer.model.get_submodule("bert.pooler.dense" if kind == "text" else "lm_head")
            with linear.register_forward_hook(lambda _, args, out: seen.append(args[0].flatten(0, -2))):
                for i in range(len(trainer.train_dataset)):  # one by one: no padding
                    outputs(trainer.model, trainer.data_collator(trainer.train_dataset.__getitems__([i])))
            yield

    monkeypatch.setattr("hf_transfer.training.fit.standardised_input", looking)
    if kind == "text":
        finetune(
            TextClassification(), model_name_or_path=str(tiny()), method="frozen", output_dir=str(tmp_path / "out"),
            train_file=str(write_csv(tmp_path / "m.csv", message_rows(60))), max_steps=1, disable_tqdm=True,
        )  # fmt: skip
    else:
        learn(tmp_path / "out", speech_model("wav2vec2-layer"), accents, method="frozen", max_steps=1)
    inputs = torch.cat(seen)
    np.testing.assert_allclose(inputs.mean(dim=0), 0, atol=1e-3)
    np.testing.assert_allclose(inputs.std(dim=0, correction=0), 1, atol=1e-2)


def test_examples_that_occur_twice_took_their_seconds_once(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    store = ActivationStore("key")
    with store.shard(2, 4, 1) as shard:
        for digest in (5, 6):
            shard.add(digest, np.zeros((1, 4), np.float32))
    _, found = store.find({name: np.array(own, np.uint64) for name, own in {"a": [5, 6], "b": [5, 5, 6, 5]}.items()})
    assert found["a"][1] == found["b"][1] > 0


# --- speech -----------------------------------------------------------------------------------------------------

AS_THEY_ARE = {"speed_perturbation": 0.0, "mask_time_prob": 0.0}


def learn(output, model, accents, task=None, **arguments):
    settings = {"max_steps": 5, "per_device_train_batch_size": 8, "gradient_accumulation_steps": 1,
                "report_to": "none", "disable_tqdm": True,
                "learning_rate": 1e-3, "dataset_name": str(accents)}  # fmt: skip
    task = task or SpeechRecognition(**AS_THEY_ARE)
    return finetune(task, output_dir=str(output), model_name_or_path=str(model), **{**settings, **arguments}).report


@pytest.mark.parametrize("method", [{"method": "full"}, {"method": "frozen", "trainable_layers": 1}])
def test_from_the_cache_padding_changes_no_output_of_a_group_norm_model(speech_model, accents, tmp_path, method):
    report = learn(tmp_path / "out", speech_model("wav2vec2-group"), accents, **method, per_device_eval_batch_size=8)
    assert report["training"]["padding_changes_outputs"] is False
    told = [json.loads(line) for line in (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()]
    heard = load_finetuned(tmp_path / "out")
    clips = [str(accents / record["audio"]) for record in told]
    assert [heard(clip)["text"] for clip in clips] == [record["prediction"] for record in told]


def test_what_changes_from_epoch_to_epoch_is_not_cached(speech_model, accents, tmp_path, caplog):
    task = SpeechRecognition(speed_perturbation=0.1)
    with caplog.at_level("INFO", "hf_transfer"):
        report = learn(tmp_path / "out", speech_model(), accents, task, method="frozen", trainable_layers=1)
    assert report["training"]["cached_activations"] is False
    assert "augmented anew in each epoch" in caplog.text


# --- shared by runs ---------------------------------------------------------------------------------------------


@pytest.fixture
def computed(monkeypatch, tmp_path):
    """How many examples' activations were computed, counted anew for a cache of the test's own."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    counts = []
    add = _Shard.add
    monkeypatch.setattr(_Shard, "add", lambda self, *example: counts.append(1) or add(self, *example))

    def ask():
        found = sum(counts)
        counts.clear()
        return found

    return ask


def frozen(folder, tiny, file, **arguments):
    settings = {"method": "frozen", "trainable_layers": 1, "num_train_epochs": 1, "disable_tqdm": True}
    return finetune(
        TextClassification(), model_name_or_path=str(tiny()), train_file=str(file), output_dir=str(folder),
        **{**settings, **arguments},
    )  # fmt: skip


def test_each_examples_activations_are_computed_by_the_first_run_that_needs_them(tiny, tmp_path, computed):
    rows = message_rows(90)
    some, every = write_csv(tmp_path / "some.csv", rows[:60]), write_csv(tmp_path / "every.csv", rows)
    frozen(tmp_path / "a", tiny, some)
    assert computed() == 60
    frozen(tmp_path / "b", tiny, some, seed=3)  # other splits of the same texts
    assert computed() == 0
    frozen(tmp_path / "c", tiny, every)
    assert 25 < computed() <= 30  # some texts are the same to the tokenizer
    frozen(tmp_path / "d", tiny, some, trainable_layers=2)  # another place in the model
    assert computed() == 60


def test_other_weights_have_activations_of_their_own(tiny, tmp_path, computed):
    file = write_csv(tmp_path / "m.csv", message_rows(60))
    model = AutoModelForSequenceClassification.from_pretrained(tiny())
    with torch.no_grad():
        model.bert.encoder.layer[0].output.dense.bias += 1
    model.save_pretrained(tmp_path / "other")
    AutoTokenizer.from_pretrained(tiny()).save_pretrained(tmp_path / "other")
    frozen(tmp_path / "a", tiny, file)
    computed()
    frozen(tmp_path / "b", lambda: tmp_path / "other", file)
    assert computed() == 60


def test_a_baseline_is_computed_once_for_all_methods(tiny, tmp_path, computed):
    file = write_csv(tmp_path / "m.csv", message_rows(60))
    reports = [
        frozen(tmp_path / name, tiny, file, method=name, trainable_layers=0).report for name in ("full", "lora")
    ]
    assert computed() == reports[0]["data"]["examples"]["test"]
    assert reports[0]["baseline"] == reports[1]["baseline"]


def test_a_run_that_ends_while_it_computes_leaves_nothing_half_done(tiny, tmp_path, computed, monkeypatch):
    file = write_csv(tmp_path / "m.csv", message_rows(60))
    with monkeypatch.context() as patch:
        patch.setattr("hf_transfer.training.activations.activation_store._Shard.finish", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            frozen(tmp_path / "a", tiny, file)
    assert [
        path.name for path in (tmp_path / "cache").rglob("*") if path.is_file() and "activations" in str(path)
    ] == []
    computed()
    frozen(tmp_path / "a", tiny, file)
    assert computed() == 60


def test_what_no_run_has_asked_for_in_a_month_is_removed(tiny, tmp_path, computed):
    file = write_csv(tmp_path / "m.csv", message_rows(60))
    frozen(tmp_path / "a", tiny, file)
    (old,) = (tmp_path / "cache" / "hf_transfer_activations").iterdir()
    os.utime(old, (0, 0))
    frozen(tmp_path / "b", tiny, file, trainable_layers=2)
    assert not old.exists()


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_a_damaged_file_is_computed_again(tiny, tmp_path, computed, suffix):
    file = write_csv(tmp_path / "m.csv", message_rows(60))
    first = frozen(tmp_path / "a", tiny, file).report
    computed()
    (damaged,) = (tmp_path / "cache" / "hf_transfer_activations").rglob(f"*{suffix}")
    damaged.write_bytes(damaged.read_bytes()[: damaged.stat().st_size // 2])
    assert frozen(tmp_path / "b", tiny, file).report["metrics"] == first["metrics"]
    assert computed() == 60


def test_what_killed_runs_have_left_is_removed_after_a_day(tiny, tmp_path, computed):
    file = write_csv(tmp_path / "m.csv", message_rows(60))
    frozen(tmp_path / "a", tiny, file)
    (folder,) = (tmp_path / "cache" / "hf_transfer_activations").iterdir()
    kept = set(folder.iterdir())
    left = [folder / f"{name * 32}{suffix}" for name, suffix in (("a", ".partial"), ("b", ".npy"), ("c", ".partial"))]
    for each in left:
        each.write_bytes(b"x")
    for each in left[:2]:
        os.utime(each, (0, 0))
    computed()
    frozen(tmp_path / "b", tiny, file, seed=3)
    assert set(folder.iterdir()) == kept | {left[2]}
    assert computed() == 0
