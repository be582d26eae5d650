"""Comparison of fine-tuned candidates on the same test examples: intervals over examples and seeds, the best one."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
from scipy.stats import chi2, norm, t

from hf_transfer.evaluation.bootstrap import (
    NORMAL_95,
    ResampledMetrics,
    bca_interval,
    compute_in_batches,
    jackknife_weights,
    resample_weights,
)
from hf_transfer.evaluation.metric_names import limits
from hf_transfer.evaluation.metrics import Array

# Draws of the largest difference between candidates that are equal.
DRAWS = 4000
# With few seeds their variance is uncertain: differences are judged as if it were at this upper bound of it.
SEED_VARIANCE_BOUND = 0.8


class CandidateResult(TypedDict, total=False):
    """Dictionary of a candidate's result in a comparison: metrics, intervals, difference to the best one."""

    metrics: dict[str, float]
    confidence: dict[str, list[float]]
    difference: float
    against_best: list[float]
    standard_error: float
    detectable: float


@dataclass(frozen=True)
class _MetricVariance:
    """Dataclass of the variance of one metric's means over seeds; test examples and seeds are crossed factors.

    The variance between examples (with the seeds as they are) and that between seeds (with the examples as they are)
    both contain their interaction, and resampling both at once counts it a third time: Owen 2007,
    https://doi.org/10.1214/07-AOAS122. Here the interaction is subtracted from the first.

    Attributes:
        examples: covariance between test examples of the means over seeds, [candidates, candidates].
        interaction: the part of it that is each seed's alone, [candidates, candidates].
        by_seed: the metric of each candidate and seed, [candidates, seeds].
    """

    examples: Array
    interaction: Array
    by_seed: Array

    @classmethod
    def from_resamples(cls, resampled: Array, measured: Array) -> "_MetricVariance":
        """Return the variance of a metric, estimated from resamples of the test examples.

        Args:
            resampled: values of the resamples, [candidates, seeds, resamples]; NaN where there is none.
            measured: values of all examples, [candidates, seeds].
        """
        resampled = resampled[:, :, ~np.isnan(resampled).any(axis=(0, 1))]
        candidates, seeds, resamples = resampled.shape
        if resamples < 2:
            return cls(np.zeros((candidates, candidates)), np.zeros((candidates, candidates)), measured)
        examples = np.atleast_2d(np.cov(resampled.mean(axis=1)))
        single = np.mean([np.atleast_2d(np.cov(resampled[:, i])) for i in range(seeds)], axis=0)
        interaction = (single - examples) / (seeds - 1) if seeds > 1 else np.zeros_like(examples)
        return cls(examples, interaction, measured)

    def between_seeds(self, by_seed: Array) -> Array:
        """Return the variance of a single seed of each candidate, [..., candidates], with its interaction.

        What all candidates share of a seed is left out, as differences are paired. A candidate has its own variance
        where that is above the mean over candidates: an unstable training beside stable ones is not judged by their
        variance, and one that was stable by chance is not taken to be stable.

        Args:
            by_seed: values [..., candidates, seeds].
        """
        variances = self.seed_variances(by_seed)
        return np.maximum(variances, variances.mean(axis=-1, keepdims=True))

    def seed_variances(self, by_seed: Array) -> Array:
        """Return each candidate's own variance between seeds, [..., candidates].

        Args:
            by_seed: values [..., candidates, seeds].
        """
        candidates, seeds = self.by_seed.shape
        residuals = by_seed - by_seed.mean(axis=-1, keepdims=True)
        residuals = residuals - residuals.mean(axis=-2, keepdims=True)
        return np.square(residuals).sum(axis=-1) * candidates / max(1, (candidates - 1) * (seeds - 1))

    def of_difference(self, contrast: Array, by_seed: Array) -> Array:
        """Return the variance of a difference between the means over seeds of two candidates, [...].

        It is never below the variance between examples, even where the seeds were alike by chance.

        Args:
            contrast: 1 for one candidate, -1 for the other and 0 for the rest, [candidates].
            by_seed: values [..., candidates, seeds], measured or simulated.
        """
        examples, interaction = (float(contrast @ part @ contrast) for part in (self.examples, self.interaction))
        seeds = self.between_seeds(by_seed) @ np.square(contrast) / self.by_seed.shape[1]
        return np.maximum(examples, examples - interaction + seeds)

    def interval_stretch(self, candidate: int) -> float:
        """Return the factor by which seeds widen the interval of a candidate's mean over examples alone.

        The degrees of freedom of Student's t are those of Satterthwaite 1946, https://doi.org/10.2307/3002019, for a
        sum in which the variance between seeds alone is uncertain.
        """
        examples, seeds = self.examples[candidate, candidate], self.by_seed.shape[1]
        if seeds == 1 or examples == 0:
            return 1.0
        added = max(0.0, self.by_seed[candidate].var(ddof=1) / seeds - self.interaction[candidate, candidate])
        if added == 0:
            return 1.0
        degrees_of_freedom = (seeds - 1) * ((examples + added) / added) ** 2
        return float((1 + added / examples) ** 0.5 * t.ppf(0.975, degrees_of_freedom)) / NORMAL_95


def compare_runs(
    runs: Mapping[str, Sequence[ResampledMetrics[str]]], metric: str, *, greater_is_better: bool, seed: int
) -> dict[str, CandidateResult]:
    """Return every metric of each candidate, averaged over its seeds, and its difference to the best candidate.

    All candidates (a method with a model) are measured on the same test examples, with the same seeds: differences
    are paired. The best one is chosen on the examples that it is measured on, so the intervals of differences are
    simultaneous ones for all pairs.

    Args:
        runs: by candidate, one run for each seed; all on the same examples in the same order.
        metric: the metric that decides which candidate is the best.
        greater_is_better: whether a greater value of `metric` is better.
        seed: of the resampling.

    Returns:
        For each candidate: ``metrics``, ``confidence`` (95 %), and for `metric` its ``difference`` to the best
        candidate (0 for the best itself), ``against_best`` (the difference's 95 % interval, see
        `_simultaneous_factor`), ``standard_error``, and ``detectable``, the difference that would be significant in
        80 % of such comparisons. With a single seed, none of them includes the variance between seeds.
    """
    candidates, num_seeds = list(runs), min(len(by_seed) for by_seed in runs.values())
    runs = {name: list(by_seed[:num_seeds]) for name, by_seed in runs.items()}
    resamples, jackknife, measured = _compute_metrics(runs, seed)
    results: dict[str, CandidateResult] = {name: {"metrics": {}, "confidence": {}} for name in candidates}
    for name in measured:
        variance = _MetricVariance.from_resamples(resamples[name], measured[name][..., 0])
        for i, candidate in enumerate(candidates):
            results[candidate]["metrics"][name] = mean = float(measured[name][i].mean())
            resampled_means = resamples[name][i].mean(axis=0)
            has_support = runs[candidate][0].support_of(name).sum()
            if np.isnan(mean) or np.isnan(resampled_means).all() or not has_support:
                continue
            results[candidate]["confidence"][name] = _interval_of_mean(
                runs[candidate], name, mean, resampled_means, jackknife[name][i].mean(axis=0),
                variance.interval_stretch(i),
            )  # fmt: skip
        if name == metric:
            _add_differences(results, variance, metric, greater_is_better=greater_is_better, seed=seed)
    return results


def _compute_metrics(
    runs: Mapping[str, Sequence[ResampledMetrics[str]]], seed: int
) -> tuple[dict[str, Array], dict[str, Array], dict[str, Array]]:
    """Return every metric of all runs in the resamples, in the jackknife and on all examples.

    Each is by the name of the metric: [candidates, seeds, resamples], [candidates, seeds, parts],
    [candidates, seeds, 1].
    """
    candidates = list(runs)
    num_seeds, unit_numbers = len(runs[candidates[0]]), runs[candidates[0]][0].unit_numbers

    def compute(weights: Array) -> dict[tuple[str, str, int], Array]:
        return {
            (name, candidate, i): value
            for candidate, by_seed in runs.items()
            for i, run in enumerate(by_seed)
            for name, value in run.compute(weights).items()
        }

    def stack(values: Mapping[tuple[str, str, int], Array]) -> dict[str, Array]:
        return {
            name: np.array([[values[name, candidate, i] for i in range(num_seeds)] for candidate in candidates])
            for name in dict.fromkeys(name for name, _, _ in values)
        }

    return (
        stack(compute_in_batches(compute, resample_weights(unit_numbers, seed))),
        stack(compute_in_batches(compute, jackknife_weights(unit_numbers))),
        stack(compute_in_batches(compute, [np.ones((1, len(unit_numbers)))])),
    )


def _add_differences(
    results: Mapping[str, CandidateResult],
    variance: _MetricVariance,
    metric: str,
    *,
    greater_is_better: bool,
    seed: int,
) -> None:
    """Add to the result of each candidate its difference to the best one in `metric`, with its interval.

    See `compare_runs`.
    """
    means = np.array([result["metrics"][metric] for result in results.values()])
    best = int(np.argmax(means) if greater_is_better else np.argmin(means))
    factor, one_hot = _simultaneous_factor(variance, seed), np.eye(len(means))
    for i, result in enumerate(results.values()):
        error = float(variance.of_difference(one_hot[i] - one_hot[best], variance.by_seed)) ** 0.5
        difference = float(means[i] - means[best])
        result["difference"] = difference
        result["against_best"] = [difference - factor * error, difference + factor * error]
        result["standard_error"] = error
        result["detectable"] = (factor + float(norm.ppf(0.8))) * error


def _interval_of_mean(
    runs: Sequence[ResampledMetrics[str]],
    name: str,
    mean: float,
    resampled_means: Array,
    jackknife_means: Array,
    stretch: float,
) -> list[float]:
    """Return the 95 % interval of a metric's mean over seeds; for a single seed, that of its report."""
    first = runs[0]
    support = np.mean([run.support_of(name) for run in runs], axis=0)
    ends = bca_interval(resampled_means, mean, jackknife_means, support, first.num_units, name, stretch=stretch)
    if name not in first.formula_intervals:
        return ends
    known = [run.formula_intervals[name] for run in runs if name in run.formula_intervals]
    formula_ends = np.clip(mean + (np.mean(known, axis=0) - mean) * stretch, *limits(name)).tolist()
    if first.num_units == len(first.unit_numbers):
        return formula_ends
    return [min(ends[0], formula_ends[0]), max(ends[1], formula_ends[1])]


def _simultaneous_factor(variance: _MetricVariance, seed: int) -> float:
    """Return how many standard errors the differences of all pairs stay within, together in 95 % of the cases.

    Single-step max-T (Westfall & Young 1993, section 2.5): differences between equal candidates are simulated from
    normal distributions, and each is divided by the standard error that is estimated in the same draw, because with
    few seeds the standard error itself is uncertain.

    Args:
        variance: of the metric.
        seed: of the simulation.
    """
    candidates, seeds = variance.by_seed.shape
    degrees_of_freedom = (candidates - 1) * (seeds - 1)
    generator = np.random.default_rng([seed, 1])
    over_examples = generator.standard_normal((DRAWS, candidates)) @ (
        _matrix_square_root(variance.examples - variance.interaction).T
    )
    by_seed = np.zeros((DRAWS, candidates, seeds))
    if degrees_of_freedom:
        upper_bounds = (
            variance.seed_variances(variance.by_seed)
            * degrees_of_freedom
            / chi2.ppf(1 - SEED_VARIANCE_BOUND, degrees_of_freedom)
        )
        by_seed = generator.standard_normal(by_seed.shape) * upper_bounds[:, None] ** 0.5
    means = over_examples + by_seed.mean(axis=2)
    largest = np.zeros(DRAWS)
    for one, other in itertools.combinations(np.eye(candidates), 2):
        variances = np.broadcast_to(variance.of_difference(one - other, by_seed), DRAWS)
        distances = np.abs(means @ (one - other))
        in_standard_errors = np.divide(distances, variances**0.5, out=0 * distances, where=variances > 0)
        largest = np.maximum(largest, in_standard_errors)
    return float(np.percentile(largest, 95)) or NORMAL_95


def _matrix_square_root(covariance: Array) -> Array:
    """Return a matrix whose product with its transpose is `covariance`, without negative eigenvalues (noise)."""
    values, vectors = np.linalg.eigh(covariance)
    return vectors * np.sqrt(np.maximum(values, 0.0))


def recommend(results: Mapping[str, CandidateResult], costs: Mapping[str, float]) -> tuple[str, str]:
    """Return the names of the best candidate, and of the cheapest of those within one standard error of it.

    The one-standard-error rule (Breiman et al. 1984, chapter 3; Hastie et al. 2009, section 7.10), with the standard
    error of the paired difference, which is smaller.

    Args:
        results: from `compare_runs`.
        costs: of each candidate, in any unit.
    """
    best = next(name for name, result in results.items() if result["difference"] == 0)
    near = [name for name, result in results.items() if abs(result["difference"]) <= result["standard_error"]]
    return best, min(near, key=lambda name: costs[name])
