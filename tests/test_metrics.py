"""The package's metrics against scikit-learn's, their intervals, and the fitted decisions."""

import evaluate
import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn import metrics as reference

from hf_transfer.evaluation import metrics
from hf_transfer.evaluation.bootstrap import ResampledMetrics, bootstrap
from hf_transfer.evaluation.metric_format import format_interval, format_metric
from hf_transfer.targets.labels.calibration import expected_calibration_error, fit_temperature
from hf_transfer.targets.labels.classification_intervals import classification_intervals
from hf_transfer.targets.labels.classification_metrics import compute_metrics
from hf_transfer.targets.labels.decision import Decision
from hf_transfer.targets.labels.thresholds import (
    threshold_for_best_f1,
    threshold_for_false_positive_rate,
)
from hf_transfer.targets.transcripts import error_rates as transcription

CASES = {
    "binary": (2, 200),
    "one kind missing": (2, 3),
    "five labels": (5, 300),
    "label that never occurs": (9, 12),
}


@pytest.mark.parametrize(("labels", "n"), CASES.values(), ids=list(CASES))
def test_label_metrics_equal_scikit_learn(labels, n):
    generator = np.random.default_rng(0)
    truth, guess = generator.integers(0, labels, n), generator.integers(0, labels, n)
    if n == 3:
        truth, guess = np.array([0, 0, 0]), np.array([0, 0, 1])
    average = {"average": "binary" if labels == 2 else "macro", "zero_division": 0}
    expected = {
        metrics.Accuracy: reference.accuracy_score(truth, guess),
        metrics.F1: reference.f1_score(truth, guess, **average),
        metrics.MacroF1: reference.f1_score(truth, guess, average="macro", zero_division=0),
        metrics.Precision: reference.precision_score(truth, guess, **average),
        metrics.Recall: reference.recall_score(truth, guess, **average),
        # Where all examples have one label there is nothing that it could be a correlation with.
        metrics.MatthewsCorrelation: reference.matthews_corrcoef(truth, guess) if np.ptp(truth) else np.nan,
    }
    for metric, value in expected.items():
        found = metric().compute(predictions=guess, references=truth, num_labels=labels)
        assert found == {metric.key: pytest.approx(value, abs=1e-12, nan_ok=True)}, metric


@pytest.mark.parametrize("ties", [False, True])
def test_ranking_metrics_equal_scikit_learn(ties):
    generator = np.random.default_rng(1)
    truth = generator.integers(0, 2, 150)
    scores = generator.random(150) + 0.3 * truth
    scores = scores.round(1) if ties else scores
    found = metrics.RocAuc().compute(prediction_scores=scores, references=truth)
    assert found["roc_auc"] == pytest.approx(reference.roc_auc_score(truth, scores), abs=1e-12)
    found = metrics.AveragePrecision().compute(prediction_scores=scores, references=truth)
    assert found["average_precision"] == pytest.approx(reference.average_precision_score(truth, scores), abs=1e-12)


def test_a_label_that_no_example_has_counts_in_the_mean_where_it_is_predicted():
    truth = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 0]])
    assert metrics.multilabel_metrics(truth, truth)["f1"] == 1
    alarm = truth.copy()
    alarm[3, 2] = 1
    assert metrics.multilabel_metrics(truth, alarm)["f1"] == pytest.approx(2 / 3)


def test_all_right_over_labels_of_which_one_is_rare():
    """Of 40 answers all right, 20, 19 and 1 of three labels: that the one may have been chance moves little."""
    truth = np.repeat([0, 1, 2], [20, 19, 1])
    found = classification_intervals(4.0 * np.eye(3)[truth], 4.0 * np.eye(3)[truth], truth, Decision(), seed=0)[
        "after"
    ]
    assert found["matthews_correlation"][0] > 0.8


def test_multilabel_metrics_equal_scikit_learn():
    generator = np.random.default_rng(2)
    truth, guess = generator.integers(0, 2, (80, 4)), generator.integers(0, 2, (80, 4))
    found = metrics.multilabel_metrics(truth, guess)
    assert found["accuracy"] == pytest.approx(reference.accuracy_score(truth, guess))
    assert found["f1"] == pytest.approx(reference.f1_score(truth, guess, average="macro"))
    assert found["f1_micro"] == pytest.approx(reference.f1_score(truth, guess, average="micro"))
    assert found["precision"] == pytest.approx(reference.precision_score(truth, guess, average="macro"))


def test_weights_are_repetitions():
    generator = np.random.default_rng(3)
    truth, guess, scores = generator.integers(0, 2, 40), generator.integers(0, 2, 40), generator.random(40)
    weights = generator.integers(0, 4, 40)
    rows = np.repeat(np.arange(40), weights)
    weighted = metrics.label_metrics(metrics.confusion_matrix(truth, guess, 2, weights[None].astype(float)))
    repeated = metrics.label_metrics(metrics.confusion_matrix(truth[rows], guess[rows], 2))
    weighted |= metrics.ranking_metrics(truth, scores, weights[None])
    repeated |= metrics.ranking_metrics(truth[rows], scores[rows])
    for name, value in repeated.items():
        assert weighted[name][0] == pytest.approx(float(value)), name


def test_bootstrap_covers_the_truth_as_often_as_it_says():
    """Accuracy 0.8 on 200 examples: 95 % intervals hold it in about 95 of 100 draws."""
    generator = np.random.default_rng(4)
    held = 0
    for draw in range(100):
        right = (generator.random(200) < 0.8).astype(float)
        accuracy = ResampledMetrics(np.arange(200), lambda weights, right=right: {"accuracy": weights @ right / 200})
        ends = bootstrap(accuracy, seed=draw)["accuracy"]
        held += ends[0] <= 0.8 <= ends[1]
    assert 88 <= held <= 100


def test_recognisers_without_an_error_are_not_certain():
    """12 clips without an error: the exact interval ends near 0.26."""
    said = ["stop the timer"] * 12
    found = transcription.intervals(said, said, said, None, seed=0)["after"]
    assert found["wer"] == found["cer"] == [0.0, pytest.approx(1 - 0.7353, abs=1e-4)]


def test_temperature_is_recovered_and_calibrates():
    generator = np.random.default_rng(5)
    logits = generator.normal(size=(4000, 3)) * 2
    probabilities = Decision().probabilities(logits)
    truth = np.array([generator.choice(3, p=row) for row in probabilities])
    overconfident = logits * 3
    temperature = fit_temperature(overconfident, truth)
    assert temperature == pytest.approx(3.0, rel=0.1)
    before = expected_calibration_error(Decision().probabilities(overconfident), truth)
    after = expected_calibration_error(Decision(temperature).probabilities(overconfident), truth)
    assert before > 0.1
    assert after < 0.03


def test_thresholds_do_what_was_asked():
    generator = np.random.default_rng(6)
    truth = generator.integers(0, 2, 1000)
    scores = np.clip(generator.normal(0.3 + 0.3 * truth, 0.2), 0, 1)
    candidates = np.linspace(0, 1, 500)
    best = max(reference.f1_score(truth, scores >= candidate) for candidate in candidates)
    assert reference.f1_score(truth, scores >= threshold_for_best_f1(scores, truth)) >= best - 1e-9
    for limit in (0.01, 0.1):
        threshold = threshold_for_false_positive_rate(scores, scores[truth == 0], limit)
        assert (scores >= threshold)[truth == 0].mean() <= limit


def test_a_perfect_score_is_not_certain():
    """60 right of 60: the exact interval begins near 0.94."""
    right = np.ones(60)
    accuracy = ResampledMetrics(np.arange(60), lambda weights: {"accuracy": weights @ right / weights.sum(axis=1)})
    found = bootstrap(accuracy, seed=0)
    assert found["accuracy"] == [pytest.approx(0.9404, abs=1e-4), 1.0]
    gains = ResampledMetrics(
        np.arange(60),
        lambda weights: {
            ("gain", "accuracy"): weights @ right / weights.sum(axis=1),
            ("gain", "lost"): -(weights @ right) / weights.sum(axis=1),
            ("gain", "same"): 0 * (weights @ right),
            ("gain", "unknown"): 0 * (weights @ right),
        },
        changed={"same": np.zeros(60, dtype=bool)},
    )
    changed = bootstrap(gains, seed=0)
    assert changed["gain", "accuracy"] == found["accuracy"]  # from none right to all
    assert changed["gain", "lost"] == [-1.0, pytest.approx(-0.9404, abs=1e-4)]
    assert changed["gain", "same"] == [0.0, 0.0]
    assert changed["gain", "unknown"] == pytest.approx(
        [0.9404 - 1, 1 - 0.9404], abs=1e-4
    )  # answers differ, it does not


@pytest.mark.parametrize("positives", [3, 4, 10])
def test_a_perfect_score_is_as_certain_as_the_examples_that_it_rests_on(positives):
    """Of 200 examples with 4 of label 1, all right: accuracy rests on 200, recall and F1 on 4."""
    truth = np.arange(200) < positives
    logits = 9.0 * np.eye(2)[truth.astype(int)]
    found = classification_intervals(-logits, logits, truth.astype(int), Decision(), seed=0)
    exact = binomtest(positives, positives).proportion_ci().low
    for name in ("recall", "f1", "roc_auc"):
        assert found["after"][name] == [pytest.approx(exact), 1.0], name
    assert found["after"]["accuracy"] == [pytest.approx(0.98172, abs=1e-4), 1.0]
    assert found["gain"]["f1"] == [pytest.approx(exact), 1.0]


def test_a_perfect_mean_over_labels_rests_on_those_of_each():
    truth = np.repeat([0, 1, 2], [100, 90, 3])
    logits = 9.0 * np.eye(3)[truth]
    found = classification_intervals(logits, logits, truth, Decision(), seed=0)["after"]["f1"]
    assert found == [pytest.approx(np.mean([binomtest(n, n).proportion_ci().low for n in (100, 90, 3)])), 1.0]


def test_of_what_never_varies_between_its_ends_nothing_is_known():
    """All answers are the same: their correlation is 0, and no resample tells how far it is from that."""
    truth = np.arange(40) % 2
    found = classification_intervals(
        np.tile([1.0, 0.0], (40, 1)), np.tile([1.0, 0.0], (40, 1)), truth, Decision(), seed=0
    )
    assert found["after"]["matthews_correlation"] == [-1.0, 1.0]
    wrong = classification_intervals(9.0 * np.eye(2)[truth], 9.0 * np.eye(2)[1 - truth], truth, Decision(), seed=0)
    low, high = wrong["after"]["matthews_correlation"]
    assert low == -1.0
    assert -0.95 < high < -0.5  # and not certain of that
    assert wrong["gain"]["matthews_correlation"][0] == -2.0
    assert -1.9 < wrong["gain"]["matthews_correlation"][1] < -1.0


def test_a_split_without_a_label_knows_nothing_of_it():
    """Neither an example of label 1 nor one that is taken for it: that is no bad F1."""
    found = compute_metrics(9.0 * np.eye(2)[np.zeros(30, dtype=int)], np.zeros(30, dtype=int), Decision())
    assert found["accuracy"] == 1.0
    assert all(np.isnan(found[name]) for name in ("f1", "precision", "recall", "matthews_correlation"))


def test_precision_is_as_certain_as_what_was_taken_for_the_label():
    truth = np.repeat([0, 1], [24, 12])
    guess = np.where(np.arange(36) < 27, 0, 1)  # 9 of 12 are found, and nothing else
    found = classification_intervals(9.0 * np.eye(2)[1 - guess], 9.0 * np.eye(2)[guess], truth, Decision(), seed=0)[
        "after"
    ]
    assert found["precision"] == [pytest.approx(binomtest(9, 9).proportion_ci().low), 1.0]


def test_measuring_writes_nothing(monkeypatch):
    monkeypatch.setattr(evaluate.Metric, "_init_writer", lambda *_, **__: pytest.fail("evaluate writes a file"))
    truth = np.array([0, 1, 1, 0])
    assert compute_metrics(9.0 * np.eye(2)[truth], truth, Decision())["f1"] == 1.0


@pytest.mark.parametrize("value", [None, float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("metric", ["accuracy", "mean_squared_error"])
def test_what_is_no_number_is_shown_as_a_dash(value, metric):
    assert format_metric(value, metric) == "–"
    assert format_interval([value, 1.0], metric).startswith("[–, ")
