"""Runs on the same test examples against each other: intervals over examples and seeds, and which to take."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import chi2, norm, t

from hf_transfer.evaluation.bootstrap import (
    NORMAL_95,
    ResampledMetrics,
    accelerated_interval,
    left_out,
    multiplicities,
    over_weights,
)
from hf_transfer.evaluation.metric_names import limits
from hf_transfer.evaluation.metrics import Array

# Draws of the largest distance among ways that are equal.
DRAWS = 4000
# Of so few seeds the variance is uncertain: distances are judged as if it were at this upper bound of it.
SEEDS_BOUND = 0.8


@dataclass(frozen=True)
class _Spread:
    """Of one metric: how the means over seeds vary. Test examples and seeds are crossed factors.

    The variance between examples (with the seeds as they are) and that between seeds (with the examples as they are)
    both hold what depends on the two of them together, and resampling both at once counts it a third time: Owen 2007,
    https://doi.org/10.1214/07-AOAS122. Here it is taken out of the first.

    Attributes:
        examples: covariance between test examples of the means over the seeds there are, [ways, ways].
        together: the part of it that is each seed's alone, [ways, ways].
        by_seed: the metric of each way and seed, [ways, seeds].
    """

    examples: Array
    together: Array
    by_seed: Array

    @classmethod
    def of(cls, resampled: Array, measured: Array) -> "_Spread":
        """From values [ways, seeds, resamples], NaN where there is none, and those of all examples [ways, seeds]."""
        resampled = resampled[:, :, ~np.isnan(resampled).any(axis=(0, 1))]
        ways, seeds, drawn = resampled.shape
        if drawn < 2:
            return cls(np.zeros((ways, ways)), np.zeros((ways, ways)), measured)
        examples = np.atleast_2d(np.cov(resampled.mean(axis=1)))
        single = np.mean([np.atleast_2d(np.cov(resampled[:, i])) for i in range(seeds)], axis=0)
        return cls(examples, (single - examples) / (seeds - 1) if seeds > 1 else np.zeros_like(examples), measured)

    def between_seeds(self, by_seed: Array) -> Array:
        """The variance of a single seed of each way, [..., ways], its examples' part included.

        What all ways have in common of a seed is left out: differences are paired. A way is given its own variance
        where that is more than the mean over the ways: a training that wavers beside steady ones is not judged by
        theirs, and one that was steady by chance is not believed to be.

        Args:
            by_seed: values [..., ways, seeds].
        """
        own = self.of_each(by_seed)
        return np.maximum(own, own.mean(axis=-1, keepdims=True))

    def of_each(self, by_seed: Array) -> Array:
        """The variances by the seeds of each way alone, [..., ways], of values [..., ways, seeds]."""
        ways, seeds = self.by_seed.shape
        each = by_seed - by_seed.mean(axis=-1, keepdims=True)
        each = each - each.mean(axis=-2, keepdims=True)
        return np.square(each).sum(axis=-1) * ways / max(1, (ways - 1) * (seeds - 1))

    def of_difference(self, pair: Array, by_seed: Array) -> Array:
        """The variance of a difference of two ways' means over seeds, [...], given values [..., ways, seeds].

        It is no less than that between examples alone, however alike the seeds were by chance.

        Args:
            pair: 1 for the one way, -1 for the other and 0 for all else, [ways].
            by_seed: measured, or drawn.
        """
        examples, together = (float(pair @ part @ pair) for part in (self.examples, self.together))
        seeds = self.between_seeds(by_seed) @ np.square(pair) / self.by_seed.shape[1]
        return np.maximum(examples, examples - together + seeds)

    def widening(self, way: int) -> float:
        """How much wider the interval of a way's mean is with its seeds than between examples alone.

        Student's t has as many degrees of freedom as Satterthwaite 1946, https://doi.org/10.2307/3002019, gives for a
        sum of which the variance between seeds alone is uncertain.
        """
        examples, seeds = self.examples[way, way], self.by_seed.shape[1]
        if seeds == 1 or examples == 0:
            return 1.0
        added = max(0.0, self.by_seed[way].var(ddof=1) / seeds - self.together[way, way])
        if added == 0:
            return 1.0
        freedom = (seeds - 1) * ((examples + added) / added) ** 2
        return float((1 + added / examples) ** 0.5 * t.ppf(0.975, freedom)) / NORMAL_95


def compare_runs(
    runs: Mapping[str, Sequence[ResampledMetrics]], metric: str, *, greater_is_better: bool, seed: int
) -> dict[str, dict[str, Any]]:
    """Every metric of each way, averaged over its seeds, and its distance to the best way in `metric`.

    All ways are measured on the same test examples from the same seeds: differences are paired. The best way is chosen
    on what it is measured on, from several: the intervals of distances are simultaneous ones of all pairs.

    Args:
        runs: by way, one for each seed, on the same examples in the same order.
        metric: that decides which is the best.
        greater_is_better: whether more of it is better.
        seed: of the resampling.

    Returns:
        By way: ``metrics``, ``confidence`` (95 %), and of `metric` what the way has more than the best one:
        ``difference``, ``against_best`` (95 %, see `_farthest`), ``standard_error``, 0 for the best itself, and
        ``detectable``, the difference that would be told from chance in 80 % of such comparisons. With a single seed
        none of them knows how much seeds differ.
    """
    ways, seeds = list(runs), min(len(each) for each in runs.values())
    units = runs[ways[0]][0].units

    def every(weights: Array) -> dict[Any, Array]:
        return {
            (name, way, i): value
            for way, each in runs.items()
            for i, run in enumerate(each[:seeds])
            for name, value in run.metrics(weights).items()
        }

    resamples = over_weights(every, multiplicities(units, seed))
    without = over_weights(every, left_out(units))
    measured = over_weights(every, [np.ones((1, len(units)))])
    found: dict[str, dict[str, Any]] = {way: {"metrics": {}, "confidence": {}} for way in ways}
    spreads = {}
    for name in dict.fromkeys(key[0] for key in measured):
        drawn, left, whole = (
            np.array([[values[name, way, i] for i in range(seeds)] for way in ways])
            for values in (resamples, without, measured)
        )  # [ways, seeds, resamples, parts or 1]
        spreads[name] = _Spread.of(drawn, whole[..., 0])
        for k, way in enumerate(ways):
            found[way]["metrics"][name] = value = float(whole[k].mean())
            if np.isnan(value) or np.isnan(drawn[k].mean(axis=0)).all() or not runs[way][0].counts(name).sum():
                continue
            found[way]["confidence"][name] = _interval(
                runs[way][:seeds], name, value, drawn[k].mean(axis=0), left[k].mean(axis=0), spreads[name].widening(k)
            )
    means = np.array([found[way]["metrics"][metric] for way in ways])
    best = int(np.argmax(means) if greater_is_better else np.argmin(means))
    spread, factor, one_way = spreads[metric], _farthest(spreads[metric], seed), np.eye(len(ways))
    for k, way in enumerate(ways):
        error = float(spread.of_difference(one_way[k] - one_way[best], spread.by_seed)) ** 0.5
        difference = float(means[k] - means[best])
        found[way] |= {
            "difference": difference,
            "against_best": [difference - factor * error, difference + factor * error],
            "standard_error": error,
            "detectable": (factor + float(norm.ppf(0.8))) * error,
        }
    return found


def _interval(
    runs: Sequence[ResampledMetrics], name: str, value: float, drawn: Array, left: Array, widening: float
) -> list[float]:
    """The 95 % interval of the mean of a metric over seeds: of a single one that of its report."""
    counts = np.mean([run.counts(name) for run in runs], axis=0)
    ends = accelerated_interval(drawn, value, left, counts, runs[0].drawn, name, widened=widening)
    if name not in runs[0].shares:
        return ends
    shares = np.mean([run.shares[name] for run in runs if name in run.shares], axis=0)
    shares = np.clip(value + (shares - value) * widening, *limits(name)).tolist()
    alone = runs[0].drawn == len(runs[0].units)
    return shares if alone else [min(ends[0], shares[0]), max(ends[1], shares[1])]


def _farthest(spread: _Spread, seed: int) -> float:
    """How many standard errors the differences of all pairs keep within, all of them in 95 % of the cases.

    Single-step max-T (Westfall & Young 1993, section 2.5) of what would be measured if all ways were equal: drawn from
    normal distributions, and each difference divided by the standard error that is found in the same draw, as with few
    seeds the error itself is uncertain.

    Args:
        spread: of the metric.
        seed: of the draws.
    """
    ways, seeds = spread.by_seed.shape
    freedom = (ways - 1) * (seeds - 1)
    generator = np.random.default_rng([seed, 1])
    shared = generator.standard_normal((DRAWS, ways)) @ _root(spread.examples - spread.together).T
    by_seed = np.zeros((DRAWS, ways, seeds))
    if freedom:
        most = spread.of_each(spread.by_seed) * freedom / chi2.ppf(1 - SEEDS_BOUND, freedom)
        by_seed = generator.standard_normal(by_seed.shape) * most[:, None] ** 0.5
    drawn = shared + by_seed.mean(axis=2)
    farthest = np.zeros(DRAWS)
    for one, other in itertools.combinations(np.eye(ways), 2):
        variance = np.broadcast_to(spread.of_difference(one - other, by_seed), DRAWS)
        distance = np.abs(drawn @ (one - other))
        farthest = np.maximum(farthest, np.divide(distance, variance**0.5, out=0 * distance, where=variance > 0))
    return float(np.percentile(farthest, 95)) or NORMAL_95


def _root(covariance: Array) -> Array:
    """A matrix whose product with its transpose is `covariance`, without the negative parts that noise gives it."""
    values, vectors = np.linalg.eigh(covariance)
    return vectors * np.sqrt(np.maximum(values, 0.0))


def recommend(measured: Mapping[str, Mapping[str, Any]], costs: Mapping[str, float]) -> tuple[str, str]:
    """The best way, and the cheapest of those that are no further from it than one standard error.

    The one-standard-error rule (Breiman et al. 1984, chapter 3; Hastie et al. 2009, section 7.10), with the standard
    error of the paired difference, which is the smaller one.

    Args:
        measured: from `compare_runs`.
        costs: of each way.
    """
    best = next(way for way, found in measured.items() if found["difference"] == 0)
    near = [way for way, found in measured.items() if abs(found["difference"]) <= found["standard_error"]]
    return best, min(near, key=lambda way: costs[way])
