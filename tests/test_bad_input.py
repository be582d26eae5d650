"""Bad input: exit code 2, one message that says what was expected, what was found and what to do; nothing written."""

import errno
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import build_tokenizer, message_rows, write_csv
from datasets import Dataset
from processes import fork

from hf_transfer import InputError, TextClassification, finetune

pytestmark = pytest.mark.usefixtures("lean")

ROWS = message_rows(40)


@pytest.fixture
def refused(recipe, tiny, tmp_path):
    """Run the recipe on bad input; returns its message after checking the manners."""

    def run(*arguments, says):
        output = tmp_path / "out"
        given = [str(argument) for argument in arguments]
        defaults = ["--output_dir", output] if "--output_dir" not in given else []
        defaults += ["--model_name_or_path", tiny()] if "--model_name_or_path" not in given else []
        result = recipe("spam", *given, *defaults, "--max_steps", 1)
        assert result.code == 2, result.err
        assert "Traceback" not in result.err
        (message,) = [line for line in result.err.splitlines() if line.startswith("error: ")]
        assert message == result.err.splitlines()[-1]
        for part in [says] if isinstance(says, str) else says:
            assert part in message, message
        assert not output.exists()
        assert not output.with_name("out.partial").exists()
        return message

    return run


def table(tmp_path, text, name="m.csv"):
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return tmp_path / name


def test_missing_file_names_its_neighbours(refused, tmp_path):
    write_csv(tmp_path / "messages.csv", ROWS)
    refused("--train_file", tmp_path / "mesages.csv", says=["no such file", "messages.csv"])


@pytest.mark.parametrize(
    ("content", "name", "says"),
    [
        ("", "m.csv", "the file is empty"),
        ("text,label\n", "m.csv", "no rows below the header"),
        ("text;label\na;b\n", "m.csv", ["separated by ';'", "--delimiter ';'"]),
        ("text\tlabel\na\tb\n", "m.csv", "--delimiter $'\\t'"),
        ("text,label\na,b\n", "m.tsv", "--delimiter ','"),
        ("text,label\nдом,ham\n".encode() + b"caf\xe9,ham\n", "m.csv", ["not UTF-8", "line 3", "iconv"]),
        ("text,label\na,b\n".encode("utf-16")[:-1], "m.csv", ["not UTF-16", "line 2", "iconv"]),
        ("text,label\na,b,c\n", "m.csv", ["line 2 has 3 cells", "expected 2"]),
        ("text,label\na\n", "m.csv", ["line 2 has 1 cells", "expected 2"]),
        ('text,label\n"a,b\n', "m.csv", "line 2"),
        ("text,label,text\na,b,c\n", "m.csv", "names 'text' twice"),
        ("a,b\n", "m.xlsx", ["the ending is .xlsx", ".csv"]),
        ('{"text": "a"\n', "m.jsonl", "line 1 is not JSON"),
        ("[1, 2]\n", "m.jsonl", "line 1 is not an object"),
        ('[{"text": "a"}\n{"text": "b"}]\n', "m.json", [".jsonl"]),
        ("not parquet", "m.parquet", "not a Parquet file"),
    ],
)
def test_unreadable_tables(refused, tmp_path, content, name, says):
    message = refused("--train_file", table(tmp_path, content, name), says=says)
    assert name in message


def test_absent_column_names_those_there_are(refused, tmp_path):
    file = write_csv(tmp_path / "m.csv", ROWS)
    refused("--train_file", file, "--text_column_name", "txt", says=["txt", "There are: text, label, channel"])
    refused("--train_file", file, "--label_column_name", "lab", says=["lab", "There are"])
    refused("--train_file", file, "--group_column_name", "accent", says=["accent", "it has: text, label, channel"])


def test_no_header_is_suspected(refused, tmp_path):
    file = table(tmp_path, "see you at eight then,ham\nwin a prize,spam\n")
    refused("--train_file", file, says=["see you at eight then", "--column_names label text"])


def test_rows_without_label_or_text_are_named(refused, recipe, tiny, tmp_path):
    rows = [dict(row) for row in ROWS]
    rows[4]["label"], rows[9]["text"], rows[11]["text"] = "", "   ", "\u200b \u200e"
    file = write_csv(tmp_path / "m.csv", rows)
    refused("--train_file", file, says=["3 of 40 rows", "row 5: no label", "row 10: no text", "--drop_incomplete"])
    result = recipe("spam", "--train_file", file, "--drop_incomplete", "--model_name_or_path", tiny(),
                    "--output_dir", tmp_path / "dropped", "--max_steps", 1)  # fmt: skip
    assert result.code == 0, result.err
    assert "2 x no text" in result.err
    assert sum(json.loads((tmp_path / "dropped" / "report.json").read_text())["data"]["examples"].values()) == 37


def test_nan_is_no_label_and_no_text(refused, tmp_path):
    lines = ['{"text": "a b", "label": NaN}', '{"text": null, "label": 1.0}']
    lines += [json.dumps({"text": f"t {i}", "label": float(i % 2)}) for i in range(10)]
    refused("--train_file", table(tmp_path, "\n".join(lines), "m.jsonl"), says=["row 1: no label", "row 2: no text"])


def test_unseen_label_in_test(refused, tmp_path):
    test = [{**row, "label": "scam"} for row in ROWS[:3]]
    refused(
        "--train_file", write_csv(tmp_path / "m.csv", ROWS), "--test_file", write_csv(tmp_path / "t.csv", test),
        says=["labels that training never saw: 'scam'", "'ham', 'spam'"],
    )  # fmt: skip


def test_single_class(refused, tmp_path):
    rows = [{**row, "label": "ham"} for row in ROWS]
    refused("--train_file", write_csv(tmp_path / "m.csv", rows), says=["one label only", "'ham' x 40"])


def test_fewer_examples_than_classes(refused, tmp_path):
    rows = [{"text": f"text {i}", "label": f"id{i}"} for i in range(10)]
    refused("--train_file", write_csv(tmp_path / "m.csv", rows), says=["10 examples for 10 labels"])


def test_folder_that_is_no_model(refused, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("x")
    file = write_csv(tmp_path / "m.csv", ROWS)
    refused("--train_file", file, "--model_name_or_path", tmp_path / "empty", says=["empty", "notes.txt"])
    refused("--train_file", file, "--model_name_or_path", tmp_path / "absent", says=["absent", "no such folder"])


def test_model_of_the_wrong_kind(refused, tmp_path):
    from transformers import Wav2Vec2Config

    Wav2Vec2Config().save_pretrained(tmp_path / "speech")
    build_tokenizer(tmp_path / "speech")
    file = write_csv(tmp_path / "m.csv", ROWS)
    refused(
        "--train_file", file, "--model_name_or_path", tmp_path / "speech", says=["wav2vec2", "SequenceClassification"]
    )


def test_pickled_weights(refused, tiny, tmp_path):
    import torch

    folder = tmp_path / "pickled"
    folder.mkdir()
    for file in tiny().iterdir():
        if file.suffix == ".json":
            (folder / file.name).write_bytes(file.read_bytes())
    torch.save({"embeddings.word_embeddings.weight": torch.zeros(2)}, folder / "pytorch_model.bin")
    file = write_csv(tmp_path / "m.csv", ROWS)
    refused("--train_file", file, "--model_name_or_path", folder, says=["safetensors"])


def test_no_network(refused, tmp_path):
    file = write_csv(tmp_path / "m.csv", ROWS)
    refused("--train_file", file, "--model_name_or_path", "someone/some-model", says=["someone/some-model", "Hub"])
    refused("--dataset_name", "someone/some-data", says=["someone/some-data", "HF_HUB_OFFLINE is set"])


def test_output_folder_that_holds_something_else(recipe, tiny, tmp_path):
    file = write_csv(tmp_path / "m.csv", ROWS)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.doc").write_text("precious")
    result = recipe("spam", "--train_file", file, "--model_name_or_path", tiny(), "--output_dir", tmp_path / "full")
    assert result.code == 2
    assert "thesis.doc" in result.err
    assert (tmp_path / "full" / "thesis.doc").read_text() == "precious"
    result = recipe("spam", "--train_file", file, "--model_name_or_path", tiny(), "--output_dir", file)
    assert result.code == 2
    assert "there is a file of that name" in result.err


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--lerning_rate", "1"], ["Unknown argument --lerning_rate", "Did you mean --learning_rate?"]),
        (["--learning_rate", "fast"], "--learning_rate"),
        (["--method", "qlora"], "--method"),
        (["--fp16"], ["--fp16 needs a GPU", "--bf16"]),
        (["--trainable_layers", "2"], "belongs to --method frozen"),
        (["--method", "frozen", "--trainable_layers", "9"], "the model has 3 layers"),
        (["--max_length", "5000"], ["5000", "64 tokens"]),
        (["--threshold", "high"], "expected best_f1 or a probability"),
        (["--threshold", "best_f1"], ["validation split, but it has 4 examples", "--validation_file"]),
        (["--test_size", "1.5"], "--test_size is 1.5: expected a number, 0 to 0.99"),
        (["--learning_rate", "nan"], "--learning_rate is nan"),
        (["--num_train_epochs", "0"], "--num_train_epochs is 0"),
        (["--lora_dropout", "2"], "--lora_dropout is 2"),
        (["--seed", "-1"], "--seed is -1"),
        (["--report_to", "foo"], "foo"),
        (["--output_dir", "/"], "--output_dir /"),
        (["--max_train_samples", "0"], "--max_train_samples"),
        (["--lr_scheduler_type", "wavy"], "lr_scheduler_type"),
        (["--eval_strategy", "steps", "--load_best_model_at_end", "--save_strategy", "epoch"], "do not fit together"),
        (["--resume_from_checkpoint", "/nowhere"], "--resume_from_checkpoint /nowhere"),
        (["--config", "/nowhere.yaml"], "/nowhere.yaml cannot be read"),
        (["--dataset_name", "x"], "expected one source"),
        (["surprise"], "Unexpected 'surprise'"),
    ],
)  # fmt: skip
def test_bad_arguments(refused, tmp_path, flags, says):
    refused("--train_file", write_csv(tmp_path / "m.csv", ROWS), *flags, says=says)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("a: [1", "is not YAML"),
        ("just words", "expected lines of `name: value`"),
        ("lerning_rate: 1", ["Unknown argument --lerning_rate in", "Did you mean --learning_rate?"]),
        ("learning_rate: fast", "--learning_rate"),
        ("column_names: [--push_to_hub]", "looks like a flag"),
    ],
)
def test_bad_yaml(refused, tmp_path, content, says):
    (tmp_path / "c.yaml").write_text(content)
    refused("--train_file", write_csv(tmp_path / "m.csv", ROWS), "--config", tmp_path / "c.yaml", says=says)


def test_a_real_process_ends_the_same_way(tmp_path):
    done = fork("recipes/spam.py", "--train_file", tmp_path / "none.csv", "--output_dir", tmp_path / "out",
                "--model_name_or_path", "x")  # fmt: skip
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_full_disk(tiny, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100k", "none", disk], check=False).returncode:
        pytest.skip("this machine does not let tests mount a small disk")
    try:
        file = write_csv(tmp_path / "m.csv", ROWS)
        done = fork("recipes/spam.py", "--train_file", file, "--model_name_or_path", tiny(),
                     "--output_dir", disk / "out", "--max_steps", 1)  # fmt: skip
        assert done.returncode == 2, done.stderr
        assert "the disk has 0 MB free" in done.stderr
        assert "Traceback" not in done.stderr
        assert not list(disk.iterdir())
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_partial_folder_of_somebody_else_is_left_alone(recipe, tiny, tmp_path):
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "thesis.doc").write_text("precious")
    file = write_csv(tmp_path / "m.csv", ROWS)
    result = recipe("spam", "--train_file", file, "--model_name_or_path", tiny(), "--output_dir", tmp_path / "out")
    assert result.code == 2
    assert "thesis.doc" in result.err
    assert (tmp_path / "out.partial" / "thesis.doc").read_text() == "precious"


@pytest.mark.parametrize(
    ("keywords", "says"),
    [
        ({"method": "LoRA"}, "expected one of full, lora, frozen, scratch."),
        ({"lora_variant": "xx"}, "expected one of lora, rslora"),
        ({"lerning_rate": 1.0}, "Did you mean learning_rate?"),
        ({"class_weights": "balanced"}, r"TextClassification\(class_weights=...\)"),
    ],
)
def test_bad_keywords(tiny, tmp_path, keywords, says):
    file = write_csv(tmp_path / "m.csv", ROWS)
    given = {"model_name_or_path": str(tiny()), "train_file": str(file), "output_dir": str(tmp_path / "out")}
    with pytest.raises(InputError, match=says):
        finetune(TextClassification(), **given, **keywords)
    with pytest.raises(InputError, match="Balanced"):
        finetune(TextClassification(class_weights="Balanced"), **given)
    assert not (tmp_path / "out").exists()


def test_damaged_weights(refused, tiny, tmp_path):
    folder = tmp_path / "damaged"
    shutil.copytree(tiny(), folder)
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1 and so on")
    file = write_csv(tmp_path / "m.csv", ROWS)
    refused("--train_file", file, "--model_name_or_path", folder, says=["damaged", "safetensors weights"])


def test_weights_of_another_model(refused, tiny, tmp_path):
    folder = tmp_path / "mixed"
    shutil.copytree(tiny("distilbert"), folder)
    shutil.copy(tiny("bert") / "model.safetensors", folder)
    file = write_csv(tmp_path / "m.csv", ROWS)
    refused("--train_file", file, "--model_name_or_path", folder, says="the weights are not those of a distilbert")


def test_single_and_several_labels_do_not_mix(refused, tmp_path):
    train = table(tmp_path, "\n".join(json.dumps({"text": f"t {i}", "label": ["a", "b"][: i % 3]}) for i in range(40)),
                  "m.jsonl")  # fmt: skip
    test = write_csv(tmp_path / "t.csv", [{"text": "t", "label": "a"}] * 3)
    refused("--train_file", train, "--test_file", test,
            says=["test split holds single labels; expected lists of labels", "--label_separator"])  # fmt: skip


def test_json_rows_that_lack_a_label_are_named(refused, tmp_path):
    rows = [{"text": f"t {i}", "label": "ab"[i % 2]} for i in range(20)]
    del rows[6]["label"]
    file = table(tmp_path, "\n".join(json.dumps(row) for row in rows), "m.jsonl")
    refused("--train_file", file, says=["row 7: no label", "--drop_incomplete"])


def test_a_threshold_needs_both_labels_in_validation(refused, tmp_path):
    validation = write_csv(tmp_path / "v.csv", [{"text": f"t {i}", "label": "ham"} for i in range(60)])
    refused("--train_file", write_csv(tmp_path / "m.csv", ROWS), "--validation_file", validation, "--threshold",
            "best_f1", says="validation split, but it has 60 examples with 1 labels")  # fmt: skip


def test_evaluation_without_a_validation_split(refused, tmp_path):
    file = write_csv(tmp_path / "m.csv", ROWS)
    refused("--train_file", file, "--eval_strategy", "epoch", "--validation_size", 0, says="--eval_strategy needs")


def test_several_labels_in_a_cell_are_noticed(recipe, tiny, tmp_path):
    labels = ["food", "sport", "food;sport", ""]
    file = write_csv(tmp_path / "m.csv", [{"text": f"text {i}", "label": labels[i % 4]} for i in range(40)])
    result = recipe("spam", "--train_file", file, "--model_name_or_path", tiny(), "--output_dir", tmp_path / "out")
    assert result.code == 2
    assert (
        "Labels such as 'food;sport' consist of others: --label_separator ';' reads them as several labels."
        in result.err
    )


def test_what_is_no_task_is_refused(tmp_path):
    with pytest.raises(InputError, match="The task is 'text'; expected an instance of one of the tasks"):
        finetune("text", train_file="m.csv", output_dir=str(tmp_path / "out"))


def test_processes_do_not_look_for_a_batch_size_each(recipe, messages, tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    result = recipe("spam", "--train_file", messages, "--model_name_or_path", tiny(), "--auto_find_batch_size", "true",
                    "--output_dir", tmp_path / "out")  # fmt: skip
    assert result.code == 2
    assert "--auto_find_batch_size works in a single process" in result.err


@pytest.fixture
def forbid(monkeypatch):
    """Take from this user the right to read a file or folder; from one who may read everything, by what it answers."""

    def take(path):
        path.chmod(0)
        if not os.access(path, os.R_OK):
            return
        error = PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        opened, listed, scanned = Path.open, os.listdir, os.scandir

        def refuse(function):
            def instead(target=".", *arguments, **given):
                if str(target) == str(path):
                    raise error
                return function(target, *arguments, **given)

            return instead

        monkeypatch.setattr(Path, "open", refuse(opened))
        monkeypatch.setattr(os, "listdir", refuse(listed))
        monkeypatch.setattr(os, "scandir", refuse(scanned))

    return take


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_tables_that_may_not_be_read_are_named_with_the_reason(refused, forbid, tmp_path, ending):
    file = tmp_path / f"m.{ending}"
    rows = Dataset.from_list(ROWS)
    {"csv": rows.to_csv, "jsonl": rows.to_json, "parquet": rows.to_parquet}[ending](str(file))
    forbid(file)
    refused("--train_file", file, says=f"{file} cannot be read: Permission denied")


@pytest.mark.parametrize("inner", [".", "more"])
def test_folders_that_may_not_be_read_are_named_with_the_reason(refused, forbid, tmp_path, inner):
    folder = tmp_path / "data" / inner
    folder.mkdir(parents=True)
    for place in {tmp_path / "data", folder}:
        write_csv(place / "train.csv", ROWS)
    forbid(folder)
    try:
        refused("--dataset_name", tmp_path / "data", says=[f"{folder} cannot be read: ", "Permission denied"])
    finally:
        folder.chmod(0o700)


def test_a_models_folder_that_may_not_be_read_is_named_with_the_reason(refused, forbid, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    forbid(folder)
    try:
        refused("--train_file", write_csv(tmp_path / "m.csv", ROWS), "--model_name_or_path", folder,
                says=[f"{folder} cannot be read: ", "Permission denied"])  # fmt: skip
    finally:
        folder.chmod(0o700)
