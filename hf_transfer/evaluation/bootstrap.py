"""95 % bootstrap intervals: percentile method, Efron & Tibshirani (1993), chapter 13."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.stats import binomtest

from hf_transfer.evaluation.metrics import Array

RESAMPLES = 1000
_CELLS_AT_ONCE = 4_000_000


@dataclass(frozen=True)
class Resampled:
    """What a bootstrap over kept predictions needs.

    Attributes:
        units: for each example the number of what is drawn together: itself, or its speaker, [n].
        metrics: from weights of the examples [..., n] to values [...] by name.
        least: of metrics that rest on fewer examples than all, the lower end where none of those is wrong.
    """

    units: Array
    metrics: Callable[[Array], dict[str, Array]]
    least: Mapping[str, float] = field(default_factory=dict)


def bootstrap(
    statistic: Callable[[Array], dict[Any, Array]], n: int, *, seed: int, least: Mapping[str, float] | None = None
) -> dict[Any, list[float]]:
    """95 % intervals of every value that `statistic` gives.

    Args:
        statistic: from weights [resamples, n], the multiplicity of each example in each resample, to values
            [resamples] by name.
        n: number of examples.
        seed: of the resampling.
        least: see `Resampled`.

    Returns:
        ``[low, high]`` by name, NaN resamples (a label did not occur) left out; empty without examples. Where all
        resamples agree on 0 or 1 the other end is an exact binomial one: see `exact_end`.
    """
    if n == 0:
        return {}
    parts = [statistic(weights) for weights in multiplicities(n, seed)]
    values = {name: np.concatenate([np.atleast_1d(part[name]) for part in parts]) for name in parts[0]}
    exact, least = exact_end(n), least or {}
    return {
        name: ends(value, least.get(_metric(name), exact), change=_is_change(name))
        for name, value in values.items()
        if not np.isnan(value).all()
    }


def exact_end(n: int) -> float:
    """The lower end of the exact 95 % interval of a share, where it was found `n` times of `n`.

    Clopper & Pearson 1934, https://doi.org/10.1093/biomet/26.4.404.
    """
    return float(binomtest(n, n).proportion_ci().low)


def ends(values: Array, least: float, *, change: bool) -> list[float]:
    """The 95 % interval ``[low, high]`` of resampled values.

    Args:
        values: [resamples], NaN where there is none.
        least: the lower end where all resamples agree on 1, from `exact_end`.
        change: whether they are differences. Where all agree on 1 or -1, or all values that are none on 0 or 1, the
            other end is made of `least`.
    """
    found = [float(end) for end in np.nanpercentile(values, [2.5, 97.5])]
    if found not in ([[-1.0, -1.0], [1.0, 1.0]] if change else [[0.0, 0.0], [1.0, 1.0]]):
        return found
    return {1.0: [least, 1.0], 0.0: [0.0, 1 - least], -1.0: [-1.0, -least]}[found[0]]


def _metric(name: Any) -> Any:
    return name[1] if isinstance(name, tuple) else name


def _is_change(name: Any) -> bool:
    return isinstance(name, tuple) and name[0] == "gain"


def multiplicities(n: int, seed: int) -> Iterator[Array]:
    """How often each of `n` is drawn in each resample, [some resamples, n] at a time."""
    generator = np.random.default_rng(seed)
    at_once = max(1, min(RESAMPLES, _CELLS_AT_ONCE // n))
    for start in range(0, RESAMPLES, at_once):
        rows = min(at_once, RESAMPLES - start)
        drawn = generator.integers(n, size=(rows, n)) + np.arange(rows)[:, None] * n
        yield np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n).astype(float)
