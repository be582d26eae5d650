"""Audio classification: labels of clips, on every kind of encoder, with what texts and transcripts have."""

import csv
import json

import numpy as np
import pytest
import soundfile
from conftest import DATA, ROOT, write_csv
from processes import fork
from sklearn.metrics import accuracy_score
from speech import FAMILIES, FIXED, RATE, WORDS, build_audio_encoder, tones

from hf_transfer import AudioClassification, InputError, SpeechRecognition, finetune, load_finetuned
from hf_transfer.arguments import ModelArguments
from hf_transfer.arguments.parsing import argument_names
from hf_transfer.inference import evaluate, predict
from hf_transfer.tasks import task_class_for_model

pytestmark = pytest.mark.usefixtures("lean")
FEW = WORDS[:4]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    made = {}

    def get(family="wav2vec2-layer", **changes):
        key = family, *changes.items()
        if key not in made:
            made[key] = build_audio_encoder(tmp_path_factory.mktemp("encoder") / family, family, **changes)
        return made[key]

    return get


@pytest.fixture(scope="module")
def commands(tmp_path_factory):
    """A table of clips that each say one of four words, a third of it for testing."""
    place, source, rows = tmp_path_factory.mktemp("commands"), np.random.default_rng(0), []
    for i in range(72):
        word = FEW[i % 4]
        samples = tones(word, shift=1 + (i % 5) / 50)
        soundfile.write(place / f"{i}.wav", samples + source.normal(scale=0.003, size=len(samples)), RATE)
        rows.append({"path": f"{i}.wav", "command": word, "loud": i % 2, "long": len(word), "speaker": f"s{i % 9}",
                     "split": "test" if i % 3 == 0 else "train"})  # fmt: skip
    return write_csv(place / "clips.csv", rows)


def train(output, model, table, task=None, **arguments):
    settings = {"max_steps": 8, "learning_rate": 3e-3, "logging_steps": 4, "per_device_train_batch_size": 8}
    task = task or AudioClassification(label_column_name="command")
    return finetune(task, model_name_or_path=str(model), train_file=str(table), output_dir=str(output),
                    disable_tqdm=True, **{**settings, **arguments})  # fmt: skip


def records_of(folder):
    return [json.loads(line) for line in (folder / "predictions.jsonl").open()]


@pytest.mark.parametrize(("family", "method"), [
    *(("wav2vec2-layer", method) for method in ("full", "lora", "frozen", "scratch")),
    *((family, "lora") for family in ("wavlm", *FIXED)), *((family, "frozen") for family in ("wav2vec2-bert", *FIXED)),
    ("wav2vec2-group", "full"), ("whisper", "full"),
])  # fmt: skip
def test_every_kind_of_encoder_is_trained_measured_read_back_and_used(encoder, commands, tmp_path, family, method):
    result = train(tmp_path / "out", encoder(family), commands, method=method)
    report, records = result.report, records_of(tmp_path / "out")
    assert report["task"] == "audio-classification"
    assert report["parity"]["max_difference"] < 1e-4
    assert report["metrics"]["accuracy"] == accuracy_score(*([r[k] for r in records] for k in ("label", "prediction")))
    assert report["data"]["labels"] == sorted(FEW)
    assert report["data"]["hours"]["test"] > 0
    files = [str(commands.parent / record["audio"]) for record in records]
    found = list(predict(load_finetuned(tmp_path / "out"), [{"audio": file} for file in files]))
    assert [one["label"] for one in found] == [record["prediction"] for record in records]
    for one, record in zip(found, records, strict=True):
        assert one["scores"] == pytest.approx(record["scores"], abs=1e-4)
    measured = evaluate(tmp_path / "out", str(commands))
    assert measured["metrics"] == pytest.approx(report["metrics"], abs=1e-4)


@pytest.mark.parametrize(("family", "layers"), [
    *((name, 0) for name in (*FAMILIES, "ast") if name not in ("mms", "hubert")), ("wav2vec2-group", 1), ("ast", 1),
])  # fmt: skip
def test_a_frozen_trunk_is_computed_once(encoder, commands, tmp_path, monkeypatch, family, layers):
    """And the head learns what it learns where each step computes it."""
    settings = {"method": "frozen", "trainable_layers": layers, "seed": 3}
    cached = train(tmp_path / "cached", encoder(family), commands, **settings).report
    # A conformer's convolution makes an example depend on its neighbours.
    entered = family != "wav2vec2-conformer"
    assert cached["training"]["cached_activations"] == entered
    monkeypatch.setattr("hf_transfer.training.activations.feature_cache.FeatureCache.enter", lambda *_: False)
    live = train(tmp_path / "live", encoder(family), commands, **settings).report
    assert not live["training"]["cached_activations"]
    for one, other in zip(records_of(tmp_path / "cached"), records_of(tmp_path / "live"), strict=True):
        assert one["scores"] == pytest.approx(other["scores"], abs=2e-3)


def test_several_labels_numbers_and_weights(encoder, commands, tmp_path):
    rows = [{"path": str(commands.parent / f"{i}.wav"), "what": ["low", "high"][: 1 + i % 2]} for i in range(24)]
    file = tmp_path / "several.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = train(tmp_path / "several", encoder(), file, AudioClassification(label_column_name="what")).report
    assert report["data"]["multi_label"]
    assert "f1_micro" in report["metrics"]
    number = AudioClassification(label_column_name="long", problem_type="regression")
    report = train(tmp_path / "number", encoder(), commands, number, max_steps=60).report
    assert report["metrics"]["mean_absolute_error"] < report["data"]["always_mean"]["mean_absolute_error"]
    found = load_finetuned(tmp_path / "number")(str(commands.parent / "0.wav"))
    assert found[0]["score"] == pytest.approx(records_of(tmp_path / "number")[0]["prediction"], abs=1e-4)
    weighted = AudioClassification(label_column_name="loud", class_weights="balanced", threshold="0.6")
    report = train(tmp_path / "weighted", encoder(), commands, weighted).report
    assert report["decision"]["threshold"] == 0.6


@pytest.mark.parametrize("family", ["wav2vec2-layer", "wav2vec2-group", "ast"])
def test_long_recordings_are_heard_in_windows_everywhere(encoder, commands, tmp_path, family, caplog):
    task = AudioClassification(label_column_name="command", max_seconds=2.0)
    train(tmp_path / "out", encoder(family), commands, task)
    model = tmp_path / "out"
    config = json.loads((model / "config.json").read_text())
    config["whole_seconds"] = whole = 1.0
    (model / "config.json").write_text(json.dumps(config))
    source, rows = np.random.default_rng(1), []
    for i, seconds in enumerate([0.4, 0.99, 1.0, 1.01, 1.5, 3.7]):
        soundfile.write(tmp_path / f"{i}.wav", source.normal(scale=0.1, size=int(seconds * RATE)), RATE)
        rows.append({"path": f"{i}.wav", "command": FEW[i % 4]})
    table = write_csv(tmp_path / "long.csv", rows)
    longest = {"max_seconds": 10.0} if family != "ast" else {}  # which hears a second at most, and leaves out the rest
    measured = evaluate(model, str(table), **longest)
    pipeline = load_finetuned(model)
    caplog.clear()
    with caplog.at_level("INFO", "hf_transfer"):
        found = list(predict(pipeline, [{"audio": str(tmp_path / row["path"])} for row in rows]))
    assert caplog.text.count("split into windows of that length, one every 0.5 s") == 1
    used = range(6) if longest else range(3)
    assert measured["examples"] == len(used)
    right = [found[i]["label"] == rows[i]["command"] for i in used]
    assert measured["metrics"]["accuracy"] == pytest.approx(np.mean(right))
    samples, _ = soundfile.read(tmp_path / "4.wav", dtype="int16")
    windows = [samples[: int(whole * RATE)], samples[-int(whole * RATE) :]]
    each = [pipeline.forward(pipeline.preprocess({"array": w, "sampling_rate": RATE}))["logits"] for w in windows]
    mean = pipeline.forward(pipeline.preprocess(str(tmp_path / "4.wav")))["logits"]
    np.testing.assert_allclose(mean.cpu(), sum(each).cpu() / 2, atol=1e-4)


def test_clips_without_a_label_are_refused_unless_they_may_be_left_out(encoder, commands, tmp_path):
    rows = [{"audio": str(commands.parent / f"{i}.wav"), "label": FEW[i % 4] if i != 7 else ""} for i in range(40)]
    table = write_csv(tmp_path / "t.csv", rows)
    with pytest.raises(
        InputError, match=r"1 of 40 rows in the train split cannot be used \(row 8: no label: label is"
    ):
        train(tmp_path / "out", encoder(), table, AudioClassification())
    report = train(tmp_path / "out", encoder(), table, AudioClassification(), drop_incomplete=True).report
    assert report["data"]["left_out"]["train"] == {"no label": 1}
    assert sum(report["data"]["examples"].values()) == 39


def test_a_folder_for_each_label_is_read(encoder, commands, tmp_path):
    for split, numbers in (("train", range(1, 72, 3)), ("test", range(0, 72, 3))):
        for i in numbers:
            place = tmp_path / "folder" / split / FEW[i % 4]
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{i}.wav").write_bytes((commands.parent / f"{i}.wav").read_bytes())
    result = finetune(AudioClassification(), model_name_or_path=str(encoder()), dataset_name=str(tmp_path / "folder"),
                      output_dir=str(tmp_path / "out"), max_steps=2, disable_tqdm=True)  # fmt: skip
    assert result.report["data"]["labels"] == sorted(FEW)
    assert result.report["data"]["examples"]["test"] == 24


def test_a_clip_with_two_labels_is_named(encoder, commands, tmp_path, caplog):
    rows = list(csv.DictReader(commands.open()))
    rows = [{**row, "path": str(commands.parent / row["path"])} for row in rows]
    table = write_csv(
        tmp_path / "t.csv", [*rows, {**rows[1], "command": "OFF" if rows[1]["command"] != "OFF" else "ON"}]
    )
    report = train(tmp_path / "out", encoder(), table, max_steps=1).report
    assert "1 example has different labels in different rows: no model can predict both." in report["data"]["caveats"]
    assert f"(the clip '{rows[1]['path']}' is '" in caplog.text


@pytest.mark.usefixtures("with_page")
def test_the_page_plays_clips_and_the_card_says_how_to_use_it(encoder, commands, tmp_path):
    train(tmp_path / "out", encoder(), commands)
    page, card = ((tmp_path / "out" / name).read_text() for name in ("report.html", "README.md"))
    assert '<audio controls preload="none" src="data:audio' in page
    assert "hf-transfer train audio-classification --config" in page
    assert 'classify("clip.wav")' in card
    assert "pipeline_tag: audio-classification" in card


def test_compare_takes_the_task_that_the_given_columns_belong_to(encoder, commands, tmp_path):
    flags = ("--train_file", commands, "--label_column_name", "command", "--max_steps", "2")
    done = fork("-m", "hf_transfer.cli", "compare", "--model_name_or_path", encoder(), *flags,
                "--methods", "frozen", "--seeds", "1", "--output_dir", tmp_path / "out")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "audio-classification is taken" in done.stderr
    assert json.loads((tmp_path / "out" / "comparison.json").read_text())["task"] == "audio-classification"


@pytest.mark.parametrize(("flags", "task_class"), [
    (("--label_column_name", "accent"), AudioClassification),
    (("--text_column_name", "sentence"), SpeechRecognition),
    (("--config", "recipes/command.yaml"), AudioClassification),
    (("--config", "recipes/accent.yaml"), SpeechRecognition),
    ((), SpeechRecognition),
])  # fmt: skip
def test_a_model_for_several_tasks_has_the_task_of_the_given_flags(encoder, flags, task_class):
    config = flags[1] if "--config" in flags else None
    model = ModelArguments(model_name_or_path=str(encoder()))
    assert task_class_for_model(model, argument_names(flags, config and str(ROOT / config))) is task_class


@pytest.mark.skipif(not (DATA / "fsdd").is_dir(), reason="needs the Free Spoken Digit Dataset")
def test_real_digits_are_learned_by_a_head_alone(tmp_path):
    model = DATA.parent / "models" / "wav2vec2-tiny-digits-american"
    task = AudioClassification(label_column_name="transcription")
    result = finetune(task, model_name_or_path=str(model), dataset_name=str(DATA / "fsdd"), method="frozen", seed=1,
                      group_column_name="accent", target_group=["german"], output_dir=str(tmp_path / "out"),
                      disable_tqdm=True, max_steps=400)  # fmt: skip
    assert result.report["metrics"]["accuracy"] >= 0.87
