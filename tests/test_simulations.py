"""What the package says of chance, held against simulated data whose truth is known."""

import numpy as np
import pytest
from scipy.special import expit, softmax
from scipy.stats import norm

from hf_transfer.evaluation.bootstrap import ResampledMetrics
from hf_transfer.evaluation.run_comparison import compare_runs
from hf_transfer.targets.labels.calibration import calibrate
from hf_transfer.targets.labels.classification_intervals import classification_intervals, proportion_interval
from hf_transfer.targets.labels.decision import Decision
from hf_transfer.targets.labels.thresholds import (
    negatives_needed,
    one_of_each_unit,
    threshold_for_false_positive_rate,
)
from hf_transfer.targets.transcripts import error_rates as transcription

DRAWS = 100


@pytest.fixture
def fewer_resamples(monkeypatch):
    """Enough for the ends of one interval in a hundred simulated ones."""
    monkeypatch.setattr("hf_transfer.evaluation.bootstrap.RESAMPLES", 400)


def shares_held(draws, truth_of, draw_of):
    """How often each interval holds the true value, by metric."""
    held = {name: [] for name in truth_of}
    for i in range(draws):
        ends = draw_of(i)
        for name, value in truth_of.items():
            if name in ends:
                held[name].append(ends[name][0] <= value <= ends[name][1])
    return {name: float(np.mean(each)) for name, each in held.items()}


@pytest.mark.parametrize(("n", "positive", "recall", "alarms"), [
    (40, 0.5, 0.6, 0.2), (100, 0.13, 0.9, 0.02), (200, 0.5, 0.96, 0.02), (150, 0.06, 0.6, 0.2),
])  # fmt: skip
def test_intervals_of_a_classifier_of_two_labels_hold_the_truth(n, positive, recall, alarms, monkeypatch):
    # These metrics are shares of independent examples: for their intervals nothing is resampled.
    monkeypatch.setattr("hf_transfer.evaluation.bootstrap.RESAMPLES", 20)
    generator = np.random.default_rng(0)
    hit, lost, false = positive * recall, positive * (1 - recall), (1 - positive) * alarms
    true = {"accuracy": 1 - lost - false, "recall": recall, "precision": hit / (hit + false),
            "f1": 2 * hit / (2 * hit + false + lost)}  # fmt: skip

    def draw(i):
        truth = (generator.random(n) < positive).astype(int)
        guess = (generator.random(n) < np.where(truth, recall, alarms)).astype(int)
        logits = 3.0 * np.eye(2)[guess]
        return classification_intervals(logits, logits, truth, Decision(), seed=i)["after"]

    for name, share in shares_held(DRAWS, true, draw).items():
        assert 0.9 <= share <= 1, name  # of few examples of a label the discrete ones hold it more often than asked
        assert name not in ("accuracy", "f1") or share <= 0.99, name


def confusions(labels, right, generator):
    """Chances of each prediction by label, [labels, labels]."""
    found = np.zeros((labels, labels))
    for i in range(labels):
        found[i] = (1 - right) * np.insert(generator.dirichlet(np.full(labels - 1, 0.5)), i, 0.0)
        found[i, i] = right
    return found


@pytest.mark.parametrize(("labels", "n", "skew", "right"), [
    (5, 100, 0.0, 0.8), (28, 100, 0.0, 0.7), (28, 100, 0.0, 0.9), (28, 200, 1.0, 0.8),
])  # fmt: skip
def test_intervals_of_means_over_labels_hold_the_truth_with_many_and_with_rare_labels(
    labels, n, skew, right, fewer_resamples
):
    generator = np.random.default_rng(1)
    shares = np.arange(1, labels + 1) ** -skew
    joint = (shares / shares.sum())[:, None] * confusions(labels, right, generator)
    f1 = 2 * joint.diagonal() / (joint.sum(axis=0) + joint.sum(axis=1))
    outside = []

    def draw(i):
        truth, guess = np.divmod(generator.choice(labels**2, size=n, p=joint.ravel()), labels)
        logits = 3.0 * np.eye(labels)[guess]
        found = classification_intervals(logits, logits, truth, Decision(), seed=i)["after"]
        hits = np.bincount(truth[truth == guess], minlength=labels)
        both = np.bincount(truth, minlength=labels) + np.bincount(guess, minlength=labels)
        outside.append(not found["f1"][0] <= (2 * hits[both > 0] / both[both > 0]).mean() <= found["f1"][1])
        return found

    assert 0.9 <= shares_held(DRAWS, {"f1": f1.mean()}, draw)["f1"] <= 0.99
    assert not any(outside)  # what was measured is never outside of its own interval


def test_intervals_of_a_mean_over_labels_of_which_an_example_may_have_several_hold_the_truth(fewer_resamples):
    """28 labels with one example each."""
    generator = np.random.default_rng(2)
    labels, n, recall, alarms = 28, 100, 0.7, 0.005
    counts = np.ones(labels)  # the true F1 of a label: as of many such splits
    f1 = 2 * recall * counts / (counts * (1 + recall) + (n - counts) * alarms)
    truth = np.zeros((n, labels), dtype=int)
    truth[np.arange(labels), np.arange(labels)] = 1
    values = []

    def draw(i):
        guess = (generator.random((n, labels)) < np.where(truth, recall, alarms)).astype(int)
        logits = 6.0 * guess - 3
        hits, both = (truth & guess).sum(axis=0), truth.sum(axis=0) + guess.sum(axis=0)
        values.append((2 * hits / np.maximum(both, 1)).mean())
        ends = classification_intervals(logits, logits, truth, Decision(multi_label=True), seed=i)["after"]
        assert ends["f1"][0] <= values[-1] <= ends["f1"][1]
        return ends

    drawn = [draw(i)["f1"] for i in range(DRAWS)]
    expected = float(np.mean(values))  # F1 of so few examples is biased: its own mean over such splits
    assert abs(expected - f1.mean()) < 0.05
    assert 0.9 <= np.mean([low <= expected <= high for low, high in drawn]) <= 0.99


@pytest.mark.parametrize(("speakers", "spread", "level"), [(10, 0.8, -1.5), (20, 0.3, -0.5), (40, 1.2, -3.0)])
def test_intervals_of_the_word_error_rate_hold_the_truth_over_speakers(speakers, spread, level, fewer_resamples):
    generator = np.random.default_rng(3)
    true = float(expit(level + spread * np.random.default_rng(9).standard_normal(200_000)).mean())
    held = 0
    for i in range(DRAWS):
        rate = expit(level + spread * generator.standard_normal(speakers))
        names, said, heard = [], [], []
        for speaker in range(speakers):
            for _ in range(4):
                words = int(generator.integers(5, 10))
                wrong = generator.random(words) < rate[speaker]
                names.append(str(speaker))
                said.append(" ".join("a" * words))
                heard.append(" ".join("b" if bad else "a" for bad in wrong))
        low, high = transcription.intervals(said, heard, heard, names, seed=i)["after"]["wer"]
        held += low <= true <= high
    assert 0.9 <= held / DRAWS <= 0.99


@pytest.mark.parametrize(("n", "positive", "before", "after"), [
    (24, 0.5, 0.9, 0.9), (100, 0.5, 0.95, 0.95), (200, 0.13, 0.98, 0.98), (50, 0.5, 0.5, 0.9), (200, 0.13, 0.9, 0.97),
])  # fmt: skip
def test_a_gain_is_seldom_more_than_chance_where_there_is_none(n, positive, before, after, fewer_resamples):
    """Few examples make the difference between two good classifiers: four against none are not enough."""
    generator = np.random.default_rng(6)
    held, called = {"accuracy": 0, "f1": 0}, {"accuracy": 0, "f1": 0}
    f1 = [2 * positive * r / (2 * positive * r + 1 - r) for r in (before, after)]
    true = {"accuracy": after - before, "f1": f1[1] - f1[0]}
    for i in range(DRAWS):
        truth = (generator.random(n) < positive).astype(int)
        logits = [
            3.0 * np.eye(2)[np.where(generator.random(n) < right, truth, 1 - truth)] for right in (before, after)
        ]
        gain = classification_intervals(*logits, truth, Decision(), seed=i)["gain"]
        for name, (low, high) in gain.items():
            if name in true:
                held[name] += low <= true[name] <= high
                called[name] += low > 0 or high < 0
    for name in true:
        assert held[name] / DRAWS >= 0.9
        assert before != after or called[name] / DRAWS <= 0.06
        assert before == after or called[name] / DRAWS >= 0.6


@pytest.mark.parametrize(("patients", "spread", "texts"), [(12, 1.0, 15), (40, 1.5, 6)])
def test_intervals_hold_the_truth_where_the_examples_of_a_patient_are_alike(patients, spread, texts, fewer_resamples):
    """Each patient has a chance of his own to be read rightly: examples are counted by patients."""
    generator = np.random.default_rng(4)
    true = float(expit(1.2 + spread * np.random.default_rng(9).standard_normal(200_000)).mean())
    names = [str(patient) for patient in range(patients) for _ in range(texts)]
    held, held_alone = 0, 0
    for i in range(DRAWS):
        rate = expit(1.2 + spread * generator.standard_normal(patients)).repeat(texts)
        truth = generator.integers(0, 2, patients * texts)
        logits = 3.0 * np.eye(2)[np.where(generator.random(len(truth)) < rate, truth, 1 - truth)]
        by_patient = classification_intervals(logits, logits, truth, Decision(), seed=i, units=names)["after"]
        low, high = by_patient["accuracy"]
        held += low <= true <= high
        low, high = proportion_interval(int((logits.argmax(axis=1) == truth).sum()), len(truth))
        held_alone += low <= true <= high
    assert 0.9 <= held / DRAWS <= 0.99
    assert held_alone / DRAWS < 0.85


def test_intervals_hold_the_truth_where_few_patients_have_the_label():
    generator = np.random.default_rng(7)
    true = float(expit(1.0 + 1.2 * np.random.default_rng(9).standard_normal(200_000)).mean())
    patient = np.repeat(np.arange(40), 5)
    truth = (patient < 4).astype(int)
    names = patient.astype(str).tolist()
    held = 0
    for i in range(DRAWS):
        rate = expit(1.0 + 1.2 * generator.standard_normal(40))[patient]
        logits = 3.0 * np.eye(2)[np.where(generator.random(200) < rate, truth, 1 - truth)]
        low, high = classification_intervals(logits, logits, truth, Decision(), seed=i, units=names)["after"]["recall"]
        held += low <= true <= high
        alone = (
            classification_intervals(logits, logits, truth, Decision(), seed=i)["after"]["recall"]
            if i < 5
            else [low, high]
        )
        assert low <= alone[0]
        assert alone[1] <= high
    assert held / DRAWS >= 0.9


@pytest.mark.parametrize(("negatives", "limit"), [(299, 0.01), (1300, 0.01), (100, 0.05), (400, 0.1)])
def test_a_limit_on_false_positives_is_kept_in_95_of_100_runs(negatives, limit):
    """Scores of label 0 are uniform: the true rate above a threshold is what is left above it."""
    generator = np.random.default_rng(4)
    scores = generator.random((1000, negatives + 5))
    references = np.repeat([0, 1], [negatives, 5])
    chosen = np.array([threshold_for_false_positive_rate(row, row[references == 0], limit) for row in scores])
    assert (1 - chosen > limit).mean() <= 0.06
    assert (1 - chosen).mean() >= limit / 2 or negatives < 4 * negatives_needed(limit)  # and not idly high
    few = int(negatives_needed(limit)) - 1
    with pytest.raises(ValueError, match="are needed"):
        threshold_for_false_positive_rate(scores[0], scores[0, :few], limit)


def test_scores_that_are_alike_do_not_slip_over_a_threshold():
    scores = np.repeat([0.2, 1.0], [900, 100])
    assert (scores >= threshold_for_false_positive_rate(scores, scores, 0.05)).sum() == 0
    assert (scores >= threshold_for_false_positive_rate(scores, scores, 0.2)).sum() == 100


@pytest.mark.parametrize(("patients", "each", "limit"), [(80, 10, 0.05), (400, 3, 0.01)])
def test_negatives_of_one_patient_are_no_evidence_for_each_other(patients, each, limit):
    """Scores of label 0 are alike within a patient; how often the rate among new patients is above the limit."""
    generator = np.random.default_rng(11)
    alike = np.repeat(np.arange(patients), each)
    above = []
    for _ in range(400):
        scores = 0.3**0.5 * generator.standard_normal(patients)[alike] + 0.7**0.5 * generator.standard_normal(
            len(alike)
        )
        chosen = threshold_for_false_positive_rate(
            scores, scores[one_of_each_unit(np.arange(len(alike)), alike)], limit
        )
        above.append(norm.sf(chosen) > limit)
    assert np.mean(above) <= 0.08  # 5 of 100, as far as so many draws tell
    every = [threshold_for_false_positive_rate(row, row, limit) for row in generator.standard_normal((50, patients))]
    assert np.mean(norm.sf(every)) >= limit / 6  # and not idly high


@pytest.mark.parametrize("true", [0.5, 0.8, 1.0, 1.5, 3.0])
@pytest.mark.parametrize(("n", "distance"), [(50, 1.5), (50, 7.0), (100, 3.0), (300, 5.0)])
def test_calibration_never_makes_probabilities_worse_by_more_than_noise(n, distance, true):
    """Logits that are `true` times too large: what their likelihood on new examples gains, over many splits."""
    generator = np.random.default_rng(5)

    def draw(count):
        right = np.abs(generator.normal(distance, distance / 2, count)) * generator.choice([-1, 1], count)
        return np.stack([np.zeros(count), right * true], axis=1), (generator.random(count) < expit(right)).astype(int)

    def loss(temperature):
        return float(-np.log(softmax(logits / temperature, axis=1)[np.arange(len(labels)), labels]).mean())

    logits, labels = draw(20_000)
    changes = [loss(calibrate(*draw(n))[0]) - loss(1.0) for _ in range(40)]
    assert np.mean(changes) <= 0.003
    assert np.max(changes) <= 0.08
    if true == 3.0 and distance < 5:
        assert np.mean(changes) < -0.1  # and it helps where it is needed


def test_a_validation_split_without_an_error_gives_no_temperature():
    generator = np.random.default_rng(6)
    labels = generator.integers(0, 2, 200)
    logits = 3.0 * np.eye(2)[labels] + generator.normal(0, 0.3, (200, 2))
    temperature, why = calibrate(logits, labels)
    assert temperature == 1.0
    assert "0 wrong answers on 200 validation examples" in str(why)


def compared(generator, ways, seeds, between_seeds, better=0.0, n=300):
    """Runs that are right where an example is easy enough: what is hard is so for all, and by chance for each."""
    easy = generator.standard_normal(n)
    runs = {}
    for way in range(ways):
        right = [
            easy + 0.6 * generator.standard_normal(n) + between_seeds * generator.standard_normal() + 0.9
            + (better if way == 0 else 0.0) > 0
            for _ in range(seeds)
        ]  # fmt: skip
        runs[str(way)] = [of(each.astype(float)) for each in right]
    return runs


def of(right):
    return ResampledMetrics(
        np.arange(len(right)), lambda weights: {"accuracy": weights @ right / weights.sum(axis=-1)}
    )


@pytest.mark.parametrize(("ways", "seeds", "between_seeds"), [
    (2, 1, 0.0), (6, 1, 0.0), (2, 3, 0.0), (2, 3, 0.15), (4, 3, 0.1), (3, 5, 0.1),
])  # fmt: skip
def test_equal_ways_are_seldom_called_different(ways, seeds, between_seeds, fewer_resamples):
    generator = np.random.default_rng(7)
    called = 0
    for draw in range(DRAWS):
        found = compare_runs(
            compared(generator, ways, seeds, between_seeds), "accuracy", greater_is_better=True, seed=draw
        )
        called += any(one["against_best"][1] < 0 for one in found.values())
    assert 0.01 <= called / DRAWS <= 0.09  # 5 of 100, as far as so many draws tell


def test_a_way_that_wavers_is_not_judged_by_those_that_are_steady(fewer_resamples):
    """Three ways differ little from seed to seed, and one much: as scratch beside pretrained models."""
    generator = np.random.default_rng(13)
    called = 0
    for draw in range(DRAWS):
        runs = compared(generator, 3, 3, 0.1, n=300) | {"3": compared(generator, 1, 3, 0.3, n=300)["0"]}
        found = compare_runs(runs, "accuracy", greater_is_better=True, seed=draw)
        called += any(one["against_best"][1] < 0 for one in found.values())
    assert called / DRAWS <= 0.09


def test_a_standard_error_is_no_less_than_between_examples(fewer_resamples):
    """However alike the seeds were by chance."""
    generator = np.random.default_rng(14)
    for draw in range(20):
        runs = compared(generator, 2, 2, 0.0, n=40)
        several = compare_runs(runs, "accuracy", greater_is_better=True, seed=draw)
        rows = np.random.default_rng(0).integers(40, size=(500, 40))
        weights = np.apply_along_axis(np.bincount, 1, rows, minlength=40)
        means = [np.mean([run.compute(weights)["accuracy"] for run in each], axis=0) for each in runs.values()]
        alone = float(np.std(means[0] - means[1]))
        assert max(one["standard_error"] for one in several.values()) >= 0.8 * alone


def test_the_standard_error_of_a_difference_is_its_spread(fewer_resamples):
    """Three seeds: neither the seeds nor the examples are counted twice."""
    generator = np.random.default_rng(8)
    differences, errors = [], []
    for draw in range(400):
        runs = compared(generator, 2, 3, 0.1, n=100)
        found = compare_runs(runs, "accuracy", greater_is_better=True, seed=draw)
        first, second = (found[way]["metrics"]["accuracy"] for way in "01")
        differences.append(first - second)
        errors.append(max(one["standard_error"] for one in found.values()) ** 2)
    assert np.mean(errors) ** 0.5 == pytest.approx(np.std(differences), rel=0.15)


def test_what_is_said_to_be_detectable_is_detected(fewer_resamples):
    """A way that is better by just that much is told from the other in four of five comparisons."""
    generator = np.random.default_rng(9)
    better = 0.28
    spread = np.sqrt(1 + 0.6**2)
    true = norm.cdf((0.9 + better) / spread) - norm.cdf(0.9 / spread)
    detected, detectable = [], []
    for draw in range(DRAWS):
        found = compare_runs(
            compared(generator, 2, 1, 0.0, better=better), "accuracy", greater_is_better=True, seed=draw
        )
        detected.append(any(one["against_best"][1] < 0 for one in found.values()))
        detectable.append(max(one["detectable"] for one in found.values()))
    assert np.mean(detectable) == pytest.approx(true, rel=0.05)
    assert 0.7 <= np.mean(detected) <= 0.9  # 80 of 100, as far as so many draws tell
