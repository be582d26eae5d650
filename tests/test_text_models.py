"""Decoders, tokenizers and positions: what a run measures is what the shipped model says of each text alone."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import FAMILIES, build_model, message_rows, write_csv
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedTokenizerFast,
    pipeline,
)

from hf_transfer import AudioClassification, InputError, TextClassification, finetune, load_finetuned
from hf_transfer.inference import predict
from hf_transfer.inputs.text.positions import max_positions

pytestmark = pytest.mark.usefixtures("lean")

QUIET = {"disable_tqdm": True, "max_steps": 2}


def changed_config(folder: Path, file: str = "config.json", **changes) -> Path:
    settings = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps({**settings, **changes}))
    return folder


def without_padding_token(folder: Path, *, side: str = "left", eos: str = "[SEP]") -> Path:
    """As GPT-2's and Llama's: an end token, none for padding, nothing put around a text."""
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["post_processor"] = None
    tokenizer["added_tokens"] = [token for token in tokenizer["added_tokens"] if token["content"] in (eos, "[UNK]")]
    PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(tokenizer)), eos_token=eos, unk_token="[UNK]",
        padding_side=side, model_max_length=64,
    ).save_pretrained(folder)  # fmt: skip
    return folder


def scores_by_transformers(folder: Path, texts: list[str]) -> list[list[float]]:
    """Of each text alone, by plain transformers."""
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    temperature = (getattr(model.config, "calibration", None) or {}).get("temperature", 1.0)
    with torch.inference_mode():
        logits = [
            model(**tokenizer(text, truncation=True, return_tensors="pt")).logits[0] / temperature for text in texts
        ]
    return [row.softmax(-1).tolist() for row in logits]


def requires_the_same_scores(folder: Path) -> None:
    """The predictions of a run, those of the shipped model alone, in batches, and by transformers' own pipeline."""
    records = [json.loads(line) for line in (folder / "predictions.jsonl").open()]
    texts = [record["text"] for record in records]
    names = list(records[0]["scores"])
    measured = [[record["scores"][name] for name in names] for record in records]
    assert measured == [pytest.approx(alone, abs=2e-5) for alone in scores_by_transformers(folder, texts)]
    classify = load_finetuned(folder)
    for size in (1, 7):
        found = predict(classify, ({"text": text} for text in texts), batch_size=size)
        assert [[record["scores"][name] for name in names] for record in found] == [
            pytest.approx(scores, abs=2e-5) for scores in measured
        ]
    if classify.model.config.model_type in ("t5", "xlnet"):
        return  # whose batches transformers' own pipeline cannot divide
    plain = pipeline("text-classification", model=str(folder), truncation=True)
    plain.model.config.problem_type = "single_label_classification"
    together, alone = plain(texts, batch_size=7), plain(texts, batch_size=1)
    assert [record["score"] for record in together] == pytest.approx([record["score"] for record in alone], abs=2e-5)
    assert [record["label"] for record in together] == [record["label"] for record in alone]


@pytest.mark.parametrize(
    ("family", "padding_id", "method"),
    [("gpt2", None, "full"), ("gpt2", 40, "frozen"), ("llama", -1, "frozen"), ("llama", None, "full"),
     ("qwen2", 500, "full"), ("gemma", 40, "full")],
)  # fmt: skip
def test_a_decoder_is_measured_alike_in_batches_and_alone(tiny, tmp_path, family, padding_id, method, caplog):
    """Whatever its config says of padding, and whether texts end in the token that pads."""
    folder = without_padding_token(shutil.copytree(tiny(family), tmp_path / "base"))
    changed_config(folder, pad_token_id=padding_id)
    rows = message_rows(40)
    for i, row in enumerate(rows):
        row["text"] += [" [SEP]", "", " call [SEP] now [SEP] [SEP]"][i % 3]
    file = write_csv(tmp_path / "m.csv", [*rows, {**rows[0], "text": "[SEP]"}, {**rows[0], "text": "[SEP] [SEP]"}])
    found = {}
    for size in (1, 16):
        with caplog.at_level("INFO", "hf_transfer"):
            found[size] = finetune(
                TextClassification(), model_name_or_path=str(folder), train_file=str(file), method=method,
                output_dir=str(tmp_path / str(size)), per_device_eval_batch_size=size, test_size=0.5, **QUIET,
            ).report  # fmt: skip
    if family != "qwen2":  # whose tokenizer class brings one
        assert "The tokenizer has no padding token: '[SEP]' pads." in caplog.text
    assert found[1]["baseline"] == pytest.approx(found[16]["baseline"], abs=1e-6)
    assert found[16]["parity"]["max_difference"] < 1e-5
    requires_the_same_scores(tmp_path / "16")
    shipped = json.loads((tmp_path / "16" / "config.json").read_text())
    assert shipped["pad_token_id"] == AutoTokenizer.from_pretrained(tmp_path / "16").pad_token_id


@pytest.mark.parametrize(("family", "layers"), [("gpt2", 1), ("llama", 0), ("llama", 1)])
def test_a_decoder_with_frozen_layers_is_the_same_with_a_cache_and_without(
    tiny, tmp_path, monkeypatch, family, layers
):
    """All that changes is where activations are from: the head reads the last token of each text."""
    file = write_csv(tmp_path / "m.csv", message_rows(60))
    folder = tiny(family)
    reports, heads = {}, {}
    for name in ("cached", "live"):
        if name == "live":
            monkeypatch.setattr("hf_transfer.training.activations.precomputed.FeatureCache.enter", lambda *_: False)
        reports[name] = finetune(
            TextClassification(), model_name_or_path=str(folder), train_file=str(file), method="frozen",
            trainable_layers=layers, output_dir=str(tmp_path / name), learning_rate=1e-2, num_train_epochs=2,
            disable_tqdm=True,
        ).report  # fmt: skip
        heads[name] = load_file(tmp_path / name / "model.safetensors")["score.weight"]
    assert reports["cached"]["training"]["cached_activations"]
    assert not reports["live"]["training"]["cached_activations"]
    torch.testing.assert_close(heads["cached"], heads["live"], atol=1e-4, rtol=0)
    assert reports["cached"]["baseline"] == pytest.approx(reports["live"]["baseline"], abs=1e-6)


def test_an_encoder_is_padded_where_its_positions_begin_with_the_text(tiny, tmp_path):
    folder = shutil.copytree(tiny(), tmp_path / "base")
    changed_config(folder, "tokenizer_config.json", padding_side="left")
    file = write_csv(tmp_path / "m.csv", message_rows(60))
    finetune(TextClassification(), model_name_or_path=str(folder), train_file=str(file),
             output_dir=str(tmp_path / "out"), **QUIET)  # fmt: skip
    requires_the_same_scores(tmp_path / "out")
    assert AutoTokenizer.from_pretrained(tmp_path / "out").padding_side == "right"


def test_texts_are_computed_alone_where_padding_changes_outputs(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(FAMILIES, "fnet", ("FNetConfig", {**FAMILIES["bert"][1], "type_vocab_size": 2}))
    folder = build_model(tmp_path / "fnet", "fnet")
    file = write_csv(tmp_path / "m.csv", message_rows(60))
    with caplog.at_level("INFO", "hf_transfer"):
        finetune(TextClassification(), model_name_or_path=str(folder), train_file=str(file),
                 output_dir=str(tmp_path / "out"), **QUIET)  # fmt: skip
    assert "Padding changes the outputs of a fnet: each text is measured and predicted alone." in caplog.text
    records = [json.loads(line) for line in (tmp_path / "out" / "predictions.jsonl").open()]
    found = predict(load_finetuned(tmp_path / "out"), ({"text": record["text"]} for record in records))
    for record, alone in zip(records, found, strict=True):
        assert record["scores"] == pytest.approx(alone["scores"], abs=1e-5)


# --- positions ------------------------------------------------------------------------------------------------

POSITIONED = {"data2vec-text": 62, "roberta-prelayernorm": 62, "xmod": 62, "ibert": 62, "luke": 62, "camembert": 62,
              "bert": 64, "gpt2": 64, "opt": 64, "ctrl": 64, "xlm": 64}  # fmt: skip


@pytest.mark.parametrize("family", POSITIONED)
def test_the_model_is_asked_how_many_positions_it_has(tiny, family):
    """Position ids of some begin behind the padding id, here 1: those of 64 positions have room for 62 tokens."""
    from transformers import AutoConfig

    special = {"xmod": {"languages": ["en_XX"], "default_language": "en_XX"}, "ctrl": {"dff": 64},
               "luke": {"entity_vocab_size": 4, "entity_emb_size": 8}}  # fmt: skip
    config = AutoConfig.for_model(
        family, vocab_size=160, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=64,
        pad_token_id=1, bos_token_id=2, **special.get(family, {}),
    )  # fmt: skip
    model = AutoModelForSequenceClassification.from_config(config).eval()
    limit = max_positions(model, AutoTokenizer.from_pretrained(tiny()))
    assert limit == POSITIONED[family]
    ids = torch.full((1, limit + 1), 7)
    model(input_ids=ids[:, :-1])
    with pytest.raises((IndexError, RuntimeError), match=r"out of|size"):
        model(input_ids=ids)


@pytest.mark.parametrize(("family", "asked", "limit"), [("t5", None, 512), ("xlnet", 700, 700), ("bloom", None, 512)])
def test_a_model_without_positions_has_no_limit(tiny, family, asked, limit, tmp_path, caplog):
    from transformers import AutoConfig

    small = {"t5": {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4,
                    "decoder_start_token_id": 0},
             "xlnet": {"d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 64},
             "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4}}  # fmt: skip
    config = AutoConfig.for_model(family, vocab_size=160, pad_token_id=0, eos_token_id=3, **small[family])
    folder = shutil.copytree(tiny(), tmp_path / "base")
    AutoModel.from_config(config).save_pretrained(folder)
    changed_config(folder, "tokenizer_config.json", model_max_length=10**30)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert max_positions(AutoModelForSequenceClassification.from_config(config).eval(), tokenizer) is None
    rows = message_rows(16)
    rows[0]["text"] += " call now" * 400
    with caplog.at_level("INFO", "hf_transfer"):
        finetune(
            TextClassification(max_length=asked), model_name_or_path=str(folder), output_dir=str(tmp_path / "out"),
            train_file=str(write_csv(tmp_path / "m.csv", rows)), test_size=0.3, seed=3, per_device_train_batch_size=2,
            **QUIET,
        )  # fmt: skip
    assert f"reach {limit} tokens and are cut there" in caplog.text
    assert AutoTokenizer.from_pretrained(tmp_path / "out").model_max_length == limit
    requires_the_same_scores(tmp_path / "out")


def test_long_texts_are_cut_at_the_same_place_in_prediction(tmp_path, monkeypatch):
    """Where the tokenizer has no limit, it is the model's that it ships with."""
    settings = {**FAMILIES["roberta"][1], "pad_token_id": 1}
    monkeypatch.setitem(FAMILIES, "prelayernorm", ("RobertaPreLayerNormConfig", settings))
    folder = build_model(tmp_path / "base", "prelayernorm")
    changed_config(folder, "tokenizer_config.json", model_max_length=10**30)
    rows = message_rows(40)
    for row in rows[::5]:
        row["text"] += " call now" * 100
    finetune(TextClassification(), model_name_or_path=str(folder), output_dir=str(tmp_path / "out"),
             train_file=str(write_csv(tmp_path / "m.csv", rows)), **QUIET)  # fmt: skip
    assert AutoTokenizer.from_pretrained(tmp_path / "out").model_max_length == 64
    (found,) = load_finetuned(tmp_path / "out")(["call now " * 300])
    plain = pipeline("text-classification", model=str(tmp_path / "out"), truncation=True)
    assert plain("call now " * 300)[0]["label"] == found["label"]


# --- vocabularies ---------------------------------------------------------------------------------------------


def test_a_tokenizer_with_more_ids_than_the_model_has_embeddings_is_refused(tiny, recipe, tmp_path):
    """And the remedy that is proposed leads on."""
    folder = shutil.copytree(tiny(), tmp_path / "base")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([f"<word{i}>" for i in range(40)])
    tokenizer.save_pretrained(folder)
    flags = ("--train_file", write_csv(tmp_path / "m.csv", message_rows(40)), "--model_name_or_path", folder,
             "--output_dir", tmp_path / "out", "--max_steps", 1)  # fmt: skip
    result = recipe("spam", *flags)
    assert result.code == 2
    assert f"the id {len(tokenizer) - 1}, and the model has 160 embeddings (ids 0 to 159)" in result.err
    assert "model.resize_token_embeddings(len(tokenizer))" in result.err
    assert not (tmp_path / "out").exists()
    model = AutoModel.from_pretrained(folder)
    model.resize_token_embeddings(len(tokenizer))
    model.save_pretrained(folder)
    assert recipe("spam", *flags).code == 0


def test_segments_that_the_model_does_not_know_are_refused(tmp_path, monkeypatch):
    settings = {**FAMILIES["roberta"][1], "type_vocab_size": 1}
    monkeypatch.setitem(FAMILIES, "one_segment", ("RobertaConfig", settings))
    folder = build_model(tmp_path / "base", "one_segment")
    changed_config(
        folder, "tokenizer_config.json", model_input_names=["input_ids", "token_type_ids", "attention_mask"]
    )
    rows = [{"premise": row["text"], "hypothesis": "win cash", "label": row["label"]} for row in message_rows(40)]
    with pytest.raises(InputError, match=r"does not take what its tokenizer makes .*token_type_ids"):
        finetune(TextClassification(), model_name_or_path=str(folder), output_dir=str(tmp_path / "out"),
                 train_file=str(write_csv(tmp_path / "m.csv", rows)), **QUIET)  # fmt: skip
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["DebertaV2Tokenizer", "T5Tokenizer", "LlamaTokenizer", "GPT2Tokenizer"])
def test_a_tokenizer_without_its_vocabulary_is_refused(tiny, recipe, tmp_path, kind):
    """transformers makes one of special tokens, to which every word is unknown or nothing at all."""
    folder = shutil.copytree(tiny(), tmp_path / "base")
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": kind}))
    result = recipe("spam", "--train_file", write_csv(tmp_path / "m.csv", message_rows(40)), "--model_name_or_path",
                    folder, "--output_dir", tmp_path / "out")  # fmt: skip
    assert result.code == 2
    assert "knows its special tokens and no words" in result.err


def test_texts_of_which_not_a_word_is_known_are_refused(tiny, recipe, tmp_path):
    rows = [{"text": "今日は" * (1 + i % 7), "label": ["ham", "spam"][i % 2]} for i in range(40)]
    folder = shutil.copytree(tiny(), tmp_path / "base")
    result = recipe("spam", "--train_file", write_csv(tmp_path / "m.csv", rows), "--model_name_or_path", folder,
                    "--output_dir", tmp_path / "out", "--drop_incomplete", "true")  # fmt: skip
    assert result.code == 2
    assert "does not know a single word of the texts" in result.err


def test_the_extra_that_reads_sentencepiece_is_named(tiny, recipe, tmp_path, monkeypatch):
    from hf_transfer.inputs.text import tokenizers

    monkeypatch.setattr(tokenizers, "_is_installed", lambda library: library != "sentencepiece")
    folder = shutil.copytree(tiny(), tmp_path / "base")
    (folder / "tokenizer.json").unlink()
    (folder / "spm.model").write_bytes(b"\x0a\x0e\x0a\x05<unk>\x15\x00\x00\x00\x00\x18\x02")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "DebertaV2Tokenizer"}')
    result = recipe("spam", "--train_file", write_csv(tmp_path / "m.csv", message_rows(40)), "--model_name_or_path",
                    folder, "--output_dir", tmp_path / "out")  # fmt: skip
    assert result.code == 2
    assert 'pip install ".[sentencepiece]"' in result.err
    assert "Traceback" not in result.err


# --- heads ----------------------------------------------------------------------------------------------------


def with_labels(folder: Path, place: Path, names: list[str], rows: list[int]) -> Path:
    """A checkpoint with the rows of its last layer in that order, and `names` for them."""
    shutil.copytree(folder, place)
    weights = load_file(place / "model.safetensors")
    last = "classifier.out_proj" if "classifier.out_proj.weight" in weights else "classifier"
    for name in (f"{last}.weight", f"{last}.bias"):
        weights[name] = weights[name][rows].contiguous()
    save_file(weights, place / "model.safetensors", metadata={"format": "pt"})
    changed_config(place, id2label=dict(enumerate(names)), label2id={name: i for i, name in enumerate(names)})
    settings = json.loads((place / "config.json").read_text())
    settings.pop("calibration", None)
    (place / "config.json").write_text(json.dumps(settings))
    return place


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_a_head_for_our_labels_in_another_order_is_kept(tiny, tmp_path, family, caplog):
    """Of three labels, so that an order and its inverse are not the same; RoBERTa's head has two layers."""
    file = write_csv(tmp_path / "m.csv", message_rows(90, ("ham", "news", "spam")))

    def train(model: Path, name: str, max_steps: int = 40):
        return finetune(
            TextClassification(), model_name_or_path=str(model), train_file=str(file), max_steps=max_steps,
            output_dir=str(tmp_path / name), learning_rate=3e-3, seed=1, disable_tqdm=True,
        ).report  # fmt: skip

    first = train(tiny(family), "first")
    assert first["metrics"]["accuracy"] > first["baseline"]["accuracy"] + 0.2
    orders = (
        (["spam", "ham", "news"], [2, 0, 1], "its rows in the order of your labels: ham, news, spam"),
        ([" News", "SPAM", "Ham "], [1, 2, 0], "its rows in the order of your labels: ham, news, spam"),
        (["LABEL_0", "LABEL_1", "LABEL_2"], [0, 1, 2], "taken in order (LABEL_0 is ham, LABEL_1 is news, LABEL_2"),
    )
    for names, rows, says in orders if family == "bert" else orders[:1]:
        place = with_labels(tmp_path / "first", tmp_path / names[0].strip(), names, rows)
        caplog.clear()
        with caplog.at_level("INFO", "hf_transfer"):
            again = train(place, f"again{names[0].strip()}", max_steps=1)
        assert says in caplog.text
        assert again["baseline"]["accuracy"] == pytest.approx(first["metrics"]["accuracy"])
        assert again["newly_initialised"] == []


def test_the_other_positive_label_keeps_the_head(tiny, tmp_path):
    train, test = (write_csv(tmp_path / f"{part}.csv", rows) for part, rows in
                   (("train", message_rows(120)[:80]), ("test", message_rows(120)[80:])))  # fmt: skip
    reports = [
        finetune(
            TextClassification(positive_label=positive), model_name_or_path=str(model), train_file=str(train),
            test_file=str(test), output_dir=str(tmp_path / positive), learning_rate=3e-3, disable_tqdm=True,
            max_steps=40,
        ).report
        for positive, model in (("spam", tiny()), ("ham", tmp_path / "spam"))
    ]  # fmt: skip
    assert reports[1]["data"]["labels"] == ["spam", "ham"]
    assert reports[1]["baseline"]["accuracy"] == pytest.approx(reports[0]["metrics"]["accuracy"])
    assert reports[1]["baseline"]["accuracy"] > reports[0]["baseline"]["accuracy"] + 0.2


def test_an_audio_classifier_is_no_text_classifier():
    from transformers import AutoConfig

    from hf_transfer.tasks import task_class_for_config

    for kind, architecture in (("wav2vec2", "Wav2Vec2"), ("hubert", "Hubert"), ("data2vec-audio", "Data2VecAudio")):
        config = AutoConfig.for_model(kind, architectures=[f"{architecture}ForSequenceClassification"])
        assert task_class_for_config(config, "voices") is AudioClassification
    text = AutoConfig.for_model("bert", architectures=["BertForSequenceClassification"])
    assert task_class_for_config(text, "x") is TextClassification
    with pytest.raises(InputError, match="not a fine-tuned model"):
        task_class_for_config(SimpleNamespace(architectures=None), "x")


def test_texts_that_leave_no_tokens_are_found_in_every_split(tiny, tmp_path):
    """A tokenizer without special tokens makes nothing of what its normaliser takes away."""
    folder = shutil.copytree(tiny(), tmp_path / "base")
    settings = json.loads((folder / "tokenizer.json").read_text()) | {"post_processor": None}
    settings["normalizer"] = {"type": "Replace", "pattern": {"String": "!"}, "content": ""}
    (folder / "tokenizer.json").write_text(json.dumps(settings))
    file, test = write_csv(tmp_path / "m.csv", message_rows(40)), message_rows(20)
    test[7]["text"] = "!!!"
    with pytest.raises(InputError, match=r"makes no tokens of 1 texts in the test split, the first .* example 8"):
        finetune(TextClassification(), train_file=str(file), test_file=str(write_csv(tmp_path / "t.csv", test)),
                 model_name_or_path=str(folder), output_dir=str(tmp_path / "out"), **QUIET)  # fmt: skip
