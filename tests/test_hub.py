"""Pushing to a Hub on loopback with the real client, and reading back from it."""

import json
import re
import shutil

import pytest
import yaml
from conftest import build_model, message_rows, write_csv
from hub_server import TOKEN, running_hub
from processes import fork, forked_with
from speech import write_clips

from hf_transfer import InputError, SpeechRecognition, TextClassification, finetune
from hf_transfer.arguments.parsing import make_arguments
from hf_transfer.hub import _published_files, repository_name, require_repository, write_merged
from hf_transfer.reporting.publishing import without_paths

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
import logging, sys
from hf_transfer import InputError, push
logging.basicConfig(level=logging.INFO)
adapter, full = sys.argv[1:]
try:
    push(adapter, "tester/adapter", base_model="tester/no")
except InputError as error:
    print(error)
push(adapter, "tester/adapter", base_model="tester/base")
push(adapter, "tester/plain", merge=True)
push(adapter, "tester/second", base_model="tester/base")
push(full, "tester/second")
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A Hub, and a process to fork from that has imported the client with the variables of that Hub."""
    home = tmp_path_factory.mktemp("home")
    with running_hub() as hub, forked_with(
        **hub.environment, HF_HOME=str(home), HF_DATASETS_CACHE=str(home / "datasets")
    ):  # fmt: skip
        yield hub


@pytest.fixture
def hub(server):
    server.forget()
    return server


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


def train(tmp_path, *flags):
    model = tmp_path / "model"
    if not model.exists():
        build_model(model, "bert")
    file = write_csv(tmp_path / "m.csv", message_rows(60))
    return fork(
        "recipes/spam.py", "--train_file", file, "--model_name_or_path", model, "--output_dir", tmp_path / "out",
        "--max_steps", 2, *flags,
    )  # fmt: skip


def first_prediction(folder):
    return json.loads((folder / "predictions.jsonl").read_text().splitlines()[0])


def test_a_recipe_pushes_weights_card_and_metrics(hub, tmp_path):
    done = train(tmp_path, "--push_to_hub", "--hub_model_id", "tester/spam")
    assert done.returncode == 0, done.stderr
    files = hub.repositories["tester/spam"]
    # The test split's texts stay at home.
    assert set(files) == {path.name for path in (tmp_path / "out").iterdir()} - {"predictions.jsonl"}
    assert hub.commits == ["tester/spam"]  # one commit: never weights without their card
    card = files["README.md"].decode()
    assert "pipeline_tag: text-classification" in card
    assert 'load_finetuned("tester/spam")' in card
    expected = first_prediction(tmp_path / "out")
    read = fork("-c", READ_BACK, expected["text"], "tester/spam")
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
    done = train(tmp_path, "--push_to_hub", "--hub_model_id", "tester/spam")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    again = f"hf-transfer push {tmp_path / 'out'} --hub_model_id tester/spam"
    assert again in done.stderr
    assert (tmp_path / "out" / "report.json").exists()
    assert (tmp_path / "out" / "README.md").exists()
    assert hub.repositories["tester/spam"] == {}
    hub.refuse_commits = False
    pushed = fork("-m", "hf_transfer.cli", *again.split()[1:])
    assert pushed.returncode == 0, pushed.stderr
    assert "/tester/spam/commit/" in pushed.stdout
    assert "report.json" in hub.repositories["tester/spam"]


def test_a_hub_that_refuses_the_login_is_found_before_training(hub, tmp_path):
    hub.token = "hf_another"
    done = train(tmp_path, "--push_to_hub")
    assert done.returncode == 2
    assert "Nothing was trained" in done.stderr
    assert not (tmp_path / "out").exists()


def test_adapters_are_pushed_as_they_are_or_merged_and_leave_nothing_to_the_next(hub, trained, tiny, tmp_path):
    hub.repositories["tester/base"] = {path.name: path.read_bytes() for path in tiny().iterdir()}
    for name in OTHERS:
        (trained[1] / name).parent.mkdir(exist_ok=True)
        (trained[1] / name).write_text("TOKEN=hf_secret")
    notes = {"adapter_notes.md": b"mine", "model.safetensors.md": b"mine"}
    old = ("model-00001-of-00002.safetensors", "model.safetensors.index.json", "pytorch_model.bin")
    hub.repositories["tester/second"] = {**notes, **dict.fromkeys(old, b"weights")}
    pushed = fork("-c", PUSH_SEVERAL, *trained)
    assert pushed.returncode == 0, pushed.stderr
    assert "--base_model tester/no: there is no such model on the Hub" in pushed.stdout
    assert "Not uploaded, because the run did not write them: .env, .git" in pushed.stderr
    assert not [name for files in hub.repositories.values() for name in OTHERS if name in files]
    assert "adapter_model.safetensors" in hub.repositories["tester/adapter"]
    assert "model.safetensors" not in hub.repositories["tester/adapter"]
    assert notes.items() <= hub.repositories["tester/second"].items()
    assert not set(old) & hub.repositories["tester/second"].keys()
    for name in ("tester/plain", "tester/second"):
        plain = {name: content for name, content in hub.repositories[name].items() if name not in notes}
        assert "model.safetensors" in plain
        assert not [name for name in plain if name.startswith("adapter")]
        assert "library_name: transformers" in plain["README.md"].decode()
    expected = first_prediction(trained[0])
    read = fork("-c", READ_BACK, expected["text"], "tester/adapter", "tester/plain")
    assert read.returncode == 0, read.stderr
    for line in read.stdout.splitlines():
        assert json.loads(line)["score"] == pytest.approx(expected["score"], abs=1e-4)
    assert len(read.stdout.splitlines()) == 2


def test_only_finished_runs_are_pushed(command, tmp_path):
    result = command("push", tmp_path)
    assert result.code == 2
    assert "no report.json" in result.err


def test_an_adapter_of_a_local_base_model_is_named_merged_or_refused(trained, command, tiny):
    """Before anything is uploaded, and before anything is trained."""
    result = command("push", trained[0], "--hub_model_id", "tester/adapter")
    assert result.code == 2
    assert "Upload plain weights (--merge), or name the same model on the Hub (--base_model" in result.err
    arguments = make_arguments(
        TextClassification(),
        {
            "model_name_or_path": str(tiny()),
            "train_file": "t.csv",
            "method": "lora",
            "push_to_hub": True,
            "output_dir": "x",
        },
    )
    with pytest.raises(InputError, match="which others cannot load"):
        require_repository(arguments)


# What lies beside a run's files in the folders of those who work in them.
OTHERS = (".env", "notes.txt", "analysis.ipynb", "checkpoint-5/model.safetensors", "id_rsa", "optimizer.pt",
          "model.safetensors.orig", "data.json", "handler.py", ".git/config", "config.json.bak")  # fmt: skip


@pytest.fixture(scope="module")
def at_home(tiny, speech_model, tmp_path_factory):
    """Runs of a person whose home is somewhere, told by absolute and relative paths, with other files beside."""
    home = tmp_path_factory.mktemp("home") / "annamueller77"
    (home / "private").mkdir(parents=True)
    rows = [{**row, "channel": f"quux{i % 2}"} for i, row in enumerate(message_rows(60))]
    texts = write_csv(home / "private" / "mails.csv", rows)
    clips = write_clips(home / "private" / "clips", 24)
    table = write_csv(home / "private" / "clips" / "t.tsv", clips, delimiter="\t")
    common = {"max_steps": 2, "disable_tqdm": True, "run_name": str(home / "name")}
    folders = []
    for task, method, model, file in (
        (TextClassification(), "full", tiny(), texts), (TextClassification(), "lora", tiny(), texts),
        (SpeechRecognition(), "full", speech_model(), table),
    ):  # fmt: skip
        own = shutil.copytree(model, home / "private" / f"base-{len(folders)}")
        out = home / "private" / f"run-{len(folders)}"
        finetune(task, train_file=str(file), model_name_or_path=str(own), method=method, output_dir=str(out), **common)
        for name in OTHERS:
            (out / name).parent.mkdir(exist_ok=True)
            (out / name).write_text("TOKEN=hf_secret")
        folders.append(out)
    return home, folders


@pytest.mark.parametrize("which", ["full", "adapter", "merged", "speech"])
def test_no_byte_of_a_push_tells_of_the_machine_or_of_the_test_texts(at_home, which, monkeypatch):
    home, (full, adapter, speech) = at_home
    folder = {"full": full, "speech": speech}.get(which, adapter)
    monkeypatch.chdir(home)  # relative paths mean something here
    source = folder
    if which == "merged":
        source = home / "merged"
        write_merged(folder, source)
    files = _published_files(source, "tester/x", ("tester/base", "c" * 40) if which == "adapter" else None)
    written = set(json.loads((source / "report.json").read_text())["files"])
    assert set(files) == written - {"predictions.jsonl"}
    assert not set(OTHERS) & written
    records = [json.loads(line) for line in (folder / "predictions.jsonl").open()]
    texts = [record[key] for record in records for key in ("text", "reference", "audio") if key in record]
    texts = [text for text in texts if len(text) > 6]  # shorter ones are in weights, by chance
    errors = json.loads((folder / "report.json").read_text()).get("errors", {})
    heard = [
        each[key] for kind in errors.values() for each in kind for key in ("reference", "hypothesis") if key in each
    ]
    if which == "speech":
        assert heard
        for name in ("README.md", "report.json", "report.html"):
            words = set(re.findall(r"\w+", files[name].decode()))
            assert not [each for each in heard if each and len(each) > 3 and each in words], name
    for name, content in files.items():
        content = content if isinstance(content, bytes) else content.read_bytes()
        for hidden in ("annamueller77", "private", str(home), "hf_secret", *texts):
            assert hidden.encode() not in content, (name, hidden)
    if which == "adapter":
        assert json.loads(files["adapter_config.json"])["base_model_name_or_path"] == "tester/base"
        assert "base_model: tester/base" in files["README.md"].decode()


def test_paths_of_other_systems_stay_at_home_too(at_home, tmp_path):
    """A folder that was written on Windows, pushed from here."""
    _, (full, *_) = at_home
    folder = shutil.copytree(full, tmp_path / "moved")
    report = json.loads((folder / "report.json").read_text())
    windows = {"model_name_or_path": "C:\\Users\\Anna M\\models\\bert", "train_file": "D:\\data\\mails.csv",
               "output_dir": "runs\\moved", "test_file": "\\\\server\\share\\t.csv"}  # fmt: skip
    told = yaml.safe_load((folder / "arguments.yaml").read_text()) | windows
    (folder / "arguments.yaml").write_text(yaml.safe_dump(told))
    report |= {"model": windows["model_name_or_path"], "local": {"model": True, "dataset": True}}
    (folder / "report.json").write_text(json.dumps(report))
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(
        json.dumps({**config, "name_or_path": "C:/Users/Anna M/models/bert"})
    )
    files = _published_files(folder, "tester/x", None)
    for name, content in files.items():
        content = content if isinstance(content, bytes) else content.read_bytes()
        for hidden in (b"Anna M", b"data\\", b"server", b"runs\\", b"Users"):
            assert hidden not in content, (name, hidden)
    assert yaml.safe_load(files["arguments.yaml"])["train_file"] == "mails.csv"


# Train on a model and a dataset of the Hub; once these have changed, the run is repeated in another cache.
ON_THE_HUB = """
import sys
from pathlib import Path
import datasets, huggingface_hub.constants
from hf_transfer import TextClassification, finetune
place = Path(sys.argv[1])
huggingface_hub.constants.HF_HUB_CACHE = str(place / sys.argv[2] / "hub")
datasets.config.HF_DATASETS_CACHE = place / sys.argv[2] / "datasets"
common = dict(model_name_or_path="tester/base", dataset_name="tester/mails", method="lora", max_steps=2)
"""
TRAINED = (
    ON_THE_HUB
    + """
finetune(TextClassification(), **common, output_dir=str(place / "out"))
"""
)
FINISHED = (
    ON_THE_HUB
    + """
finetune(TextClassification(), **common, output_dir=str(place / "out"), resume_from_checkpoint="true")
"""
)
REPEATED = (
    ON_THE_HUB
    + """
from hf_transfer.arguments.parsing import parse_arguments
arguments = parse_arguments(TextClassification, ["--config", str(place / "out" / "arguments.yaml"), "--output_dir",
                                                 str(place / "again")])
finetune(arguments.task, arguments)
"""
)


def test_a_run_is_repeated_on_the_hubs_content_of_its_day(hub, tiny, tmp_path):
    """Model and dataset have moved on since; `arguments.yaml` names the commits."""
    hub.repositories["tester/base"] = {path.name: path.read_bytes() for path in tiny().iterdir()}
    table = write_csv(tmp_path / "m.csv", message_rows(60)).read_bytes()
    hub.repositories["datasets/tester/mails"] = {"train.csv": table}
    done = fork("-c", TRAINED, tmp_path, "home")
    assert done.returncode == 0, done.stderr
    hub.move_on("d" * 40)
    hub.repositories["tester/base"]["model.safetensors"] = b"broken"
    hub.repositories["datasets/tester/mails"]["train.csv"] = table.replace(b"ham", b"news")
    for program, cache in ((FINISHED, "home"), (REPEATED, "other")):
        done = fork("-c", program, tmp_path, cache)
        assert done.returncode == 0, done.stderr
    told = yaml.safe_load((tmp_path / "out" / "arguments.yaml").read_text())
    assert (told["model_revision"], told["dataset_revision"]) == ("c" * 40, "c" * 40)
    adapter = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (adapter["base_model_name_or_path"], adapter["revision"]) == ("tester/base", "c" * 40)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["commits"] == {"model": {"revision": "main", "commit": "c" * 40},
                                 "dataset": {"revision": None, "commit": "c" * 40}}  # fmt: skip
    first, second = ((tmp_path / name / "predictions.jsonl").read_text() for name in ("out", "again"))
    assert first == second


def test_labels_that_look_like_paths_are_published_as_they_are(tiny, tmp_path):
    rows = [{**row, "label": f"/r/{row['label']}", "channel": "/home/channel"} for row in message_rows(60)]
    file = write_csv(tmp_path / "m.csv", rows)
    task = TextClassification(positive_label="/r/spam")
    folder = finetune(task, train_file=str(file), output_dir=str(tmp_path / "o"), model_name_or_path=str(tiny()),
                      method="frozen", group_column_name="channel", max_steps=1, disable_tqdm=True).folder  # fmt: skip
    files = _published_files(folder, "tester/x", None)
    report = json.loads(files["report.json"])
    assert set(report["data"]["labels"]) == {"/r/ham", "/r/spam"}
    assert "/home/channel" in report["groups"]
    assert yaml.safe_load(files["arguments.yaml"])["positive_label"] == "/r/spam"
    written = [content for content in files.values() if isinstance(content, bytes)]
    assert not any(str(tmp_path).encode() in content for content in written)
    hidden = {"cache_dir": "/var/x/y", "tokenizer_file": "C:\\x\\y", "paths": ["/a/y"], "note": "/r/ham"}
    assert without_paths(hidden, {}) == {"cache_dir": "y", "tokenizer_file": "y", "paths": ["y"], "note": "/r/ham"}


def test_a_repository_is_named_as_the_output_folder(tmp_path, monkeypatch):
    (tmp_path / "spam").mkdir()
    monkeypatch.chdir(tmp_path / "spam")
    assert [repository_name(None, place) for place in (".", "../spam/", tmp_path / "spam")] == ["spam"] * 3
    assert repository_name("me/x", ".") == "me/x"
