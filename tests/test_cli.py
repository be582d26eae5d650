"""The command line: predict, evaluate, merge, env, and what it costs to start."""

import io
import json
import os
import shlex
import shutil
import subprocess
import sys

import pytest
from conftest import message_rows, write_csv
from processes import fork, start
from speech import write_clips

from hf_transfer import InputError, TextClassification, finetune, load_finetuned
from hf_transfer.inference import evaluate

pytestmark = pytest.mark.usefixtures("lean")


@pytest.fixture(scope="module")
def trained(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    file = write_csv(folder / "m.csv", message_rows(120))
    for method in ("full", "lora"):
        finetune(
            TextClassification(), train_file=str(file), model_name_or_path=str(tiny()), method=method,
            output_dir=str(folder / method), num_train_epochs=5, learning_rate=3e-3, disable_tqdm=True,
        )  # fmt: skip
    return folder


def lines(text):
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize("method", ["full", "lora"])
def test_predict_texts(trained, command, method):
    records = lines((trained / method / "predictions.jsonl").read_text())[:3]
    result = command("predict", trained / method, *(record["text"] for record in records))
    assert result.code == 0, result.err
    assert result.err == ""
    for found, record in zip(lines(result.out), records, strict=True):
        assert found["label"] == record["prediction"]
        assert found["score"] == pytest.approx(record["score"], abs=1e-5)
        assert sum(found["scores"].values()) == pytest.approx(1)


def test_predict_a_file_in_its_order(trained, command, tmp_path):
    rows = message_rows(50)
    file = write_csv(tmp_path / "in.csv", rows)
    result = command("predict", trained / "full", "--file", file, "--output", tmp_path / "out.jsonl")
    assert result.code == 0, result.err
    found = lines((tmp_path / "out.jsonl").read_text())
    assert [record["text"] for record in found] == [row["text"] for row in rows]
    pipe = load_finetuned(trained / "full")
    for record in found[:5]:
        assert pipe(record["text"])[0]["score"] == pytest.approx(record["score"], abs=1e-5)


def test_predict_takes_endless_texts(trained, command):
    result = command("predict", trained / "full", "short", "free " * 20000, "now " * 20000)
    assert result.code == 0, result.err
    assert len(lines(result.out)) == 3
    assert result.err.count("Texts that reach 64 tokens are truncated there, as in training, such as '") == 1
    assert result.err.count("\n") == 1


PEAK_OF_PREDICTION = """
import resource, sys
from hf_transfer.data.tables import read_rows
from hf_transfer.inference import load_finetuned, predict
pipeline = load_finetuned(sys.argv[1])
assert pipeline.rows_per_chunk <= 1024
pipeline.rows_per_chunk = 50  # of longer texts, which take no longer to be read and far less to be predicted
rows = ({"text": row["text"]} for row in read_rows(sys.argv[2]))
print(sum(1 for _ in predict(pipeline, rows)))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_predict_holds_no_more_than_a_part_of_the_file(trained, tmp_path):
    """For six times the texts, 12 MB more of them, not half of that more memory."""
    peaks = []
    (tmp_path / "peak.py").write_text(PEAK_OF_PREDICTION)
    for count in (30, 180):
        rows = [{"text": f"{i} free {'x' * 80_000}", "label": "spam"} for i in range(count)]
        done = fork(tmp_path / "peak.py", trained / "full", write_csv(tmp_path / f"{count}.csv", rows))
        assert done.returncode == 0, done.stderr
        seen, peak = map(int, done.stdout.split())
        assert seen == count
        peaks.append(peak)
    assert peaks[1] - peaks[0] < 6_000  # kB


def test_a_failed_prediction_leaves_no_output(trained, command, tmp_path):
    (tmp_path / "in.csv").write_text("text,label\n" + "fine,ham\n" * 2000 + "too,many,cells\n")
    result = command("predict", trained / "full", "--file", tmp_path / "in.csv", "--output", tmp_path / "out.jsonl")
    assert result.code == 2
    assert "line 2002 has 3 cells" in result.err
    assert not list(tmp_path.glob("out.jsonl*"))


@pytest.mark.parametrize("method", ["full", "lora"])
def test_evaluate_gives_what_the_run_measured(trained, command, tmp_path, method):
    report = json.loads((trained / method / "report.json").read_text())
    records = lines((trained / method / "predictions.jsonl").read_text())
    file = write_csv(tmp_path / "test.csv", [{"text": r["text"], "label": r["label"]} for r in records])
    result = command("evaluate", trained / method, "--test_file", file, "--output", tmp_path / "found.json")
    assert result.code == 0, result.err
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["metrics"] == pytest.approx(report["metrics"], abs=1e-5)
    assert found["examples"] == len(records)


def test_evaluate_refuses_labels_the_model_does_not_know(trained, command, tmp_path):
    file = write_csv(tmp_path / "test.csv", [{"text": "a", "label": "scam"}])
    result = command("evaluate", trained / "full", "--test_file", file)
    assert result.code == 2
    assert "'scam'" in result.err


def test_merge_gives_plain_weights_that_predict_the_same(trained, command, tmp_path):
    result = command("merge", trained / "lora", tmp_path / "plain")
    assert result.code == 0, result.err
    assert "adapter" not in " ".join(path.name for path in (tmp_path / "plain").iterdir())
    text = message_rows(1)[0]["text"]
    ours, plain = load_finetuned(trained / "lora")(text)[0], load_finetuned(tmp_path / "plain")(text)[0]
    assert plain == {"label": ours["label"], "score": pytest.approx(ours["score"], abs=1e-4)}
    assert command("merge", trained / "full", tmp_path / "x").code == 2
    assert command("merge", trained / "lora", tmp_path / "plain").code == 2


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["predict", "/nowhere", "text"], "/nowhere"),
        (["predict", "/nowhere"], "Expected either inputs or --file"),
        (["predict", "/nowhere", "--file", "/none.csv"], "no such file"),
        (["predict", "x", "--flie", "y"], "Did you mean --file?"),
        (["train"], "The name of a task is missing. Expected one of: text-classification"),
        ([], "COMMAND"),
    ],
)
def test_bad_arguments(command, arguments, says):
    result = command(*arguments)
    assert result.code == 2
    assert result.err.startswith("error: ")
    assert says in result.err
    assert "Traceback" not in result.err


def test_a_base_model_is_no_fine_tuned_model(command, tiny):
    result = command("predict", tiny(), "text")
    assert result.code == 2
    assert "is not a fine-tuned model" in result.err


def test_env_names_what_a_bug_report_needs(command):
    result = command("env")
    assert result.code == 0
    assert all(name in result.out for name in ("python: ", "torch: ", "transformers: ", "peft: ", "device: "))


def test_a_reader_that_goes_away_is_no_error(trained, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with subprocess.Popen(["head", "-n", "1", tmp_path / "pipe"], stdout=subprocess.PIPE, text=True) as reader:
        done = fork("-m", "hf_transfer.cli", "predict", trained / "full", "--file", trained / "m.csv",
                    stdout=tmp_path / "pipe")  # fmt: skip
        heard, _ = reader.communicate(timeout=60)
    assert done.stderr == ""
    assert len(lines(heard)) == 1


HEAVY = "assert not {'torch', 'transformers', 'datasets', 'numpy'} & set(sys.modules), sorted(sys.modules)"


def test_importing_the_package_loads_nothing_heavy():
    done = start("-W", "error", "-c", f"import sys, hf_transfer; dir(hf_transfer); {HEAVY}")
    assert done.returncode == 0, done.stderr


def test_help_loads_nothing_heavy():
    done = start("-c", f"""
import sys
from hf_transfer.cli import _command
sys.argv = ["hf-transfer", "--help"]
try:
    _command()
except SystemExit:
    {HEAVY}
""")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "predict" in done.stdout


def test_predict_pairs_from_a_file(tiny, command, tmp_path):
    rows = [{"premise": r["text"], "hypothesis": f"yes {i} free", "label": r["label"]}
            for i, r in enumerate(message_rows(60))]  # fmt: skip
    finetune(
        TextClassification(), train_file=str(write_csv(tmp_path / "m.csv", rows)), model_name_or_path=str(tiny()),
        output_dir=str(tmp_path / "out"), max_steps=20, learning_rate=3e-3, disable_tqdm=True,
    )  # fmt: skip
    records = lines((tmp_path / "out" / "predictions.jsonl").read_text())
    file = write_csv(tmp_path / "t.csv", [{"hypothesis": r["text_pair"], "premise": r["text"]} for r in records])
    result = command("predict", tmp_path / "out", "--file", file)
    assert result.code == 0, result.err
    for found, record in zip(lines(result.out), records, strict=True):
        assert found["scores"] == pytest.approx(record["scores"], abs=1e-5)


@pytest.mark.parametrize("kind", ["texts", "pairs", "clips"])
def test_the_command_that_a_recipe_names_in_the_end_works(kind, tiny, speech_model, recipe, command, tmp_path):
    (tmp_path / "own").mkdir()
    if kind == "clips":
        rows, delimiter = write_clips(tmp_path / "own", 24), "\t"
    else:
        rows, delimiter = message_rows(24), ","
    if kind == "pairs":
        rows = [{"one": row["text"], "other": "yes", "label": row["label"]} for row in rows]
    file = write_csv(tmp_path / "own" / ("t.tsv" if kind == "clips" else "t.csv"), rows, delimiter=delimiter)
    columns = ["--text_column_name", "one", "--text_pair_column_name", "other"] if kind == "pairs" else []
    model = speech_model() if kind == "clips" else tiny()
    done = recipe("accent" if kind == "clips" else "spam", "--train_file", file, *columns,
                  "--model_name_or_path", model, "--output_dir", tmp_path / "out", "--max_steps", 2)  # fmt: skip
    assert done.code == 0, done.err
    (told,) = [line for line in done.out.splitlines() if line.startswith("Try it: ")]
    result = command(*shlex.split(told)[3:])
    assert result.code == 0, result.err
    assert len(lines(result.out)) == (24 if kind == "pairs" else 1)


def test_evaluate_reports_groups_once(trained, tmp_path):
    file = write_csv(tmp_path / "test.csv", message_rows(20))
    found = evaluate(trained / "full", str(file), group_column_name="channel")
    assert set(found["groups"]) == {"chat", "sms"}
    assert not [name for name in found["groups"]["sms"] if name.endswith("_before")]
    with pytest.raises(InputError, match="Did you mean text_column_name"):
        evaluate(trained / "full", str(file), text_colum_name="text")


def test_output_goes_to_a_pipe_and_to_the_file_that_a_link_names(trained, command, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("target")
    (tmp_path / "target").write_text("old")
    with subprocess.Popen(["cat", tmp_path / "pipe"], stdout=subprocess.PIPE, text=True) as reader:
        for name in ("pipe", "link"):
            result = command("predict", trained / "full", "free prize", "--output", tmp_path / name)
            assert result.code == 0, result.err
        heard, _ = reader.communicate(timeout=60)
    assert (tmp_path / "pipe").is_fifo()
    assert (tmp_path / "link").is_symlink()
    (piped,), (linked,) = lines(heard), lines((tmp_path / "target").read_text())
    assert piped == linked


def test_what_is_no_text_gets_no_label(trained, command, tmp_path):
    (tmp_path / "in.jsonl").write_text('{"text": {"a": "free"}}\n{"text": {"a": "see"}}\n')
    result = command("predict", trained / "full", "--file", tmp_path / "in.jsonl")
    assert result.code == 2
    assert [record["error"] for record in lines(result.out)] == ["expected a text, found a dict"] * 2


def test_inputs_behind_flags_are_told_where_they_belong(trained, command, tmp_path):
    result = command("predict", trained / "full", "--output", tmp_path / "x", "free prize")
    assert result.code == 2
    assert "Unexpected 'free prize': inputs come before the flags" in result.err


def test_a_folder_that_lacks_files_is_told_what(trained, tiny, command, recipe, tmp_path):
    damaged = shutil.copytree(trained / "lora", tmp_path / "lora")
    (damaged / "adapter_model.safetensors").unlink()
    result = command("predict", damaged, "free")
    assert result.code == 2
    assert f"{damaged}: the adapter's weights could not be loaded. The folder holds:" in result.err
    wordless = shutil.copytree(tiny(), tmp_path / "wordless")
    (wordless / "tokenizer.json").unlink()
    (wordless / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    file = write_csv(tmp_path / "m.csv", message_rows(40))
    for model, says in (
        (wordless, "knows its special tokens and no words"),
        (trained / "lora", "is an adapter, not a whole model: `hf-transfer merge"),
    ):
        result = recipe("spam", "--train_file", file, "--model_name_or_path", model, "--output_dir", tmp_path / "out")
        assert result.code == 2, says
        assert says in result.err


def test_output_is_never_what_is_read_nor_a_folder(trained, command, tmp_path):
    file = write_csv(tmp_path / "in.csv", message_rows(5))
    before = file.read_bytes()
    for output in (file, tmp_path, tmp_path / "absent" / "x.json"):
        assert command("predict", trained / "full", "--file", file, "--output", output).code == 2
        assert command("evaluate", trained / "full", "--test_file", file, "--output", output).code == 2
    assert file.read_bytes() == before


def test_evaluate_can_be_appended_to_a_file(trained, tmp_path):
    log = tmp_path / "log.txt"
    log.write_text("keep me\n")
    file = write_csv(tmp_path / "in.csv", message_rows(20))
    done = fork("-m", "hf_transfer.cli", "evaluate", trained / "full", "--test_file", file, stdout=log)
    assert done.returncode == 0, done.stderr
    assert log.read_text().startswith("keep me\n{")


def test_evaluate_measures_the_test_rows_of_a_divided_table(trained, command, tmp_path):
    rows = [{**row, "split": "test" if i % 4 == 0 else "train"} for i, row in enumerate(message_rows(40))]
    result = command("evaluate", trained / "full", "--test_file", write_csv(tmp_path / "t.csv", rows))
    assert json.loads(result.out)["examples"] == 10
    assert "divides it: 30 train, 10 test" in result.err


def test_a_pipeline_of_nothing_gives_nothing(trained):
    classify = load_finetuned(trained / "full")
    assert classify([]) == []
    for nothing in (None, ["see you at dinner", None]):
        with pytest.raises(InputError, match="A text is None"):
            classify(nothing)


def test_a_text_that_is_not_there_gets_no_label(trained, command, tmp_path):
    result = command("predict", trained / "full", "", "see you at dinner")
    assert result.code == 2
    empty, full = map(json.loads, result.out.splitlines())
    assert empty == {"text": "", "error": "there is no text"}
    assert full["label"]


def test_one_bad_row_costs_one_row(trained, command, tmp_path):
    texts = ["see you at dinner", None, float("nan"), "free \ud83d", "\ud83d\ude00 free \U0001fae9", "win \0",
             {"a": "b"}, ["x"], "", " \u200b", 12, "\ue000"]  # fmt: skip
    rows = [json.dumps({"text": text, "id": i}) for i, text in enumerate(texts)]
    (tmp_path / "in.jsonl").write_text("\n".join([*rows[:4], '{"id": "no text here"}', *rows[4:]]) + "\n")
    result = command("predict", trained / "full", "--file", tmp_path / "in.jsonl", "--output", tmp_path / "out.jsonl")
    assert result.code == 2
    assert "9 inputs could not be used: their records say why. The others are done." in result.err
    raw = (tmp_path / "out.jsonl").read_bytes().decode("utf-8")
    found = [json.loads(line, parse_constant=pytest.fail) for line in raw.splitlines()]
    assert ["error" in record for record in found] == [False, *[True] * 4, False, *[True] * 5, False, False]
    assert found[2] == {"text": None, "error": "there is no text"}
    assert found[3]["text"] == "free \ud83d"
    assert found[7]["error"] == "expected a text, found a dict"
    assert "\U0001fae9" in raw
    assert found[11]["text"] == "12"


def test_a_half_emoji_is_an_error_in_python_too(trained):
    classify = load_finetuned(trained / "full")
    assert "half a character" in classify.predict_records([{"text": "win \ud83d"}], batch_size=1)[0]["error"]
    with pytest.raises(InputError, match="half a character"):
        classify(["see you", "win \ud83d"])


@pytest.mark.parametrize("encoding", ["cp1252", "utf-8"])
def test_records_are_json_whatever_the_encoding_of_the_output(trained, command, monkeypatch, encoding):
    written = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", written)
    assert command("predict", trained / "full", "claim your voucher 🎉 é").code == 0
    (record,) = lines(written.buffer.getvalue().decode("utf-8"))
    assert record["text"] == "claim your voucher 🎉 é"


def test_predict_takes_the_columns_that_the_model_was_trained_with(tiny, command, tmp_path):
    rows = [{"text": "never mind", "v2": row["text"], "topic": row["label"], "label": str(i % 3)}
            for i, row in enumerate(message_rows(60))]  # fmt: skip
    file = write_csv(tmp_path / "m.csv", rows)
    task = TextClassification(text_column_name="v2", label_column_name="topic")
    finetune(task, train_file=str(file), model_name_or_path=str(tiny()), output_dir=str(tmp_path / "out"), max_steps=2,
             disable_tqdm=True)  # fmt: skip
    result = command("predict", tmp_path / "out", "--file", file)
    assert result.code == 0, result.err
    assert [record["text"] for record in lines(result.out)] == [row["v2"] for row in rows]
    result = command("predict", tmp_path / "out", "--file", file, "--text_column_name", "text")
    assert {record["text"] for record in lines(result.out)} == {"never mind"}
    assert evaluate(tmp_path / "out", str(file))["examples"] == 60


def test_a_table_among_the_inputs_is_no_text(trained, command, tmp_path):
    file = write_csv(tmp_path / "new.csv", message_rows(3))
    result = command("predict", trained / "full", file)
    assert result.code == 2
    assert f"--file {file}" in result.err


def test_columns_that_training_found_by_itself_are_found_again(tiny, command, tmp_path):
    rows = [{"sms": row["text"], "class": row["label"]} for row in message_rows(60)]
    finetune(TextClassification(), train_file=str(write_csv(tmp_path / "m.csv", rows)), max_steps=2, disable_tqdm=True,
             model_name_or_path=str(tiny()), output_dir=str(tmp_path / "out"))  # fmt: skip
    wider = [{"text": "a translation", "label": str(i)} | row for i, row in enumerate(rows)]
    file = write_csv(tmp_path / "wider.csv", wider)
    result = command("predict", tmp_path / "out", "--file", file)
    assert [record["text"] for record in lines(result.out)] == [row["sms"] for row in rows]
    assert evaluate(tmp_path / "out", str(file))["examples"] == 60


def test_vectors_of_labels_from_training_to_evaluation(tiny, command, tmp_path):
    vectors = [[0, 1, 0], [1, 0, 1], [0, 0, 0], [1, 1, 0]]
    rows = [{"text": row["text"], "labels": vectors[i % 4]} for i, row in enumerate(message_rows(40))]
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    task = TextClassification(class_names=["bill", "delay", "rude"])
    finetune(task, train_file=str(tmp_path / "m.jsonl"), model_name_or_path=str(tiny()), max_steps=2,
             disable_tqdm=True, output_dir=str(tmp_path / "out"))  # fmt: skip
    records = lines((tmp_path / "out" / "predictions.jsonl").read_text())
    places = {row["text"]: [name for name, there in zip(task.class_names, row["labels"], strict=True) if there]
              for row in rows}  # fmt: skip
    assert all(record["label"] == places[record["text"]] for record in records)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    test = [row for row in rows if row["text"] in {record["text"] for record in records}]
    named = [{"text": row["text"], "labels": places[row["text"]]} for row in test]
    columns = [
        {"text": row["text"], **dict(zip(task.class_names, row["labels"], strict=True))} for row in test
    ]  # fmt: skip
    for rows in (test, named, columns):
        (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
        assert evaluate(tmp_path / "out", str(tmp_path / "t.jsonl"))["metrics"] == pytest.approx(report["metrics"])


def test_batches_of_cached_activations_need_no_library_of_sound():
    done = start("-c", "import sys, hf_transfer.training.activations.cached_examples\n"
                       "assert not {'soundfile', 'torchaudio'} & set(sys.modules)")  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_train_does_what_a_recipe_does_from_any_folder(tiny, command, tmp_path):
    file = write_csv(tmp_path / "m.csv", message_rows(60))
    flags = ["--train_file", file, "--model_name_or_path", tiny(), "--max_steps", 2, "--disable_tqdm", "true"]
    result = command("train", "text-classification", *flags, "--output_dir", tmp_path / "out")
    assert result.code == 0, result.err
    assert "The model is in" in result.out
    assert "hf-transfer predict" in result.out
    told = fork("recipes/spam.py", *flags, "--output_dir", tmp_path / "recipe")
    assert told.returncode == 0, told.stderr
    same = [(tmp_path / name / "predictions.jsonl").read_text() for name in ("out", "recipe")]
    assert same[0] == same[1]
    again = command("train", "text-classification", "--config", tmp_path / "out" / "arguments.yaml", "--output_dir",
                    tmp_path / "again")  # fmt: skip
    assert again.code == 0, again.err


def test_train_names_the_tasks_that_there_are(command):
    for flags in ([], ["--help"], ["text-clasification"], ["object"]):
        result = command("train", *flags)
        assert result.code == 2
        assert "text-classification, automatic-speech-recognition, audio-classification" in result.err
    assert "Did you mean text-classification?" in command("train", "text-clasification").err
    result = command("train", "text-classification", "--help")
    assert result.code == 0
    assert "--lora_alpha" in result.out
    assert "--label_column_name" in result.out
    result = command("train", "text-classification", "--lable_column_name", "x")
    assert "Did you mean --label_column_name?" in result.err


def test_train_starts_several_processes_that_are_joined(tiny, tmp_path):
    """By accelerate's own launcher, on a machine without a GPU too."""
    file = write_csv(tmp_path / "m.csv", message_rows(60))
    done = start("-m", "hf_transfer.cli", "train", "text-classification", "--num_processes", 2, "--train_file", file,
                 "--model_name_or_path", tiny(), "--max_steps", 2, "--per_device_train_batch_size", 8, "--output_dir",
                 tmp_path / "two", "--disable_tqdm", "true", OMP_NUM_THREADS="1", CUDA_VISIBLE_DEVICES="")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("The model is in") == 1
    one = fork("-m", "hf_transfer.cli", "train", "text-classification", "--train_file", file, "--model_name_or_path",
               tiny(), "--max_steps", 2, "--per_device_train_batch_size", 16, "--output_dir", tmp_path / "one",
               "--disable_tqdm", "true")  # fmt: skip
    assert one.returncode == 0, one.stderr
    both = [json.loads((tmp_path / name / "report.json").read_text())["history"] for name in ("one", "two")]
    losses = [[entry["loss"] for entry in history if "loss" in entry] for history in both]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)  # dropout draws anew


def test_evaluate_is_told_what_places_in_vectors_mean(tiny, command, tmp_path):
    """The model's labels are named; a file with vectors has them in another order."""
    rows = [{"text": f"{'news' * (i % 2)} {'ball' * (i % 3)} {i}", "labels": [*["sport"][: i % 3], *["talk"][: i % 2]]}
            for i in range(60)]  # fmt: skip
    lists, vectors = tmp_path / "lists.jsonl", tmp_path / "vectors.jsonl"
    lists.write_text("".join(json.dumps(row) + "\n" for row in rows))
    places = [{**row, "labels": [int(name in row["labels"]) for name in ("talk", "sport")]} for row in rows]
    vectors.write_text("".join(json.dumps(row) + "\n" for row in places))
    finetune(TextClassification(), train_file=str(lists), model_name_or_path=str(tiny()), max_steps=20,
             learning_rate=3e-3, output_dir=str(tmp_path / "out"), disable_tqdm=True)  # fmt: skip
    found = [command("evaluate", tmp_path / "out", "--test_file", *flags) for flags in (
        [lists], [vectors, "--class_names", "talk", "sport"], [vectors])]  # fmt: skip
    metrics = [json.loads(result.out)["metrics"] for result in found]
    assert metrics[0] == metrics[1] != metrics[2]
    assert "a place for each label: sport, talk (--class_names names them)" in found[2].err
