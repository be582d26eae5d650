"""`study()`: learning curves over the number of training examples, with and without pretraining."""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict

from hf_transfer.arguments import arguments_for_method
from hf_transfer.arguments.parsing import build_arguments, keyword_arguments
from hf_transfer.errors import Failure, InputError, logger
from hf_transfer.evaluation.learning_curve import describe_curves
from hf_transfer.evaluation.metric_format import format_metric
from hf_transfer.evaluation.metric_names import greater_is_better
from hf_transfer.finetuning import finetune
from hf_transfer.reporting.atomic_writes import atomic_file
from hf_transfer.reporting.publishing import local_name
from hf_transfer.reporting.report import notebook_html, training_seconds
from hf_transfer.reporting.run_files import remove_run_folder
from hf_transfer.reporting.study import from_scratch, sentences, summary
from hf_transfer.series import checked_methods, log_once, series_folder, write_series_report
from hf_transfer.tasks.task import Task

# A record of each run, one a line. A study that is continued does not repeat them.
_RUNS = "runs.jsonl"
_REPORT = "study.json"
# The smallest number of training examples by default.
_SMALLEST_SIZE = 8


@dataclass(frozen=True)
class Studied:
    """Dataclass of the result of `study()`; a notebook shows its ``report.html``.

    Attributes:
        folder: contains ``study.json``, ``report.html`` and ``runs.jsonl``.
        report: the content of ``study.json``.
    """

    folder: Path
    report: dict[str, Any]

    def __str__(self) -> str:
        return summary(self.report, self.folder)

    def _repr_html_(self) -> str:
        return notebook_html((self.folder / "report.html").read_text(encoding="utf-8"))


def study(
    task: Task,
    *,
    methods: Sequence[str] = ("frozen",),
    sizes: Sequence[int | str] | None = None,
    draws: int = 3,
    dataset: DatasetDict | Dataset | None = None,
    **keywords: Any,
) -> Studied:
    """Fine-tune on growing random subsets of the training examples, and return the learning curves.

    All runs are measured on the same test split. ``scratch`` is always among the methods, as the control without
    pretraining. A validation split is drawn only if the task needs one, because its examples cost labels, too. Called
    again with the same arguments, an interrupted study continues.

    Args:
        task: as for `finetune()`.
        methods: the methods to study.
        sizes: numbers of training examples, or ``all``; None: 8, 16, 32 and so on, and all.
        draws: number of random subsets of each size.
        dataset: as for `finetune()`.
        **keywords: as for `finetune()`.

    Raises:
        InputError: the arguments are wrong, or the folder holds something else.
        Failure: the first run failed; later runs that fail are in the report.
    """
    values = keyword_arguments(task, keywords)
    seed = int(values.setdefault("seed", 42))
    values.setdefault("split_seed", seed)
    if task.target.requires_validation_split:
        logger.info("The labels of the validation split are used as well, and are not counted in the sizes.")
    elif "validation_file" not in values:
        values.setdefault("validation_size", 0.0)
    methods = checked_methods(methods)
    methods = [*methods, *(["scratch"] if "scratch" not in methods else [])]
    checked_sizes = _checked_sizes(sizes)
    if draws < 1:
        raise InputError(f"--draws is {draws}: expected 1 or more.")
    if "max_train_samples" in values:
        raise InputError("--max_train_samples is what a study varies: give numbers of examples with --sizes.")
    settings = {"methods": methods, "sizes": checked_sizes, "draws": draws}
    with series_folder(task, values, settings, dataset, "a study") as folder, log_once():
        series = _Runs(task, values, dataset, folder)
        logger.info("The first run uses all examples, as their number decides the sizes that follow.")
        on_all_examples = series.run(methods[0], None, 0)
        # All examples can be drawn in one way only; these draws differ in the order of examples and in the new head.
        planned = [
            (method, size, draw)
            for size in _sizes_to_run(checked_sizes, on_all_examples["examples"])
            for method in methods
            for draw in range(draws)
        ]
        records = [
            series.run(method, size, draw, progress=f"{i} of {len(planned)}: ")
            for i, (method, size, draw) in enumerate(planned, start=1)
        ]
        report = _report(task, on_all_examples, records, draws, seed)
        write_series_report(
            folder, _REPORT, report, "study.html", sentences=sentences(report), from_scratch=from_scratch
        )
    return Studied(folder, report)


class _Runs:
    """Runner of the runs of a study, each of which is done once.

    Args:
        task: as for `study()`.
        values: the other arguments of the runs, by flag name.
        dataset: splits in memory, or None.
        folder: of the study.
    """

    def __init__(self, task: Task, values: Mapping[str, Any], dataset: DatasetDict | Dataset | None, folder: Path):
        self.task, self.values, self.dataset, self.folder = task, values, dataset, folder
        self.records = _read_records(folder / _RUNS)

    def run(self, method: str, size: int | None, draw: int, progress: str = "") -> dict[str, Any]:
        """Return the record of a run, a dictionary; the run is done now unless the study has its record.

        Args:
            method: of training.
            size: number of training examples; None for all.
            draw: number of the random subset, from 0.
            progress: beginning of the log line.
        """
        record = self.records.get((method, size, draw))
        if record is None:
            record = self.records[method, size, draw] = self._finetune(method, size, draw)
            with (self.folder / _RUNS).open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(record) + "\n")
        outcome = record.get("failed")
        if outcome is None:
            metric = record["metric"]
            outcome = f"{record['metric_name']} {format_metric(record['metrics'][metric], metric)}"
        logger.info("%s%s, %s examples, draw %d: %s", progress, method, size or "all", draw + 1, outcome)
        return record

    def _finetune(self, method: str, size: int | None, draw: int) -> dict[str, Any]:
        run_folder = self.folder / "run"
        for leftover in (run_folder, run_folder.with_name("run.partial")):  # of a study that was interrupted
            remove_run_folder(leftover)
        of_run = {
            "method": method,
            "seed": self.values["seed"] + draw,
            "output_dir": str(run_folder),
            "run_name": f"{self.values.get('run_name', self.folder.name)}/{method}-{size or 'all'}-{draw + 1}",
            **({} if size is None else {"max_train_samples": size}),
        }
        arguments = build_arguments(type(self.task), {**arguments_for_method(self.values, method), **of_run})
        try:
            result = finetune(self.task, dataclasses.replace(arguments, task=self.task), dataset=self.dataset)
        except Failure as error:
            if not self.records:
                raise
            return {"method": method, "size": size, "draw": draw, "failed": str(error)}
        remove_run_folder(run_folder)
        return _record(result.report, method, size, draw)


def _report(
    task: Task, on_all_examples: Mapping[str, Any], records: list[dict[str, Any]], draws: int, seed: int
) -> dict[str, Any]:
    """Return the content of study.json: all runs and the learning curves."""
    failed = [record for record in records if "failed" in record]
    runs = [record for record in records if "failed" not in record]
    metric = on_all_examples["metric"]
    return {
        "task": task.pipeline_tag,
        "source": local_name(on_all_examples["source"]),
        "metric": metric,
        "metric_name": on_all_examples["metric_name"],
        "greater_is_better": greater_is_better(metric),
        "test_examples": on_all_examples["test_examples"],
        "train_examples": on_all_examples["examples"],
        "draws": draws,
        "untrained": on_all_examples["untrained"],
        "device": on_all_examples["device"],
        "runs": runs,
        "failed": failed,
        **describe_curves(runs, metric, greater_is_better=greater_is_better(metric), seed=seed),
    }


def _checked_sizes(sizes: Sequence[int | str] | None) -> list[int | str] | None:
    """Return numbers of examples as integers and ``all``; raise an error if one is neither."""
    if sizes is None:
        return None
    checked: list[int | str] = []
    for size in sizes:
        text = str(size).strip().lower()
        if text != "all" and not (text.isdecimal() and int(text) > 0):
            raise InputError(f"--sizes {size}: expected numbers of examples, 1 or more, separated by commas, or all.")
        checked.append("all" if text == "all" else int(text))
    return checked


def _sizes_to_run(sizes: list[int | str] | None, available: int) -> list[int | None]:
    """Return the numbers of examples to draw, in ascending order; None for all of them.

    Args:
        sizes: checked, or None for the default.
        available: number of training examples.
    """
    if sizes is None:
        doublings = max(0, math.ceil(math.log2(available / _SMALLEST_SIZE)))
        return [*(_SMALLEST_SIZE * 2**k for k in range(doublings)), None]
    smaller = sorted({size for size in sizes if isinstance(size, int) and size < available})
    too_large = [size for size in sizes if isinstance(size, int) and size >= available]
    if too_large:
        logger.info(
            "There are %d training examples: all of them are used for size %s.",
            available, ", ".join(map(str, too_large)),
        )  # fmt: skip
    return [*smaller, *([None] if too_large or "all" in sizes else [])]


def _read_records(file: Path) -> dict[tuple[str, int | None, int], dict[str, Any]]:
    """Return the records of finished runs in a file, by method, size and draw.

    Lines of failed runs, and one that was cut off when the study was killed, are removed from the file: these runs
    are repeated.
    """
    records = {}
    if file.is_file():
        finished, content = [], file.read_text(encoding="utf-8")
        for line in content.splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if "failed" in record:
                continue
            finished.append(line)
            records[record["method"], record["size"], record["draw"]] = record
        new_content = "".join(f"{line}\n" for line in finished)
        if new_content != content:
            with atomic_file(file) as stream:
                stream.write(new_content)
    return records


def _record(report: Mapping[str, Any], method: str, size: int | None, draw: int) -> dict[str, Any]:
    """Return the line of runs.jsonl about a finished run, as a dictionary."""
    metric, name = report["data"]["answer"]
    return {
        "method": method,
        "size": size,
        "draw": draw,
        "examples": report["data"]["examples"]["train"] - (report["data"]["replayed"] or 0),
        "test_examples": report["data"]["examples"]["test"],
        "source": report["data"]["source"],
        "metric": metric,
        "metric_name": name,
        "untrained": report["baseline"].get(metric),
        "metrics": report["metrics"],
        "confidence": report["confidence"],
        "training_seconds": training_seconds(report),
        "seconds": report["seconds"]["total"],
        "device": report["device"],
    }
