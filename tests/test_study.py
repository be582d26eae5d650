"""`hf-transfer study`: quality against the number of labelled examples."""

import json

import numpy as np
import pytest
from conftest import message_rows, write_csv
from processes import fork

from hf_transfer import InputError, TextClassification, study
from hf_transfer.evaluation.learning_curve import describe_curves, forecast
from hf_transfer.reporting.study import from_scratch, sentences

pytestmark = pytest.mark.usefixtures("lean")

SETTINGS = {"max_steps": 6, "disable_tqdm": True}


@pytest.fixture(scope="module")
def studied(tiny, tmp_path_factory):
    place = tmp_path_factory.mktemp("study")
    file = write_csv(place / "m.csv", message_rows(120))
    arguments = {"model_name_or_path": str(tiny()), "train_file": str(file), "output_dir": str(place / "out"),
                 **SETTINGS}  # fmt: skip
    return study(TextClassification(), methods=["frozen"], sizes=[8, 16, "all"], draws=2, **arguments), arguments


def test_sizes_methods_and_draws_are_measured_on_the_same_examples(studied):
    found, _ = studied
    assert {path.name for path in found.folder.iterdir()} == {
        "study.json", "report.html", "runs.jsonl", "arguments.yaml",
    }  # fmt: skip
    runs = found.report["runs"]
    assert len(runs) == 2 * 3 * 2
    assert {run["method"] for run in runs} == {"frozen", "scratch"}
    assert sorted({run["examples"] for run in runs}) == [8, 16, 96]  # no labels are spent on validation
    assert {run["test_examples"] for run in runs} == {24}
    curve = found.report["curves"]["frozen"]
    own = [run["metrics"]["f1"] for run in runs if (run["method"], run["examples"]) == ("frozen", 16)]
    assert curve["mean"][1] == pytest.approx(np.mean(own))
    assert (curve["low"][1], curve["high"][1]) == (min(own), max(own))
    for text in ("16 ", "96 ", "frozen", "scratch", "raining from scratch"):
        assert text in str(found)
    page = (found.folder / "report.html").read_text()
    assert page.count("<svg") == 2


def test_a_study_goes_on_with_what_is_missing(studied, monkeypatch):
    found, arguments = studied
    kept = found.folder / "runs.jsonl"
    lines = kept.read_text().splitlines()
    # As a kill leaves it: two runs missing, a third half-written.
    kept.write_text("\n".join(lines[:-3]) + "\n" + lines[-3][:40])
    (found.folder / "study.json").unlink()
    ran = []
    from hf_transfer import studying

    def counted(task, arguments, dataset=None):
        ran.append(arguments.method.method)
        return original(task, arguments, dataset=dataset)

    original = studying.finetune
    monkeypatch.setattr(studying, "finetune", counted)
    again = study(TextClassification(), methods=["frozen"], sizes=[8, 16, "all"], draws=2, **arguments)
    assert len(ran) == 3
    assert [run["metrics"] for run in again.report["runs"]] == [run["metrics"] for run in found.report["runs"]]


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"sizes": ["many"]}, "--sizes many"),
        ({"draws": 0}, "--draws is 0"),
        ({"max_train_samples": 5}, "--sizes"),
        ({"sizes": [8]}, "other arguments"),
        ({"methods": ["frozen", "lorra"]}, "--methods frozen,lorra: expected some of"),
        ({"methods": ["lora", "lora"]}, "named twice"),
        ({"methods": "frozen", "sizes": [8]}, "other arguments"),
    ],
)
def test_what_cannot_be_studied_is_refused(studied, told, message):
    _, arguments = studied
    with pytest.raises(InputError, match=message):
        study(TextClassification(), **{"methods": ["frozen"], **arguments, **told})


def test_the_command_studies(tiny, tmp_path):
    file = write_csv(tmp_path / "m.csv", message_rows(60))
    done = fork("-m", "hf_transfer.cli", "study", "--train_file", file, "--model_name_or_path", tiny(),
                "--methods", "frozen", "--sizes", "8,100", "--draws", "1", "--max_steps", "2",
                "--output_dir", tmp_path / "o")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "all of them are used for size 100" in done.stderr
    assert {run["examples"] for run in json.loads((tmp_path / "o" / "study.json").read_text())["runs"]} == {8, 48}


def test_draws_of_a_size_stay_together_where_some_are_left_out():
    runs = [
        {
            "method": "frozen",
            "size": size,
            "examples": n,
            "metrics": {"accuracy": value},
            "confidence": {},
            "training_seconds": 1.0,
        }
        for size, n, value in ((8, 8, 0.5), (8, 7, 0.7), (16, 15, 0.8), (16, 16, 0.6))
    ]
    curve = describe_curves(runs, "accuracy", greater_is_better=True, seed=0)["curves"]["frozen"]
    assert curve["examples"] == [8, 16]
    assert curve["mean"] == pytest.approx([0.6, 0.7])


def test_a_control_that_fails_is_told_and_the_study_goes_on(tiny, tmp_path, monkeypatch):
    file = write_csv(tmp_path / "m.csv", message_rows(60))
    from hf_transfer import Failure, studying

    def sick(task, arguments, dataset=None):
        if arguments.method.method == "scratch":
            raise Failure("the loss is nan")
        return original(task, arguments, dataset=dataset)

    original = studying.finetune
    monkeypatch.setattr(studying, "finetune", sick)
    told = {"methods": ["frozen"], "sizes": [8, 16], "draws": 1, "model_name_or_path": str(tiny()),
            "train_file": str(file), "output_dir": str(tmp_path / "out"), **SETTINGS}  # fmt: skip
    found = study(TextClassification(), **told)
    assert set(found.report["curves"]) == {"frozen"}
    assert "scratch on 16 failed: the loss is nan" in str(found)
    assert "the loss is nan" in (found.folder / "report.html").read_text()
    monkeypatch.setattr(studying, "finetune", original)  # what was in the way is mended: it is tried again
    assert set(study(TextClassification(), **told).report["curves"]) == {"frozen", "scratch"}


def test_the_shipped_yaml_can_be_studied(tiny, tmp_path):
    """It chooses a threshold, which takes validation examples, and removes duplicates."""
    rows = [{**row, "text": f"{row['text']} {i % 280}"} for i, row in enumerate(message_rows(300))]
    file = write_csv(tmp_path / "m.csv", rows + rows[:20])
    done = fork("-m", "hf_transfer.cli", "study", "--config", "recipes/spam.yaml", "--train_file", file,
                "--model_name_or_path", tiny(), "--methods", "frozen", "--sizes", "16,32", "--draws", "1",
                "--max_steps", "2", "--validation_size", "0.3", "--hub_token", "hf_secret",
                "--output_dir", tmp_path / "o")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert set(json.loads((tmp_path / "o" / "study.json").read_text())["curves"]) == {"frozen", "scratch"}
    assert not any("hf_secret" in file.read_text() for file in (tmp_path / "o").iterdir())


def test_a_power_law_is_found_and_followed():
    sizes = [8, 16, 32, 64, 128, 256]
    generator = np.random.default_rng(0)
    law = [0.05 + 0.9 * n**-0.5 for n in sizes]
    errors = [error + generator.normal(scale=0.003, size=5) for error in law]
    found = forecast(sizes, errors, 512, seed=0, test_error=0.0)
    assert found["value"] == pytest.approx(0.05 + 0.9 * 512**-0.5, abs=0.01)
    assert found["low"] <= found["value"] <= found["high"]
    assert "low" not in forecast(sizes, [error[:2] for error in errors], 512, seed=0, test_error=0.0)
    assert forecast(sizes[:3], errors[:3], 512, seed=0, test_error=0.0) is None
    rising = [np.array([error]) for error in law[::-1]]
    assert forecast(sizes, rising, 512, seed=0, test_error=0.0) is None


def test_a_forecast_is_no_surer_than_the_test_split():
    """All draws share its examples: what it says too high or too low, they all say."""
    runs = [
        {"method": "frozen", "size": n, "examples": n, "metrics": {"accuracy": 0.9 - 0.9 * n**-0.5 + 0.001 * draw},
         "confidence": {"accuracy": [0.78, 0.88]}, "training_seconds": 1.0}
        for n in (8, 16, 32, 64, 128, 256) for draw in range(3)
    ]  # fmt: skip
    found = describe_curves(runs, "accuracy", greater_is_better=True, seed=0)["forecast"]["frozen"]
    assert found["high"] - found["low"] == pytest.approx(0.1, abs=0.02)


def test_what_pretraining_was_worth_is_read_off_the_control():
    def runs(method, values):
        return [
            {"method": method, "size": n, "examples": n, "metrics": {"accuracy": value}, "training_seconds": n / 10}
            for n, value in values.items()
        ]

    both = runs("lora", {8: 0.7, 16: 0.85, 32: 0.95}) + runs("scratch", {8: 0.5, 16: 0.6, 32: 0.8, 64: 0.9})
    found = describe_curves(both, "accuracy", greater_is_better=True, seed=0)
    at = {one["examples"]: one["scratch_examples"] for one in found["worth"]}
    assert at[8] == round(np.exp((np.log(16) + np.log(32)) / 2))
    assert at[16] == round(np.exp((np.log(32) + np.log(64)) / 2))
    assert at[32] is None
    told = {one["examples"]: from_scratch(one) for one in found["worth"]}
    assert told[16].startswith("about ")
    assert told[32] == "more than 64"  # as far as it was measured, whatever there is
    ahead = describe_curves(runs("lora", {8: 0.4}) + runs("scratch", {8: 0.5, 16: 0.6}), "accuracy",
                            greater_is_better=True, seed=0)  # fmt: skip
    assert from_scratch(ahead["worth"][0]) == "8 or fewer"
    report = {**ahead, "metric_name": "accuracy"}
    report["draws"] = 1
    said = sentences(report)
    assert any(one.endswith("training from scratch with 8 or fewer.") for one in said)
    assert said[-1] == "One draw of each size: this may be due to chance."
    never = describe_curves(runs("lora", {8: 0.9}) + runs("scratch", {8: 0.5, 16: 0.4}), "accuracy",
                            greater_is_better=True, seed=0)  # fmt: skip
    said = sentences({**report, **never})
    assert said[0] == "Training from scratch with up to 16 examples does not reach lora with 8."
    worse = describe_curves(runs("lora", {16: 0.55}) + runs("scratch", {8: 0.5, 32: 0.6}), "accuracy",
                            greater_is_better=True, seed=0)  # fmt: skip
    worse["worth"][0]["examples"] = 32
    assert "with 32 examples is no better than training from scratch" in sentences({**report, **worse})[0]
