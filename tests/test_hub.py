"""Pushing to a Hub on loopback with the real client, and reading back from it."""

import json

import pytest
from conftest import build_model, message_rows, start, write_csv
from hub_server import TOKEN, running_hub

# Reads a model from the Hub with plain transformers and with load_finetuned.
READ_BACK = """
import json, sys
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from hf_transfer import load_finetuned
name, text = sys.argv[1:]
if "adapter" not in name:
    model = AutoModelForSequenceClassification.from_pretrained(name)
    assert model.config.id2label == {0: "ham", 1: "spam"}
    assert len(AutoTokenizer.from_pretrained(name)(text)["input_ids"]) > 2
print(json.dumps(load_finetuned(name)(text)[0]))
"""


@pytest.fixture
def hub():
    with running_hub() as hub:
        yield hub


def train(tmp_path, hub, *flags, name="out"):
    model = tmp_path / "model"
    if not model.exists():
        build_model(model, "bert")
    file = write_csv(tmp_path / "m.csv", message_rows(60))
    return start(
        "recipes/spam.py", "--train_file", file, "--model_name_or_path", model, "--output_dir", tmp_path / name,
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
    read = start("-c", READ_BACK, "tester/spam", expected["text"], **hub.environment, HF_HOME=str(tmp_path / "other"))
    assert read.returncode == 0, read.stderr
    assert json.loads(read.stdout) == {
        "label": expected["prediction"], "score": pytest.approx(expected["score"], abs=1e-5),
    }  # fmt: skip
    worst = json.loads((tmp_path / "out" / "report.json").read_text())["worst"][0]["text"]
    assert worst in (tmp_path / "out" / "report.html").read_text()
    assert worst not in files["report.html"].decode()
    assert worst not in files["report.json"].decode()
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


def test_adapters_are_pushed_as_they_are_or_merged(hub, tmp_path):
    done = train(tmp_path, hub, "--method", "lora", "--push_to_hub", "--hub_model_id", "tester/adapter")
    assert done.returncode == 0, done.stderr
    assert "adapter_model.safetensors" in hub.repositories["tester/adapter"]
    assert "model.safetensors" not in hub.repositories["tester/adapter"]
    pushed = start("-m", "hf_transfer.cli", "push", tmp_path / "out", "--hub_model_id", "tester/plain", "--merge",
                   **hub.environment)  # fmt: skip
    assert pushed.returncode == 0, pushed.stderr
    plain = hub.repositories["tester/plain"]
    assert "model.safetensors" in plain
    assert not [name for name in plain if name.startswith("adapter")]
    assert "library_name: transformers" in plain["README.md"].decode()
    expected = first_prediction(tmp_path / "out")
    for name in ("tester/adapter", "tester/plain"):
        read = start("-c", READ_BACK, name, expected["text"], **hub.environment, HF_HOME=str(tmp_path / "other"))
        assert read.returncode == 0, read.stderr
        assert json.loads(read.stdout)["score"] == pytest.approx(expected["score"], abs=1e-4)


def test_only_finished_runs_are_pushed(command, tmp_path):
    result = command("push", tmp_path)
    assert result.code == 2
    assert "no report.json" in result.err


def test_a_second_push_leaves_no_weights_of_the_first(hub, tmp_path):
    for name, method in (("first", "lora"), ("second", "full")):
        done = train(tmp_path, hub, "--method", method, "--push_to_hub", "--hub_model_id", "tester/spam", name=name)
        assert done.returncode == 0, done.stderr
    assert "model.safetensors" in hub.repositories["tester/spam"]
    assert not [name for name in hub.repositories["tester/spam"] if name.startswith("adapter")]
