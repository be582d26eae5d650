"""The vocabulary of a CTC checkpoint against its head, and the languages of MMS."""

import csv
import json
import shutil

import pytest
import torch
from conftest import write_csv
from safetensors.torch import load_file
from speech import MMS, build_ctc_model, build_mms
from transformers import AutoModelForCTC, AutoTokenizer, Wav2Vec2ForCTC

from hf_transfer import InputError, SpeechRecognition, finetune, load_finetuned
from hf_transfer.arguments import ModelArguments
from hf_transfer.targets.transcripts.ctc_encoding import label_ids
from hf_transfer.targets.transcripts.vocabulary import read_vocabulary

pytestmark = pytest.mark.usefixtures("lean")

SPECIAL = ["<pad>", "<s>", "</s>", "<unk>"]
LETTERS = [*"abcdefghijklmnopqrstuvwxyz"]
STEPS = {"max_steps": 1, "per_device_train_batch_size": 8, "report_to": "none", "disable_tqdm": True,
         "learning_rate": 1e-9}  # fmt: skip


def train(output, model, file, method="full", **settings):
    return finetune(
        SpeechRecognition(**settings), output_dir=str(output), model_name_or_path=str(model), train_file=str(file),
        method=method, **STEPS,
    ).report  # fmt: skip


@pytest.fixture
def table(accents, tmp_path):
    def write(change=str.lower):
        rows = list(csv.DictReader((accents / "metadata.csv").open()))
        rows = [
            {"path": str(accents / row["file_name"]), "sentence": change(row["transcription"]), "split": row["split"]}
            for row in rows
        ]
        return write_csv(tmp_path / "t.csv", rows)

    return write


def test_a_vocabulary_without_a_word_delimiter_is_not_used_for_words(table, tmp_path, caplog):
    model = build_ctc_model(tmp_path / "m", [*SPECIAL, *LETTERS])
    with caplog.at_level("INFO", "hf_transfer"):
        train(tmp_path / "out", model, table())
    assert "cannot be spelt in the checkpoint's vocabulary ((space)), for example" in caplog.text
    vocabulary = json.loads((tmp_path / "out" / "vocab.json").read_text())
    assert "|" in vocabulary
    heads = [load_file(place / "model.safetensors")["lm_head.weight"] for place in (model, tmp_path / "out")]
    old = json.loads((model / "vocab.json").read_text())
    torch.testing.assert_close(heads[1][vocabulary["s"]], heads[0][old["s"]])
    assert len(heads[1]) == len(vocabulary)
    rows = [row for row in csv.DictReader(table().open()) if row["split"] == "train"]
    report = train(tmp_path / "b", model, table(), vocabulary="keep")
    left_out = {"letters outside the vocabulary": sum(" " in row["sentence"] for row in rows)}
    assert report["data"]["left_out"]["train"] == left_out
    assert json.loads((tmp_path / "b" / "vocab.json").read_text()) == old


@pytest.mark.parametrize(
    ("tokens", "settings", "mended"),
    [
        (["[PAD]", "[UNK]", "|", *LETTERS], {"unk_token": "[UNK]"}, "'[PAD]' as pad_token"),
        ([*SPECIAL, " ", *LETTERS], {}, "' ' as word_delimiter_token"),
    ],
)
def test_tokens_that_the_settings_name_wrongly_are_found(table, tmp_path, caplog, tokens, settings, mended):
    """The tokenizer alone would give them ids beyond the head."""
    model = build_ctc_model(tmp_path / "m", tokens, **settings)
    with caplog.at_level("INFO", "hf_transfer"):
        train(tmp_path / "out", model, table())
    assert mended in caplog.text
    heads = [load_file(place / "model.safetensors")["lm_head.weight"] for place in (model, tmp_path / "out")]
    torch.testing.assert_close(*heads)
    shipped = AutoTokenizer.from_pretrained(tmp_path / "out")
    ids = shipped("go left").input_ids
    assert max(*ids, shipped.pad_token_id) < len(tokens)
    assert shipped.decode([i for each in ids for i in (each, shipped.pad_token_id)]) == "go left"


def test_a_word_delimiter_of_its_own_is_used(tmp_path):
    model = build_ctc_model(tmp_path / "m", [*SPECIAL, "_", *LETTERS], word_delimiter_token="_")
    vocabulary = read_vocabulary(ModelArguments(str(model)))
    assert (vocabulary.fault, vocabulary.letters) == (None, {*LETTERS, " "})
    assert vocabulary.tokenizer("a b").input_ids == [5, 4, 6]


def test_letters_beyond_the_head_are_no_letters(tmp_path):
    model = build_ctc_model(tmp_path / "m", [*SPECIAL, "|", *LETTERS, "é"], classes=5 + 26)
    vocabulary = read_vocabulary(ModelArguments(str(model)))
    assert vocabulary.letters == {*LETTERS, " "}
    assert label_ids(vocabulary.tokenizer, ["né é"], 31) == [[18, 3, 4, 3]]
    assert label_ids(vocabulary.tokenizer, ["né"], 2) == [[]]


@pytest.mark.parametrize(
    ("tokens", "settings", "fault"),
    [
        (LETTERS, {}, "has no class for CTC's blank among the 26 of the head"),
        ([*SPECIAL, "|"], {}, "has special tokens only, and no letters"),
        ([*SPECIAL, "|", "th", *LETTERS], {}, "does not read back what it spells"),
        (
            [*SPECIAL, "a", "th"],
            {"tokenizer_class": "Wav2Vec2PhonemeCTCTokenizer"},
            "writes phones instead of letters",
        ),
    ],
)
def test_a_vocabulary_that_cannot_be_used_is_refused(table, tmp_path, tokens, settings, fault):
    model = build_ctc_model(tmp_path / "m", tokens, **settings)
    with pytest.raises(InputError, match=fault):
        train(tmp_path / "out", model, table(), vocabulary="keep")
    with pytest.raises(InputError, match=fault):
        load_finetuned(model)


def test_a_recogniser_of_phones_learns_letters(table, tmp_path, caplog):
    model = build_ctc_model(tmp_path / "m", [*SPECIAL, "a", "th"], tokenizer_class="Wav2Vec2PhonemeCTCTokenizer")
    with caplog.at_level("INFO", "hf_transfer"):
        train(tmp_path / "out", model, table())
    assert "The checkpoint's tokenizer writes phones instead of letters" in caplog.text
    assert "g" in json.loads((tmp_path / "out" / "vocab.json").read_text())


def test_a_vocabulary_that_cannot_be_read_is_not_thrown_away_in_silence(table, tmp_path):
    model = build_ctc_model(tmp_path / "m", [*SPECIAL, "|", *LETTERS], tokenizer_class="Speech2TextTokenizer")
    with pytest.raises(InputError, match=r'pip install "hf-transfer-learning\[sentencepiece\]"|--vocabulary new'):
        train(tmp_path / "out", model, table())
    train(tmp_path / "out", model, table(), vocabulary="new")
    (model / "vocab.json").write_text("{")
    (model / "tokenizer_config.json").unlink()
    with pytest.raises(InputError, match="the files of its vocabulary cannot be read"):
        train(tmp_path / "b", model, table())


def test_the_blank_is_the_tokenizers(table, tmp_path, caplog):
    model = build_ctc_model(tmp_path / "m", ["|", *LETTERS, "<unk>", "<pad>"])
    with caplog.at_level("INFO", "hf_transfer"):
        train(tmp_path / "out", model, table())
    assert "CTC's blank is class 0 in config.json and class 28 ('<pad>') in the tokenizer" in caplog.text
    assert json.loads((tmp_path / "out" / "config.json").read_text())["pad_token_id"] == 28


def test_tags_and_what_is_left_of_numbers_are_said(speech_model, table, tmp_path, caplog):
    seen = iter(range(1000))
    tags = {1: "[noise] {}", 2: "{} <unk>", 4: "{} [rires]", 5: "{} 50 %", 0: "{{NS}} {}", 3: "{} 50 %"}  # 0, 3: test
    file = table(lambda text: tags.get(next(seen) % 12, "{}").format(text))
    with caplog.at_level("INFO", "hf_transfer"):
        report = train(tmp_path / "out", speech_model(), file, vocabulary="keep")
    assert "train: 12 tags are removed from the transcripts: [noise] x 6, <unk> x 6." in caplog.text
    assert "test: 6 tags are removed from the transcripts: {NS} x 6." in caplog.text
    assert "are kept as words; remove them from the data if nobody says them: [rires] x 6." in caplog.text
    assert report["data"]["left_out"]["train"] == {"letters outside the vocabulary": 6}
    assert "6 of 24 test transcripts hold letters that the vocabulary lacks (5 0 %)" in caplog.text
    references = [json.loads(line)["reference"] for line in (tmp_path / "out" / "predictions.jsonl").open()]
    assert not any("NS" in text.split() for text in references)
    assert sum(text.endswith(" 50 %") for text in references) == 6


# --- languages --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mms(tmp_path_factory):
    return build_mms(tmp_path_factory.mktemp("mms") / "m")


def weights_of(folder, language):
    return load_file(folder / f"adapter.{language}.safetensors")


def differing(model, weights):
    state = model.state_dict()
    return [name for name, value in weights.items() if not torch.allclose(state[name], value, atol=1e-6)]


def igbo(text):
    return text.lower().replace("x", "ị").replace("q", "ọ").replace("o", "ọ")


@pytest.mark.parametrize("method", ["full", "lora", "frozen"])
def test_a_language_comes_with_its_vocabulary_and_weights(mms, table, tmp_path, method):
    out = tmp_path / "out"
    report = train(out, mms, table(igbo), method, target_lang="ibo")
    assert report["newly_initialised"] == []
    assert report["data"]["left_out"]["train"] == {}
    vocabulary = json.loads((out / "vocab.json").read_text())
    assert vocabulary == {"ibo": {token: i for i, token in enumerate(MMS["ibo"])}}
    assert AutoTokenizer.from_pretrained(out).target_lang == "ibo"
    transcribe = load_finetuned(out)
    if method == "full":
        # Nothing else is needed by transformers alone.
        assert differing(AutoModelForCTC.from_pretrained(out), weights_of(mms, "ibo")) == []
        assert differing(transcribe.model, weights_of(mms, "ibo")) == []
    records = [json.loads(line) for line in (out / "predictions.jsonl").open()]
    assert [transcribe(record["audio"])["text"] for record in records[:6]] == [r["prediction"] for r in records[:6]]
    merged = load_finetuned(out, merge=True).model if method == "lora" else transcribe.model
    assert differing(merged, {k: v for k, v in weights_of(mms, "ibo").items() if "norm" in k}) == []


def test_a_language_of_its_own_starts_from_another_ones_weights(mms, table, tmp_path):
    train(tmp_path / "out", mms, table(lambda text: text.lower() + "ß"), "lora", target_lang="ibo", vocabulary="new")
    model = load_finetuned(tmp_path / "out", merge=True).model
    assert differing(model, {k: v for k, v in weights_of(mms, "ibo").items() if "adapter_layer.norm" in k}) == []
    vocabulary = json.loads((tmp_path / "out" / "vocab.json").read_text())
    assert "ß" in vocabulary
    before, after = weights_of(mms, "ibo")["lm_head.weight"], model.lm_head.weight
    torch.testing.assert_close(after[vocabulary["g"]], before[MMS["ibo"].index("g")])
    # And on from there: no adapter file is looked for in the folder that is a base model now.
    train(tmp_path / "full", mms, table(), target_lang="eng")
    train(tmp_path / "again", tmp_path / "full", table(), "lora")
    assert load_finetuned(tmp_path / "again").model.lm_head.out_features == len(MMS["eng"])


def test_languages_are_known_by_name_and_by_their_letters(mms, table, tmp_path, speech_model, caplog):
    with pytest.raises(InputError, match=r"Choose one of: eng, ibo. Did you mean ibo\?"):
        train(tmp_path / "a", mms, table(), target_lang="igbo")
    with pytest.raises(InputError, match="has no languages to choose from"):
        train(tmp_path / "a", speech_model(), table(), target_lang="eng")
    with caplog.at_level("INFO", "hf_transfer"):
        train(tmp_path / "a", mms, table(igbo))
    assert "These languages of the checkpoint have all letters: ibo. --target_lang ibo" in caplog.text


def test_the_weights_follow_the_language_of_the_tokenizer(mms, table, tmp_path):
    """A checkpoint set to a language by its tokenizer alone; one saved with it in place; one trained on from there."""
    shutil.copytree(mms, tmp_path / "set")
    told = json.loads((mms / "tokenizer_config.json").read_text())
    (tmp_path / "set" / "tokenizer_config.json").write_text(json.dumps({**told, "target_lang": "ibo"}))
    train(tmp_path / "a", tmp_path / "set", table(igbo))
    assert differing(AutoModelForCTC.from_pretrained(tmp_path / "a"), weights_of(mms, "ibo")) == []

    model, tokenizer = Wav2Vec2ForCTC.from_pretrained(mms), AutoTokenizer.from_pretrained(mms)
    model.load_adapter("ibo", local_files_only=True)
    tokenizer.set_target_lang("ibo")
    with torch.no_grad():
        model.lm_head.bias += 1
    shutil.copytree(mms, tmp_path / "saved")
    model.save_pretrained(tmp_path / "saved")
    tokenizer.save_pretrained(tmp_path / "saved")
    train(tmp_path / "b", tmp_path / "saved", table(igbo))
    trained = AutoModelForCTC.from_pretrained(tmp_path / "b").lm_head.bias
    torch.testing.assert_close(trained, model.lm_head.bias, atol=1e-6, rtol=0)

    (tmp_path / "saved" / "adapter.eng.safetensors").unlink()
    with pytest.raises(
        InputError, match=r"has a vocabulary but no weights for it \(adapter.eng.safetensors is missing\)"
    ):
        train(tmp_path / "c", tmp_path / "saved", table(), target_lang="eng")
