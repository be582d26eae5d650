"""Quality against the number of labelled examples: curves, what more labels would bring, what pretraining is worth."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.optimize import OptimizeWarning, curve_fit

from hf_transfer.evaluation.metrics import Array

RESAMPLES = 200
# A power law has three unknowns: with fewer sizes than these it says nothing.
FEWEST_SIZES = 4
FEWEST_DRAWS = 3
# A curve of whose variation this share stays unexplained is no power law.
UNEXPLAINED = 0.5
CONTROL = "scratch"
NORMAL_95 = 1.96


def describe_curves(
    runs: Sequence[dict[str, Any]], metric: str, *, greater_is_better: bool, seed: int
) -> dict[str, Any]:
    """What a study found.

    Args:
        runs: with ``method``, ``size``, ``examples``, ``metrics``, ``confidence`` and ``training_seconds``; several
            draws of each.
        metric: that is studied.
        greater_is_better: whether more of it is better.
        seed: of the resampling of draws.

    Returns:
        ``curves`` by method: ``examples``, the ``mean`` over draws with its lowest and highest (``low``, ``high``) and
        the median ``training_seconds``, each [sizes]; ``forecast`` by method, what twice the labels would bring if the
        curve goes on; ``worth``, how many examples training from scratch takes for the same.
    """
    curves: dict[str, dict[str, Any]] = {}
    forecasts: dict[str, dict[str, Any]] = {}
    for method in dict.fromkeys(run["method"] for run in runs):
        # By the number that was asked for: of what was drawn, duplicates or broken clips may have been left out.
        drawn: dict[Any, list[dict[str, Any]]] = {}
        for run in runs:
            if run["method"] == method:
                drawn.setdefault(run["size"], []).append(run)
        groups = sorted(drawn.values(), key=_examples)
        sizes = [_examples(group) for group in groups]
        values = [np.array([run["metrics"][metric] for run in group]) for group in groups]
        curves[method] = {
            "examples": sizes,
            "mean": [float(v.mean()) for v in values],
            "low": [float(v.min()) for v in values],
            "high": [float(v.max()) for v in values],
            "training_seconds": [float(np.median([run["training_seconds"] for run in group])) for group in groups],
        }
        errors = [1 - v if greater_is_better else v for v in values]
        found = forecast(sizes, errors, 2 * sizes[-1], seed, test_error=_test_error(groups[-1], metric))
        if found is not None:
            forecasts[method] = {
                "examples": 2 * sizes[-1],
                "now": curves[method]["mean"][-1],
                **{key: 1 - value if greater_is_better else value for key, value in found.items()},
            }
            if "low" in found:
                low, high = sorted((forecasts[method]["low"], forecasts[method]["high"]))
                forecasts[method] |= {"low": low, "high": high}
    return {"curves": curves, "forecast": forecasts, "worth": _worth(curves, greater_is_better=greater_is_better)}


def _test_error(runs: list[dict[str, Any]], metric: str) -> float:
    """The standard error that the metric has from the test examples, which all runs share."""
    known = [run["confidence"][metric] for run in runs if metric in run.get("confidence", {})]
    return float(np.mean([high - low for low, high in known])) / (2 * NORMAL_95) if known else 0.0


def _examples(runs: list[dict[str, Any]]) -> int:
    return round(float(np.mean([run["examples"] for run in runs])))


def forecast(
    sizes: Sequence[int], errors: Sequence[Array], at: int, seed: int, *, test_error: float
) -> dict[str, float] | None:
    """The error at another number of examples, by a power law with a floor: ``a + b n^-c``.

    Hestness et al. 2017, https://arxiv.org/abs/1712.00409. An extrapolation: it holds as far as the curve goes on.

    Args:
        sizes: numbers of examples, in ascending order.
        errors: of the draws of each, [draws].
        at: the number of examples to say the error for.
        seed: of the resampling of draws.
        test_error: the standard error that all `errors` have in common, from the test examples.

    Returns:
        ``value``, and from three draws on ``low`` and ``high``, 95 % over resampled draws and test examples; None
        with too few sizes, or without a fit.
    """
    if len(sizes) < FEWEST_SIZES:
        return None
    generator = np.random.default_rng(seed)
    value = _fitted(sizes, [error.mean() for error in errors], at)
    if value is None:
        return None
    if min(map(len, errors)) < FEWEST_DRAWS:
        return {"value": value}
    drawn = [_fitted(sizes, [_resampled_mean(error, generator) for error in errors], at) for _ in range(RESAMPLES)]
    found = np.array([one for one in drawn if one is not None] or [value])
    ends = np.clip(np.percentile(found + generator.normal(0, test_error, len(found)), [2.5, 97.5]), 0, None)
    return {"value": value, "low": float(ends[0]), "high": float(ends[1])}


def _resampled_mean(values: Array, generator: np.random.Generator) -> float:
    """Resampled values spread less than those they are drawn from, by n - 1 over n."""
    mean, n = values.mean(), len(values)
    return float(mean + (generator.choice(values, n).mean() - mean) * (n / (n - 1)) ** 0.5)


def _fitted(sizes: Sequence[int], errors: Sequence[float], at: int) -> float | None:
    n, e = np.asarray(sizes, dtype=float), np.asarray(errors, dtype=float)
    unit = float(np.abs(e).max()) or 1.0  # errors may be of any size: the optimizer's steps and tolerances are not
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
    missed = np.square(e - floor - height * (n / n[0]) ** -power).sum()
    if missed > UNEXPLAINED * np.square(e - e.mean()).sum():
        return None
    return unit * float(floor + height * (at / n[0]) ** -power)


def _worth(curves: dict[str, dict[str, Any]], *, greater_is_better: bool) -> list[dict[str, Any]]:
    """For each method and size: how many examples, and seconds, training from scratch takes to be as good.

    In between sizes it is read off the straight line over the logarithm of the size; None where scratch does not get
    there with the most examples that it was trained on, and no more than the fewest where these are enough already.
    """
    if CONTROL not in curves:
        return []
    sign = 1 if greater_is_better else -1
    control = curves[CONTROL]
    # As good as it ever got with so many or fewer: a curve that wavers is not read backwards.
    reached = np.maximum.accumulate(sign * np.array(control["mean"]))
    found = []
    for method, curve in curves.items():
        if method == CONTROL:
            continue
        for n, value, seconds in zip(curve["examples"], curve["mean"], curve["training_seconds"], strict=True):
            needed = took = None
            at = len(reached)
            if sign * value <= reached[-1]:
                at = int(np.argmax(reached >= sign * value))
                needed, took = control["examples"][at], control["training_seconds"][at]
                if at and reached[at] > reached[at - 1]:
                    share = (sign * value - reached[at - 1]) / (reached[at] - reached[at - 1])
                    ends = np.log([control["examples"][at - 1], control["examples"][at]])
                    needed = round(float(np.exp(ends[0] + share * (ends[1] - ends[0]))))
                    took = float(np.interp(share, [0, 1], control["training_seconds"][at - 1 : at + 1]))
            found.append({"method": method, "examples": n, "value": value, "training_seconds": seconds,
                          "scratch_examples": needed, "scratch_training_seconds": took, "scratch_at_most": at == 0,
                          "scratch_measured": control["examples"][-1]})  # fmt: skip
    return found
