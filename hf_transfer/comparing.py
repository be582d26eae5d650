"""`compare()`: fine-tunes with several methods, models and seeds on the same data, and compares the results."""

import dataclasses
import gc
import json
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

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
from hf_transfer.series import METHODS, checked_methods, log_once, series_folder, write_series_report
from hf_transfer.tasks.task import Task

RECORD = "comparison.json"


class Candidate(NamedTuple):
    """Named tuple of a model and a method that are compared with others."""

    model: str | None
    method: str


@dataclass(frozen=True)
class Compared:
    """Dataclass of the result of `compare()`; a notebook shows its ``report.html``.

    Attributes:
        folder: contains ``comparison.json``, ``report.html`` and the output folder of each run.
        report: the content of ``comparison.json``.
    """

    folder: Path
    report: dict[str, Any]

    def __str__(self) -> str:
        return summary(self.report, self.folder)

    def _repr_html_(self) -> str:
        return notebook_html((self.folder / "report.html").read_text(encoding="utf-8"))


def compare(
    task: Task,
    *,
    methods: Sequence[str] = METHODS,
    seeds: int = 3,
    models: Sequence[str] = (),
    dataset: DatasetDict | Dataset | None = None,
    **keywords: Any,
) -> Compared:
    """Fine-tune with each method (and model) and several seeds, compare the results, and recommend one.

    All runs share the validation and test splits, whatever their seed; each seed draws its own training examples
    (``max_train_samples``, ``replay``). Each run is one of `finetune()`, in its own folder inside ``output_dir``.
    Called again with the same arguments, an interrupted comparison continues.

    Args:
        task: as for `finetune()`.
        methods: the methods to compare.
        seeds: number of runs of each; ``seed`` and the numbers after it.
        models: the models to compare; none: ``model_name_or_path`` alone.
        dataset: as for `finetune()`.
        **keywords: as for `finetune()`.

    Raises:
        InputError: the arguments are wrong, or the folder holds another comparison.
        Failure: no method could be finished with every seed.
    """
    values = keyword_arguments(task, keywords)
    seed = int(values.setdefault("seed", 42))
    values.setdefault("split_seed", seed)
    methods = checked_methods(methods)
    candidates = _candidates(methods, models or [values.get("model_name_or_path")])
    if len(models) > 1:
        for name in models:  # a wrong name is reported before the first model is trained
            load_config(ModelArguments(name, values.get("model_revision", "main")), task.auto_model)
    if seeds < 1:
        raise InputError(f"--seeds is {seeds}: expected 1 or more.")
    if values.get("learning_rate") is not None and len(methods) > 1:
        logger.info(
            "All methods use --learning_rate %s; without that flag, each has its own default.",
            values["learning_rate"],
        )
    settings = {"methods": list(methods), "seeds": seeds, "models": list(models)}
    with series_folder(task, values, settings, dataset, "a comparison") as folder, log_once():
        runs = [
            (name, _run_arguments(task, values, candidate, folder / name / f"seed-{number}", number))
            for number in range(seed, seed + seeds)
            for name, candidate in candidates.items()
        ]
        finished, failed = _run_all(task, runs, dataset)
        complete = {name: results for name, results in finished.items() if len(results) == seeds}
        if not complete:
            raise Failure(f"No method could be finished. {failed[0]['why']}")
        report = _report(task, complete, candidates, failed, seed)
        write_series_report(folder, RECORD, report, "comparison.html")
    return Compared(folder, report)


def _run_all(
    task: Task, runs: Sequence[tuple[str, Arguments]], dataset: DatasetDict | Dataset | None
) -> tuple[dict[str, list[Finetuned]], list[dict[str, Any]]]:
    """Run `finetune()` with each of the arguments, and return the results and the failures.

    Returns:
        The results by the candidate's name; and the candidate, the seed and the reason of each run that failed.
    """
    finished: dict[str, list[Finetuned]] = {name: [] for name, _ in runs}
    failed: list[dict[str, Any]] = []
    for i, (name, arguments) in enumerate(runs, start=1):
        gc.collect()  # so that the memory of the run before does not count in this run's peak
        seed = arguments.training.seed
        logger.info("%d of %d: %s, seed %d.", i, len(runs), name, seed)
        try:
            result = finetune(task, arguments, dataset=dataset)
        except Failure as error:
            logger.warning("%s, seed %d failed: %s", name, seed, error)
            failed.append({"name": name, "seed": seed, "why": str(error)})
            continue
        finished[name].append(result)
        logger.info("%s, seed %d: %s", name, seed, _metric_and_time(result.report))
    return finished, failed


def _run_arguments(task: Task, values: Mapping[str, Any], candidate: Candidate, folder: Path, seed: int) -> Arguments:
    """Return the `Arguments` of one run of a comparison; a run that was interrupted is resumed."""
    is_begun = folder.exists() or folder.with_name(f"{folder.name}.partial").exists()
    series = values.get("run_name", folder.parent.parent.name)
    of_run = {"model_name_or_path": candidate.model, "method": candidate.method, "seed": seed,
              "output_dir": str(folder), "run_name": f"{series}/{folder.parent.name}/{folder.name}"}  # fmt: skip
    if is_begun:
        of_run["resume_from_checkpoint"] = "true"
    values = arguments_for_method(values, candidate.method)
    is_other_model = candidate.model != values.get("model_name_or_path")
    if is_other_model and re.fullmatch("[0-9a-f]{40}", values.get("model_revision", "")):
        del values["model_revision"]  # a commit of the model in an arguments.yaml
    return dataclasses.replace(build_arguments(type(task), {**values, **of_run}), task=task)


def _candidates(methods: Sequence[str], models: Sequence[str | None]) -> dict[str, Candidate]:
    """Return a `Candidate` for each model and method, by the name of the folder of its runs."""
    if len(set(models)) < len(models):
        raise InputError(f"--models {','.join(map(str, models))}: a model is named twice. Name each once.")
    names = [str(model).rstrip("/").split("/")[-1] for model in models]
    if len(set(names)) < len(names):
        names = [f"model-{i}" for i in range(1, len(models) + 1)]
    return {
        method if len(models) == 1 else f"{name}-{method}": Candidate(model, method)
        for name, model in zip(names, models, strict=True)
        for method in methods
    }


def _metric_and_time(report: Mapping[str, Any]) -> str:
    key, name = report["data"]["answer"]
    return f"{name} {format_metric(report['metrics'][key], key)}, {format_duration(report['seconds']['total'])}."


def _source_metric(reports: list[dict[str, Any]], metric: str) -> dict[str, float] | None:
    """Return a metric on the source examples before and after training, averaged over seeds, or None without any."""
    if "source" not in reports[0]:
        return None
    return {
        when: statistics.mean(report["source"][part][metric] for report in reports)
        for when, part in (("before", "baseline"), ("after", "metrics"))
    }


def _has_improved(gains: list[list[float] | None], metric: str) -> bool:
    """Return whether training improved the metric by more than chance, over all seeds.

    Seeds share the test examples, so the interval of their mean is at most as wide as their intervals on average.
    """
    known = [gain for gain in gains if gain is not None]
    if not known:
        return False
    low, high = (statistics.mean(ends) for ends in zip(*known, strict=True))
    return low > 0 if greater_is_better(metric) else high < 0


def _test_predictions(task: Task, result: Finetuned) -> tuple[ResampledMetrics[Any], list[tuple[Any, ...]]]:
    """Return the test metrics of a run for resampling, and a key for each test example."""
    with (result.folder / "predictions.jsonl").open(encoding="utf-8") as stream:
        records = [record for line in stream if "split" not in (record := json.loads(line))]
    metrics = task.target.resampled_metrics(records, result.report["data"])
    return metrics, [task.example_key(record) for record in records]


def _predictions_by_candidate(
    task: Task, finished: Mapping[str, list[Finetuned]]
) -> dict[str, list[ResampledMetrics[Any]]]:
    """Return by candidate the test metrics of its runs for resampling.

    Raises:
        InputError: a run was measured on other test examples than the first.
    """
    by_candidate: dict[str, list[ResampledMetrics[Any]]] = {name: [] for name in finished}
    expected_keys = None
    for name, results in finished.items():
        for result in results:
            metrics, keys = _test_predictions(task, result)
            expected_keys = keys if expected_keys is None else expected_keys
            if keys != expected_keys:
                raise InputError(
                    f"{result.folder} was measured on other test examples, so the data may have changed. Remove that "
                    "folder, and run the comparison again."
                )
            by_candidate[name].append(metrics)
    return by_candidate


def _comparison_metric(
    main_metric: tuple[str, str],
    headline: Sequence[str],
    predictions: Mapping[str, Sequence[ResampledMetrics[str]]],
) -> tuple[str, str]:
    """Return the key and the name of the metric by which runs are compared.

    It is the main metric, or the first that is defined on the test examples.

    Args:
        main_metric: its key and its name.
        headline: keys of the metrics to fall back on.
        predictions: of all runs.

    Raises:
        InputError: none is defined.
    """
    metrics = [run.compute(np.ones((1, len(run.unit_numbers)))) for runs in predictions.values() for run in runs]
    defined = [
        name for name in (main_metric[0], *headline) if not any(np.isnan(values[name]).any() for values in metrics)
    ]
    if not defined:
        raise InputError(
            f"None of {', '.join(headline)} is defined on the test examples, so that runs cannot be compared. Use a "
            "larger test split."
        )
    if defined[0] == main_metric[0]:
        return main_metric
    logger.info("%s is not defined on the test examples: runs are compared by %s.", main_metric[1], defined[0])
    return defined[0], defined[0]


def _report(
    task: Task,
    finished: Mapping[str, list[Finetuned]],
    candidates: Mapping[str, Candidate],
    failed: list[dict[str, Any]],
    seed: int,
) -> dict[str, Any]:
    """Return the content of comparison.json: all candidates' metrics and costs, and the recommended one."""
    reports = {name: [result.report for result in results] for name, results in finished.items()}
    first = next(iter(reports.values()))
    data = first[0]["data"]
    predictions = _predictions_by_candidate(task, finished)
    metric, metric_name = _comparison_metric(data["answer"], first[0]["headline"], predictions)
    compared = compare_runs(predictions, metric, greater_is_better=greater_is_better(metric), seed=seed)
    runs = {
        name: {
            "model": candidates[name].model,
            "method": candidates[name].method,
            **compared[name],
            "by_seed": {report["seed"]: report["metrics"][metric] for report in reports[name]},
            **_costs(reports[name], finished[name][0].folder),
            "source": _source_metric(reports[name], metric),
            "learned": _has_improved([report["gain"].get(metric) for report in reports[name]], metric),
            "folders": [f"{name}/{result.folder.name}" for result in finished[name]],
        }
        for name in sorted(
            reports, key=lambda name: compared[name]["metrics"][metric], reverse=greater_is_better(metric)
        )
    }
    best, recommended = recommend(compared, {name: run["training_seconds"] for name, run in runs.items()})
    report = {
        "task": task.pipeline_tag,
        "metric": metric,
        "metric_name": metric_name,
        "greater_is_better": greater_is_better(metric),
        "source": local_name(data["source"]),
        "examples": data["examples"],
        "seeds": [report["seed"] for report in first],
        "device": first[0]["device"],
        "untrained": {
            candidates[name].model: statistics.mean(report["baseline"][metric] for report in of_candidate)
            for name, of_candidate in reports.items()
            if candidates[name].method != "scratch"
        },
        "runs": runs,
        "detectable": max(run["detectable"] for run in runs.values()),
        "failed": failed,
        "best": best,
        "recommended": recommended,
    }
    return report | {"reason": reason(report)}


def _costs(reports: Sequence[Mapping[str, Any]], folder: Path) -> dict[str, Any]:
    """Return what a candidate costs: share of weights trained, median seconds, peak memory and disk space in bytes.

    Args:
        reports: of its runs.
        folder: output folder of one of them.
    """
    parameters = reports[0]["parameters"]
    return {
        "trained_share": parameters["trainable"] / parameters["total"],
        "seconds": statistics.median(report["seconds"]["total"] for report in reports),
        "training_seconds": statistics.median(training_seconds(report) for report in reports),
        "peak_memory_bytes": max(report["training"]["peak_memory_bytes"] for report in reports),
        "bytes": sum(file.stat().st_size for file in folder.glob("*.safetensors")),
    }
