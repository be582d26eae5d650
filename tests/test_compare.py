"""`hf-transfer compare`: which method to take, and whether the difference is more than chance."""

import json
import shutil
import signal
import time

import numpy as np
import pytest
import yaml
from conftest import message_rows, write_csv
from processes import Forked, fork
from speech import write_clips

from hf_transfer import InputError, TextClassification, compare, study
from hf_transfer.arguments.parsing import parse_arguments
from hf_transfer.comparing import _comparison_metric
from hf_transfer.evaluation.bootstrap import ResampledMetrics
from hf_transfer.evaluation.run_comparison import compare_runs, recommend
from hf_transfer.targets.labels import regression
from hf_transfer.targets.labels.label_target import LabelTarget

STEPS = {"max_steps": 12, "disable_tqdm": True, "learning_rate": 1e-3}


@pytest.fixture(scope="module")
def compared(tiny, tmp_path_factory):
    place = tmp_path_factory.mktemp("compare")
    file = write_csv(place / "m.csv", message_rows(240))
    arguments = {"model_name_or_path": str(tiny()), "train_file": str(file), "output_dir": str(place / "out"), **STEPS}
    found = compare(TextClassification(), methods=["full", "lora", "frozen"], seeds=2, trainable_layers=1, **arguments)
    return found, arguments


def test_every_run_is_a_normal_output_folder_on_the_same_test_examples(compared):
    found, _ = compared
    assert {path.name for path in found.folder.iterdir()} == {
        "full", "lora", "frozen", "comparison.json", "report.html", "arguments.yaml",
    }  # fmt: skip
    tested = set()
    for method in ("full", "lora", "frozen"):
        for seed in (42, 43):
            folder = found.folder / method / f"seed-{seed}"
            report = json.loads((folder / "report.json").read_text())
            assert (report["method"], report["seed"]) == (method, seed)
            assert (folder / "report.html").is_file()
            told = yaml.safe_load((folder / "arguments.yaml").read_text())
            assert told.get("trainable_layers") == (1 if method == "frozen" else 0)
            lines = (folder / "predictions.jsonl").read_text().splitlines()
            tested.add(tuple(json.loads(line)["text"] for line in lines))
    assert len(tested) == 1


def test_the_table_is_made_of_the_runs(compared):
    found, _ = compared
    for name, run in found.report["runs"].items():
        reports = [json.loads((found.folder / folder / "report.json").read_text()) for folder in run["folders"]]
        assert run["metrics"]["f1"] == pytest.approx(np.mean([report["metrics"]["f1"] for report in reports]))
        assert run["by_seed"] == {report["seed"]: report["metrics"]["f1"] for report in reports}
        low, high = run["confidence"]["f1"]
        assert low <= run["metrics"]["f1"] <= high
        weights = list((found.folder / run["folders"][0]).glob("*.safetensors"))
        assert run["bytes"] == sum(file.stat().st_size for file in weights)
        assert f"{run['metrics']['f1']:.3f}" in next(line for line in str(found).splitlines() if line.startswith(name))
    assert found.report["runs"]["lora"]["bytes"] < found.report["runs"]["full"]["bytes"]
    assert f"Take {found.report['recommended']}" in str(found)
    values = [run["metrics"]["f1"] for run in found.report["runs"].values()]
    assert values == sorted(values, reverse=True)
    assert found.report["best"] == next(iter(found.report["runs"]))


def test_a_comparison_goes_on_where_it_was_interrupted(compared, tmp_path):
    found, arguments = compared
    begun = tmp_path / "out"
    shutil.copytree(found.folder, begun)
    shutil.rmtree(begun / "lora" / "seed-43")
    (begun / "comparison.json").unlink()
    record = begun / "arguments.yaml"
    record.write_text(record.read_text().replace(str(found.folder), str(begun)))
    for file in begun.rglob("arguments.yaml"):
        file.write_text(file.read_text().replace(str(found.folder), str(begun)))
    kept = {file: file.stat().st_mtime_ns for file in begun.rglob("model.safetensors")}
    again = compare(
        TextClassification(), methods=["full", "lora", "frozen"], seeds=2, trainable_layers=1,
        **{**arguments, "output_dir": str(begun)},
    )  # fmt: skip
    assert {file: file.stat().st_mtime_ns for file in begun.rglob("model.safetensors")} == kept
    assert (begun / "lora" / "seed-43" / "report.json").is_file()
    same = ("metrics", "confidence", "against_best", "by_seed")
    for name, run in found.report["runs"].items():
        assert [again.report["runs"][name][key] for key in same] == [run[key] for key in same]


def test_recognisers_of_other_alphabets_are_compared(speech_model, accents, tmp_path):
    from hf_transfer import SpeechRecognition

    models = [str(speech_model("wav2vec2-layer")), str(speech_model("hubert"))]
    found = compare(
        SpeechRecognition(vocabulary="new"), methods=["full"], models=models, seeds=1, dataset_name=str(accents),
        group_column_name="accent", source_group="north", output_dir=str(tmp_path / "out"), max_steps=1,
        disable_tqdm=True, report_to=["none"],
    )  # fmt: skip
    assert len(found.report["runs"]) == 2
    for run in found.report["runs"].values():
        report = json.loads((found.folder / run["folders"][0] / "report.json").read_text())
        assert run["metrics"]["wer"] == pytest.approx(report["metrics"]["wer"])
        assert run["metrics"]["cer"] == pytest.approx(report["metrics"]["cer"])
        assert run["source"]["after"] == pytest.approx(report["source"]["metrics"]["wer"])
    assert "source" in str(found)


@pytest.mark.parametrize(
    ("settings", "labels"),
    [({"label_separator": ";"}, ("a;b", "a", "b;c")), ({}, ("a", "b", "c"))],
)
def test_several_and_many_labels_are_compared(tiny, tmp_path, settings, labels):
    rows = [{**row, "label": labels[i % 3]} for i, row in enumerate(message_rows(90))]
    found = compare(
        TextClassification(**settings), methods=["frozen"], seeds=2, model_name_or_path=str(tiny()),
        train_file=str(write_csv(tmp_path / "m.csv", rows)), output_dir=str(tmp_path / "out"), **STEPS,
    )  # fmt: skip
    run = found.report["runs"]["frozen"]
    reports = [json.loads((found.folder / folder / "report.json").read_text()) for folder in run["folders"]]
    for name, value in run["metrics"].items():
        assert value == pytest.approx(np.mean([report["metrics"][name] for report in reports])), name
    assert "nothing to compare it with" in str(found)


def test_nothing_is_left_of_a_comparison_that_could_not_begin(compared, tmp_path):
    _, arguments = compared
    place = tmp_path / "new"
    for file in (tmp_path / "none.csv", write_csv(tmp_path / "few.csv", message_rows(2))):
        with pytest.raises(InputError):
            compare(
                TextClassification(),
                methods=["full"],
                **{**arguments, "output_dir": str(place), "train_file": str(file)},
            )
        assert not place.exists()


def test_another_comparison_is_not_mixed_with_this(compared):
    found, arguments = compared
    with pytest.raises(InputError, match="other arguments"):
        compare(TextClassification(), methods=["full"], seeds=2, **arguments)
    with pytest.raises(InputError, match="the folder holds a comparison"):
        study(TextClassification(), **arguments)
    own = {"methods": ["full", "lora", "frozen"], "seeds": 2, "trainable_layers": 1}
    other = write_csv(found.folder.parent / "other.csv", message_rows(40))
    with pytest.raises(InputError, match=r"train_file .*m.csv', not .*other.csv'"):
        compare(TextClassification(), **own, **{**arguments, "train_file": str(other)})
    with pytest.raises(InputError, match="Name a new folder"):
        compare(TextClassification(), methods=["full"], **{**arguments, "output_dir": str(found.folder.parent)})


def test_other_data_under_the_same_name_are_noticed(compared, tmp_path):
    _, arguments = compared
    file = write_csv(tmp_path / "m.csv", message_rows(40))
    again = {**arguments, "train_file": str(file), "output_dir": str(tmp_path / "out"), "max_steps": 1}
    compare(TextClassification(), methods=["frozen"], seeds=1, **again)
    write_csv(file, message_rows(41))
    with pytest.raises(InputError, match="has changed since"):
        compare(TextClassification(), methods=["frozen"], seeds=1, **again)


def test_what_was_given_in_memory_is_noticed_too(compared, tmp_path):
    from datasets import Dataset

    _, arguments = compared
    own = {key: value for key, value in arguments.items() if key != "train_file"}
    own |= {"output_dir": str(tmp_path / "out"), "max_steps": 1}
    compare(TextClassification(), methods=["frozen"], seeds=1, dataset=Dataset.from_list(message_rows(40)), **own)
    begun = tmp_path / "out" / "frozen" / "seed-42"
    assert "the data were given in memory" in (begun / "report.html").read_text()
    with pytest.raises(InputError, match="were given in memory"):
        parse_arguments(TextClassification, ["--config", str(begun / "arguments.yaml"), "--output_dir", "x"])
    with pytest.raises(InputError, match="dataset has changed since"):
        compare(TextClassification(), methods=["frozen"], seeds=1, dataset=Dataset.from_list(message_rows(41)), **own)


def test_a_folder_that_was_empty_is_empty_after_a_refusal(compared, tmp_path):
    _, arguments = compared
    place = tmp_path / "made"
    place.mkdir()
    own = {**arguments, "output_dir": str(place), "max_steps": 1}
    with pytest.raises(InputError):
        compare(TextClassification(), methods=["frozen"], seeds=1, **{**own, "train_file": str(tmp_path / "none.csv")})
    assert not list(place.iterdir())


def test_a_comparison_inside_its_data_goes_on(speech_model, tmp_path):
    from hf_transfer import SpeechRecognition

    write_csv(tmp_path / "metadata.csv", write_clips(tmp_path, 24))
    own = {"dataset_name": str(tmp_path), "model_name_or_path": str(speech_model()), "max_steps": 1,
           "output_dir": str(tmp_path / "compared"), "disable_tqdm": True}  # fmt: skip
    for _ in range(2):
        compare(SpeechRecognition(), methods=["frozen"], seeds=1, **own)


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"push_to_hub": True}, "hf-transfer push FOLDER"),
        ({"methods": ["full", "qlora"]}, "expected some of full, lora, frozen, scratch"),
        ({"methods": ["full", "full"]}, "twice"),
        ({"methods": ["full"], "seeds": 0}, "--seeds is 0"),
        ({"methods": ["full"], "model_name_or_path": "/nowhere"}, "/nowhere"),
    ],
)
def test_what_cannot_be_compared_is_refused(compared, tmp_path, told, message):
    _, arguments = compared
    with pytest.raises(InputError, match=message):
        compare(TextClassification(), **{**arguments, "output_dir": str(tmp_path / "new"), **told})


def test_the_command_compares_models_and_is_stopped_politely(tiny, tmp_path):
    file = write_csv(tmp_path / "m.csv", message_rows(120))
    (tmp_path / "c.yaml").write_text(f"train_file: {file}\nmax_steps: 60\nsave_steps: 6\nsave_strategy: steps\n")
    models = f"{tiny()},{tiny('distilbert')}"
    command = ["-m", "hf_transfer.cli", "compare", "--config", tmp_path / "c.yaml", "--models", models, "--methods",
               "full", "--seeds", "1", "--output_dir", tmp_path / "out"]  # fmt: skip
    process = Forked(*command)
    until = time.monotonic() + 120
    while not list(tmp_path.glob("out/*/seed-42.partial/checkpoint-*")):
        assert time.monotonic() < until
        assert process.running(), process.said()
        time.sleep(0.05)
    process.send(signal.SIGTERM)
    stopped = process.finished()
    assert stopped.returncode == 128 + signal.SIGTERM, stopped.stderr
    assert "Traceback" not in stopped.stderr
    done = fork(*command)
    assert done.returncode == 0, done.stderr
    assert "checkpoint-" in done.stderr
    report = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert set(report["runs"]) == {"bert-full", "distilbert-full"}
    assert "Take " in done.stdout
    labels = [line for line in done.stderr.splitlines() if line.startswith("Labels:")]
    assert len(labels) == 1  # said once for all runs


@pytest.mark.parametrize(("flag", "meant"), [("--lernin_rate", "--learning_rate"), ("--metods", "--methods")])
def test_a_wrong_flag_is_one_sentence(command, tiny, tmp_path, flag, meant):
    result = command("compare", "--model_name_or_path", tiny(), "--output_dir", tmp_path / "o", flag, "1")
    assert result.code == 2
    assert f"Did you mean {meant}?" in result.err
    assert not (tmp_path / "o").exists()


def of(right):
    """A run whose accuracy is that of `right` [n]."""
    return ResampledMetrics(np.arange(len(right)), lambda w: {"accuracy": (w @ right) / w.sum(axis=-1)})


def test_all_models_are_looked_for_before_the_first_is_trained(tiny, tmp_path, caplog):
    file = write_csv(tmp_path / "m.csv", message_rows(60))
    with pytest.raises(InputError, match=r"nowhere: .*There is no such folder"):
        compare(TextClassification(), methods=["frozen"], seeds=1, models=[str(tiny()), str(tmp_path / "nowhere")],
                train_file=str(file), output_dir=str(tmp_path / "out"), **STEPS)  # fmt: skip
    assert not (tmp_path / "out").exists()


def test_a_method_beside_methods_is_said_to_be_left_aside(tiny, tmp_path, caplog):
    file = write_csv(tmp_path / "m.csv", message_rows(60))
    with caplog.at_level("INFO", "hf_transfer"):
        compare(TextClassification(), methods=["frozen"], seeds=1, method="lora", model_name_or_path=str(tiny()),
                train_file=str(file), output_dir=str(tmp_path / "out"), **STEPS)  # fmt: skip
    assert "--method lora is ignored: the methods of a comparison are frozen" in caplog.text


def test_chance_and_difference_are_told_apart():
    generator = np.random.default_rng(0)
    good = (generator.random(2000) < 0.9).astype(float)
    alike = good.copy()
    flipped = generator.choice(2000, 8, replace=False)
    alike[flipped] = 1 - alike[flipped]
    bad = (generator.random(2000) < 0.8).astype(float)
    found = compare_runs(
        {"good": [of(good)] * 2, "alike": [of(alike)] * 2, "bad": [of(bad)] * 2}, "accuracy",
        greater_is_better=True, seed=0,
    )  # fmt: skip
    assert found["good"]["difference"] == max(one["difference"] for one in found.values()) == 0
    assert found["bad"]["against_best"][1] < 0
    low, high = found["alike"]["against_best"]
    # Paired: they share most of their errors, so the interval is far narrower than that of either.
    assert high - low < 0.3 * np.subtract(*found["good"]["confidence"]["accuracy"][::-1])
    spread = np.sqrt(0.1 * 0.8 / 2000) * 1.96 * 2
    assert np.subtract(*found["bad"]["confidence"]["accuracy"][::-1]) == pytest.approx(
        spread * np.sqrt(0.8 * 0.2 / 0.08), rel=0.15
    )


def test_the_best_of_several_that_are_alike_is_seldom_called_better():
    """The best is chosen on the examples that it is measured on: 5 of 100 times, however many there are."""
    generator = np.random.default_rng(0)
    called = 0
    for draw in range(100):
        ways = {str(k): [of((generator.random(200) < 0.8).astype(float))] for k in range(4)}
        found = compare_runs(ways, "accuracy", greater_is_better=True, seed=draw)
        called += any(one["against_best"][1] < 0 for one in found.values())
    assert called <= 10


def test_seeds_that_differ_widen_the_interval():
    generator = np.random.default_rng(0)
    runs = [of((generator.random(5000) < share).astype(float)) for share in (0.7, 0.8, 0.9)]
    even = [of((generator.random(5000) < 0.8).astype(float)) for _ in range(3)]
    found = compare_runs({"uneven": runs, "even": even}, "accuracy", greater_is_better=True, seed=0)
    widths = {name: np.subtract(*one["confidence"]["accuracy"][::-1]) for name, one in found.items()}
    assert widths["uneven"] > 3 * widths["even"]


def test_a_model_that_learned_nothing_is_not_praised(tiny, tmp_path):
    file = write_csv(tmp_path / "m.csv", message_rows(60))
    own = {"model_name_or_path": str(tiny()), "train_file": str(file), **STEPS, "learning_rate": 0.0}
    found = compare(TextClassification(), methods="full", seeds=1, output_dir=str(tmp_path / "out"), **own)
    (untrained,) = found.report["untrained"].values()
    assert f"But it is not significantly better than before training ({untrained:.3f})." in str(found)
    assert f"Before training: {untrained:.3f}." in str(found)
    (run,) = found.report["runs"].values()  # a single run of each has the intervals of its report
    own = json.loads((tmp_path / "out" / run["folders"][0] / "report.json").read_text())
    for name in ("accuracy", "precision", "recall", "f1"):
        assert run["confidence"].get(name) == own["confidence"].get(name)


def test_what_no_test_example_tells_is_not_compared_by(tiny, tmp_path, caplog):
    """There is no F1 where no example is of a label and none is taken for it."""
    rows = message_rows(80)
    few = [row for i, row in enumerate(rows[:60]) if row["label"] == "ham" or i < 8]
    own = {
        "train_file": str(write_csv(tmp_path / "m.csv", few)),
        "model_name_or_path": str(tiny()),
        **STEPS,
        "test_file": str(write_csv(tmp_path / "t.csv", [row for row in rows[60:] if row["label"] == "ham"])),
    }
    with caplog.at_level("INFO", "hf_transfer"):
        found = compare(TextClassification(), methods=["frozen"], seeds=1, output_dir=str(tmp_path / "out"), **own)
    assert "Spam F1 is not defined on the test examples: runs are compared by accuracy." in caplog.text
    assert found.report["metric"] == "accuracy"
    assert (tmp_path / "out" / "comparison.json").is_file()


def of_ham(alarm):
    scores = {"ham": 0.1, "spam": 0.9} if alarm else {"ham": 0.9, "spam": 0.1}
    return {"label": "ham", "prediction": max(scores, key=scores.get), "scores": scores}


def as_resampled(records):
    return LabelTarget(TextClassification()).resampled_metrics(
        records, {"labels": ["ham", "spam"], "multi_label": False}
    )


def test_what_one_of_the_runs_does_not_tell_is_not_compared_by():
    """Without a positive example, F1 is 0 where one was predicted, and is not known where none was."""
    runs = {
        way: [as_resampled([of_ham(i == alarm) for i in range(12)]) for alarm in alarms]
        for way, alarms in (("full", (3, None)), ("frozen", (None, None)))
    }
    assert _comparison_metric(("f1", "Spam F1"), ("accuracy", "f1"), runs) == ("accuracy", "accuracy")


def test_of_a_correlation_that_never_varies_nothing_is_known():
    """A classifier that always gives one answer: 0 of it is no share of the examples."""
    run = as_resampled([{**of_ham(False), "label": ("ham", "spam")[i % 3 == 0]} for i in range(24)])
    found = compare_runs({"a": [run]}, "accuracy", greater_is_better=True, seed=0)["a"]["confidence"]
    assert found["matthews_correlation"] == [-1, 1]


def test_errors_of_numbers_may_be_above_one():
    generator = np.random.default_rng(0)
    truth = generator.normal(size=40)
    guess = truth + 1.2 * generator.normal(size=40)
    ends = {}
    for unit in (1.0, 100.0):
        run = ResampledMetrics(np.arange(40), regression.weighted_metrics(truth * unit, guess * unit))
        found = compare_runs({"a": [run]}, "mean_absolute_error", greater_is_better=False, seed=0)
        ends[unit] = np.array(found["a"]["confidence"]["mean_absolute_error"]) / unit
    assert ends[1.0][1] > 1
    assert ends[1.0] == pytest.approx(ends[100.0])


def test_the_cheapest_within_a_standard_error_is_taken():
    measured = {
        "a": {"difference": 0.0, "standard_error": 0.0},
        "b": {"difference": -0.002, "standard_error": 0.003},
        "c": {"difference": -0.02, "standard_error": 0.003},
    }
    assert recommend(measured, {"a": 10.0, "b": 5.0, "c": 1.0}) == ("a", "b")
    assert recommend(measured, {"a": 10.0, "b": 15.0, "c": 1.0}) == ("a", "a")
