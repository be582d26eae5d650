"""What each method moves and what it leaves, by parameter name, for every model family."""

import json
from pathlib import Path

import pytest
import torch
from conftest import FAMILIES, moved
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification
from transformers.pytorch_utils import Conv1D

from hf_transfer import InputError, TextClassification, finetune, load_finetuned

# With the arithmetic counted, on every family: it is a backward pass of the trained model.
pytestmark = pytest.mark.usefixtures("lean", "with_arithmetic")

# Families that differ in the names of their layers, in their heads or in how they start; MiniLM's are BERT's.
DISTINCT = [name for name in FAMILIES if name != "minilm"]
STEPS = {"max_steps": 3, "per_device_train_batch_size": 8, "report_to": "none", "disable_tqdm": True}


def run(tiny, family: str, messages: Path, output: Path, **arguments):
    return finetune(
        TextClassification(), train_file=str(messages), output_dir=str(output),
        **{"model_name_or_path": str(tiny(family)), **STEPS, "learning_rate": 1e-2, **arguments},
    )  # fmt: skip


def starting_weights(folder: Path) -> dict[str, torch.Tensor]:
    """The base model's weights under the names that a model with a head has for them."""
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
    return {name: value.clone() for name, value in model.state_dict().items()}


def is_layer(name: str, index: int) -> bool:
    return any(f"{layers}.{index}." in name for layers in ("layer", "layers", "h"))


def is_embedding(name: str) -> bool:
    return any(part in name for part in ("embeddings", "embed_tokens", "wte", "wpe"))


def test_full_moves_every_weight_of_layers_that_share_them(tiny, messages, tmp_path):
    """Of all other families this is asserted where they are trained without padding."""
    run(tiny, "albert", messages, tmp_path / "out", method="full")
    _, kept = moved(tiny("albert"), tmp_path / "out")
    assert not kept, kept


@pytest.mark.parametrize("family", DISTINCT)
def test_frozen_moves_the_head_alone(tiny, family, messages, tmp_path):
    report = run(tiny, family, messages, tmp_path / "out", method="frozen").report
    changed, kept = moved(tiny(family), tmp_path / "out")
    head = ("classifier", "pre_classifier", "head.", "pooler", "score")
    assert changed
    assert all(any(part in name for part in head) for name in changed), changed
    assert any(is_embedding(name) for name in kept)
    assert report["parameters"]["trainable"] < 0.35 * report["parameters"]["total"]


@pytest.mark.parametrize("family", [name for name in DISTINCT if name != "albert"])
def test_frozen_moves_the_last_layers_asked_for(tiny, family, messages, tmp_path):
    run(tiny, family, messages, tmp_path / "out", method="frozen", trainable_layers=1)
    changed, kept = moved(tiny(family), tmp_path / "out")
    assert any(is_layer(name, 2) for name in changed)
    for index in range(2):
        assert not any(is_layer(name, index) for name in changed)
        assert any(is_layer(name, index) for name in kept)
    assert not any(is_embedding(name) for name in changed)


def test_layers_that_share_weights_cannot_be_trained_one_by_one(tiny, messages, tmp_path):
    with pytest.raises(InputError, match="share their weights"):
        run(tiny, "albert", messages, tmp_path / "out", method="frozen", trainable_layers=1)


@pytest.mark.parametrize("variant", ["lora", "rslora", "dora", "pissa"])
def test_lora_is_put_into_layers_whose_weights_are_stored_the_other_way_round(tiny, messages, tmp_path, variant):
    """GPT-2's `Conv1D`; merged, the adapter is added into weights of [in, out]."""
    report = run(tiny, "gpt2", messages, tmp_path / "out", method="lora", lora_variant=variant, max_steps=20).report
    assert report["parity"]["max_difference"] < 1e-4
    assert report["parity"]["max_difference_merged"] < 1e-4
    adapted = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert len([name for name in adapted if "lora_B" in name and adapted[name].abs().max() > 0]) == 3 * 4
    if variant == "lora":
        again = tmp_path / "merged"
        run(tiny, "gpt2", messages, again, method="lora", max_steps=20, merge=True)
        changed, _ = moved(tiny("gpt2"), again)
        assert {
            f"transformer.h.{i}.{part}.weight" for i in range(3) for part in ("attn.c_attn", "mlp.c_fc")
        } <= changed


def test_layers_of_both_kinds_are_adapted_side_by_side(tiny):
    """A linear layer that comes behind a `Conv1D` is merged as one."""
    from hf_transfer.arguments import MethodArguments
    from hf_transfer.methods.anatomy import Anatomy
    from hf_transfer.methods.lora import merged_copy
    from hf_transfer.methods.trainable import apply_method

    model = AutoModelForSequenceClassification.from_pretrained(tiny("gpt2"), pad_token_id=0).eval()
    for layer in model.transformer.h:  # as large as the other way round: nothing but the numbers would show it
        conv1d = layer.mlp.c_proj
        layer.attn.c_proj = torch.nn.Linear(32, 32)
        assert conv1d.weight.shape == (128, 32)
    adapted = apply_method(
        model, Anatomy.of(model, ["score.weight"]), MethodArguments(method="lora", lora_r=4), revision="main"
    )
    torch.manual_seed(0)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    ids = torch.tensor([[5, 9, 40, 33, 7]])
    adapted.eval()
    torch.testing.assert_close(merged_copy(adapted)(input_ids=ids).logits, adapted(input_ids=ids).logits)


@pytest.mark.parametrize("family", DISTINCT)
def test_scratch_starts_from_nothing(tiny, family, messages, tmp_path):
    report = run(tiny, family, messages, tmp_path / "out", method="scratch", learning_rate=0.0).report
    changed, _ = moved(tiny(family), tmp_path / "out")
    before = load_file(tiny(family) / "model.safetensors")
    after = load_file(tmp_path / "out" / "model.safetensors")
    matrices = {name for name, value in after.items() if value.dim() == 2 and name.partition(".")[2] in before}
    assert matrices
    assert matrices <= changed  # random matrices, even with no training at all
    assert report["parameters"]["trainable"] == report["parameters"]["total"]


@pytest.mark.parametrize("family", DISTINCT)
def test_lora_reaches_every_linear_layer_and_keeps_every_head(tiny, family, messages, tmp_path):
    result = run(tiny, family, messages, tmp_path / "out", method="lora", num_train_epochs=1)
    saved = load_file(tmp_path / "out" / "adapter_model.safetensors")
    model = AutoModelForSequenceClassification.from_pretrained(tiny(family))
    trunk = model.base_model_prefix
    head = ("classifier", "pre_classifier", "head", "pooler", "score", f"{trunk}.pooler")
    for name, module in model.named_modules():
        if name.startswith(head):
            for parameter, _ in module.named_parameters(recurse=False):
                assert f"base_model.model.{name}.{parameter}" in saved, f"head {name}.{parameter} is not saved"
        elif isinstance(module, (torch.nn.Linear, Conv1D)):
            matrix = saved[f"base_model.model.{name}.lora_B.weight"]
            assert matrix.abs().max() > 0, f"the adapter of {name} was not trained"
    assert result.report["parity"]["max_difference"] < 1e-4
    assert result.report["parity"]["max_difference_merged"] < 1e-3
    assert not (tmp_path / "out" / "model.safetensors").exists()


@pytest.mark.parametrize("variant", ["lora", "rslora", "dora", "pissa"])
def test_lora_variants_are_what_they_say(tiny, messages, tmp_path, variant):
    run(tiny, "bert", messages, tmp_path / "out", method="lora", lora_variant=variant, lora_r=4)
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["use_rslora"] == (variant == "rslora")
    assert config["use_dora"] == (variant == "dora")
    assert config["r"] == 4
    predictions = [json.loads(line) for line in (tmp_path / "out" / "predictions.jsonl").open()]
    pipe = load_finetuned(tmp_path / "out")
    for record in predictions[:5]:
        (found,) = pipe(record["text"])
        assert found == {"label": record["prediction"], "score": pytest.approx(record["score"], abs=1e-4)}


def test_merge_writes_plain_weights(tiny, messages, tmp_path):
    run(tiny, "bert", messages, tmp_path / "out", method="lora", merge=True)
    assert (tmp_path / "out" / "model.safetensors").exists()
    assert not (tmp_path / "out" / "adapter_model.safetensors").exists()
    changed, kept = moved(tiny("bert"), tmp_path / "out")
    assert any("attention" in name for name in changed)
    assert any("embeddings" in name for name in kept)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_head_first_starts_training_from_a_fitted_head(tiny, messages, tmp_path, method):
    """With a learning rate of 0 afterwards, what is left is the head that was fitted on frozen features."""
    still = {"method": method, "learning_rate": 0.0, "max_steps": -1, "num_train_epochs": 8}
    plain = run(tiny, "bert", messages, tmp_path / "plain", **{**still, "max_steps": 1}).report
    first = run(tiny, "bert", messages, tmp_path / "first", head_first=True, **still).report
    assert plain["metrics"]["accuracy"] == plain["baseline"]["accuracy"]
    assert first["baseline"] == plain["baseline"]
    assert first["metrics"]["roc_auc"] > plain["metrics"]["roc_auc"] + 0.1


def test_a_head_of_another_size_is_made_anew(tiny, messages, tmp_path, caplog):
    model = AutoModelForSequenceClassification.from_pretrained(tiny("bert"), num_labels=5)
    model.save_pretrained(tmp_path / "five")
    for file in tiny("bert").glob("tokenizer*"):
        (tmp_path / "five" / file.name).write_bytes(file.read_bytes())
    with caplog.at_level("INFO", "hf_transfer"):
        result = finetune(TextClassification(), model_name_or_path=str(tmp_path / "five"), train_file=str(messages),
                          output_dir=str(tmp_path / "out"), **STEPS)  # fmt: skip
    assert "5 labels, the data 2: a new head is made" in caplog.text
    assert result.report["data"]["labels"] == ["ham", "spam"]


def test_a_head_for_the_same_labels_is_kept_and_for_others_is_not(tiny, messages, tmp_path, caplog):
    first = run(tiny, "bert", messages, tmp_path / "first", max_steps=-1, num_train_epochs=4, learning_rate=3e-3)
    with caplog.at_level("INFO", "hf_transfer"):
        again = run(tiny, "bert", messages, tmp_path / "again", model_name_or_path=str(tmp_path / "first")).report
    assert "head is kept: ham, spam" in caplog.text
    for name in ("accuracy", "roc_auc"):  # the same test split, measured with the same head
        assert again["baseline"][name] == pytest.approx(first.report["metrics"][name])
    other = tmp_path / "other.csv"
    other.write_text(messages.read_text().replace(",ham", ",no").replace(",spam", ",yes"))
    with caplog.at_level("INFO", "hf_transfer"):
        run(tiny, "bert", other, tmp_path / "other", model_name_or_path=str(tmp_path / "first"))
    assert "a new head is made" in caplog.text
