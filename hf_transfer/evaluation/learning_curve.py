"""Learning curves: a metric by number of training examples, its forecast, and what pretraining is worth."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import numpy as np
from scipy.optimize import OptimizeWarning, curve_fit

from hf_transfer.evaluation.bootstrap import NORMAL_95
from hf_transfer.evaluation.metrics import Array

RESAMPLES = 200
# A power law with a floor has three parameters: with fewer sizes than these it cannot be checked.
FEWEST_SIZES = 4
FEWEST_DRAWS = 3
# A curve is no power law if the fit leaves more than this share of its variance unexplained.
MAX_UNEXPLAINED_VARIANCE = 0.5
# The method that pretraining is compared with.
CONTROL = "scratch"


class Curve(TypedDict):
    """Dictionary of a metric by number of training examples; each value is a list [sizes], in ascending order."""

    examples: list[int]
    mean: list[float]
    low: list[float]
    high: list[float]
    training_seconds: list[float]


def describe_curves(
    runs: Sequence[Mapping[str, Any]], metric: str, *, greater_is_better: bool, seed: int
) -> dict[str, Any]:
    """Return the learning curve of each method, its forecast, and what pretraining is worth, as a dictionary.

    Args:
        runs: with ``method``, ``size``, ``examples``, ``metrics``, ``confidence`` and ``training_seconds``; several
            draws of training examples of each size.
        metric: the metric of the curves.
        greater_is_better: whether a greater value of it is better.
        seed: of the resampling of draws.

    Returns:
        ``curves`` by method: numbers of ``examples``, the ``mean`` over draws with the lowest and the highest value
        (``low``, ``high``), and the median ``training_seconds``, each [sizes]; ``forecast`` by method: the metric
        with twice the examples, if the curve goes on in the same way; ``worth``: see `_pretraining_worth`.
    """
    curves: dict[str, Curve] = {}
    forecasts: dict[str, dict[str, Any]] = {}
    for method in dict.fromkeys(run["method"] for run in runs):
        # By the requested size: duplicates or broken clips may have been left out of what was drawn.
        draws_by_size: dict[Any, list[Mapping[str, Any]]] = {}
        for run in runs:
            if run["method"] == method:
                draws_by_size.setdefault(run["size"], []).append(run)
        draws = sorted(draws_by_size.values(), key=_mean_examples)
        values = [np.array([run["metrics"][metric] for run in size]) for size in draws]
        curves[method] = curve = _curve(draws, values)
        errors = [1 - value if greater_is_better else value for value in values]
        examples = 2 * curve["examples"][-1]
        error = forecast(curve["examples"], errors, examples, seed, test_error=_test_standard_error(draws[-1], metric))
        if error is not None:
            forecasts[method] = {
                "examples": examples,
                "now": curve["mean"][-1],
                **{key: 1 - value if greater_is_better else value for key, value in error.items()},
            }
            if "low" in error:
                low, high = sorted((forecasts[method]["low"], forecasts[method]["high"]))
                forecasts[method] |= {"low": low, "high": high}
    worth = _pretraining_worth(curves, greater_is_better=greater_is_better)
    return {"curves": curves, "forecast": forecasts, "worth": worth}


def _curve(draws: Sequence[Sequence[Mapping[str, Any]]], values: Sequence[Array]) -> Curve:
    """Return the learning curve of a method from its runs: a metric by number of training examples.

    Args:
        draws: the runs of each size, in ascending order of size.
        values: the metric of these runs, [draws] for each size.
    """
    return {
        "examples": [_mean_examples(size) for size in draws],
        "mean": [float(value.mean()) for value in values],
        "low": [float(value.min()) for value in values],
        "high": [float(value.max()) for value in values],
        "training_seconds": [float(np.median([run["training_seconds"] for run in size])) for size in draws],
    }


def _test_standard_error(runs: Sequence[Mapping[str, Any]], metric: str) -> float:
    """Return the standard error of a metric over test examples, which all runs share, from its intervals."""
    intervals = [run["confidence"][metric] for run in runs if metric in run.get("confidence", {})]
    return float(np.mean([high - low for low, high in intervals])) / (2 * NORMAL_95) if intervals else 0.0


def _mean_examples(runs: Sequence[Mapping[str, Any]]) -> int:
    return round(float(np.mean([run["examples"] for run in runs])))


def forecast(
    sizes: Sequence[int], errors: Sequence[Array], at: int, seed: int, *, test_error: float
) -> dict[str, float] | None:
    """Return the forecast error at another number of examples, by a power law ``a + b n^-c``, or None.

    Hestness et al. 2017, https://arxiv.org/abs/1712.00409. An extrapolation: it holds as long as the curve goes on in
    the same way.

    Args:
        sizes: numbers of examples, in ascending order.
        errors: the errors of the draws of each size, [draws].
        at: the number of examples to forecast the error for.
        seed: of the resampling of draws.
        test_error: the standard error over test examples, which all `errors` share.

    Returns:
        ``value``, and with three draws or more ``low`` and ``high``, a 95 % interval over resampled draws and test
        examples. None with too few sizes, or where the curve is no power law.
    """
    if len(sizes) < FEWEST_SIZES:
        return None
    generator = np.random.default_rng(seed)
    value = _power_law_at(sizes, [error.mean() for error in errors], at)
    if value is None:
        return None
    if min(map(len, errors)) < FEWEST_DRAWS:
        return {"value": value}
    resamples = [
        _power_law_at(sizes, [_resampled_mean(error, generator) for error in errors], at) for _ in range(RESAMPLES)
    ]
    values = np.array([resample for resample in resamples if resample is not None] or [value])
    ends = np.clip(np.percentile(values + generator.normal(0, test_error, len(values)), [2.5, 97.5]), 0, None)
    return {"value": value, "low": float(ends[0]), "high": float(ends[1])}


def _resampled_mean(values: Array, generator: np.random.Generator) -> float:
    """Return the mean of resampled values, scaled, as they vary less by a factor of (n - 1) / n."""
    mean, n = values.mean(), len(values)
    return float(mean + (generator.choice(values, n).mean() - mean) * (n / (n - 1)) ** 0.5)


def _power_law_at(sizes: Sequence[int], errors: Sequence[float], at: int) -> float | None:
    """Return the error at another size by a power law fitted to errors [sizes], or None without a good fit."""
    n, e = np.asarray(sizes, dtype=float), np.asarray(errors, dtype=float)
    unit = float(np.abs(e).max()) or 1.0  # the optimizer's step sizes and tolerances expect errors of about 1
    e = e / unit
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", OptimizeWarning)
            (floor, height, power), _ = curve_fit(
                lambda x, a, b, c: a + b * (x / n[0]) ** -c, n, e, p0=(0.5 * e.min(), max(e[0] - e.min(), 1e-6), 0.5),
                bounds=((0, 0, 0), (max(e.max(), 1e-9), max(2 * e.max(), 1e-9), 3)), max_nfev=2000,
            )  # fmt: skip
    except (RuntimeError, ValueError):
        return None
    residual = np.square(e - floor - height * (n / n[0]) ** -power).sum()
    if residual > MAX_UNEXPLAINED_VARIANCE * np.square(e - e.mean()).sum():
        return None
    return unit * float(floor + height * (at / n[0]) ** -power)


def _pretraining_worth(curves: Mapping[str, Curve], *, greater_is_better: bool) -> list[dict[str, Any]]:
    """Return, for each method and size, how many examples and seconds training from scratch needs to be as good.

    Between sizes it is interpolated linearly over the logarithm of the size. ``scratch_examples`` is None where
    scratch is not as good with its largest size; ``scratch_at_most`` says that already its smallest size is.
    """
    if CONTROL not in curves:
        return []
    sign = 1 if greater_is_better else -1
    control = curves[CONTROL]
    # The best value with this size or a smaller one: a curve that goes up and down is not read backwards.
    best_so_far = np.maximum.accumulate(sign * np.array(control["mean"]))
    worth = []
    for method, curve in curves.items():
        if method == CONTROL:
            continue
        for n, value, seconds in zip(curve["examples"], curve["mean"], curve["training_seconds"], strict=True):
            examples = control_seconds = None
            at = len(best_so_far)
            if sign * value <= best_so_far[-1]:
                at = int(np.argmax(best_so_far >= sign * value))
                examples, control_seconds = control["examples"][at], control["training_seconds"][at]
                if at and best_so_far[at] > best_so_far[at - 1]:
                    fraction = (sign * value - best_so_far[at - 1]) / (best_so_far[at] - best_so_far[at - 1])
                    ends = np.log([control["examples"][at - 1], control["examples"][at]])
                    examples = round(float(np.exp(ends[0] + fraction * (ends[1] - ends[0]))))
                    control_seconds = float(np.interp(fraction, [0, 1], control["training_seconds"][at - 1 : at + 1]))
            worth.append({"method": method, "examples": n, "value": value, "training_seconds": seconds,
                          "scratch_examples": examples, "scratch_training_seconds": control_seconds,
                          "scratch_at_most": at == 0, "scratch_measured": control["examples"][-1]})  # fmt: skip
    return worth
