"""Splits that are drawn: equal examples and whole speakers, patients, cameras on one side; sizes and strata near."""

import json

import numpy as np
import pytest
import soundfile
from conftest import DATA, write_csv
from datasets import Dataset, DatasetDict
from speech import write_clips

from hf_transfer import InputError, SpeechRecognition, TextClassification, finetune
from hf_transfer.arguments.parsing import make_arguments
from hf_transfer.data.holdout import hold_out
from hf_transfer.inference import evaluate
from hf_transfer.preparation import prepare_splits
from hf_transfer.targets.labels.classification_intervals import proportion_interval


def splits_of(table, task=None, **arguments):
    """The splits that a run would work on, and what its report would say of them; no model is needed for texts."""
    task = task or TextClassification()
    given = {"dataset": table} if isinstance(table, (Dataset, DatasetDict)) else {}
    files = {} if given else {"train_file": str(table)}
    made = make_arguments(task, {"output_dir": "x", "model_name_or_path": "m", **files, **arguments})
    return prepare_splits(task, made, given.get("dataset"))


def texts(split):
    return split["text"][:]


def table(sizes, column="patient_id", label=lambda unit, i: "ab"[i % 2]):
    """Examples of units of these sizes, the unit in a column."""
    return Dataset.from_list(
        [
            {"text": f"note {unit} {i}", "label": label(unit, i), column: f"p{unit}"}
            for unit, size in enumerate(sizes)
            for i in range(size)
        ]
    )


def units(split):
    return set(split["unit"][:])


# --- the search -------------------------------------------------------------------------------------------------


def reachable(sizes):
    """Every number of examples that some of the units have together."""
    can = np.zeros(sum(sizes) + 1, dtype=bool)
    can[0] = True
    for size in sizes:
        can[size:] |= can[:-size].copy()
    return np.flatnonzero(can)[1:-1]


def random_sizes(source):
    count = int(source.integers(3, 60))
    kinds = (
        lambda: source.integers(1, 40, count),
        lambda: np.ceil(5 * source.pareto(1.0, count)).astype(int).clip(1, 1000),
        lambda: np.array([900, *[10] * (count - 1)]),
        lambda: np.array([*source.integers(20, 90, 3), *[1] * count]),
    )
    return kinds[int(source.integers(len(kinds)))]().tolist()


def test_sizes_are_the_nearest_that_whole_units_reach():
    source = np.random.default_rng(0)
    for number in range(100):
        sizes = random_sizes(source)
        owner = np.repeat(np.arange(len(sizes)), sizes)
        wanted = max(1, round(len(owner) * float(source.choice([0.05, 0.1, 0.2, 0.5]))))
        drawn = hold_out(owner, [0] * len(owner), wanted, number)
        assert sorted(drawn.remaining + drawn.held_out) == list(range(len(owner)))
        assert not set(owner[drawn.held_out]) & set(owner[drawn.remaining])
        best = abs(reachable(sizes) - wanted).min()
        assert abs(len(drawn.held_out) - wanted) <= best + 0.02 * wanted, (sizes, wanted)


def test_strata_have_their_shares_on_both_sides():
    """Units of one stratum, and units with several: shares within the larger of 3 % and the usual unit."""
    source = np.random.default_rng(1)
    for number in range(60):
        sizes = source.integers(1, 9, int(source.integers(60, 200)))
        owner = np.repeat(np.arange(len(sizes)), sizes)
        shares = (
            source.dirichlet(np.ones(4), size=len(sizes))
            if number % 2
            else np.eye(4)[source.integers(4, size=len(sizes))]
        )
        strata = np.array([source.choice(4, p=shares[unit]) for unit in owner])
        wanted = len(owner) // 5
        taken = hold_out(owner, strata.tolist(), wanted, number).held_out
        assert abs(len(taken) - wanted) <= 1
        for stratum in range(4):
            has, expected = (strata[taken] == stratum).sum(), 0.2 * (strata == stratum).sum()
            assert abs(has - expected) <= max(4, 0.03 * wanted), (number, stratum)


def test_rare_strata_are_on_both_sides():
    source = np.random.default_rng(2)
    for number in range(40):
        strata = source.permutation([0] * 300 + [1] * 40 + [2] * 2 + [3] * 3)
        owner = np.unique(source.integers(0, 200, len(strata)), return_inverse=True)[1]
        drawn = hold_out(owner, strata.tolist(), 69, number)
        for stratum in range(4):
            if len(set(owner[strata == stratum])) > 1:
                assert (strata[drawn.held_out] == stratum).any()
                assert (strata[drawn.remaining] == stratum).any()
        assert abs(len(drawn.held_out) - 69) <= 3


def test_a_stratum_of_one_unit_is_learned():
    owner = np.repeat(np.arange(30), 10)
    strata = np.where(owner == 4, 2, np.arange(300) % 2)
    for seed in range(20):
        drawn = hold_out(owner, strata.tolist(), 60, seed)
        assert (strata[drawn.remaining] == 2).sum() == 10


def test_every_example_is_held_out_as_often():
    """With units of one and of several examples; the seed decides, and the same seed decides the same."""
    owner = np.concatenate([np.repeat(np.arange(20), 5), np.arange(20, 220)])
    strata = (np.arange(300) % 3 == 0).tolist()
    counts = np.zeros(300)
    for seed in range(300):
        counts[hold_out(owner, strata, 60, seed).held_out] += 1
    assert abs(counts[:100].mean() / 300 - 0.2) < 0.02
    assert abs(counts[100:].mean() / 300 - 0.2) < 0.02
    assert counts.std() < 2 * np.sqrt(300 * 0.2 * 0.8)  # binomial, and the five of a unit go together
    assert hold_out(owner, strata, 60, 7) == hold_out(owner, strata, 60, 7) != hold_out(owner, strata, 60, 8)


# --- equal examples ---------------------------------------------------------------------------------------------


@pytest.mark.skipif(not DATA.is_dir(), reason=f"needs the SMS Spam table in {DATA}")
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_no_real_message_is_in_training_and_test(seed):
    file = DATA / "sms_spam" / "messages.tsv"
    splits, facts = splits_of(file, column_names=["label", "text"], seed=seed)
    assert facts["also_in_training"] == {"validation": 0, "test": 0, "removed_from_train": 0}
    sides = {name: {" ".join(text.lower().split()) for text in texts(split)} for name, split in splits.items()}
    assert not sides["train"] & sides["test"]
    assert not sides["train"] & sides["validation"]
    assert not sides["validation"] & sides["test"]
    assert {name: len(split) for name, split in splits.items()} == {"train": 4059, "validation": 400, "test": 1115}
    assert sum(splits["test"]["label"]) == 149  # a fifth of the 747


# "Win £5", written in ways that are one text: case, spaces, full width, composed and not, signs of no width.
ALIKE = [
    "Café  win £5",
    "café win £5",
    "CAFÉ\u00a0WIN £5",
    "Cafe\u0301 win £5",
    "\uff23afé win £\uff15",
    "Ca\u00adfé\u200b win £5 ",
]


def with_copies(key, copies, count=60):
    rows = [{**key(f"message {i}"), "label": "ab"[i % 2]} for i in range(count)]
    return rows + [{**key(text), "label": "a"} for text in copies]


@pytest.mark.parametrize("pair", [False, True], ids=["texts", "pairs"])
def test_texts_that_differ_in_case_spacing_or_unicode_form_stay_together(pair):
    def key(text):
        return {"premise": text, "hypothesis": "so"} if pair else {"text": text}

    rows = with_copies(key, ALIKE)
    if pair:  # the same first text with another second one is another example
        rows += [{"premise": ALIKE[0], "hypothesis": f"not {i}", "label": "b"} for i in range(20)]
    sides = set()
    for seed in range(12):
        splits, facts = splits_of(Dataset.from_list(rows), seed=seed)
        holders = [
            name
            for name, split in splits.items()
            for i, text in enumerate(texts(split))
            if text in ALIKE and (not pair or split["text_pair"][i] == "so")
        ]
        assert len(holders) == len(ALIKE)
        assert len(set(holders)) == 1
        sides |= set(holders)
        assert facts["also_in_training"]["test"] == 0
        assert abs(len(splits["test"]) - 0.2 * len(rows)) <= 1
    assert len(sides) > 1  # now here, now there


def test_copies_with_different_labels_stay_together():
    rows = [{"text": f"message {i % 40}", "label": "ab"[i // 40]} for i in range(80)]
    splits, facts = splits_of(Dataset.from_list(rows))
    assert not set(texts(splits["train"])) & set(texts(splits["test"]))
    assert facts["caveats"][0].startswith("40 examples have different labels")


def test_texts_that_are_nearly_all_equal_are_refused_with_what_can_be_reached():
    rows = [{"text": "yes" if i < 180 else "no", "label": "ab"[i % 2]} for i in range(320)]
    with pytest.raises(
        InputError, match="with equal examples on one side there is no test split near 64 of 320"
    ) as told:
        splits_of(Dataset.from_list(rows))
    assert "--test_size 0.44." in str(told.value)
    splits, _ = splits_of(Dataset.from_list(rows), test_size=0.44)
    assert {name: len(split) for name, split in splits.items()} == {"train": 180, "test": 140}


def test_clips_with_the_same_samples_stay_together(speech_model, tmp_path):
    rows = write_clips(tmp_path, 30)
    for row in rows[:6]:  # under other names and transcripts
        copy = {**row, "file_name": f"{row['file_name']}.copy.wav"}
        (tmp_path / copy["file_name"]).write_bytes((tmp_path / row["file_name"]).read_bytes())
        rows += [copy, copy]
    for row in rows:
        row.pop("speaker", None)
    model = str(speech_model())
    for seed in range(3):
        splits, facts = splits_of(write_csv(tmp_path / "t.csv", rows), SpeechRecognition(), model_name_or_path=model,
                                  seed=seed, validation_size=0.1)  # fmt: skip
        assert facts["also_in_training"] == {"validation": 0, "test": 0, "removed_from_train": 0}
        assert {name: len(split) for name, split in splits.items()} == {"train": 29, "validation": 4, "test": 9}
    (tmp_path / "new").mkdir()
    new = write_csv(tmp_path / "new" / "t.csv", write_clips(tmp_path / "new", 30, shift=1.3))
    splits, facts = splits_of(new, SpeechRecognition(), model_name_or_path=model, source_file=str(tmp_path / "t.csv"),
                              replay=0.5)  # fmt: skip
    assert facts["also_in_training"]["source"] == 0
    assert abs(len(splits["source"]) - 21) <= 1


def test_halves_of_a_source_file_and_what_is_replayed_are_not_measured_on(tmp_path):
    plain = [{"text": f"new {i}", "label": "ab"[i % 2]} for i in range(80)]
    source = with_copies(lambda text: {"text": text}, ALIKE * 2, count=40) + plain[:20]  # some are in training, too
    files = {"train_file": str(write_csv(tmp_path / "t.csv", plain)), "replay": 0.3, "validation_size": 0.2,
             "source_file": str(write_csv(tmp_path / "s.csv", source))}  # fmt: skip
    for seed in range(5):
        splits, _ = splits_of(files["train_file"], seed=seed, **files)
        replayed = {text for text, one in zip(texts(splits["train"]), splits["train"]["replayed"], strict=True) if one}
        for name in ("source", "test", "validation"):
            assert not replayed & set(texts(splits[name]))
        assert 30 <= len(splits["source"]) <= 42


# --- whole units ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("column", ["patient_id", "Patient ID", "speaker", "client_id", "camera"])
def test_columns_of_patients_speakers_and_cameras_are_found_and_said(column, caplog):
    sizes = np.random.default_rng(3).integers(1, 30, 40).tolist()
    with caplog.at_level("INFO", "hf_transfer"):
        splits, facts = splits_of(table(sizes, column))
    assert not units(splits["train"]) & (units(splits["test"]) | units(splits["validation"]))
    assert not units(splits["validation"]) & units(splits["test"])
    assert abs(facts["made"]["test"]["share"] - 0.2) < 0.01
    assert facts["made"]["test"]["split_by"] == column
    (line,) = [record.message for record in caplog.records if record.message.startswith("No test split")]
    assert f"--split_by {column}" in line
    assert set(splits["test"]["label"]) == {0, 1}


@pytest.mark.parametrize("found", [True, False], ids=["found", "named"])
def test_one_patient_with_most_examples_does_not_make_the_test_split(found):
    column = "patient" if found else "ward"
    splits, facts = splits_of(table([900, *[10] * 12], column), **({} if found else {"split_by": "ward"}))
    assert units(splits["train"]) == {"p0"}
    assert len(splits["test"]) == 120  # the nearest to 204
    assert not units(splits["train"]) & units(splits["test"])
    assert "All training examples are of one" in facts["caveats"][0]


def test_what_no_choice_comes_near_to_is_refused_and_the_remedy_leads_on():
    of_two = table([500, 520], "ward")
    with pytest.raises(InputError, match="no test split near 204 of 1020 examples") as told:
        splits_of(of_two, split_by="ward")
    assert "--test_size 0.49" in str(told.value)
    splits, _ = splits_of(of_two, split_by="ward", test_size=0.49)
    assert {name: len(split) for name, split in splits.items()} == {"train": 520, "test": 500}  # none to choose on
    with pytest.raises(
        InputError, match=r"The nearest is --validation_size 0\.\d+\. Do without \(--validation_size 0\)"
    ):
        splits_of(table([900, 100, 50, 100], "ward"), split_by="ward", test_size=0.1, validation_size=0.4)
    with pytest.raises(InputError, match=r"no such column.*Did you mean ward"):
        splits_of(of_two, split_by="wards")


def test_few_patients_are_kept_whole_only_where_that_is_asked_for(caplog):
    few = table([50] * 3)
    with caplog.at_level("INFO", "hf_transfer"):
        splits, facts = splits_of(few)
    assert len(splits["test"]) == 30
    assert "too few to keep whole unasked" in caplog.text
    assert facts["caveats"] == ["3 patients are in train and test: the result holds for known ones."]
    splits, facts = splits_of(few, split_by="patient_id")
    assert len(splits["test"]) == 50
    assert not units(splits["train"]) & units(splits["test"])


def test_equal_examples_join_the_units_that_hold_them():
    rows = [{"text": f"note {i}", "label": "ab"[i % 2], "camera": f"c{i // 5}"} for i in range(150)]
    for k in range(0, 150, 10):  # the same text at two cameras: they go together
        rows[k + 5]["text"] = rows[k]["text"]
    for seed in range(5):
        splits, facts = splits_of(Dataset.from_list(rows), seed=seed)
        assert not units(splits["train"]) & units(splits["test"])
        assert facts["also_in_training"]["test"] == 0
        assert len(splits["test"]) == 30


def test_examples_that_name_no_patient_are_taken_each_by_itself():
    rows = [
        {"text": f"note {i}", "label": "ab"[i % 2], "patient": None if i < 100 else f"p{i % 10}"} for i in range(200)
    ]
    splits, _ = splits_of(Dataset.from_list(rows))
    named = [units(splits[name]) - {"(none)"} for name in ("train", "test")]
    assert not named[0] & named[1]
    assert 5 <= splits["test"]["unit"][:].count("(none)") <= 40


def test_a_label_of_one_patient_is_learned_and_said_to_be_unmeasured():
    rows = table([20] * 20, label=lambda unit, i: "c" if unit == 7 and i < 15 else "ab"[i % 2])
    for seed in range(5):
        splits, facts = splits_of(rows, seed=seed)
        assert splits["train"]["label"][:].count(2) == 15
        few, unmeasured = facts["caveats"]
        assert few.startswith("The test examples are of 4 patients: too few for intervals over patients")
        assert unmeasured == "No test example has the label 'c': how well it is predicted is not measured."


def test_patients_on_both_sides_of_given_splits_are_counted():
    whole = table([4] * 30, label=lambda unit, i: "aabb"[i])
    given = DatasetDict(train=whole.select(range(0, 92, 2)), test=whole.select(range(81, 120, 2)))
    _, facts = splits_of(given, validation_size=0)
    assert facts["caveats"] == ["3 patients are in train and test: the result holds for known ones."]


def test_groups_may_be_what_is_kept_whole(tmp_path):
    rows = table([10] * 20, "camera")
    splits, _ = splits_of(rows, group_column_name="camera", split_by="camera")
    assert not set(splits["train"]["group"]) & set(splits["test"]["group"])
    assert len(splits["test"]) == 40
    with pytest.raises(InputError, match="--source_group needs examples of that group in training"):
        splits_of(rows, group_column_name="camera", split_by="camera", source_group="p1")
    rows = table([60] * 6, "camera")
    splits, _ = splits_of(rows, group_column_name="camera", source_group="p1")  # on both sides then
    assert set(splits["source"]["group"]) == {"p1"}


def test_the_split_by_which_a_run_was_measured_is_in_report_card_and_arguments(tiny, tmp_path):
    wards = table([2] * 60, "ward", lambda ward, i: "ab"[ward % 2])
    wards = wards.add_column("half", [int(text.split()[1]) % 2 for text in wards["text"]])
    result = finetune(
        TextClassification(), model_name_or_path=str(tiny()), dataset=wards, split_by="ward", group_column_name="half",
        output_dir=str(tmp_path / "out"), max_steps=1, disable_tqdm=True,
    )  # fmt: skip
    assert result.report["data"]["made"]["test"] == {
        "from": "train", "share": 0.2, "asked": 0.2, "seed": 42, "split_by": "ward", "whole": "values of 'ward'",
    }  # fmt: skip
    # Each half is of too few wards to tell how much they differ: over examples it would be far too narrow.
    assert [group["confidence"] for group in result.report["groups"].values()] == [{}, {}]
    assert "Groups with too few values of" in (tmp_path / "out" / "report.html").read_text()
    assert "whole values of 'ward'" in (tmp_path / "out" / "README.md").read_text()
    assert "whole values of &#39;ward&#39;" in (tmp_path / "out" / "report.html").read_text()
    assert "split_by: ward\n" in (tmp_path / "out" / "arguments.yaml").read_text()
    records = [json.loads(line) for line in (tmp_path / "out" / "predictions.jsonl").open()]
    assert len({record["text"].split()[1] for record in records}) * 2 == len(records) == 24
    assert result.report["data"]["intervals_over"] == "values of 'ward'"
    # Twelve wards were measured, not 24 examples.
    assert len({record["unit"] for record in records}) == 12
    right = sum(record["label"] == record["prediction"] for record in records)
    low, high = proportion_interval(right, 24)
    assert result.report["confidence"]["accuracy"] != [low, high]
    tested = {record["text"] for record in records}
    again = [row for row in wards if row["text"] in tested]
    found = evaluate(tmp_path / "out", str(write_csv(tmp_path / "t.csv", again)), split_by="ward")
    assert found["intervals_over"] == "values of 'ward'"
    assert found["confidence"]["accuracy"] == pytest.approx(
        result.report["confidence"]["accuracy"], abs=0.1
    )  # steps of a ward, 1 / 12


# --- groups without a name --------------------------------------------------------------------------------------


@pytest.mark.parametrize("empty", ["", None, "  ", float("nan")])
def test_examples_of_no_group_can_be_the_source(empty):
    groups = [empty if i % 4 == 0 else 2.0 if empty != empty else "chat" for i in range(80)]
    rows = Dataset.from_dict(
        {"text": [f"n {i}" for i in range(80)], "label": [i // 8 % 2 for i in range(80)], "g": groups}
    )
    splits, _ = splits_of(rows, group_column_name="g", source_group="(none)")
    assert set(splits["source"]["group"]) == {"(none)"}
    assert set(splits["train"]["group"]) == set(splits["test"]["group"]) == {"2" if empty != empty else "chat"}
    splits, _ = splits_of(rows, group_column_name="g", target_group=["(none)"])
    assert set(splits["train"]["group"]) == {"(none)"}


def test_a_checkpoint_tells_texts_that_are_equal_when_splits_are_drawn():
    task, pair = TextClassification(), Dataset.from_dict({"text": ["Win £5", "win £5 "]})
    assert len(set(task.identities(pair))) == 1
    assert len(set(task.input.content_hashes(pair))) == 2


@pytest.mark.parametrize(("share", "count"), [(0.07, 7), (0.14, 14), (0.29, 29), (0.071, 8)])
def test_a_share_of_whole_examples_is_as_many(share, count):
    """100 * 0.07 is a little more than 7 to a computer."""
    examples = Dataset.from_dict({"text": [f"note {i}" for i in range(100)], "label": ["a", "b"] * 50})
    splits, _ = splits_of(examples, test_size=share, validation_size=0.0)
    assert len(splits["test"]) == count


def test_test_examples_that_are_validated_on_are_said_and_removed(caplog):
    """A test file whose texts are in the training file too: some of them land in the validation split."""
    rows = [{"text": f"note {i}", "label": "ab"[i % 2]} for i in range(200)]
    given = DatasetDict(train=Dataset.from_list(rows), test=Dataset.from_list(rows[:60]))
    with caplog.at_level("INFO", "hf_transfer"):
        splits, facts = splits_of(given)
        both = set(texts(splits["validation"])) & set(texts(splits["test"]))
        assert both
        assert (
            f"{len(both)} of {len(splits['validation'])} validation examples are test examples as well" in caplog.text
        )
        assert sum("so results may be too good" in caveat for caveat in facts["caveats"]) == 1
        splits, facts = splits_of(given, deduplicate=True)
    assert not set(texts(splits["test"])) & {*texts(splits["validation"]), *texts(splits["train"])}
    assert facts["also_in_training"]["removed_from_validation"] == len(both)
    assert facts["caveats"] == []


def test_a_test_file_that_does_not_name_its_patients_is_said(caplog):
    given = DatasetDict(train=table([6] * 30), test=table([6] * 12).remove_columns("patient_id"))
    _, facts = splits_of(given, split_by="patient_id")
    assert any("The test split has no column 'patient_id'" in caveat for caveat in facts["caveats"])
    with pytest.raises(InputError, match="that column is the target"):
        splits_of(table([6] * 30), split_by="label")


def test_a_column_of_splits_that_is_not_used_is_said(tmp_path, caplog):
    words = ["train"] * 60 + ["test"] * 30 + ["unlabeled"] * 110
    rows = [{"text": f"note {i}", "label": "ab"[i % 2], "split": words[i]} for i in range(200)]
    caplog.set_level("WARNING", "hf_transfer")
    splits_of(write_csv(tmp_path / "t.csv", rows))
    assert "90 of 200 rows say train, validation or test there" in caplog.text
    caplog.clear()
    for row in rows:  # of two columns of that name it is the one that says it
        row |= {"Split": "ab"[len(row["text"]) % 2], "split": "test" if row["split"] == "test" else "train"}
    splits, _ = splits_of(write_csv(tmp_path / "u.csv", [{"Split": row["Split"], **row} for row in rows]))
    assert len(splits["test"]) == 30
    assert not caplog.text


def clips_of(folder, rows, model, **settings):
    """The clips that a run would train and measure on, by the name that their row gives."""
    for name in {row["audio"].removeprefix("./") for row in rows}:
        tone = np.sin(np.arange(int(2.0 * 16_000)) * (0.1 + 0.01 * len(name)))
        soundfile.write(folder / (name if name.endswith(".wav") else f"{name}.wav"), 0.1 * tone, 16_000)
    fields = {name: "" for row in rows for name in row}
    file = write_csv(folder / "t.csv", [{**fields, **row} for row in rows])
    task, given = SpeechRecognition(vocabulary="new"), {"test_file": str(file), "validation_size": 0.0, **settings}
    splits, facts = splits_of(file, task, model_name_or_path=str(model), **given)
    return list(zip(splits["test"]["audio"][:], splits["test"]["text"][:], strict=True)), facts


def test_whole_files_beside_parts_of_others_are_used(speech_model, tmp_path):
    parts = [
        {"audio": "long.wav", "start": i / 10, "end": i / 10 + 0.5, "text": f"GO {'A' * (i + 1)}"} for i in range(8)
    ]
    whole = [{"audio": "short.wav", "text": "STOP"}, {"audio": "short.wav", "text": "STOP"}]
    found, _ = clips_of(tmp_path, [*parts, *whole], speech_model())
    assert [audio for audio, _ in found].count("short.wav") == 2
    # The same file, as another row spells it, means no clip where parts of it are meant.
    found, facts = clips_of(tmp_path, [*parts, {"audio": "./long.wav", "text": "STOP"}], speech_model())
    assert len(found) == 8
    assert facts["left_out"]["test"] == {"no part of its file": 1}


@pytest.mark.parametrize("texts", [["", "GO", "STOP"], ["GO", "", "STOP"]])
def test_one_file_with_several_transcripts_is_refused_wherever_they_stand(speech_model, tmp_path, texts):
    rows = [{"audio": "a.wav", "text": text} for text in texts] + [
        {"audio": f"{i}.wav", "text": "GO"} for i in range(9)
    ]
    with pytest.raises(InputError, match=r"name one file, a\.wav, with different transcripts"):
        clips_of(tmp_path, rows, speech_model())
    rows[2]["audio"] = "./a"  # whatever its spelling
    with pytest.raises(InputError, match="with different transcripts"):
        clips_of(tmp_path, rows, speech_model())


@pytest.mark.parametrize("start", ["0,5", "00:00:01.5", "1:02"])
def test_times_that_are_no_seconds_are_refused(speech_model, tmp_path, start):
    rows = [{"audio": f"{i}.wav", "start": start, "end": "0:01,9", "text": "GO"} for i in range(6)]
    with pytest.raises(InputError, match=f"Row 1 has '{start}' in its column 'start', .* as 83.5"):
        clips_of(tmp_path, rows, speech_model())


def test_columns_of_other_things_named_like_times_are_said(speech_model, tmp_path, caplog):
    rows = [{"audio": f"{i}.wav", "start": "monday", "end": "friday", "text": "GO"} for i in range(6)]
    with caplog.at_level("INFO", "hf_transfer"):
        found, _ = clips_of(tmp_path, rows, speech_model())
    assert len(found) == 6
    assert "The columns 'start' and 'end' do not hold seconds (for example 'monday')" in caplog.text


def test_speakers_who_are_not_named_are_no_speaker(speech_model, tmp_path):
    rows = [{"audio": f"{i}.wav", "speaker": "" if i < 16 else f"s{i}", "text": "GO"} for i in range(20)]
    _, facts = clips_of(tmp_path, rows, speech_model())
    told = " ".join(facts["caveats"])
    assert "4 speakers are in train and test" in told
    assert "of the training audio" not in told
