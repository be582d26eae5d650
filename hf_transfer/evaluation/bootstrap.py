"""95 % bootstrap intervals: percentile method, Efron & Tibshirani (1993), chapter 13."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from hf_transfer.evaluation.metrics import Array

RESAMPLES = 1000
_CELLS_AT_ONCE = 4_000_000


def bootstrap(statistic: Callable[[Array], dict[Any, Array]], n: int, *, seed: int) -> dict[Any, list[float]]:
    """95 % intervals of every value that `statistic` gives.

    Args:
        statistic: from weights [resamples, n], the multiplicity of each example in each resample, to values
            [resamples] by name.
        n: number of examples.
        seed: of the resampling.

    Returns:
        ``[low, high]`` by name, NaN resamples (a label did not occur) left out; empty without examples.
    """
    if n == 0:
        return {}
    parts = [statistic(weights) for weights in _multiplicities(n, seed)]
    values = {name: np.concatenate([np.atleast_1d(part[name]) for part in parts]) for name in parts[0]}
    return {
        name: [float(end) for end in np.nanpercentile(value, [2.5, 97.5])]
        for name, value in values.items()
        if not np.isnan(value).all()
    }


def _multiplicities(n: int, seed: int) -> Iterator[Array]:
    generator = np.random.default_rng(seed)
    at_once = max(1, min(RESAMPLES, _CELLS_AT_ONCE // n))
    for start in range(0, RESAMPLES, at_once):
        rows = min(at_once, RESAMPLES - start)
        drawn = generator.integers(n, size=(rows, n)) + np.arange(rows)[:, None] * n
        yield np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n).astype(float)
