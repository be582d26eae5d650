"""Local tables and folders: whoever writes them, in whatever format, they give the same texts and labels back."""

import csv
import datetime
import json
import shlex
import subprocess
from decimal import Decimal

import pandas
import pytest
from conftest import message_rows, write_csv
from datasets import Audio, ClassLabel, Dataset, DatasetDict, Features, Image, List, Value
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hf_transfer import InputError, TextClassification
from hf_transfer.arguments import DataArguments, ModelArguments
from hf_transfer.data.loading import load_splits
from hf_transfer.data.tables import read_rows
from hf_transfer.data.values import is_blank
from hf_transfer.targets.labels.label_form import label_readers
from hf_transfer.targets.labels.printed_lists import as_list

ROWS = message_rows(40)


def read(drop=False, column_names=None, delimiter=None, task=None, **data):
    """Texts and labels by split, as a run would learn them."""
    arguments = DataArguments(column_names=column_names, delimiter=delimiter, drop_incomplete=drop, **data)
    splits, *_ = (task or TextClassification()).read(load_splits(arguments), arguments, ModelArguments())
    found = {}
    for name, split in splits.items():
        feature = split.features["label"]
        names = getattr(feature, "feature", feature).names
        labels = [[names[k] for k in own] if isinstance(own, list) else names[own] for own in split["label"][:]]
        found[name] = list(zip(split["text"][:], labels, strict=True))
    return found


# --- one reader, whoever wrote the file -------------------------------------------------------------------------


def by_csv(**how):
    def write(file, rows):
        encoding, first = how.get("encoding", "utf-8"), how.get("first", "")
        with file.open("w", newline="", encoding=encoding) as stream:
            stream.write(first)
            options = {key: value for key, value in how.items() if key not in ("encoding", "first")}
            writer = csv.writer(stream, **options)
            writer.writerow(list(rows[0]))
            writer.writerows(list(row.values()) for row in rows)
        return file

    return write


def by_pandas(method, **how):
    return lambda file, rows: getattr(pandas.DataFrame(rows), method)(file, **how) or file


WRITERS = {
    "excel.csv": by_csv(),
    "unix.csv": by_csv(dialect="unix"),
    "all.tsv": by_csv(delimiter="\t", quoting=csv.QUOTE_ALL),
    "minimal.tsv": by_csv(delimiter="\t", lineterminator="\n"),
    "mark.csv": by_csv(encoding="utf-8-sig"),
    "sep.csv": by_csv(delimiter=";", first="sep=;\r\n"),
    "unicode.csv": by_csv(delimiter="\t", first="sep=\t\r\n", encoding="utf-16"),
    "pandas.csv": by_pandas("to_csv", index=False),
    "indexed.csv": by_pandas("to_csv"),
    "records.json": by_pandas("to_json", orient="records"),
    "columns.json": by_pandas("to_json"),
    "lines.jsonl": by_pandas("to_json", orient="records", lines=True, force_ascii=False),
    "pandas.parquet": by_pandas("to_parquet"),
    "datasets.parquet": lambda file, rows: Dataset.from_list(rows).to_parquet(file) and file,
}
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=12) | st.text(
    "\"'\t,;|\n ab", min_size=1, max_size=8
)
labels = st.sampled_from(["ham", "spam", "01", "NA", "None", "nan", "a,b", 'x"y', "1.0", "[x]", "=1"])


@given(st.lists(st.tuples(texts.filter(lambda text: not is_blank(text)), labels), min_size=2, max_size=6))
@settings(deadline=None, max_examples=25)
@example([("0", "ham"), ("\t0\n", "ham")])
def test_every_writer_gives_the_same_rows(tmp_path_factory, pairs):
    rows = [{"text": text, "label": label} for text, label in pairs]
    folder = tmp_path_factory.mktemp("written")
    for name, write in WRITERS.items():
        found = list(read_rows(write(folder / name, rows), log_remarks=False))
        assert found == rows, name


@pytest.mark.parametrize("name", WRITERS)
def test_a_folder_means_what_a_file_means(tmp_path, name):
    rows = [{"text": "NA" if i % 9 == 0 else f"text {i}", "label": ["01", "02", "None"][i % 3]} for i in range(30)]
    (tmp_path / "set" / "train").mkdir(parents=True)
    suffix = name.split(".")[1]
    WRITERS[name](tmp_path / f"one.{suffix}", rows)
    for number, part in enumerate((rows[:12], rows[12:])):
        WRITERS[name](tmp_path / "set" / "train" / f"data-0000{number}-of-00002.{suffix}", part)
    WRITERS[name](tmp_path / "set" / f"test.{suffix}", rows[:6])
    one = read(train_file=str(tmp_path / f"one.{suffix}"))
    folder = read(dataset_name=str(tmp_path / "set"))
    assert one["train"] == folder["train"] == [(row["text"], row["label"]) for row in rows]
    assert folder["test"] == folder["train"][:6]


def test_flags_mean_the_same_for_a_folder(tmp_path):
    for name, part in (("train", ROWS[:30]), ("dev", ROWS[30:])):
        with (tmp_path / f"{name}.csv").open("w", newline="") as stream:
            csv.writer(stream, delimiter=";").writerows((row["label"], row["text"]) for row in part)
    found = read(dataset_name=str(tmp_path), delimiter=";", column_names=["label", "text"])
    assert {name: len(split) for name, split in found.items()} == {"train": 30, "validation": 10}
    assert found["train"][0] == (ROWS[0]["text"], ROWS[0]["label"])
    with pytest.raises(InputError, match="--delimiter is for local CSV and TSV files"):
        read(dataset_name="someone/some-data", delimiter=";")


@pytest.mark.parametrize("kind", ["dataset", "dict"])
def test_what_save_to_disk_wrote_is_loaded_and_left_as_it_is(tmp_path, kind):
    features = Features({"text": Value("string"), "label": ClassLabel(names=["no", "yes"])})
    table = Dataset.from_list([{"text": row["text"], "label": i % 2} for i, row in enumerate(ROWS)], features=features)
    folder = tmp_path / "saved"
    (table if kind == "dataset" else DatasetDict(train=table, test=table.select(range(9)))).save_to_disk(folder)
    before = sorted(folder.rglob("*"))
    found = read(dataset_name=str(folder))
    assert found["train"] == [(row["text"], ["no", "yes"][i % 2]) for i, row in enumerate(ROWS)]
    assert len(found.get("test", ())) == (9 if kind == "dict" else 0)
    assert sorted(folder.rglob("*")) == before
    next(folder.rglob("*.arrow")).write_bytes(b"cut")
    with pytest.raises(InputError, match="a dataset that save_to_disk wrote, but it cannot be read"):
        read(dataset_name=str(folder))


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["train.csv", "train.jsonl"], "files of several formats, train.csv and train.jsonl"),
        (["a.csv", "b.parquet"], "files of several formats"),
        (["train_test.csv"], "its name says the splits test and train"),
        (["dev.csv"], "--train_split_name train: .* has no such split; it has validation"),
    ],
)
def test_folders_that_say_no_single_thing_are_refused(tmp_path, names, says):
    for name in names:
        writer = "pandas.csv" if name.endswith("csv") else "lines.jsonl" if name.endswith("l") else "pandas.parquet"
        WRITERS[writer](tmp_path / name, ROWS)
    with pytest.raises(InputError, match=says):
        read(dataset_name=str(tmp_path))


def test_tables_of_no_split_and_of_other_columns_are_said(tmp_path, caplog):
    write_csv(tmp_path / "train-0.csv", ROWS)
    write_csv(tmp_path / "sample_submission.csv", ROWS[:2])
    with caplog.at_level("INFO", "hf_transfer"):
        assert len(read(dataset_name=str(tmp_path))["train"]) == 40
    assert "sample_submission.csv are of no split" in caplog.text
    write_csv(tmp_path / "train-1.csv", [{"message": "x", "label": "y"}])
    with pytest.raises(InputError, match=r"train-1.csv has the columns message, label, and .*train-0.csv has text"):
        read(dataset_name=str(tmp_path))


def test_a_readme_may_declare_the_files_of_a_folder(tmp_path):
    write_csv(tmp_path / "one.csv", ROWS[:30])
    write_csv(tmp_path / "two.csv", ROWS[30:])
    (tmp_path / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: one.csv\n"
        "  - split: test\n    path: two.csv\n---\n"
    )
    found = read(dataset_name=str(tmp_path))
    assert {name: len(rows) for name, rows in found.items()} == {"train": 30, "test": 10}


# --- quotes, headers, encodings ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "texts"),
    [
        # A lone quote at the beginning of one cell and at the end of a later one merges no rows.
        ("m.tsv", 'label\ttext\nham\t"Hello there\nspam\tBye"\nham\tx y\nspam\tz\n', ['"Hello there', 'Bye"']),
        ("m.csv", 'label,text\nham,"Hello there\nspam,Bye"\nham,x y\nspam,z\n', ['"Hello there', 'Bye"']),
        ("m.csv", 'path,text\na1.wav,"Hello\nb2.wav,Bye"\nc3.wav,x\nd4.wav,y\n', ['"Hello', 'Bye"']),
        ("m.tsv", 'text\tlabel\n"Hello" she said\ta\nfine\tb\n', ['"Hello" she said', "fine"]),
        ("m.tsv", 'text\tlabel\n"Hello"\ta\nfine\tb\nok\tc\n', ['"Hello"', "fine"]),
        # These quotes enclose cells.
        ("m.csv", 'text,label\n"Dear all,\nsee you",ham\nhi,spam\nyo,ham\n', ["Dear all,\nsee you", "hi"]),
        ("m.tsv", 'text\tlabel\n"Dear\nall"\tham\nhi\tspam\n', ["Dear\nall", "hi"]),
        ("m.tsv", 'text\tlabel\n"Hello, you"\ta\nfine\tb\nok\tc\n', ["Hello, you", "fine"]),
        ("m.tsv", 'text\tlabel\n"a ""b"" "\tham\nhi\tspam\n', ['a "b" ', "hi"]),
        ("m.csv", 'text,label\n5" pipe,x\n"hello",y\n', ['5" pipe', "hello"]),
        # Line ends of old Macs, of programs that write them twice, and within cells.
        ("m.csv", "text,label\ra,x\rb,y\r", ["a", "b"]),
        ("m.csv", 'text,label\r"a\nb",x\rc,y\r', ["a\nb", "c"]),
        ("m.csv", "text,label\r\r\na,x\r\r\nb,y\r\r\n", ["a", "b"]),
        ("m.tsv", "text\tlabel\na\rb\tx\nc\ty\n", ["a\rb", "c"]),
        # Cells without a name.
        ("m.csv", "text,label,,\na,x,,\nb,y,,\n", ["a", "b"]),
        ("m.csv", "text,label\na,x,,\nb,y\n", ["a", "b"]),
        ("m.csv", "sep=,\ntext,label\na,x\nb,y\n", ["a", "b"]),
        ("m.csv", '"sep=|"\ntext|label\na|x\nb|y\n', ["a", "b"]),
    ],
)
def test_rows_are_neither_merged_nor_divided(tmp_path, name, content, texts):
    (tmp_path / name).write_bytes(content.encode())
    rows = list(read_rows(tmp_path / name))
    assert [row["text"] for row in rows][:2] == texts
    assert len({tuple(row) for row in rows}) == 1


def test_literal_quotes_in_a_table_with_bars(tmp_path):
    lines = ['1|He said "yes"|x', '2|"Hello|y', '3|"Bye," he said|z', '4|"All of it."|w']
    (tmp_path / "metadata.csv").write_text("\n".join(lines) + "\n")
    rows = list(read_rows(tmp_path / "metadata.csv", delimiter="|", column_names=["id", "text", "more"]))
    assert [row["text"] for row in rows] == [line.split("|")[1] for line in lines]


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ('text,label\na,b\n"x,y\nc,d\n', 3),
        ('"text","label"\n"a\nb","c"\n"d","e"\n"f, g', 5),
        ('text,label\n"a\nb","c\nd,e\n', 3),
        ('text,label\n"a, b",c\n"x ""y"" \nz",d\ne,"f\n', 5),
    ],
)
def test_a_quote_that_is_never_closed_is_told_where_it_opens(tmp_path, content, line):
    (tmp_path / "m.csv").write_text(content)
    with pytest.raises(InputError, match=f"line {line}: the quote that opens a cell there is never closed"):
        list(read_rows(tmp_path / "m.csv"))


def test_rows_of_nothing_at_the_end_are_left_out(tmp_path):
    (tmp_path / "m.csv").write_text("text,label\na,x\n,\nb,y\n,\n , \n")
    assert [row["text"] for row in read_rows(tmp_path / "m.csv")] == ["a", "", "b"]


@pytest.mark.parametrize("column", ["split", "Split", "SET"])
def test_the_column_that_divides_a_table_is_found_in_any_case(tmp_path, column):
    rows = [{**row, column: ("train", "dev", "test")[i % 3]} for i, row in enumerate(ROWS)]
    others = {name: "A" for name in ("split", "set", "partition") if name != column.lower()}
    for columns in ({}, others):  # which mean something else
        file = write_csv(tmp_path / "m.csv", [{**columns, **row} for row in rows])
        assert set(read(train_file=str(file))) == {"train", "validation", "test"}


def test_an_object_a_line_is_read_whatever_the_ending(tmp_path):
    rows = [{"text": f"text {i}", "label": "ab"[i % 2]} for i in range(4)]
    (tmp_path / "manifest.json").write_text("\n".join(map(json.dumps, rows)))
    assert list(read_rows(tmp_path / "manifest.json")) == rows


def test_a_table_without_a_column_for_labels_says_what_it_lacks(tmp_path):
    (tmp_path / "m.json").write_text('{"text": "a"}\n{"text": "b"}')
    with pytest.raises(InputError, match=r"--label_column_name: the table has no other column .* named 'label'"):
        read(train_file=str(tmp_path / "m.json"))


@pytest.mark.parametrize(
    ("text", "encoding", "said"),
    [
        ("only £5 now", "cp1252", "WINDOWS-1252"),
        ("it’s a “café” – très bon", "cp1252", "WINDOWS-1252"),
        ("schöne Grüße aus Köln", "latin-1", "WINDOWS-1252"),
        ("добрый день друзья мои", "cp1251", "WINDOWS-1251"),
        ("zażółć gęślą jaźń łódź", "cp1250", "WINDOWS-1250"),
        ("şimdi ücretsiz kazanın arkadaşlar", "cp1254", "WINDOWS-1254"),
        ("今天天气很好我们去公园", "gbk", "GB18030"),
        ("今日はとても良い天気です", "cp932", "CP932"),
        ("добро 🎉", "utf-16", "UTF-16"),
        ("plain text", "utf-16-le", "UTF-16-LE"),
        ("добрый день", "utf-16-be", "UTF-16-BE"),
        ("добро 🎉", "utf-32", "UTF-32"),
    ],
)
def test_other_encodings_are_read_and_said(tmp_path, caplog, text, encoding, said):
    file = tmp_path / "Anna's mails.csv"
    lines = ["text,label", *(f"{text} {i},{'ab'[i % 2]}" for i in range(20))]
    file.write_bytes("\r\n".join(["text,label", *["plain,a"] * 3000, *lines[1:]]).encode(encoding))
    with caplog.at_level("INFO", "hf_transfer"):
        rows = list(read_rows(file))
    assert [row["text"] for row in rows[3000:]] == [f"{text} {i}" for i in range(20)]
    assert f"is read as {said}" in caplog.text
    assert caplog.text.count("is read as") == 1
    if not said.startswith("UTF"):
        foreign = next(word for word in text.split() if not word.isascii())
        assert foreign[:20] in caplog.text  # so that a wrong guess is seen


@pytest.mark.parametrize("name", ["m.csv", "Anna's Müller mails.csv", "-x.csv", "$(true).csv"])
def test_the_remedy_for_damaged_text_leads_on(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    content = "text,label\n" + "добро,a\nпора,b\n" * 9
    (tmp_path / name).write_bytes(content.encode() + b"caf\xe9,a\n")
    with pytest.raises(InputError, match="line 20 holds the byte 0xe9") as refused:
        list(read_rows(name))
    remedy = str(refused.value).split("remove such bytes: ")[1]
    assert name in shlex.split(remedy.replace("./-", "-"))
    subprocess.run(remedy, shell=True, check=False)
    rows = list(read_rows("mended.csv"))
    assert (len(rows), rows[-1]["text"]) == (19, "caf")


@pytest.mark.parametrize("header", ["v1,v2,,", "Label,Text,,", "class,message,x,y"])
def test_a_header_beside_column_names_is_doubted_and_not_learned(tmp_path, caplog, header):
    lines = [f"{row['label']},{row['text']} and more of it,," for row in ROWS]
    (tmp_path / "m.csv").write_text("\n".join([header, *lines]) + "\n")
    names = ["label", "text", "x", "y"]
    with caplog.at_level("INFO", "hf_transfer"):
        found = read(train_file=str(tmp_path / "m.csv"), column_names=names)
    assert len(found["train"]) == 40
    assert "looks like a header and is left out" in caplog.text
    (tmp_path / "m.csv").write_text("\n".join(["rare,an example of a label that is rare,,", *lines]) + "\n")
    assert len(list(read_rows(tmp_path / "m.csv", column_names=names))) == 41


def test_text_in_columns_without_a_name_is_said(tmp_path, caplog):
    (tmp_path / "m.csv").write_text("v1,v2,,,\nham,hello,,,\nspam,win, and the rest of it,,\n")
    with caplog.at_level("INFO", "hf_transfer"):
        assert [list(row) for row in read_rows(tmp_path / "m.csv")] == [["v1", "v2"]] * 2
    assert (
        "columns 3, 4, 5 have no name and are left out; 1 rows hold something there, the first in line 3"
        in caplog.text
    )


# --- one name for a value -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ([True, False], ["False", "True"]),
        ([0, 1], ["0", "1"]),
        ([0.0, 1.0, None], ["0", "1"]),
        ([datetime.date(2024, 1, 31), datetime.date(2024, 2, 1)], ["2024-01-31", "2024-02-01"]),
        (["true", "false"], ["False", "True"]),
        (["TRUE", "FALSE"], ["False", "True"]),
        (["1.0", "0"], ["0", "1"]),
        (["01", "1.0"], ["01", "1.0"]),
        (["v1.1", "v1.10"], ["v1.1", "v1.10"]),
        (["true", "mostly true"], ["mostly true", "true"]),
    ],
)
def test_a_label_has_one_name_in_every_format(tmp_path, values, names):
    table = pandas.DataFrame(
        {"text": [f"text {i}" for i in range(24)], "label": [values[i % len(values)] for i in range(24)]}
    )
    table.to_csv(tmp_path / "t.csv", index=False)
    table.to_parquet(tmp_path / "t.parquet")
    rows = [{key: (value.isoformat() if hasattr(value, "isoformat") else None if value != value else value)
             for key, value in row.items()} for row in table.to_dict("records")]  # fmt: skip
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    drop = None in values
    found = [
        read(drop=drop, train_file=str(tmp_path / f"t.{ending}"))["train"] for ending in ("csv", "parquet", "jsonl")
    ]
    assert found[0] == found[1] == found[2]
    assert sorted({label for _, label in found[0]}) == names


def test_what_another_format_writes_is_the_same_label(tmp_path):
    pandas.DataFrame({"text": ["a b", "c d"] * 8, "label": [True, False] * 8}).to_parquet(tmp_path / "train.parquet")
    (tmp_path / "test.csv").write_text("text,label\na,TRUE\nb,false\n")
    found = read(train_file=str(tmp_path / "train.parquet"), test_file=str(tmp_path / "test.csv"))
    assert found["test"] == [("a", "True"), ("b", "False")]


def test_typed_texts_are_texts(tmp_path):
    values = [12, 1.5, True, Decimal("2.50"), datetime.datetime(2024, 1, 31), b"caf\xc3\xa9"]
    for i, value in enumerate(values):
        Dataset.from_list([{"text": value, "label": k} for k in "abab"]).to_parquet(tmp_path / f"{i}.parquet")
    shown = [read(train_file=str(tmp_path / f"{i}.parquet"))["train"][0][0] for i in range(len(values))]
    assert shown == ["12", "1.5", "True", "2.50", "2024-01-31", "café"]


def test_a_label_called_nan_keeps_the_order_and_gets_a_remark(tmp_path, caplog):
    for order in (["10", "nan", "9", "2"], ["nan", "9", "10", "2"], ["2", "9", "nan", "10"]):
        rows = [{"text": f"text {i}", "label": order[i % 4]} for i in range(40)]
        table = load_splits(DataArguments(train_file=str(write_csv(tmp_path / "m.csv", rows))))
        splits, *_ = TextClassification().read(table, DataArguments(), ModelArguments())
        assert splits["train"].features["label"].names == ["2", "9", "10", "nan"]
    assert "A label is called 'nan' (10 examples)" in caplog.text


# --- labels: one, several, vectors ---------------------------------------------------------------------------------


def jsonl(file, values, name="label"):
    file.write_text("\n".join(json.dumps({"text": f"text {i}", name: value}) for i, value in enumerate(values)))
    return file


VECTORS = [[0, 1, 0], [1, 0, 1], [0, 0, 0], [1, 1, 0]] * 6
NAMED = [["b"], ["a", "c"], [], ["a", "b"]] * 6


@pytest.mark.parametrize("kind", ["int.jsonl", "float.jsonl", "bool.jsonl", "numpy.parquet", "fixed.parquet",
                                  "printed.csv", "numpy printed.csv", "class labels", "columns.csv"])  # fmt: skip
def test_vectors_are_read_as_several_labels(tmp_path, kind):
    import numpy as np

    file, texts = tmp_path / kind, [f"text {i}" for i in range(24)]
    given = {"train_file": str(file), "task": TextClassification(class_names=["a", "b", "c"])}
    if kind.endswith("jsonl"):
        form = {"int": int, "float": float, "bool": bool}[kind.split(".")[0]]
        jsonl(file, [[form(x) for x in vector] for vector in VECTORS], name="labels")
    elif kind == "numpy.parquet":
        pandas.DataFrame(
            {"text": texts, "label": [np.array(vector, dtype="float32") for vector in VECTORS]}
        ).to_parquet(file)
    elif kind == "fixed.parquet":
        features = Features({"text": Value("string"), "label": List(Value("int8"), length=3)})
        Dataset.from_dict({"text": texts, "label": VECTORS}, features=features).to_parquet(file)
    elif kind == "class labels":
        file = tmp_path / "c.parquet"
        features = Features({"text": Value("string"), "label": List(ClassLabel(names=["a", "b", "c"]))})
        Dataset.from_dict({"text": texts, "label": VECTORS}, features=features).to_parquet(file)
        given = {"train_file": str(file)}
    elif kind == "columns.csv":
        columns = dict(zip("cab", zip(*[(v[2], v[0], v[1]) for v in VECTORS], strict=True), strict=True))
        pandas.DataFrame({"id": range(24), "text": texts, **columns}).to_csv(file, index=False)
    else:
        values = VECTORS if kind == "printed.csv" else [str(np.array(vector, dtype=float)) for vector in VECTORS]
        pandas.DataFrame({"text": texts, "label": values}).to_csv(file, index=False)
    assert [label for _, label in read(**given)["train"]] == NAMED


def test_columns_of_labels_are_named_in_the_hint_and_odd_cells_are_refused(tmp_path, caplog):
    rows = [{"text": f"text {i}", "rude": i % 2, "late": int(i % 3 == 0), "year": 2000 + i} for i in range(24)]
    file = str(write_csv(tmp_path / "m.csv", rows))
    with pytest.raises(InputError, match="each label has a column of 0 and 1, name these: --class_names rude late"):
        read(train_file=file)
    rare = str(write_csv(tmp_path / "r.csv", [{**row, "threat": "" if i == 7 else 0} for i, row in enumerate(rows)]))
    with pytest.raises(InputError, match="--class_names rude late threat"):
        read(train_file=rare)
    named = TextClassification(class_names=["rude", "late"])
    assert [label for _, label in read(train_file=file, task=named)["train"]][:4] == [
        ["late"],
        ["rude"],
        [],
        ["rude", "late"],
    ]
    for cell, told in ((0.5, "Row 5 of the train split has '0.5' in its column 'late'"), (-1, "1 of 24 rows")):
        rows[4]["late"] = cell
        with pytest.raises(InputError, match=told):
            read(train_file=str(write_csv(tmp_path / "m.csv", rows)), task=named)
    with caplog.at_level("INFO", "hf_transfer"):
        assert len(read(train_file=file, task=named, drop=True)["train"]) == 23
    assert "the first is row 5, with '-1' in 'late'" in caplog.text


@pytest.mark.parametrize(
    ("names", "columns", "told"),
    [
        (["rude", "lat"], {}, "--class_names lat: there is no such column, and 'rude' is one"),
        (["rude", "rude"], {}, "expected a column for each of several labels, each once"),
        (["rude"], {}, "--label_column_name"),
        (["rude", "late"], {"label": "a"}, r"Say that it holds the labels \(--label_column_name label\)"),
        (["rude", "late", "new"], {"new": -1}, "The column 'new' of the train split, .* not known in any row"),
    ],
)
def test_columns_that_may_mean_something_else_are_asked_about(tmp_path, names, columns, told):
    rows = [{"text": f"text {i}", "rude": i % 2, "late": int(i % 3 == 0), **columns} for i in range(24)]
    file = str(write_csv(tmp_path / "m.csv", rows))
    with pytest.raises(InputError, match=told):
        read(train_file=file, task=TextClassification(class_names=names))


def test_a_split_without_the_columns_of_labels_is_named(tmp_path):
    rows = [{"text": f"text {i}", "rude": i % 2, "late": int(i % 3 == 0)} for i in range(24)]
    files = {"train_file": str(write_csv(tmp_path / "m.csv", rows)),
             "test_file": str(write_csv(tmp_path / "t.csv", [{"text": row["text"]} for row in rows]))}  # fmt: skip
    with pytest.raises(InputError, match=r"The test split has no column 'rude' \(--class_names\); it has: text"):
        read(**files, task=TextClassification(class_names=["rude", "late"]))


def test_a_column_of_clips_or_pictures_beside_the_texts_is_left_alone():
    cells = {"text": [f"text {i}" for i in range(8)], "label": list("abababab"), "clip": ["none.wav"] * 8,
             "picture": ["none.png"] * 8}  # fmt: skip
    table = Dataset.from_dict(cells).cast_column("clip", Audio()).cast_column("picture", Image())
    splits = DatasetDict(train=table)
    TextClassification().read(splits, DataArguments(), ModelArguments())
    with pytest.raises(InputError, match="No column is named like a label"):
        TextClassification().read(splits.rename_column("label", "kind"), DataArguments(), ModelArguments())


def test_vectors_without_names_are_named_by_their_places(tmp_path, caplog):
    with caplog.at_level("INFO", "hf_transfer"):
        found = read(train_file=str(jsonl(tmp_path / "m.jsonl", VECTORS)))["train"]
    assert [label for _, label in found][:2] == [["1"], ["0", "2"]]
    assert "Labels are vectors of 0 and 1, a place for each label: 0, 1, 2 (--class_names names them)" in caplog.text


@pytest.mark.parametrize("ids", [[[0], [1], [0, 1], []], [[0], [1]], [[0, 2], [1], [0, 1]], [[27], [3, 27], [3]]])
def test_lists_of_ids_are_not_mistaken_for_vectors(tmp_path, ids):
    found = read(train_file=str(jsonl(tmp_path / "m.jsonl", ids * 8)))["train"]
    assert [label for _, label in found][: len(ids)] == [[str(k) for k in own] for own in ids]


@pytest.mark.parametrize("printed", ["['a', 'b']", '["a", "b"]', "['a' 'b']", "('a', 'b')", "{'a', 'b'}"])
def test_lists_that_were_printed_into_a_table_are_read(tmp_path, printed):
    values = [printed, "['a']", "[]"] * 8
    file = write_csv(tmp_path / "m.csv", [{"text": f"text {i}", "label": value} for i, value in enumerate(values)])
    assert [label for _, label in read(train_file=str(file))["train"]][:3] == [["a", "b"], ["a"], []]


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (
            [[0.6, 0.4], [1.0, 0.0]] * 9,
            r"Row 1 of the train split has \[0.6, 0.4\] as its label: .*shares or scores",
        ),
        ([*VECTORS, [0, 1]], r"Row 25 of the train split has \[0, 1\] as its label, 2 numbers, where 24 rows have 3"),
        ([*["a", "b"] * 9, ["a"]], r'Row 19 of the train split has \["a"\] as its label, where 18 of 19 rows'),
        ([*[["a"], ["b"]] * 9, "a"], "Row 19 of the train split has 'a' as its label, where 18 of 19 rows have lists"),
        ([*["a", "b"] * 9, "['a']"], "Row 19 of the train split has"),
        ([*["a", "b"] * 9, {"name": "a"}], r"row 19: a dict instead of a label: label is \{"),
        ([{"name": "a"}, {"name": "b"}] * 9, "row 1: a dict instead of a label"),
    ],
)
def test_what_is_no_label_is_refused_with_its_row(tmp_path, values, says):
    with pytest.raises(InputError, match=says):
        read(train_file=str(jsonl(tmp_path / "m.jsonl", values)))


def test_names_for_labels_that_have_names_are_refused(tmp_path):
    file = str(write_csv(tmp_path / "m.csv", ROWS))
    with pytest.raises(InputError, match="--class_names names labels that are numbers from 0"):
        read(train_file=file, task=TextClassification(class_names=["no", "yes"]))
    with pytest.raises(InputError, match="vectors of 3 numbers, and 2 names"):
        read(train_file=str(jsonl(tmp_path / "m.jsonl", VECTORS)), task=TextClassification(class_names=["no", "yes"]))
    rows = [{**row, "label": i % 2} for i, row in enumerate(ROWS)]
    file = str(write_csv(tmp_path / "ids.csv", rows))
    found = read(train_file=file, task=TextClassification(class_names=["no", "yes"]))["train"]
    assert [label for _, label in found][:2] == ["no", "yes"]


# --- texts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ({"body": "x"}, "row 3: expected a text, found a dict"),
        (["x", "y"], "row 3: expected a text, found a list"),
        (None, "row 3: no text"),
        (" \u200b\u00a0", "row 3: no text"),
        ("win \ud83d", "row 3: it holds a NUL character or half a character"),
        ("win \0", "row 3: it holds a NUL character or half a character"),
    ],
)
def test_what_is_no_text_is_refused_with_its_row_and_can_be_left_out(tmp_path, value, says):
    rows = [{"text": f"text {i}", "label": "ab"[i % 2]} for i in range(12)]
    rows[2]["text"] = value
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(InputError, match=says) as refused:
        read(train_file=str(tmp_path / "m.jsonl"))
    assert "--drop_incomplete" in str(refused.value)
    assert len(read(drop=True, train_file=str(tmp_path / "m.jsonl"))["train"]) == 11


def test_parquet_with_damaged_texts_is_refused(tmp_path):
    import pyarrow
    from pyarrow import parquet

    offsets = pyarrow.array([0, 2], pyarrow.int32()).buffers()[1]
    damaged = pyarrow.Array.from_buffers(pyarrow.string(), 1, [None, offsets, pyarrow.py_buffer(b"a\xff")])
    parquet.write_table(pyarrow.table({"text": damaged, "label": ["x"]}), tmp_path / "m.parquet")
    with pytest.raises(InputError, match=r"UTF-?8"):
        read(train_file=str(tmp_path / "m.parquet"))
    with pytest.raises(InputError, match=r"UTF-?8"):
        list(read_rows(tmp_path / "m.parquet"))


def test_a_column_of_objects_is_no_column_of_texts(tmp_path):
    rows = [{"text": {"body": f"text {i}"}, "label": "ab"[i % 2]} for i in range(12)]
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    Dataset.from_list(rows).to_parquet(tmp_path / "m.parquet")
    for name in ("m.jsonl", "m.parquet"):
        with pytest.raises(InputError, match="No row of the train split has a text"):
            read(train_file=str(tmp_path / name))


def test_what_is_blank_does_not_depend_on_the_version_of_unicode():
    for text in ("\U0001fae9", "\U0001f9ff\U0001fadf", "\U0001fbff", "\ue000", "\U000f0001", "\u0378", "؀", "ｱ", "?"):
        assert not is_blank(text), ascii(text)
    for text in (
        "",
        " \t\r\n",
        "\u200b\u200e",
        "\ufeff",
        "\u3164",
        "\u2800",
        "\x00\x07",
        "\u00ad",
        "\U000e0020",
        "\ufe0f",
    ):
        assert is_blank(text), ascii(text)


@pytest.mark.parametrize("plain", ["(1)", "( 2 )", "('ham')", "(True)"])
def test_a_label_in_parentheses_is_one_label(plain):
    """Python prints a tuple of one with a comma."""
    rows = Dataset.from_dict({"label": [plain, f" {plain}"]})
    (form,) = label_readers({"train": rows}, "label", None, None).values()
    assert (form.kind, form.read(plain)) == ("one", (plain, None))
    assert [as_list(text) for text in ("(1,)", "(1, 2)", "()", "[1]", "{1}")] == [[1], [1, 2], [], [1], [1]]
