"""`compare()`: several methods, models and seeds on the same data, measured against each other."""

import dataclasses
import gc
import json
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict

from hf_transfer.arguments import Arguments, ModelArguments, arguments_for_method
from hf_transfer.arguments.parsing import build_arguments, keyword_arguments
from hf_transfer.errors import Failure, InputError, logger
from hf_transfer.evaluation.bootstrap import ResampledMetrics
from hf_transfer.evaluation.metric_format import format_metric
from hf_transfer.evaluation.metric_names import greater_is_better
from hf_transfer.evaluation.run_comparison import compare_runs, recommend
from hf_transfer.finetuning import finetune
from hf_transfer.models import load_config
from hf_transfer.reporting.comparison import reason, summary
from hf_transfer.reporting.publishing import local_name
from hf_transfer.reporting.report import Finetuned, format_duration, notebook_html, training_seconds
from hf_transfer.series import METHODS, checked_methods, claimed, said_once, write_record

RECORD = "comparison.json"


@dataclass(frozen=True)
class Compared:
    """A finished comparison; a notebook shows its ``report.html``.

    Attributes:
        folder: with ``comparison.json``, ``report.html`` and the output folder of each run.
        report: what ``comparison.json`` holds.
    """

    folder: Path
    report: dict[str, Any]

    def __str__(self) -> str:
        return summary(self.report, self.folder)

    def _repr_html_(self) -> str:
        return notebook_html((self.folder / "report.html").read_text(encoding="utf-8"))


def compare(
    task: Any,
    *,
    methods: Sequence[str] = METHODS,
    seeds: int = 3,
    models: Sequence[str] = (),
    dataset: DatasetDict | Dataset | None = None,
    **keywords: Any,
) -> Compared:
    """Fine-tune with each method (and model) from several seeds, and say which to take.

    All runs share the test and validation splits, whatever their seed; what ``max_train_samples`` and ``replay`` draw
    for training is each seed's own. Each is a run of `finetune()`, in a folder of its own inside ``output_dir``;
    called again with the same arguments, a comparison that was interrupted goes on.

    Args:
        task: as for `finetune()`.
        methods: to compare.
        seeds: how many runs of each; the first has the seed that is given, the next ones those after it.
        models: to compare; ``model_name_or_path`` alone if there are none.
        dataset: as for `finetune()`.
        **keywords: as for `finetune()`.

    Raises:
        InputError: the arguments are wrong, or the folder holds another comparison.
        Failure: no method could be finished from every seed.
    """
    values = keyword_arguments(task, keywords)
    seed = int(values.setdefault("seed", 42))
    values.setdefault("split_seed", seed)
    methods = checked_methods(methods)
    ways = _ways(methods, models or [values.get("model_name_or_path")])
    if len(models) > 1:
        for name in models:  # all before the first is trained on
            load_config(ModelArguments(name, values.get("model_revision", "main")), task.auto_model)
    if seeds < 1:
        raise InputError(f"--seeds is {seeds}: expected 1 or more.")
    if values.get("learning_rate") is not None and len(methods) > 1:
        logger.info("All methods have --learning_rate %s; left out, each has its own.", values["learning_rate"])
    own = {"methods": list(methods), "seeds": seeds, "models": list(models)}
    with claimed(task, values, own, dataset, "a comparison") as folder, said_once():
        planned = [
            (name, _arguments(task, values, model, method, folder / name / f"seed-{number}", number))
            for number in range(seed, seed + seeds)
            for name, (model, method) in ways.items()
        ]
        done: dict[str, list[Finetuned]] = {name: [] for name in ways}
        failed: list[dict[str, Any]] = []
        for i, (name, arguments) in enumerate(planned, start=1):
            gc.collect()  # the peak memory of a run is its own
            logger.info("%d of %d: %s, seed %d.", i, len(planned), name, arguments.training.seed)
            try:
                result = finetune(task, arguments, dataset=dataset)
            except Failure as error:
                logger.warning("%s, seed %d failed: %s", name, arguments.training.seed, error)
                failed.append({"name": name, "seed": arguments.training.seed, "why": str(error)})
                continue
            done[name].append(result)
            logger.info("%s, seed %d: %s", name, arguments.training.seed, _line(result.report))
        whole = {name: results for name, results in done.items() if len(results) == seeds}
        if not whole:
            raise Failure(f"No method could be finished. {failed[0]['why']}")
        report = _report(task, whole, ways, failed, seed)
        write_record(folder, RECORD, report, "comparison.html")
    return Compared(folder, report)


def _arguments(task: Any, values: Mapping[str, Any], model: Any, method: str, place: Path, seed: int) -> Arguments:
    """Those of one run, which goes on where it was begun."""
    begun = place.exists() or place.with_name(f"{place.name}.partial").exists()
    series = values.get("run_name", place.parent.parent.name)
    own = {"model_name_or_path": model, "method": method, "seed": seed, "output_dir": str(place),
           "run_name": f"{series}/{place.parent.name}/{place.name}"}  # fmt: skip
    own |= {"resume_from_checkpoint": "true"} if begun else {}
    values = arguments_for_method(values, method)
    if model != values.get("model_name_or_path") and re.fullmatch("[0-9a-f]{40}", values.get("model_revision", "")):
        del values["model_revision"]  # a commit of another model, from its arguments.yaml
    return dataclasses.replace(build_arguments(type(task), {**values, **own}), task=task)


def _ways(methods: Sequence[str], models: Sequence[Any]) -> dict[str, tuple[Any, str]]:
    """Model and method by the name of the folder that their runs lie in."""
    if len(set(models)) < len(models):
        raise InputError(f"--models {','.join(map(str, models))}: one is named twice.")
    names = [str(model).rstrip("/").split("/")[-1] for model in models]
    if len(set(names)) < len(names):
        names = [f"model-{i}" for i in range(1, len(models) + 1)]
    return {
        method if len(models) == 1 else f"{name}-{method}": (model, method)
        for name, model in zip(names, models, strict=True)
        for method in methods
    }


def _line(report: Mapping[str, Any]) -> str:
    key, name = report["data"]["answer"]
    return f"{name} {format_metric(report['metrics'][key], key)}, {format_duration(report['seconds']['total'])}."


def _of_source(reports: list[dict[str, Any]], metric: str) -> dict[str, float] | None:
    """What a way has forgotten: the metric on the source examples before and after, averaged over seeds."""
    if "source" not in reports[0]:
        return None
    return {
        when: statistics.mean(report["source"][part][metric] for report in reports)
        for when, part in (("before", "baseline"), ("after", "metrics"))
    }


def _learned(gains: list[list[float] | None], metric: str) -> bool:
    """Whether training from all seeds together made it better by more than chance.

    Seeds share their test examples: the interval of their mean is at most as wide as theirs are on average.
    """
    known = [gain for gain in gains if gain is not None]
    if not known:
        return False
    low, high = (statistics.mean(ends) for ends in zip(*known, strict=True))
    return low > 0 if greater_is_better(metric) else high < 0


def _kept_predictions(task: Any, result: Finetuned) -> Any:
    """A run's test predictions under resampling, and what tells its test examples from others."""
    with (result.folder / "predictions.jsonl").open(encoding="utf-8") as stream:
        records = [record for line in stream if "split" not in (record := json.loads(line))]
    return task.target.resampled_metrics(records, result.report["data"]), [
        task.example_key(record) for record in records
    ]


def _all_predictions(task: Any, done: Mapping[str, list[Finetuned]]) -> dict[str, list[Any]]:
    """The test predictions of every run under resampling, all of the same examples."""
    runs: dict[str, list[Any]] = {name: [] for name in done}
    tested = None
    for name, results in done.items():
        for result in results:
            resampled, examples = _kept_predictions(task, result)
            tested = examples if tested is None else tested
            if examples != tested:
                raise InputError(
                    f"{result.folder} was measured on other test examples: did the data change? Remove that folder."
                )
            runs[name].append(resampled)
    return runs


def _measured(
    answer: tuple[str, str], headline: Sequence[str], predictions: Mapping[str, Sequence[ResampledMetrics[str]]]
) -> tuple[str, str]:
    """The metric that the comparison is by, and its name: the usual one, or the first that the test examples tell.

    Raises:
        InputError: they tell none.
    """
    found = [run.compute(np.ones((1, len(run.unit_numbers)))) for runs in predictions.values() for run in runs]
    known = [name for name in (answer[0], *headline) if not any(np.isnan(one[name]).any() for one in found)]
    if not known:
        raise InputError(f"The test examples tell none of {', '.join(headline)}: nothing can be compared by them.")
    if known[0] == answer[0]:
        return answer
    logger.info("%s is not told by the test examples: the comparison is by %s.", answer[1], known[0])
    return known[0], known[0]


def _report(
    task: Any,
    done: Mapping[str, list[Finetuned]],
    ways: Mapping[str, tuple[Any, str]],
    failed: list[dict[str, Any]],
    seed: int,
) -> dict[str, Any]:
    reports = {name: [result.report for result in results] for name, results in done.items()}
    first = next(iter(reports.values()))
    facts = first[0]["data"]
    predictions = _all_predictions(task, done)
    metric, metric_name = _measured(facts["answer"], first[0]["headline"], predictions)
    measured = compare_runs(predictions, metric, greater_is_better=greater_is_better(metric), seed=seed)
    found = {
        name: {
            "model": ways[name][0],
            "method": ways[name][1],
            **measured[name],
            "by_seed": {report["seed"]: report["metrics"][metric] for report in own},
            "trained_share": own[0]["parameters"]["trainable"] / own[0]["parameters"]["total"],
            "seconds": statistics.median(report["seconds"]["total"] for report in own),
            "training_seconds": statistics.median(training_seconds(report) for report in own),
            "peak_memory_bytes": max(report["training"]["peak_memory_bytes"] for report in own),
            "bytes": sum(file.stat().st_size for file in done[name][0].folder.glob("*.safetensors")),
            "source": _of_source(own, metric),
            "learned": _learned([report["gain"].get(metric) for report in own], metric),
            "folders": [f"{name}/{result.folder.name}" for result in done[name]],
        }
        for name, own in sorted(
            reports.items(), key=lambda item: measured[item[0]]["metrics"][metric], reverse=greater_is_better(metric)
        )
    }
    best, recommended = recommend(measured, {name: one["training_seconds"] for name, one in found.items()})
    report = {
        "task": task.pipeline_tag,
        "metric": metric,
        "metric_name": metric_name,
        "greater_is_better": greater_is_better(metric),
        "source": local_name(facts["source"]),
        "examples": facts["examples"],
        "seeds": [report["seed"] for report in first],
        "device": first[0]["device"],
        "untrained": {
            ways[name][0]: statistics.mean(report["baseline"][metric] for report in own)
            for name, own in reports.items()
            if ways[name][1] != "scratch"
        },
        "runs": found,
        "detectable": max(one["detectable"] for one in found.values()),
        "failed": failed,
        "best": best,
        "recommended": recommended,
    }
    return report | {"reason": reason(report)}
