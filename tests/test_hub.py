"""Pushing to a Hub on loopback with the real client, and reading back from it."""

import json

import pytest
from conftest import build_model, message_rows, write_csv
from hub_server import TOKEN, running_hub
from processes import start

from hf_transfer import TextClassification, finetune

# Reads a model from the Hub with plain transformers and with load_finetuned.
READ_BACK = """
import json, sys
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from hf_transfer import load_finetuned
text, *names = sys.argv[1:]
for name in names:
    if "adapter" not in name:
        model = AutoModelForSequenceClassification.from_pretrained(name)
        assert model.config.id2label == {0: "ham", 1: "spam"}
        assert len(AutoTokenizer.from_pretrained(name)(text)["input_ids"]) > 2
    print(json.dumps(load_finetuned(name)(text)[0]))
"""
PUSH_SEVERAL = """
import sys
from hf_transfer import push
adapter, full = sys.argv[1:]
push(adapter, "tester/adapter")
push(adapter, "tester/plain", merge=True)
push(adapter, "tester/second")
push(full, "tester/second")
"""


@pytest.fixture
def hub():
    with running_hub() as hub:
        yield hub


@pytest.fixture(scope="module")
def trained(tiny, tmp_path_factory):
    """An adapter's folder, and one with every weight."""
    place = tmp_path_factory.mktemp("trained")
    file = write_csv(place / "m.csv", message_rows(60))
    return [
        finetune(TextClassification(), train_file=str(file), model_name_or_path=str(tiny()), method=method,
                 output_dir=str(place / method), max_steps=2, disable_tqdm=True).folder
        for method in ("lora", "full")
    ]  # fmt: skip


def train(tmp_path, hub, *flags):
    model = tmp_path / "model"
    if not model.exists():
        build_model(model, "bert")
    file = write_csv(tmp_path / "m.csv", message_rows(60))
    return start(
        "recipes/spam.py", "--train_file", file, "--model_name_or_path", model, "--output_dir", tmp_path / "out",
        "--max_steps", 2, *flags, **hub.environment, HF_HOME=str(tmp_path / "home"),
    )  # fmt: skip


def first_prediction(folder):
    return json.loads((folder / "predictions.jsonl").read_text().splitlines()[0])


def test_a_recipe_pushes_weights_card_and_metrics(hub, tmp_path):
    done = train(tmp_path, hub, "--push_to_hub", "--hub_model_id", "tester/spam")
    assert done.returncode == 0, done.stderr
    files = hub.repositories["tester/spam"]
    # The test split's texts stay at home.
    assert set(files) == {path.name for path in (tmp_path / "out").iterdir()} - {"predictions.jsonl"}
    assert hub.commits == ["tester/spam"]  # one commit: never weights without their card
    card = files["README.md"].decode()
    assert "pipeline_tag: text-classification" in card
    assert 'load_finetuned("tester/spam")' in card
    expected = first_prediction(tmp_path / "out")
    read = start("-c", READ_BACK, expected["text"], "tester/spam", **hub.environment, HF_HOME=str(tmp_path / "other"))
    assert read.returncode == 0, read.stderr
    assert json.loads(read.stdout) == {
        "label": expected["prediction"], "score": pytest.approx(expected["score"], abs=1e-5),
    }  # fmt: skip
    worst = json.loads((tmp_path / "out" / "report.json").read_text())["worst"][0]["text"]
    assert worst in (tmp_path / "out" / "report.html").read_text()
    assert worst not in files["report.html"].decode()
    assert worst not in files["report.json"].decode()
    assert not [name for name, content in files.items() if str(tmp_path) in content.decode(errors="replace")]
    for text in [done.stdout, done.stderr, *(f.read_text(errors="replace") for f in (tmp_path / "out").iterdir())]:
        assert TOKEN not in text


def test_a_failed_push_loses_nothing_and_can_be_tried_again(hub, tmp_path):
    hub.refuse_commits = True
    done = train(tmp_path, hub, "--push_to_hub", "--hub_model_id", "tester/spam")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    again = f"hf-transfer push {tmp_path / 'out'} --hub_model_id tester/spam"
    assert again in done.stderr
    assert (tmp_path / "out" / "report.json").exists()
    assert (tmp_path / "out" / "README.md").exists()
    assert hub.repositories["tester/spam"] == {}
    hub.refuse_commits = False
    pushed = start("-m", "hf_transfer.cli", *again.split()[1:], **hub.environment)
    assert pushed.returncode == 0, pushed.stderr
    assert "/tester/spam/commit/" in pushed.stdout
    assert "report.json" in hub.repositories["tester/spam"]


def test_a_hub_that_refuses_the_login_is_found_before_training(hub, tmp_path):
    hub.token = "hf_another"
    done = train(tmp_path, hub, "--push_to_hub")
    assert done.returncode == 2
    assert "Nothing was trained" in done.stderr
    assert not (tmp_path / "out").exists()


def test_adapters_are_pushed_as_they_are_or_merged_and_leave_nothing_to_the_next(hub, trained, tmp_path):
    pushed = start("-c", PUSH_SEVERAL, *trained, **hub.environment)
    assert pushed.returncode == 0, pushed.stderr
    assert "adapter_model.safetensors" in hub.repositories["tester/adapter"]
    assert "model.safetensors" not in hub.repositories["tester/adapter"]
    for name in ("tester/plain", "tester/second"):
        plain = hub.repositories[name]
        assert "model.safetensors" in plain
        assert not [name for name in plain if name.startswith("adapter")]
        assert "library_name: transformers" in plain["README.md"].decode()
    expected = first_prediction(trained[0])
    read = start("-c", READ_BACK, expected["text"], "tester/adapter", "tester/plain", **hub.environment,
                 HF_HOME=str(tmp_path / "other"))  # fmt: skip
    assert read.returncode == 0, read.stderr
    for line in read.stdout.splitlines():
        assert json.loads(line)["score"] == pytest.approx(expected["score"], abs=1e-4)
    assert len(read.stdout.splitlines()) == 2


def test_only_finished_runs_are_pushed(command, tmp_path):
    result = command("push", tmp_path)
    assert result.code == 2
    assert "no report.json" in result.err
