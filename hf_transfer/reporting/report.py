"""The report of a run in words: the summary on the screen, the sentences that card and page share."""

import functools
import json
import os
import platform
import shlex
import shutil
import sys
from collections.abc import Mapping
from contextlib import suppress
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

# The packages whose versions a run's results depend on.
PACKAGES = ("hf-transfer-learning", "torch", "torchaudio", "transformers", "datasets", "peft", "accelerate",
            "evaluate", "huggingface_hub", "numpy")  # fmt: skip
# With fewer test examples nothing is said of the change.
MINIMUM_TEST_EXAMPLES = 10


@functools.cache
def versions() -> dict[str, str]:
    """Return by name the installed versions of Python and of the packages that results depend on."""
    installed = {"python": platform.python_version()}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            installed[package] = version(package)
    return installed


def device_name(device: torch.device) -> str:
    """Return the name of a device: the GPU's, or the CPU's architecture and number of threads."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    threads = torch.get_num_threads()
    return f"CPU ({platform.machine()}, {threads} thread{'s' if threads > 1 else ''})"


@dataclass(frozen=True)
class Finetuned:
    """Dataclass of a finished run; `print` shows its summary, and a notebook its ``report.html``.

    Attributes:
        folder: the output folder.
        report: the content of ``report.json``; where several processes train, only the first has all of it.
    """

    folder: Path
    report: dict[str, Any]

    def __str__(self) -> str:
        return summary(self.report, self.folder)

    def _repr_html_(self) -> str:
        page = self.folder / "report.html"  # absent where it could not be made
        return notebook_html(page.read_text(encoding="utf-8") if page.is_file() else f"<pre>{escape(str(self))}</pre>")


def notebook_html(page: str) -> str:
    """Return HTML for a notebook cell that shows a page in a frame, so that their styles stay apart."""
    return (
        f'<iframe srcdoc="{escape(page)}" style="width: 100%; height: 40rem; border: 1px solid #8888" '
        'sandbox="" title="report"></iframe>'
    )


def result_sentence(report: Mapping[str, Any]) -> str:
    """Return a sentence about a run: a metric before and after, the share of the weights trained, the time."""
    key, name = report["data"]["answer"]
    before, after = report["baseline"].get(key), report["metrics"][key]
    ends = report["confidence"].get(key)
    change = f"{format_metric(before, key, 2)} → {format_metric(after, key, 2)}"
    shown = f"{name} {change} {format_interval(ends, key, 2)}".rstrip()
    share = 100 * report["parameters"]["trainable"] / report["parameters"]["total"]
    trained = f"{share:.2g}" if share < 10 else f"{share:.0f}"
    return f"{shown} with {trained} % of the weights trained, in {format_duration(report['seconds']['total'])}."


def format_duration(seconds: float) -> str:
    """Return a number of seconds as text in seconds, minutes or hours."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def training_seconds(report: Mapping[str, Any]) -> float:
    """Return the seconds of training in a report, with training the head first and caching activations."""
    training = report["training"]
    return training["seconds"] + training["head_seconds"] + training["activations_seconds"]


def describe_lengths(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the distribution of lengths in each split, as a histogram over bins that all splits share.

    Args:
        inputs: preprocessed examples by split: see `ModelInputs`.

    Returns:
        ``unit``, the ``edges`` of the bins [bins + 1], and by split the ``shortest``, ``median`` and ``longest``
        length and the ``counts`` [bins].
    """
    lengths = {name: dataset.lengths / dataset.length_per_unit for name, dataset in inputs.items()}
    edges = np.histogram_bin_edges(np.concatenate(list(lengths.values())), bins=24)
    return {
        "unit": next(iter(inputs.values())).length_unit,
        "edges": [round(float(edge), 4) for edge in edges],
        "splits": {
            name: {
                "shortest": float(values.min()),
                "median": float(np.median(values)),
                "longest": float(values.max()),
                "counts": np.histogram(values, edges)[0].tolist(),
            }
            for name, values in lengths.items()
        },
    }


def summary(report: dict[str, Any], folder: Path) -> str:
    """Return the text summary of a run: metrics before and after, what was trained, the time, where the model is."""
    parameters = report["parameters"]
    share = parameters["trainable"] / parameters["total"]
    lines = [
        *_metric_table(report),
        *report["remarks"],
        f"Measured on {report['data']['examples']['test']} test examples; {verdict(report).text}",
        *([source_change(report)] if "source" in report else []),
        f"Method {report['method']}: {parameters['trainable']:,} of {parameters['total']:,} weights trained "
        f"({share:.1%}); training took {report['training']['seconds']:.0f} s, the whole run "
        f"{report['seconds']['total']:.0f} s.",
        _efficiency(report),
        f"The model is in {folder}, with a page about it: {folder / 'report.html'}",
    ]
    return "\n".join(lines)


def _metric_table(report: Mapping[str, Any]) -> list[str]:
    """Return the lines of a text table of the main metrics before and after, on test and source examples."""
    rows = []
    parts = {"": report} | ({"source ": report["source"]} if "source" in report else {})
    for part, results in parts.items():
        for name in report["headline"]:
            values = (format_metric(results[when][name], name) for when in ("baseline", "metrics"))
            rows.append((part + name, *values, format_interval(results["confidence"].get(name), name)))
    width = max(len(row[0]) for row in rows)
    value_width = max(6, *(len(value) for row in rows for value in row[1:3]))
    return [f"{'':{width}}  {'before':>{value_width}}  {'after':>{value_width}}   95 % interval"] + [
        f"{name:{width}}  {before:>{value_width}}  {after:>{value_width}}   {ends}"
        for name, before, after, ends in rows
    ]


def source_change(report: Mapping[str, Any]) -> str:
    """Return a sentence on how a metric changed on the source examples, which shows what was forgotten."""
    name, source = report["data"]["answer"][0], report["source"]
    change = source["metrics"][name] - source["baseline"][name]
    low, high = source["gain"].get(name, (change, change))
    chance = ", which is not significant" if low <= 0 <= high else ""
    shown, least, most = (format_metric(value, name, sign=True) for value in (change, low, high))
    return f"On the source examples {name} changed by {shown} (95 % interval {least} to {most}){chance}."


def throughput(report: Mapping[str, Any]) -> tuple[str, str]:
    """Return how much was trained on in a second, as a number and its unit: ``("1,380", "tokens per second")``."""
    training, rate = report["training"], report["input"]["throughput_name"]
    if rate:
        return f"{training[rate]:.1f}", rate.replace("_", " ")
    return f"{training['real_tokens_per_second']:,.0f}", "tokens per second"


def _efficiency(report: Mapping[str, Any]) -> str:
    """Return a sentence on the speed of training and on the computing power and memory that it used."""
    training = report["training"]
    utilisation = training["flops_utilisation"]
    parts = [
        " ".join(throughput(report)),
        f"{training['padding']:.0%} of the positions are padding",
        *([] if utilisation is None else [f"{utilisation:.0%} of the speed of a matrix product"]),
        *(["the activations of the frozen layers were computed once"] if training["cached_activations"] else []),
        f"peak memory {training['peak_memory_bytes'] / 1e9:.1f} GB",
    ]
    return "; ".join(parts) + "."


def next_command(result: Finetuned, task: Any) -> str:
    """Return a line of text with the command that tries the model of a finished run on a test example."""
    arguments = yaml.safe_load((result.folder / "arguments.yaml").read_text(encoding="utf-8"))
    with (result.folder / "predictions.jsonl").open(encoding="utf-8") as stream:
        records = [json.loads(line) for line in islice(stream, 20)]
    words = [str(result.folder), *task.input.predict_arguments(records, arguments)]
    return f"Try it: {_shell_command()} predict {shlex.join(words)}"


def _shell_command() -> str:
    """Return how ``hf-transfer`` can be called here: by its path where its folder is not in PATH."""
    if shutil.which("hf-transfer"):
        return "hf-transfer"
    beside = Path(sys.executable).with_name("hf-transfer")
    return os.path.relpath(beside) if beside.is_relative_to(Path.cwd()) else str(beside)


class Verdict(NamedTuple):
    """Named tuple that says whether the model got significantly better.

    Attributes:
        kind: ``good``, ``bad`` or ``unclear``.
        text: the same as the second half of a sentence.
    """

    kind: str
    text: str


def verdict(report: Mapping[str, Any]) -> Verdict:
    """Return a `Verdict` on whether the run's main metric improved, by the 95 % interval of its change."""
    name = report["data"]["answer"][0]
    low, high = report["gain"].get(name, (0.0, 0.0))
    if report["data"]["examples"]["test"] < MINIMUM_TEST_EXAMPLES:
        return Verdict("unclear", "too few to tell whether the model got better.")
    if low <= 0 <= high:
        ends = " to ".join(format_metric(end, name, sign=True) for end in (low, high))
        return Verdict("unclear", f"the change of {name} is not significant (95 % interval {ends}).")
    least, most = (format_metric(value, name) for value in sorted((abs(low), abs(high))))
    has_risen = low > 0
    change = f"{'rose' if has_risen else 'fell'} by {least} to {most} (95 % interval)"
    if has_risen == greater_is_better(name):
        return Verdict("good", f"{name} {change}.")
    return Verdict("bad", f"{name} {change}: the model is worse than before. Do not ship this.")
