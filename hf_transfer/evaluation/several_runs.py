"""Runs on the same test examples against each other: intervals over examples and seeds, and which to take."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hf_transfer.evaluation.bootstrap import RESAMPLES, Resampled, ends, exact_end, multiplicities
from hf_transfer.evaluation.metrics import Array


def measure_several(
    runs: Mapping[str, Sequence[Resampled]], metric: str, *, greater_is_better: bool, seed: int
) -> dict[str, dict[str, Any]]:
    """Every metric of each way, averaged over its seeds, and its distance to the best way in `metric`.

    A resample draws test examples (or speakers) and seeds, the same for all ways: differences are paired. The best way
    is chosen on what it is measured on, from several: the intervals of distances are simultaneous ones of all pairs.

    Args:
        runs: by way, one for each seed, on the same examples in the same order.
        metric: that decides which is the best.
        greater_is_better: whether more of it is better.
        seed: of the resampling.

    Returns:
        By way: ``metrics``, ``confidence`` (95 %), and of `metric` what the way has more than the best one:
        ``against_best`` (95 %, see `_farthest`) and ``standard_error``, 0 for the best itself.
    """
    first = next(iter(runs.values()))[0]
    count, seeds = int(first.units.max()) + 1, min(len(own) for own in runs.values())
    resamples = _resamples(runs, first.units, seeds, seed)
    plain = np.ones(len(first.units))
    means = {way: _mean([run.metrics(plain) for run in own[:seeds]]) for way, own in runs.items()}
    best = max(means, key=lambda way: means[way][metric] * (1 if greater_is_better else -1))
    found, exact = {}, exact_end(count)
    factor = _farthest({way: values[metric] - means[way][metric] for way, values in resamples.items()})
    for way, values in resamples.items():
        distance = values[metric] - resamples[best][metric]
        difference, error = means[way][metric] - means[best][metric], float(np.nanstd(distance))
        found[way] = {
            "metrics": means[way],
            "confidence": {
                name: ends(value, first.least.get(name, exact), change=False)
                for name, value in values.items()
                if not np.isnan(value).all()
            },
            "difference": difference,
            "against_best": [difference - factor * error, difference + factor * error]
            if error
            else ends(distance, first.least.get(metric, exact), change=True),
            "standard_error": error,
        }
    return found


def _resamples(
    runs: Mapping[str, Sequence[Resampled]], units: Array, seeds: int, seed: int
) -> dict[str, dict[str, Array]]:
    """By way and metric its mean over seeds in each resample, [resamples]."""
    generator = np.random.default_rng([seed, 1])
    drawn_seeds = generator.multinomial(seeds, [1 / seeds] * seeds, size=RESAMPLES) / seeds
    if seeds > 1:  # resampled values spread less than those they are drawn from, by n - 1 over n
        drawn_seeds = 1 / seeds + (drawn_seeds - 1 / seeds) * (seeds / (seeds - 1)) ** 0.5
    drawn = {way: [[] for _ in own[:seeds]] for way, own in runs.items()}  # type: dict[str, list[list[dict[str, Array]]]]
    for weights in multiplicities(int(units.max()) + 1, seed):
        of_examples = weights[:, units]
        for way, own in runs.items():
            for kept, run in zip(drawn[way], own, strict=False):
                kept.append(run.metrics(of_examples))
    return {
        way: {
            name: _over_seeds(
                np.stack([np.concatenate([np.atleast_1d(part[name]) for part in kept]) for kept in own]), drawn_seeds
            )
            for name in own[0][0]
        }
        for way, own in drawn.items()
    }


def _farthest(deviations: Mapping[str, Array]) -> float:
    """How many standard errors the differences of all pairs keep within, all of them in 95 % of the resamples.

    Single-step max-T: Westfall & Young 1993, section 2.5; as Tukey's range for independent ways.

    Args:
        deviations: by way, resampled values less the way's own, [resamples].
    """
    farthest = np.zeros(RESAMPLES)
    for one, other in itertools.combinations(deviations.values(), 2):
        difference = one - other
        error = np.nanstd(difference)
        if error:
            farthest = np.fmax(farthest, np.abs(difference) / error)
    return float(np.percentile(farthest, 95))


def _over_seeds(values: Array, weights: Array) -> Array:
    """The mean over drawn seeds, [resamples], of values [seeds, resamples]; within what the seeds themselves reach."""
    return np.clip((weights.T * values).sum(axis=0), np.nanmin(values), np.nanmax(values))


def _mean(metrics: list[dict[str, Array]]) -> dict[str, float]:
    return {name: float(np.mean([float(one[name]) for one in metrics])) for name in metrics[0]}


def recommend(measured: Mapping[str, Mapping[str, Any]], costs: Mapping[str, float]) -> tuple[str, str]:
    """The best way, and the cheapest of those that are no further from it than one standard error.

    The one-standard-error rule (Breiman et al. 1984, chapter 3; Hastie et al. 2009, section 7.10), with the standard
    error of the paired difference, which is the smaller one.

    Args:
        measured: from `measure_several`.
        costs: of each way.
    """
    best = next(way for way, found in measured.items() if found["difference"] == 0)
    near = [way for way, found in measured.items() if abs(found["difference"]) <= found["standard_error"]]
    return best, min(near, key=lambda way: costs[way])
