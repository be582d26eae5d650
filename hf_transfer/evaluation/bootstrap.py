"""95 % bootstrap confidence intervals of metrics that are computed from example weights."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np
from scipy.stats import binomtest, norm, t

from hf_transfer.evaluation.metric_names import has_exact_limits, limits, limits_of_difference
from hf_transfer.evaluation.metrics import Array

RESAMPLES = 1000
# The most parts that the jackknife leaves out in turn.
JACKKNIFE_PARTS = 500
NORMAL_95 = float(norm.ppf(0.975))
# Weights that are held in memory at once.
_WEIGHTS_PER_BATCH = 4_000_000

# The name of a metric, or a pair of its kind (``after`` or ``gain``) and its name.
Key = TypeVar("Key", str, tuple[str, str])
AnyKey = TypeVar("AnyKey")
WeightedMetrics = Callable[[Array], dict[str, Array]]


@dataclass(frozen=True)
class ResampledMetrics(Generic[Key]):
    """Dataclass of metrics as a function of example weights, and of which examples are resampled together.

    Attributes:
        unit_numbers: the number of each example's unit (itself, or its patient or speaker), [n]; whole units are
            resampled: see `data.units.resampling_units`.
        compute: returns the metrics by name, each [...], for example weights [..., n]: how often each example is in a
            resample. A name that is a pair ``("gain", metric)`` is a difference of two metrics.
        support: for metrics that depend on a part of the examples: how many units have each of the labels that the
            metric averages over, [labels].
        changed: for metrics whose gain depends on a part of the examples: whether each example changes it, [n].
        formula_intervals: the intervals of metrics that have a formula and are not resampled.
    """

    unit_numbers: Array
    compute: Callable[[Array], dict[Key, Array]]
    support: Mapping[str, Array] = field(default_factory=dict)
    changed: Mapping[str, Array] = field(default_factory=dict)
    formula_intervals: Mapping[str, list[float]] = field(default_factory=dict)

    @property
    def num_units(self) -> int:
        """Number of units: of examples, or of patients or speakers if these are resampled whole."""
        return int(self.unit_numbers.max()) + 1

    def support_of(self, name: str | tuple[str, str]) -> Array:
        """Return the number of units that a metric depends on, for each of its labels, [labels]."""
        kind, metric = name if isinstance(name, tuple) else ("", name)
        if kind == "gain" and metric in self.changed:
            return np.array([len(np.unique(self.unit_numbers[self.changed[metric]]))])
        return self.support.get(metric, np.array([self.num_units]))


def bootstrap(resampled: ResampledMetrics[Key], *, seed: int) -> dict[Key, list[float]]:
    """Return the 95 % bootstrap interval, ``[low, high]``, of every metric by name.

    Metrics have bias-corrected and accelerated (BCa) intervals, differences have percentile intervals. Both are
    widened for few examples: see `small_sample_factor`. Where all resamples give the same value and it is a limit of
    the metric, the other end is that of an exact binomial interval: see `exact_lower_end`. Where the value is not a
    limit, the interval is the whole range of the metric.

    Args:
        resampled: the metrics and the examples.
        seed: of the resampling.

    Returns:
        ``[low, high]`` by name. Resamples whose metric is NaN (a label does not occur in them) are left out, and so
        are metrics without any value. Empty without examples.
    """
    if len(resampled.unit_numbers) == 0:
        return {}
    units = resampled.unit_numbers
    resamples = compute_in_batches(resampled.compute, resample_weights(units, seed))
    jackknife = compute_in_batches(resampled.compute, jackknife_weights(units))
    intervals: dict[Key, list[float]] = {}
    for name, value in resampled.compute(np.ones((1, len(units)))).items():
        measured, support = float(np.atleast_1d(value)[0]), resampled.support_of(name)
        kind, metric = name if isinstance(name, tuple) else ("", name)
        is_gain = kind == "gain"
        if np.isnan(measured) or np.isnan(resamples[name]).all() or not (is_gain or support.sum()):
            continue
        if is_gain:
            intervals[name] = percentile_interval(
                resamples[name], measured, support, resampled.support_of(metric), resampled.num_units, metric
            )
        else:
            intervals[name] = bca_interval(
                resamples[name], measured, jackknife[name], support, resampled.num_units, metric
            )
    return intervals


def paired_metrics(before: WeightedMetrics, after: WeightedMetrics) -> Callable[[Array], dict[tuple[str, str], Array]]:
    """Return a function from weights to each metric after training and its gain, both on the same examples.

    Its results are named ``("after", name)`` and ``("gain", name)``; the gain is after minus before.
    """

    def compute(weights: Array) -> dict[tuple[str, str], Array]:
        old, new = before(weights), after(weights)
        return {("after", name): new[name] for name in new} | {("gain", name): new[name] - old[name] for name in new}

    return compute


def split_by_kind(intervals: Mapping[tuple[str, str], list[float]]) -> dict[str, dict[str, list[float]]]:
    """Return intervals of metrics by kind, ``after`` or ``gain`` (after minus before), each by the metric's name."""
    return {
        kind: {name: ends for (own_kind, name), ends in intervals.items() if own_kind == kind}
        for kind in ("after", "gain")
    }


def compute_in_batches(
    compute: Callable[[Array], dict[AnyKey, Array]], weights: Iterable[Array]
) -> dict[AnyKey, Array]:
    """Return by name the metrics that `compute` gives for weights that come in batches of rows, [all rows]."""
    batches = [compute(rows) for rows in weights]
    return {name: np.concatenate([np.atleast_1d(batch[name]) for batch in batches]) for name in batches[0]}


def resample_weights(unit_numbers: Array, seed: int) -> Iterator[Array]:
    """Yield how often each example is drawn in each resample of a bootstrap, in batches [resamples, n].

    Whole units are drawn: see `ResampledMetrics`.
    """
    generator, num_units = np.random.default_rng(seed), int(unit_numbers.max()) + 1
    batch_size = max(1, min(RESAMPLES, _WEIGHTS_PER_BATCH // len(unit_numbers)))
    for start in range(0, RESAMPLES, batch_size):
        rows = min(batch_size, RESAMPLES - start)
        drawn = generator.integers(num_units, size=(rows, num_units)) + np.arange(rows)[:, None] * num_units
        counts = np.bincount(drawn.ravel(), minlength=rows * num_units).reshape(rows, num_units)
        yield counts[:, unit_numbers].astype(float)


def jackknife_weights(unit_numbers: Array) -> Iterator[Array]:
    """Yield the weights of the jackknife in batches [parts, n]: 0 for the examples of one part, 1 for all others."""
    parts = min(int(unit_numbers.max()) + 1, JACKKNIFE_PARTS)
    batch_size = max(1, _WEIGHTS_PER_BATCH // len(unit_numbers))
    for start in range(0, parts, batch_size):
        rows = np.arange(start, min(start + batch_size, parts))
        yield (unit_numbers % parts != rows[:, None]).astype(float)


def bca_interval(
    values: Array,
    measured: float,
    jackknife: Array,
    support: Array,
    num_units: int,
    metric: str,
    *,
    stretch: float = 1.0,
) -> list[float]:
    """Return a metric's bias-corrected and accelerated (BCa) 95 % interval ``[low, high]``, from its resamples.

    Efron 1987, https://doi.org/10.2307/2289144.

    Plain percentile intervals are too short on the far side of metrics near 0 or 1. The resampled values are shifted
    so that their mean is `measured`: the resampled values of a mean over rare labels are too low.

    Args:
        values: the metric of each resample, [resamples]; NaN where there is none.
        measured: the metric of all examples.
        jackknife: the metric without each part of the examples, [parts].
        support: how many units the metric depends on, one number for each label: see `small_sample_factor`.
        num_units: the number of units that are resampled.
        metric: its name.
        stretch: factor on the distance of both ends from `measured`, for variance that resampling does not see.
    """
    values, jackknife = values[~np.isnan(values)], jackknife[~np.isnan(jackknife)]
    if np.ptp(values) == 0 and has_exact_limits(metric):
        return _interval_of_constant(float(values[0]), support, limits(metric))
    shifted = values - values.mean() + measured
    rounding = 1e-9 * (float(np.ptp(values)) or 1.0)
    below = (shifted < measured - rounding).mean() + (np.abs(shifted - measured) <= rounding).mean() / 2
    bias = norm.ppf(np.clip(below, 1 / len(shifted), 1 - 1 / len(shifted)))
    deviations = jackknife.mean() - jackknife if len(jackknife) else np.zeros(1)
    squares = float(np.square(deviations).sum())
    acceleration = float((deviations**3).sum()) / (6 * squares**1.5) if squares > 0 else 0.0
    quantiles = bias + np.array([-1, 1]) * small_sample_factor(support, num_units) * NORMAL_95
    # Where the denominator is not positive, the end is the lowest or the highest of the resampled values.
    denominator = 1 - acceleration * quantiles
    levels = np.where(
        denominator > 0, norm.cdf(bias + quantiles / np.where(denominator > 0, denominator, 1.0)), [0.0, 1.0]
    )
    return np.clip(measured + (np.quantile(shifted, levels) - measured) * stretch, *limits(metric)).tolist()


def percentile_interval(
    values: Array, measured: float, changed_support: Array, support: Array, num_units: int, metric: str
) -> list[float]:
    """Return the 95 % percentile interval ``[low, high]`` of a difference, from its resamples.

    Efron & Tibshirani 1993, chapter 13.

    Args:
        values: the difference in each resample, [resamples]; NaN where there is none.
        measured: the difference on all examples.
        changed_support: how many units make a difference: see `small_sample_factor`.
        support: how many units each of the two metrics depends on, one number for each label.
        num_units: the number of units that are resampled.
        metric: its name.
    """
    values = values[~np.isnan(values)]
    if np.ptp(values) == 0:
        is_exact = not (has_exact_limits(metric) and changed_support.sum())
        width = 0.0 if is_exact else _exact_width(support) * limits_of_difference(metric)[1]
        return np.clip([values[0] - width, values[0] + width], *limits_of_difference(metric)).tolist()
    level = norm.cdf(small_sample_factor(changed_support, num_units) * NORMAL_95)
    shift = measured - values.mean()
    if abs(shift) < 3 * values.std() / len(values) ** 0.5:
        shift = 0.0  # noise of the resampling: an end that is exactly 0 must stay 0
    return np.clip(np.quantile(values + shift, [1 - level, level]), *limits_of_difference(metric)).tolist()


def small_sample_factor(support: Array, num_units: int) -> float:
    """Return the factor by which an interval is widened, because resamples of few examples vary too little.

    For one label (or all examples, or speakers) with n units it corrects the variance by n / (n - 1), and uses
    Student's t in place of the normal distribution, as Hesterberg 2015 does,
    https://doi.org/10.1080/00031305.2015.1089789. For a mean over labels it is the mean of their factors; a label of
    a single unit, which never varies, counts twice.

    Args:
        support: how many units have each label, [labels].
        num_units: the number of units that are resampled: a patient with many labels is one of them.
    """
    support = np.asarray(support, dtype=float)
    support = support[support > 0]
    factor = float(np.mean(support / np.maximum(support - 1, 0.5))) ** 0.5
    return factor * float(t.ppf(0.975, max(1.0, min(support.sum(), num_units) - 1))) / NORMAL_95


def exact_lower_end(n: int) -> float:
    """Return the lower end of the exact 95 % interval of a proportion that was observed as `n` of `n`.

    Clopper & Pearson 1934, https://doi.org/10.1093/biomet/26.4.404.
    """
    return float(binomtest(n, n).proportion_ci().low)


def _exact_width(support: Array) -> float:
    """Return the width of the exact 95 % interval of a proportion of 0 or 1, averaged over labels."""
    widths = [1 - exact_lower_end(max(1, round(count))) for count in support if count > 0]
    return float(np.mean(widths)) if widths else 1.0


def _interval_of_constant(value: float, support: Array, metric_limits: tuple[float, float]) -> list[float]:
    """Return the interval ``[low, high]`` of a metric that is the same in all resamples.

    Where it is no limit of the metric, nothing is known: a correlation is 0 where all predictions are the same.
    """
    low, high = metric_limits
    if value not in metric_limits:
        return [low, high]
    width = _exact_width(support)
    return [high - width, high] if value == high else [low, low + width]
