"""A number as target: --problem_type regression."""

import json

import numpy as np
import pytest
from conftest import build_model, number_rows, write_csv
from scipy.stats import rankdata, spearmanr
from sklearn.metrics import mean_absolute_error, mean_squared_error
from transformers import pipeline

from hf_transfer import InputError, TextClassification, compare, finetune, load_finetuned, study
from hf_transfer.inference import evaluate
from hf_transfer.reporting.model_card import model_card
from hf_transfer.reporting.page import report_page
from hf_transfer.reporting.publishing import published_report
from hf_transfer.targets.labels import regression

pytestmark = pytest.mark.usefixtures("lean")

NUMBER = TextClassification(problem_type="regression")
UNITS = {"one": (1.0, 0.0), "thousand": (1000.0, 50_000.0)}


def run_of(output, model, file, task=NUMBER, **settings):
    return finetune(task, model_name_or_path=str(model), train_file=str(file), output_dir=str(output),
                    disable_tqdm=True, **settings)  # fmt: skip


def records_of(folder):
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def rated(tiny, tmp_path_factory):
    """Runs on the same labels in two units, evaluated as they go: their results by unit."""
    place = tmp_path_factory.mktemp("rated")
    return {
        name: run_of(
            place / name, tiny(), write_csv(place / f"{name}.csv", number_rows(240, *unit)), num_train_epochs=8.0,
            learning_rate=2e-3, group_column_name="channel", source_group="chat", early_stopping_patience=3,
            metric_for_best_model="mean_squared_error",
        )
        for name, unit in UNITS.items()
    }  # fmt: skip


# --- metrics ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ties", [False, True])
def test_metrics_equal_those_of_scipy_and_scikit_learn(ties):
    generator = np.random.default_rng(0)
    truth = generator.normal(size=80)
    guess = truth + generator.normal(size=80)
    truth, guess = (truth.round(), guess.round()) if ties else (truth, guess)
    found = regression.compute_metrics(guess, truth)
    assert found == pytest.approx({
        "mean_squared_error": mean_squared_error(truth, guess),
        "mean_absolute_error": mean_absolute_error(truth, guess),
        "spearman": spearmanr(truth, guess).statistic,
    })  # fmt: skip


def test_weights_are_repetitions_of_examples_with_ties():
    generator = np.random.default_rng(1)
    truth, guess = generator.normal(size=(2, 50)).round(1)
    weights = generator.integers(0, 4, size=(7, 50)).astype(float)
    found = regression.regression_metrics(truth, guess, weights)
    for i, times in enumerate(weights):
        rows = np.repeat(np.arange(50), times.astype(int))
        assert regression.mid_ranks(truth, times)[rows] == pytest.approx(rankdata(truth[rows]))
        for name, value in regression.compute_metrics(guess[rows], truth[rows]).items():
            assert found[name][i] == pytest.approx(value), name
        assert found["spearman"][i] == pytest.approx(spearmanr(truth[rows], guess[rows]).statistic)


def test_of_numbers_that_are_all_the_same_there_is_no_correlation():
    truth, same = np.arange(30.0), np.full(30, 2.0)
    assert np.isnan(regression.compute_metrics(same, truth)["spearman"])
    found = regression.regression_intervals(same, same, truth, seed=0)
    assert set(found["after"]) == {"mean_squared_error", "mean_absolute_error"}
    assert found["gain"]["mean_squared_error"] == [0.0, 0.0]


def test_errors_that_are_all_the_same_have_no_other_end():
    """A share that is 0 or 1 in all resamples has an exact interval; an error of 1 or 0 is none."""
    truth = np.arange(30.0)
    found = regression.regression_intervals(truth + 1, truth, truth, seed=0)
    assert found["after"]["mean_absolute_error"] == [0.0, 0.0]
    assert found["gain"]["mean_squared_error"] == pytest.approx([-1.0, -1.0])
    found = regression.regression_intervals(truth, truth + 1, truth, seed=0)
    assert found["after"]["mean_squared_error"] == pytest.approx([1.0, 1.0])


def test_intervals_do_not_depend_on_the_unit():
    """Also where errors are below 1, which a share could not be above."""
    generator = np.random.default_rng(3)
    truth = generator.normal(size=40)
    before, after = truth + generator.normal(size=40), truth + 0.9 * generator.normal(size=40)
    one = regression.regression_intervals(before, after, truth, seed=0)
    for unit in (1e-3, 0.7, 1e5):
        other = regression.regression_intervals(before * unit, after * unit, truth * unit, seed=0)
        for kind, found in one.items():
            for name, times in (("mean_squared_error", unit**2), ("mean_absolute_error", unit), ("spearman", 1)):
                assert other[kind][name] == pytest.approx([end * times for end in found[name]])


@pytest.mark.parametrize("kind", ["normal", "ratings"])
def test_intervals_hold_the_truth_as_often_as_they_say(kind, monkeypatch):
    """100 examples, 300 draws: 95 % intervals of each metric hold its value in the whole population."""
    monkeypatch.setattr("hf_transfer.evaluation.bootstrap.RESAMPLES", 200)
    generator = np.random.default_rng(2)

    def draw(n):
        truth = generator.normal(size=n)
        guess = 0.8 * truth + 0.6 * generator.normal(size=n)
        return (np.clip(truth.round(), -2, 2), guess.round(1)) if kind == "ratings" else (truth, guess)

    population = draw(400_000)
    true = {name: float(value) for name, value in regression.regression_metrics(*population).items()}
    held = dict.fromkeys(true, 0)
    for seed in range(300):
        truth, guess = draw(100)
        for name, (low, high) in regression.regression_intervals(guess, guess, truth, seed)["after"].items():
            held[name] += low <= true[name] <= high
    assert all(0.9 <= count / 300 <= 0.99 for count in held.values()), held


# --- a run ------------------------------------------------------------------------------------------------------


def test_what_is_learned_does_not_depend_on_the_unit(rated):
    one, thousand = (rated[name].report for name in UNITS)
    for when in ("baseline", "metrics"):
        assert thousand[when]["spearman"] == pytest.approx(one[when]["spearman"], abs=1e-3)
        scaled = one[when]["mean_absolute_error"] * 1000
        assert thousand[when]["mean_absolute_error"] == pytest.approx(scaled, rel=1e-3)
    for report in (one, thousand):
        assert report["metrics"]["mean_squared_error"] < 0.5 * report["data"]["always_mean"]["mean_squared_error"]
        assert report["metrics"]["spearman"] > 0.8
        losses = [entry["loss"] for entry in report["history"] if "loss" in entry]
        assert losses[0] == pytest.approx(1, abs=0.3)  # of standardised labels, from their mean on
        assert losses[-1] < 0.5


def test_a_run_says_what_it_found(rated):
    report, told = rated["thousand"].report, str(rated["thousand"])
    low, high = report["confidence"]["mean_absolute_error"]
    assert low <= report["metrics"]["mean_absolute_error"] <= high < report["baseline"]["mean_absolute_error"]
    assert report["gain"]["mean_absolute_error"][1] < 0
    assert "mean_absolute_error fell by " in told
    assert "do not ship" not in told
    assert f"mean_squared_error {report['data']['always_mean']['mean_squared_error']:.0f}." in told
    assert set(report["groups"]) == {"sms"}
    assert {"mean_squared_error_before", "spearman", "confidence"} <= set(report["groups"]["sms"])
    assert "On the source examples mean_absolute_error changed by -" in told
    evaluated = [entry["eval_mean_squared_error"] for entry in report["history"] if "eval_loss" in entry]
    kept = report["training"]["kept_step"]
    best = [entry["step"] for entry in report["history"] if entry.get("eval_mean_squared_error") == min(evaluated)]
    assert kept in best  # the lowest is the best
    card = (rated["thousand"].folder / "README.md").read_text()
    assert "mean_squared_error" in card
    assert "problem_type: regression" in (rated["thousand"].folder / "arguments.yaml").read_text()


def test_numbers_of_the_report_are_those_of_the_predictions(rated):
    result = rated["one"]
    records = [record for record in records_of(result.folder) if "split" not in record]
    truth, guess = (np.array([record[key] for record in records]) for key in ("label", "prediction"))
    assert result.report["metrics"]["mean_squared_error"] == pytest.approx(np.square(guess - truth).mean())
    farthest = max(records, key=lambda record: abs(record["prediction"] - record["label"]))
    assert result.report["worst"][0]["text"] == farthest["text"]
    assert sum(result.report["residuals"]["counts"]) == len(records)
    assert result.report["predicted_against_true"]["true"] == truth.tolist()
    mean = result.report["data"]["always_mean"]
    assert mean["mean_squared_error"] == pytest.approx(np.square(truth - mean["value"]).mean())


@pytest.mark.parametrize("settings", [{"method": "lora", "merge": True}, {"method": "frozen"}, {"head_first": True}])
def test_the_model_itself_gives_numbers_in_the_unit(tiny, tmp_path, rated, settings):
    """Plain transformers, `load_finetuned` and the measured run give the same ones."""
    file = write_csv(tmp_path / "n.csv", number_rows(60, 1000, 50_000))
    folder = run_of(tmp_path / "out", tiny(), file, max_steps=8, learning_rate=2e-3, **settings).folder
    for place in (folder, rated["thousand"].folder):
        records = records_of(place)[:8]
        texts, numbers = [r["text"] for r in records], [r["prediction"] for r in records]
        assert 48_000 < min(numbers) < max(numbers) < 58_000
        for loaded in (pipeline("text-classification", str(place)), load_finetuned(place)):
            assert [one["score"] for one in loaded(texts)] == pytest.approx(numbers, abs=0.05)
    assert "label_scale" not in json.loads((folder / "config.json").read_text())


def test_a_head_without_a_bias_gives_them_too(tmp_path):
    """GPT-2's: it cannot hold the mean, which stays in the config."""
    model = build_model(tmp_path / "gpt2", "gpt2")
    file = write_csv(tmp_path / "n.csv", number_rows(60, 1.0, 1000))
    first = run_of(tmp_path / "first", model, file, max_steps=4)
    records = records_of(first.folder)
    found = load_finetuned(first.folder)([record["text"] for record in records])
    numbers = [record["prediction"] for record in records]
    assert 990 < min(numbers) < max(numbers) < 1010
    assert [one["score"] for one in found] == pytest.approx(numbers, abs=1e-3)
    plain = pipeline("text-classification", str(first.folder))(records[0]["text"])[0]["score"]
    assert numbers[0] - plain == pytest.approx(first.report["decision"]["added"], abs=1e-3)
    assert "its numbers lack" in (first.folder / "README.md").read_text()
    again = run_of(tmp_path / "again", first.folder, file, max_steps=1, learning_rate=1e-9)
    assert again.report["baseline"] == pytest.approx(first.report["metrics"], rel=1e-4)


def test_a_regression_head_is_kept_and_measured(rated, tmp_path):
    file = write_csv(tmp_path / "n.csv", number_rows(240, *UNITS["thousand"]))
    result = run_of(tmp_path / "out", rated["thousand"].folder, file, max_steps=1, learning_rate=1e-9)
    assert result.report["newly_initialised"] == []
    assert result.report["baseline"]["spearman"] > 0.8
    assert result.report["metrics"] == pytest.approx(result.report["baseline"], rel=1e-4)


def test_commands_predict_and_evaluate(rated, command, tmp_path):
    folder, report = rated["one"].folder, rated["one"].report
    records = [record for record in records_of(folder) if "split" not in record]
    done = command("predict", folder, records[0]["text"], " ")
    first, second = map(json.loads, done.out.splitlines())
    assert first == {"text": records[0]["text"], "prediction": pytest.approx(records[0]["prediction"], abs=1e-4)}
    assert second["error"] == "there is no text"
    rows = [{"text": record["text"], "label": record["label"]} for record in records]
    found = evaluate(folder, str(write_csv(tmp_path / "t.csv", rows)))
    assert found["metrics"] == pytest.approx(report["metrics"], rel=1e-4)
    assert set(found["confidence"]) == set(found["metrics"])
    rows[1]["label"] = "many"
    with pytest.raises(InputError, match=r"row 2: no number: label is 'many'"):
        evaluate(folder, str(write_csv(tmp_path / "t.csv", rows)))


def test_a_comparison_and_a_study_take_the_lower_error(tiny, tmp_path):
    file = write_csv(tmp_path / "n.csv", number_rows(90, 1000, 50_000))
    common = {"model_name_or_path": str(tiny()), "train_file": str(file), "max_steps": 5, "disable_tqdm": True}
    compared = compare(NUMBER, methods=["full", "scratch"], seeds=1, learning_rate=2e-3,
                       output_dir=str(tmp_path / "c"), **common)  # fmt: skip
    report = compared.report
    errors = {way: run["metrics"]["mean_absolute_error"] for way, run in report["runs"].items()}
    assert report["metric_name"] == "Mean absolute error"
    assert report["best"] == min(errors, key=errors.get) == next(iter(report["runs"]))
    assert f"{errors[report['recommended']]:.{0 if errors[report['recommended']] >= 1000 else 1}f}" in str(compared)
    studied = study(NUMBER, methods=["frozen"], sizes=[16], draws=1, output_dir=str(tmp_path / "s"), **common)
    assert studied.report["greater_is_better"] is False
    assert "Mean absolute error on" in str(studied)


def test_no_better_than_the_mean_is_said(tiny, tmp_path, with_page):
    file = write_csv(tmp_path / "n.csv", [{**row, "label": hash_of(row["text"])} for row in number_rows(60)])
    result = run_of(tmp_path / "out", tiny(), file, learning_rate=0.01, num_train_epochs=5.0, weight_decay=0.0)
    worse = result.report["metrics"]["mean_squared_error"] > result.report["data"]["always_mean"]["mean_squared_error"]
    assert worse
    for told in (str(result), *((result.folder / name).read_text() for name in ("README.md", "report.html"))):
        assert "That is better: do not ship this." in told


def hash_of(text):
    return sum(map(ord, text)) * 7919 % 101 / 10


def test_what_is_published_holds_no_examples(rated):
    report = rated["one"].report
    published = published_report(report)
    page = report_page(published, {"output_dir": "numbers", "method": "full"}, [])
    card = model_card(published, {"output_dir": "numbers", "method": "full"})
    assert "Predicted against true" in page
    for one in report["worst"]:
        assert one["text"] not in page + card + json.dumps(published)


# --- what is given ----------------------------------------------------------------------------------------------


def test_numbers_are_read_as_they_are_written(tiny, tmp_path, caplog):
    forms = ["4.5", " 2 ", "1e-3", "-7", "+.5", "1E2", "٣"]
    rows = [{"text": f"see you {i}", "label": forms[i % len(forms)]} for i in range(42)]
    result = run_of(tmp_path / "out", tiny(), write_csv(tmp_path / "n.csv", rows), max_steps=1)
    labels = {record["label"] for record in records_of(result.folder)}
    assert labels <= {4.5, 2.0, 0.001, -7.0, 0.5, 100.0, 3.0}
    assert result.report["data"]["numbers"]["splits"]["train"]["highest"] == 100.0


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("4,5", r"row 3: a comma in a number: label is '4,5'.*Write decimals with a point \(4.5\)"),
        ("4,808.25", r"row 3: a comma in a number: label is '4,808.25'.*Write decimals with a point \(4.5\)"),
        ("nan", "row 3: no number: label is 'nan'"),
        ("inf", "row 3: no number: label is 'inf'"),
        ("1_000", "row 3: no number"),
        ("1e300", "row 3: more than 1e.30: label is"),
        ("", "row 3: no label: label is ''"),
        ("four", "row 3: no number: label is 'four'"),
        ("True", "row 3: no number"),
    ],
)
def test_what_is_no_number_is_refused(tmp_path, value, told):
    rows = [{"text": f"see you {i}", "label": f"{i / 2}"} for i in range(40)]
    rows[2]["label"] = value
    with pytest.raises(InputError, match=told):
        run_of(tmp_path / "out", "nothing", write_csv(tmp_path / "n.csv", rows))


def test_values_of_a_table_in_memory_that_are_no_numbers_are_refused(tmp_path):
    from datasets import Dataset

    for value, told in ((float("nan"), "no label: label is nan"), (float("inf"), "no number: label is inf"),
                        (None, "no label: label is None")):  # fmt: skip
        data = Dataset.from_dict({"text": [f"see {i}" for i in range(40)], "label": [value, *map(float, range(39))]})
        with pytest.raises(InputError, match=f"row 1: {told}"):
            finetune(NUMBER, dataset=data, model_name_or_path="nothing", output_dir=str(tmp_path / "out"))
    lists = Dataset.from_dict({"text": ["see", "you"], "label": [[1.0, 2.0], [3.0]]})
    with pytest.raises(InputError, match="holds lists or objects; --problem_type regression takes a number a row"):
        finetune(NUMBER, dataset=lists, model_name_or_path="nothing", output_dir=str(tmp_path / "out"))


def test_rows_without_a_number_are_left_out_if_asked(tiny, tmp_path):
    rows = [{"text": f"see you {i}", "label": f"{i / 2}"} for i in range(40)]
    rows[2]["label"], rows[5]["label"] = "n/a", ""
    file = write_csv(tmp_path / "n.csv", rows)
    result = run_of(tmp_path / "out", tiny(), file, max_steps=1, drop_incomplete=True)
    assert result.report["data"]["left_out"]["train"] == {"incomplete": 2}


def test_decimals_as_classes_are_refused_with_the_flag_that_helps(tiny, recipe, tmp_path):
    file = write_csv(tmp_path / "n.csv", number_rows(60))
    arguments = ["--train_file", file, "--model_name_or_path", tiny(), "--max_steps", 2]
    refused = recipe("sentiment", *arguments, "--output_dir", tmp_path / "out")
    assert refused.code == 2
    assert "decimals: --problem_type regression" in refused.err
    done = recipe("sentiment", *arguments, "--output_dir", tmp_path / "out", "--problem_type", "regression")
    assert done.code == 0, done.err
    assert "Labels are numbers: 0 to 5.5 in training" in done.err
    assert "Try it:" in done.out


def test_many_whole_numbers_get_a_hint(tiny, recipe, tmp_path):
    rows = [{"text": f"see you {i}", "label": i % 12} for i in range(96)]
    done = recipe("sentiment", "--train_file", write_csv(tmp_path / "n.csv", rows), "--model_name_or_path", tiny(),
                  "--max_steps", 1, "--output_dir", tmp_path / "out")  # fmt: skip
    assert done.code == 0, done.err
    assert "The 12 labels are whole numbers: --problem_type regression learns them as amounts" in done.err


@pytest.mark.parametrize(
    "settings",
    [
        {"class_weights": "balanced"},
        {"threshold": "best_f1"},
        {"max_false_positive_rate": 0.01},
        {"positive_label": "5"},
        {"label_separator": ";"},
        {"class_names": ["a", "b"]},
    ],
)
def test_what_is_of_classes_is_refused(settings):
    with pytest.raises(InputError, match=f"--{next(iter(settings))} is for classes, and --problem_type regression"):
        TextClassification(problem_type="regression", **settings)


def test_labels_that_are_all_the_same_are_refused(tmp_path):
    rows = [{**row, "label": 3.5} for row in number_rows(40)]
    with pytest.raises(InputError, match=r"All \d+ training labels are 3.5: there is nothing to learn"):
        run_of(tmp_path / "out", "nothing", write_csv(tmp_path / "n.csv", rows))


def test_labels_that_float32_cannot_tell_apart_are_told(tiny, tmp_path, caplog):
    file = write_csv(tmp_path / "n.csv", number_rows(60, 1.0, 1e9))
    with caplog.at_level("WARNING"):
        result = run_of(tmp_path / "out", tiny(), file, max_steps=1)
    assert "subtract 1e+09 from them" in caplog.text
    assert "subtract 1e+09 from them" in result.report["data"]["caveats"][0]


def test_several_labels_of_one_text_are_told(tiny, tmp_path):
    rows = number_rows(60)
    rows += [{**row, "label": row["label"] + 2} for row in rows[:5]]
    result = run_of(tmp_path / "out", tiny(), write_csv(tmp_path / "n.csv", rows), max_steps=1)
    assert "5 examples have different labels in different rows, up to 2 apart" in result.report["data"]["caveats"][-1]
