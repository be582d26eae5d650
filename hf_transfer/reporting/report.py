"""The report of a run: what ``report.json`` holds, and the summary on the screen."""

import json
import os
import platform
import shlex
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import yaml
from markupsafe import escape

from hf_transfer.evaluation.metric_format import format_interval, format_metric
from hf_transfer.evaluation.metric_names import greater_is_better

# The packages whose versions decide what a run gives.
PACKAGES = ("hf-transfer-learning", "torch", "torchaudio", "transformers", "datasets", "peft", "accelerate",
            "evaluate", "huggingface_hub", "numpy")  # fmt: skip


# Fewer test examples than these tell nothing.
FEWEST = 10


def versions() -> dict[str, str]:
    """Installed versions of Python and the packages that matter."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def device_name(device: torch.device) -> str:
    """The GPU's name, or the processor's."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    threads = torch.get_num_threads()
    return f"CPU ({platform.machine()}, {threads} thread{'s' if threads > 1 else ''})"


@dataclass(frozen=True)
class Finetuned:
    """A finished run; a notebook shows its ``report.html``.

    Attributes:
        folder: the output folder.
        report: what its ``report.json`` holds; of several processes the first knows all of it.
    """

    folder: Path
    report: dict[str, Any]

    def __str__(self) -> str:
        return summary(self.report, self.folder)

    def _repr_html_(self) -> str:
        page = self.folder / "report.html"  # left out where it could not be made
        return in_notebook(page.read_text(encoding="utf-8") if page.is_file() else f"<pre>{escape(str(self))}</pre>")


def in_notebook(page: str) -> str:
    """A page as a cell of a notebook shows it: in a frame, so that neither's style reaches the other."""
    return (
        f'<iframe srcdoc="{escape(page)}" style="width: 100%; height: 40rem; border: 1px solid #8888" '
        'sandbox="" title="report"></iframe>'
    )


def answer(report: Mapping[str, Any]) -> str:
    """The run in a sentence: what was gained, with how much of the model trained, in what time."""
    key, name = report["data"]["answer"]
    before, after = report["baseline"].get(key), report["metrics"][key]
    ends = report["confidence"].get(key)
    change = f"{format_metric(before, key, 2)} → {format_metric(after, key, 2)}"
    shown = f"{name} {change} {format_interval(ends, key, 2)}".rstrip()
    share = 100 * report["parameters"]["trainable"] / report["parameters"]["total"]
    trained = f"{share:.2g}" if share < 10 else f"{share:.0f}"
    return f"{shown} with {trained} % of the weights trained, in {duration(report['seconds']['total'])}."


def duration(seconds: float) -> str:
    """Seconds as a person reads them."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def training_seconds(report: Mapping[str, Any]) -> float:
    """What training costs as a whole: with a head that was fitted first, and activations that may have been kept."""
    training = report["training"]
    return training["seconds"] + training["head_seconds"] + training["activations_seconds"]


def describe_lengths(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """How long the examples of each split are, with counts over bins that all splits share.

    Args:
        inputs: preprocessed examples by split: see `ModelInputs`.
    """
    lengths = {name: dataset.lengths / dataset.length_per_unit for name, dataset in inputs.items()}
    edges = np.histogram_bin_edges(np.concatenate(list(lengths.values())), bins=24)
    return {
        "unit": next(iter(inputs.values())).length_unit,
        "edges": [round(float(edge), 4) for edge in edges],
        "splits": {
            name: {
                "shortest": float(own.min()),
                "median": float(np.median(own)),
                "longest": float(own.max()),
                "counts": np.histogram(own, edges)[0].tolist(),
            }
            for name, own in lengths.items()
        },
    }


def summary(report: dict[str, Any], folder: Path) -> str:
    """The run in a few lines: metrics before and after, what was trained, how long, where it lies."""
    rows = []
    parts = {"": report} | ({"source ": report["source"]} if "source" in report else {})
    for part, of in parts.items():
        for name in report["headline"]:
            values = (format_metric(of[when][name], name) for when in ("baseline", "metrics"))
            rows.append((part + name, *values, format_interval(of["confidence"].get(name), name)))
    width, wide = max(len(row[0]) for row in rows), max(6, *(len(value) for row in rows for value in row[1:3]))
    lines = [f"{'':{width}}  {'before':>{wide}}  {'after':>{wide}}   95 % interval"]
    lines += [f"{name:{width}}  {before:>{wide}}  {after:>{wide}}   {ends}" for name, before, after, ends in rows]
    data, parameters, training = report["data"], report["parameters"], report["training"]
    lines += report["remarks"]
    share = parameters["trainable"] / parameters["total"]
    lines += [
        f"Measured on {data['examples']['test']} test examples; {verdict(report).text}",
        *([source_change(report)] if "source" in report else []),
        f"Method {report['method']}: {parameters['trainable']:,} of {parameters['total']:,} weights trained "
        f"({share:.1%}) in {training['seconds']:.0f} s of training, {report['seconds']['total']:.0f} s in all.",
        throughput(report),
        f"The model is in {folder}, with a page about it: {folder / 'report.html'}",
    ]
    return "\n".join(lines)


def source_change(report: Mapping[str, Any]) -> str:
    """What became of what the model knew before."""
    name, of = report["data"]["answer"][0], report["source"]
    change = of["metrics"][name] - of["baseline"][name]
    low, high = of["gain"].get(name, (change, change))
    chance = ", within chance" if low <= 0 <= high else ""
    shown, least, most = (format_metric(value, name, sign=True) for value in (change, low, high))
    return f"On the source examples {name} changed by {shown} ({least} to {most}, 95 %){chance}."


def throughput(report: Mapping[str, Any]) -> str:
    """How fast it was trained, and how much of the machine that used."""
    training, name = report["training"], report["input"]["rate"]
    if name:
        rate = f"{training[name]:.1f} {name.replace('_per_', ' a ').replace('_', ' ')}"
    else:
        rate = f"{training['real_tokens_per_second']:,.0f} tokens a second"
    used = training["flops_utilisation"]
    share = "" if used is None else f", {used:.0%} of the rate of a matrix product"
    cached = "; the layers below were computed once" if training["cached_activations"] else ""
    return (
        f"{rate}, {training['padding']:.0%} of the positions padding{share}{cached}; "
        f"peak memory {training['peak_memory_bytes'] / 1e9:.1f} GB."
    )


def next_command(result: Finetuned, task: Any) -> str:
    """The command that tries the model on a test example."""
    told = yaml.safe_load((result.folder / "arguments.yaml").read_text(encoding="utf-8"))
    with (result.folder / "predictions.jsonl").open(encoding="utf-8") as stream:
        records = [json.loads(line) for line in islice(stream, 20)]
    arguments = [str(result.folder), *task.input.predict_arguments(records, told)]
    return f"Try it: {shell_command()} predict {shlex.join(arguments)}"


def shell_command() -> str:
    """`hf-transfer` as it can be typed here: by its path where it is not on the search path."""
    if shutil.which("hf-transfer"):
        return "hf-transfer"
    beside = Path(sys.executable).with_name("hf-transfer")
    return os.path.relpath(beside) if beside.is_relative_to(Path.cwd()) else str(beside)


class Verdict(NamedTuple):
    """Whether the gain is more than chance.

    Attributes:
        kind: ``good``, ``bad`` or ``unclear``.
        text: in words.
    """

    kind: str
    text: str


def verdict(report: Mapping[str, Any]) -> Verdict:
    """Whether the metric that the run's result is told by got better, by its interval."""
    name = report["data"]["answer"][0]
    low, high = report["gain"].get(name, (0.0, 0.0))
    if report["data"]["examples"]["test"] < FEWEST:
        return Verdict("unclear", "too few to tell whether anything was gained.")
    if low <= 0 <= high:
        ends = " to ".join(format_metric(end, name, sign=True) for end in (low, high))
        return Verdict("unclear", f"the change of {name} is within chance ({ends}, 95 %).")
    least, most = (format_metric(value, name) for value in sorted((abs(low), abs(high))))
    rose = low > 0
    change = f"{'rose' if rose else 'fell'} by between {least} and {most} (95 %)"
    if rose == greater_is_better(name):
        return Verdict("good", f"{name} {change}.")
    return Verdict("bad", f"{name} {change.upper()}: do not ship this.")
