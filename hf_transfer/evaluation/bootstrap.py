"""95 % bootstrap intervals of any metric, from weights of the examples."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.stats import binomtest, norm, t

from hf_transfer.evaluation.metric_names import has_exact_ends, limits, limits_of_change
from hf_transfer.evaluation.metrics import Array

RESAMPLES = 1000
# How many parts of the examples the jackknife leaves out in turn, where there are more examples than these.
PARTS = 500
NORMAL_95 = float(norm.ppf(0.975))
_CELLS_AT_ONCE = 4_000_000


@dataclass(frozen=True)
class ResampledMetrics:
    """What a bootstrap needs.

    Attributes:
        units: for each example the number of what is drawn together, see `data.units.resampling_units`, [n].
        metrics: from weights of the examples [..., n], the multiplicity of each in each resample, to values [...] by
            name. A name that is a tuple ``("gain", metric)`` is a difference of two metrics.
        support: of metrics that rest on less than all, how many of `units` hold each of their labels, [labels].
        shares: the intervals of metrics for which nothing has to be resampled.
        changed: of metrics whose differences rest on fewer examples than all, whether each example makes one, [n].
    """

    units: Array
    metrics: Callable[[Array], dict[Any, Array]]
    support: Mapping[str, Array] = field(default_factory=dict)
    changed: Mapping[str, Array] = field(default_factory=dict)
    shares: Mapping[str, list[float]] = field(default_factory=dict)

    @property
    def drawn(self) -> int:
        """How many are drawn, each by itself: examples, or whole patients."""
        return int(self.units.max()) + 1

    def counts(self, name: Any) -> Array:
        """The numbers of what is drawn by itself that a metric rests on, one a label."""
        kind, metric = name if isinstance(name, tuple) else ("", name)
        if kind == "gain" and metric in self.changed:
            return np.array([len(np.unique(self.units[self.changed[metric]]))])
        return self.support.get(metric, np.array([self.drawn]))


def bootstrap(resampled: ResampledMetrics, *, seed: int) -> dict[Any, list[float]]:
    """95 % intervals of every metric.

    Args:
        resampled: metrics, and examples.
        seed: of the resampling.

    Returns:
        ``[low, high]`` by name, NaN resamples (a label did not occur) left out; empty without examples. Values are
        bias-corrected and accelerated, differences plain percentiles; both are widened for few examples, see `spread`.
        Where all resamples agree on an end of what is possible, the other end is an exact binomial one: see
        `exact_end`; where they agree on something between, nothing is known of it.
    """
    units, metrics = resampled.units, resampled.metrics
    if len(units) == 0:
        return {}
    resamples = over_weights(metrics, multiplicities(units, seed))
    without = over_weights(metrics, left_out(units))
    found = {}
    for name, value in metrics(np.ones((1, len(units)))).items():
        measured, counts = float(np.atleast_1d(value)[0]), resampled.counts(name)
        kind, metric = name if isinstance(name, tuple) else ("", name)
        is_gain = kind == "gain"
        if np.isnan(measured) or np.isnan(resamples[name]).all() or not (is_gain or counts.sum()):
            continue  # nothing is known of it
        if is_gain:
            of_each = resampled.counts(metric)
            found[name] = percentile_interval(resamples[name], measured, counts, of_each, resampled.drawn, metric)
        else:
            found[name] = accelerated_interval(
                resamples[name], measured, without[name], counts, resampled.drawn, metric
            )
    return found


def paired_metrics(
    before: Callable[[Array], dict[str, Array]], after: Callable[[Array], dict[str, Array]]
) -> Callable[[Array], dict[Any, Array]]:
    """From weights to each metric, ``("after", name)``, and its gain on the same examples, ``("gain", name)``."""

    def both(weights: Array) -> dict[Any, Array]:
        old, new = before(weights), after(weights)
        return {("after", name): new[name] for name in new} | {("gain", name): new[name] - old[name] for name in new}

    return both


def split_by_kind(found: Mapping[Any, list[float]]) -> dict[str, dict[str, list[float]]]:
    """The intervals of metrics from `paired`: those ``after``, and those of the ``gain``."""
    return {kind: {key[1]: ends for key, ends in found.items() if key[0] == kind} for kind in ("after", "gain")}


def over_weights(statistic: Callable[[Array], dict[Any, Array]], weights: Iterable[Array]) -> dict[Any, Array]:
    """The values of `statistic` by name, [all rows], for weights that come some rows at a time."""
    parts = [statistic(some) for some in weights]
    return {name: np.concatenate([np.atleast_1d(part[name]) for part in parts]) for name in parts[0]}


def multiplicities(units: Array, seed: int) -> Iterator[Array]:
    """How often each example is drawn in each resample, [some resamples, n] at a time; see `ResampledMetrics`."""
    generator, n = np.random.default_rng(seed), int(units.max()) + 1
    at_once = max(1, min(RESAMPLES, _CELLS_AT_ONCE // len(units)))
    for start in range(0, RESAMPLES, at_once):
        rows = min(at_once, RESAMPLES - start)
        drawn = generator.integers(n, size=(rows, n)) + np.arange(rows)[:, None] * n
        yield np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n)[:, units].astype(float)


def left_out(units: Array) -> Iterator[Array]:
    """Weights of the jackknife: 0 for the examples of one part and 1 for all others, [some parts, n] at a time."""
    parts = min(int(units.max()) + 1, PARTS)
    at_once = max(1, _CELLS_AT_ONCE // len(units))
    for start in range(0, parts, at_once):
        rows = np.arange(start, min(start + at_once, parts))
        yield (units % parts != rows[:, None]).astype(float)


def accelerated_interval(
    values: Array,
    measured: float,
    without: Array,
    counts: Array,
    drawn: int,
    metric: str,
    *,
    widened: float = 1.0,
) -> list[float]:
    """The bias-corrected and accelerated (BCa) interval: Efron 1987, https://doi.org/10.2307/2289144.

    Plain percentiles are too short on the far side of metrics near 0 or 1. The resamples are moved to have `measured`
    as their mean: those of a mean over rare labels lie below it.

    Args:
        values: resampled, [resamples], NaN where there is none.
        measured: on all examples.
        without: with each part left out, [parts], of the jackknife.
        counts: numbers of examples that the value rests on, one a label: see `spread`.
        drawn: how many are drawn, each by itself.
        metric: its name.
        widened: how much farther the ends are from `measured`, where something else varies as well: resamples do not
            reach so far.
    """
    values, without = values[~np.isnan(values)], without[~np.isnan(without)]
    if np.ptp(values) == 0 and has_exact_ends(metric):
        return _of_what_never_varies(float(values[0]), counts, limits(metric))
    moved = values - values.mean() + measured
    rounding = 1e-9 * (float(np.ptp(values)) or 1.0)
    below = (moved < measured - rounding).mean() + (np.abs(moved - measured) <= rounding).mean() / 2
    bias = norm.ppf(np.clip(below, 1 / len(moved), 1 - 1 / len(moved)))
    pull = without.mean() - without if len(without) else np.zeros(1)
    squares = float(np.square(pull).sum())
    acceleration = float((pull**3).sum()) / (6 * squares**1.5) if squares > 0 else 0.0
    ends = bias + np.array([-1, 1]) * spread(counts, drawn) * NORMAL_95
    # At its pole an end is as far out as the resamples reach.
    share = 1 - acceleration * ends
    levels = np.where(share > 0, norm.cdf(bias + ends / np.where(share > 0, share, 1.0)), [0.0, 1.0])
    return np.clip(measured + (np.quantile(moved, levels) - measured) * widened, *limits(metric)).tolist()


def percentile_interval(
    values: Array, measured: float, changed: Array, counts: Array, drawn: int, metric: str
) -> list[float]:
    """The percentile interval (Efron & Tibshirani 1993, chapter 13) of a difference, around what was measured.

    Args:
        values: resampled, [resamples], NaN where there is none.
        measured: on all examples.
        changed: numbers of examples that make a difference: see `spread`.
        counts: numbers of examples that each of the two values rests on, one a label.
        drawn: how many are drawn, each by itself.
        metric: its name.
    """
    values = values[~np.isnan(values)]
    if np.ptp(values) == 0:
        known = not (has_exact_ends(metric) and changed.sum())
        reach = 0.0 if known else _reach(counts) * limits_of_change(metric)[1]
        return np.clip([values[0] - reach, values[0] + reach], *limits_of_change(metric)).tolist()
    level = norm.cdf(spread(changed, drawn) * NORMAL_95)
    shift = measured - values.mean()
    if abs(shift) < 3 * values.std() / len(values) ** 0.5:
        shift = 0.0  # the noise of resamples, which would move the end of those without a difference away from 0
    return np.clip(np.quantile(values + shift, [1 - level, level]), *limits_of_change(metric)).tolist()


def spread(counts: Array, drawn: int) -> float:
    """How much wider an interval has to be than what resamples say, as they vary too little with few examples.

    Of one label (or all examples, or speakers) with n: n over n - 1 in the variance, and Student's t for the normal
    distribution, as in Hesterberg 2015, https://doi.org/10.1080/00031305.2015.1089789. Of a mean over labels: the mean
    of their factors; a label of a single example, which never varies, counts twice.

    Args:
        counts: numbers of examples of each label, [labels].
        drawn: how many are drawn, each by itself: a patient with many labels is one of them.
    """
    counts = np.asarray(counts, dtype=float)
    counts = counts[counts > 0]
    factor = float(np.mean(counts / np.maximum(counts - 1, 0.5))) ** 0.5
    return factor * float(t.ppf(0.975, max(1.0, min(counts.sum(), drawn) - 1))) / NORMAL_95


def exact_end(n: int) -> float:
    """The lower end of the exact 95 % interval of a share, where it was found `n` times of `n`.

    Clopper & Pearson 1934, https://doi.org/10.1093/biomet/26.4.404.
    """
    return float(binomtest(n, n).proportion_ci().low)


def _reach(counts: Array) -> float:
    """How far from an end of a share its other end is where all resamples agree on it: of each label, on average."""
    known = [1 - exact_end(max(1, round(count))) for count in counts if count > 0]
    return float(np.mean(known)) if known else 1.0


def _of_what_never_varies(value: float, counts: Array, ends: tuple[float, float]) -> list[float]:
    """Where all resamples agree on an end of what is possible, as far as the examples of each label allow.

    Between the ends nothing is known: as of a correlation that is 0 because all answers are the same.
    """
    low, high = ends
    if value not in ends:
        return [low, high]
    return [high - _reach(counts), high] if value == high else [low, low + _reach(counts)]
