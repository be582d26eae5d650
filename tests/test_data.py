"""Every way in which data may come: formats, headers, quotes, labels, pairs, splits."""

import json

import pytest
from conftest import DATA, message_rows, write_csv
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from hf_transfer import TextClassification, finetune, load_finetuned
from hf_transfer.data.tables import read_rows

pytestmark = pytest.mark.usefixtures("lean")

STEPS = {"max_steps": 2, "disable_tqdm": True}


@pytest.fixture
def train(tiny, tmp_path):
    """Fine-tune on some data with a tiny model, and give the report and the predictions."""

    def run(task=None, **arguments):
        defaults = {"model_name_or_path": str(tiny()), "output_dir": str(tmp_path / "out"), **STEPS}
        result = finetune(task or TextClassification(), **{**defaults, **arguments})
        return result.report, [json.loads(line) for line in (result.folder / "predictions.jsonl").open()]

    return run


ROWS = message_rows(60)


def write_table(folder, kind):
    """The same rows in one of the formats; returns the file and the arguments that it needs."""
    if kind == "csv":
        return write_csv(folder / "m.csv", ROWS), {}
    if kind == "tsv with header":
        return write_csv(folder / "m.tsv", ROWS, delimiter="\t"), {}
    if kind == "tsv without header":
        file = folder / "m.tsv"
        file.write_text("".join(f"{row['label']}\t{row['text']}\n" for row in ROWS))
        return file, {"column_names": ["label", "text"]}
    if kind == "semicolons":
        return write_csv(folder / "m.csv", ROWS, delimiter=";"), {"delimiter": ";"}
    if kind == "byte order mark":
        file = write_csv(folder / "m.csv", ROWS)
        file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
        return file, {}
    if kind == "json":
        (folder / "m.json").write_text(json.dumps(ROWS))
        return folder / "m.json", {}
    if kind == "json with one key":
        (folder / "m.json").write_text(json.dumps({"version": "1", "data": ROWS}))
        return folder / "m.json", {}
    if kind == "jsonl":
        (folder / "m.jsonl").write_text("\n".join(json.dumps(row) for row in ROWS) + "\n\n")
        return folder / "m.jsonl", {}
    Dataset.from_list(ROWS).to_parquet(folder / "m.parquet")
    return folder / "m.parquet", {}


KINDS = ["csv", "tsv with header", "tsv without header", "semicolons", "byte order mark", "json",
         "json with one key", "jsonl", "parquet"]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_formats_give_the_same_run(train, tmp_path, kind):
    file, arguments = write_table(tmp_path, kind)
    report, predictions = train(train_file=str(file), **arguments)
    assert report["data"]["labels"] == ["ham", "spam"]
    assert report["data"]["examples"] == {"train": 43, "validation": 5, "test": 12}
    texts = {row["text"]: row["label"] for row in ROWS}
    assert len(predictions) == 12
    assert all(texts[record["text"]] == record["label"] for record in predictions)


def test_quotes_of_plain_tsv_are_part_of_the_text(tmp_path):
    file = tmp_path / "plain.tsv"
    file.write_text('ham\t"Hi" she said\nspam\tsay "yes\nham\tfine\n')
    assert [row["text"] for row in read_rows(file, column_names=["label", "text"])] == [
        '"Hi" she said', 'say "yes', "fine",
    ]  # fmt: skip


def test_quotes_that_a_spreadsheet_wrote_are_taken_off(tmp_path):
    file = write_csv(tmp_path / "sheet.tsv", [{"text": 'say "yes"', "label": "a"}, {"text": "b", "label": "b"}],
                     delimiter="\t")  # fmt: skip
    assert [row["text"] for row in read_rows(file)] == ['say "yes"', "b"]


def test_line_breaks_and_delimiters_inside_csv_cells(tmp_path):
    rows = [{"text": 'one,\n"two"', "label": "a"}, {"text": "NA", "label": "01"}, {"text": "null", "label": "1.0"}]
    assert list(read_rows(write_csv(tmp_path / "m.csv", rows))) == rows


def test_an_edited_file_is_read_again(train, tmp_path):
    file = write_csv(tmp_path / "m.csv", ROWS)
    train(train_file=str(file), output_dir=str(tmp_path / "first"))
    write_csv(file, [{**row, "label": row["label"].replace("ham", "fine")} for row in ROWS])
    report, _ = train(train_file=str(file))
    assert report["data"]["labels"] == ["fine", "spam"]


def test_integer_labels_are_ordered_by_value(train, tmp_path):
    rows = [{"text": row["text"], "label": [10, 9, 2][i % 3]} for i, row in enumerate(ROWS)]
    report, _ = train(train_file=str(write_csv(tmp_path / "m.csv", rows)))
    assert report["data"]["labels"] == ["2", "9", "10"]


def test_label_names_reach_the_model(train, tmp_path):
    train(train_file=str(write_csv(tmp_path / "m.csv", ROWS)))
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["id2label"] == {"0": "ham", "1": "spam"}
    assert config["label2id"] == {"ham": 0, "spam": 1}


def test_positive_label_is_the_one_that_f1_is_about(train, tmp_path):
    file = str(write_csv(tmp_path / "m.csv", ROWS))
    report, records = train(TextClassification(positive_label="ham"), train_file=file)
    assert report["data"]["labels"] == ["spam", "ham"]
    hits = sum(r["label"] == r["prediction"] == "ham" for r in records)
    said = sum(r["prediction"] == "ham" for r in records) + sum(r["label"] == "ham" for r in records)
    assert report["metrics"]["f1"] == pytest.approx(2 * hits / said if said else 0.0)


@pytest.mark.parametrize("form", ["list", "separator"])
def test_several_labels_a_text(train, tmp_path, form):
    rows = [{"text": row["text"], "label": [["a"], ["a", "b"], [], ["b"]][i % 4]} for i, row in enumerate(ROWS)]
    if form == "list":
        (tmp_path / "m.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
        report, records = train(train_file=str(tmp_path / "m.jsonl"))
    else:
        rows = [{**row, "label": "|".join(row["label"])} for row in rows]
        file = write_csv(tmp_path / "m.csv", rows)
        report, records = train(TextClassification(label_separator="|"), train_file=str(file))
    assert report["data"]["multi_label"]
    assert report["data"]["labels"] == ["a", "b"]
    assert {tuple(record["label"]) for record in records} == {("a",), ("a", "b"), (), ("b",)}
    assert json.loads((tmp_path / "out" / "config.json").read_text())["problem_type"] == "multi_label_classification"


def test_pairs_of_texts(train, tmp_path):
    rows = [{"premise": row["text"], "hypothesis": f"yes {i}", "label": row["label"]} for i, row in enumerate(ROWS)]
    _, records = train(train_file=str(write_csv(tmp_path / "m.csv", rows)))
    assert all(record["text_pair"].startswith("yes") for record in records)
    pair = {"text": records[0]["text"], "text_pair": records[0]["text_pair"]}
    (found,) = load_finetuned(tmp_path / "out")([pair])
    assert found["score"] == pytest.approx(records[0]["score"], abs=1e-5)


def test_a_folder_with_splits_and_class_labels(train, tmp_path):
    features = Features({"sms": Value("string"), "label": ClassLabel(names=["no", "yes"])})
    rows = [{"sms": row["text"], "label": i % 2} for i, row in enumerate(ROWS)]
    folder = tmp_path / "set"
    folder.mkdir()
    for name, part in (("train", rows[:40]), ("test", rows[40:])):
        Dataset.from_list(part, features=features).to_parquet(folder / f"{name}.parquet")
    report, _ = train(dataset_name=str(folder))
    assert report["data"]["labels"] == ["no", "yes"]
    assert report["data"]["examples"] == {"train": 36, "validation": 4, "test": 20}


def test_splits_in_memory(train):
    report, _ = train(dataset=DatasetDict({"train": Dataset.from_list(ROWS)}))
    assert report["data"]["examples"]["test"] == 12


def test_made_splits_are_stratified_and_seeded(train, tmp_path):
    rows = [{"text": f"free {i}", "label": "spam" if i % 10 == 0 else "ham"} for i in range(200)]
    file = str(write_csv(tmp_path / "m.csv", rows))
    report, first = train(train_file=file, output_dir=str(tmp_path / "a"), seed=1)
    assert report["data"]["label_counts"] == {
        "train": {"ham": 130, "spam": 14}, "validation": {"ham": 14, "spam": 2}, "test": {"ham": 36, "spam": 4},
    }  # fmt: skip
    _, again = train(train_file=file, output_dir=str(tmp_path / "b"), seed=1)
    _, other = train(train_file=file, output_dir=str(tmp_path / "c"), seed=2)
    texts = [[record["text"] for record in records] for records in (first, again, other)]
    assert texts[0] == texts[1] != texts[2]


def test_limits_keep_the_shares(train, tmp_path):
    file = str(write_csv(tmp_path / "m.csv", ROWS))
    report, _ = train(train_file=file, max_train_samples=20, max_eval_samples=6)
    assert report["data"]["examples"] == {"train": 20, "validation": 5, "test": 6}
    assert report["data"]["label_counts"]["train"] == {"ham": 10, "spam": 10}


def test_overlap_is_counted_and_removed_when_asked(train, tmp_path, caplog):
    train_file = str(write_csv(tmp_path / "train.csv", ROWS[:40]))
    test_file = str(write_csv(tmp_path / "test.csv", ROWS[30:50]))
    files = {"train_file": train_file, "test_file": test_file, "validation_size": 0.0}
    with caplog.at_level("INFO", "hf_transfer"):
        report, _ = train(**files, output_dir=str(tmp_path / "kept"))
    assert "10 of 20 in test" in caplog.text
    assert report["data"]["also_in_training"] == {"test": 10, "removed_from_train": 0}
    report, _ = train(**files, deduplicate=True)
    assert report["data"]["also_in_training"] == {"test": 10, "removed_from_train": 10}
    assert report["data"]["examples"]["train"] == 30


def test_groups_are_reported_before_and_after(train, tmp_path):
    report, records = train(train_file=str(write_csv(tmp_path / "m.csv", ROWS)), group_column_name="channel")
    assert set(report["groups"]) == {"chat", "sms"}
    for group, values in report["groups"].items():
        own = [record for record in records if record["group"] == group]
        assert values["examples"] == len(own)
        assert values["accuracy"] == pytest.approx(sum(r["label"] == r["prediction"] for r in own) / len(own))
        assert 0 <= values["accuracy_before"] <= 1


def test_a_column_named_split_divides_a_table(train, tmp_path, caplog):
    rows = [{**row, "split": ("train", "train", "dev", "test")[i % 4]} for i, row in enumerate(ROWS)]
    with caplog.at_level("INFO", "hf_transfer"):
        report, _ = train(train_file=str(write_csv(tmp_path / "m.csv", rows)))
    assert report["data"]["examples"] == {"train": 30, "validation": 15, "test": 15}
    assert "divides it: 30 train, 15 validation, 15 test" in caplog.text
    other = [{**row, "split": f"part {i % 2}"} for i, row in enumerate(ROWS)]
    report, _ = train(train_file=str(write_csv(tmp_path / "o.csv", other)), output_dir=str(tmp_path / "other"))
    assert report["data"]["made"].keys() == {"test", "validation"}


def test_a_source_domain_is_measured_apart_and_replayed(train, tmp_path):
    file = write_csv(tmp_path / "m.csv", ROWS)  # a quarter of the rows is chat
    report, records = train(
        train_file=str(file), group_column_name="channel", source_group="chat", replay=0.1, validation_size=0
    )
    assert set(report["groups"]) == {"sms"}
    assert set(report["source"]["groups"]) == {"chat"}
    counts = report["data"]["examples"]
    assert counts["test"] + counts["source"] == 12
    assert report["data"]["replayed"] == round(0.1 * (counts["train"] - report["data"]["replayed"]))
    assert {record["group"] for record in records if record.get("split") == "source"} == {"chat"}


def test_examples_of_no_group_are_told_beside_a_source_group(train, tmp_path, caplog):
    rows = [{**row, "channel": "" if i % 8 == 1 else row["channel"]} for i, row in enumerate(ROWS)]
    train(train_file=str(write_csv(tmp_path / "m.csv", rows)), group_column_name="channel", source_group="chat")
    unnamed = sum(not row["channel"] for row in rows)
    assert f"{unnamed} examples have no group in the column channel" in caplog.text


def test_long_texts_are_cut_and_said(train, tmp_path, caplog):
    rows = [*ROWS, {"text": "free " * 20000, "label": "spam", "channel": "sms"},
            {"text": "x" * 100_000, "label": "ham", "channel": "sms"}]  # fmt: skip
    with caplog.at_level("INFO", "hf_transfer"):
        train(train_file=str(write_csv(tmp_path / "m.csv", rows)))
    assert "reach 64 tokens and are cut there" in caplog.text


def test_class_weights_favour_the_rare_label(train, tmp_path):
    # Of the texts "free now", two in nine are spam: the plain loss gives them up.
    rows = [
        {"text": "free now" if i % 16 < 9 else "see you", "label": "spam" if i % 16 < 2 else "ham"} for i in range(320)
    ]
    file = str(write_csv(tmp_path / "m.csv", rows))
    settings = {"train_file": file, "test_file": file, "max_steps": 60, "learning_rate": 3e-3, "validation_size": 0.0}
    plain, _ = train(output_dir=str(tmp_path / "plain"), **settings)
    even, _ = train(TextClassification(class_weights="balanced"), **settings)
    assert plain["metrics"]["recall"] == 0.0
    assert even["metrics"]["recall"] == 1.0


@pytest.mark.skipif(not DATA.is_dir(), reason=f"needs the SMS Spam and SST-2 tables in {DATA}")
def test_real_tables_are_read_to_the_last_row():
    messages = list(read_rows(DATA / "sms_spam" / "messages.tsv", column_names=["label", "text"]))
    assert len(messages) == 5574
    assert sum(row["label"] == "spam" for row in messages) == 747
    assert sum('"' in row["text"] for row in messages) == sum(
        '"' in line for line in (DATA / "sms_spam" / "messages.tsv").read_text(encoding="utf-8").split("\n")
    )
    assert len(list(read_rows(DATA / "sst2" / "dev.tsv", column_names=["text", "label"]))) == 872


def test_files_of_one_name_date_and_size_are_not_mistaken_for_each_other(tmp_path, monkeypatch):
    import os

    from hf_transfer.data.tables import load_table

    texts = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        (tmp_path / name / "t.csv").write_text(f"text,label\n{name},ham\n")
        os.utime("t.csv", (1, 1))
        texts.append(load_table("t.csv")["text"][:])
    assert texts == [["a"], ["b"]]


def test_one_rare_label_does_not_spoil_the_others_shares(train, tmp_path):
    rows = message_rows(60, labels=("a",)) + message_rows(30, labels=("b",)) + message_rows(1, labels=("c",))
    for i, row in enumerate(rows):
        row["text"] += f" {i}"
    file = write_csv(tmp_path / "m.csv", rows)
    for seed in range(3):
        _, predictions = train(train_file=str(file), seed=seed, output_dir=str(tmp_path / str(seed)), max_steps=1,
                               drop_incomplete=True, validation_size=0)  # fmt: skip
        assert sum(record["label"] == "b" for record in predictions) in (6, 7)


def test_a_dataset_that_is_none_is_refused(train):
    from hf_transfer import InputError

    with pytest.raises(InputError, match="dataset is a int: expected a Dataset"):
        train(dataset=3)


def test_what_a_tokenizer_or_a_label_hides_is_said(train, tmp_path, caplog):
    rows = [{"text": f"今日は良い天気 {i}", "label": ["Ham", "ham", "spam"][i % 3]} for i in range(30)]
    with caplog.at_level("WARNING", "hf_transfer"):
        train(train_file=str(write_csv(tmp_path / "m.csv", rows)))
    assert "Labels 'Ham', 'ham' differ in case only" in caplog.text
    assert "% of the tokens are unknown to the tokenizer" in caplog.text
