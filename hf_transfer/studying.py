"""`study()`: how quality grows with the number of labelled examples, and what pretraining is worth on these data."""

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
from hf_transfer.series import checked_methods, claimed, said_once, write_record

# One line a finished run: what a study that goes on has done already.
KEPT = "runs.jsonl"
RECORD = "study.json"
FEWEST = 8


@dataclass(frozen=True)
class Studied:
    """A finished study; a notebook shows its ``report.html``.

    Attributes:
        folder: with ``study.json``, ``report.html`` and ``runs.jsonl``.
        report: what ``study.json`` holds.
    """

    folder: Path
    report: dict[str, Any]

    def __str__(self) -> str:
        return summary(self.report, self.folder)

    def _repr_html_(self) -> str:
        return notebook_html((self.folder / "report.html").read_text(encoding="utf-8"))


def study(
    task: Any,
    *,
    methods: Sequence[str] = ("frozen",),
    sizes: Sequence[int | str] | None = None,
    draws: int = 3,
    dataset: DatasetDict | Dataset | None = None,
    **keywords: Any,
) -> Studied:
    """Fine-tune on more and more of the training examples, drawn several times, all measured on the same test split.

    ``scratch`` is always among the methods, as the control. Without a validation split of its own a study makes none,
    unless the task chooses something on it: labels that are chosen and calibrated on are labels, too. Called again
    with the same arguments, a study that was interrupted goes on with the runs that are missing.

    Args:
        task: as for `finetune()`.
        methods: to study.
        sizes: numbers of training examples, or ``all``; 8, 16, 32 and so on by default.
        draws: how often each number of examples is drawn.
        dataset: as for `finetune()`.
        **keywords: as for `finetune()`.

    Raises:
        InputError: the arguments are wrong, or the folder holds something else.
        Failure: a run failed.
    """
    values = keyword_arguments(task, keywords)
    seed = int(values.setdefault("seed", 42))
    values.setdefault("split_seed", seed)
    if task.target.requires_validation_split:
        logger.info("What is chosen on validation examples takes labels that are not among those counted here.")
    elif "validation_file" not in values:
        values.setdefault("validation_size", 0.0)
    methods = checked_methods(methods)
    methods = [*methods, *(["scratch"] if "scratch" not in methods else [])]
    wanted = _sizes(sizes)
    if draws < 1:
        raise InputError(f"--draws is {draws}: expected 1 or more.")
    if "max_train_samples" in values:
        raise InputError("--max_train_samples is what a study varies: name numbers of examples with --sizes.")
    own = {"methods": methods, "sizes": wanted, "draws": draws}
    with claimed(task, values, own, dataset, "a study") as folder, said_once():
        measured = _Runs(task, values, dataset, folder)
        logger.info("All examples come first: how many there are decides the numbers that follow.")
        whole = measured(methods[0], None, 0)
        # Everything cannot be drawn in two ways; its seeds differ in the order of examples and the new head.
        planned = [
            (method, size, draw)
            for size in _up_to(wanted, whole["examples"])
            for method in methods
            for draw in range(draws)
        ]
        runs = [measured(*one, place=f"{i} of {len(planned)}: ") for i, one in enumerate(planned, start=1)]
        report = _report(task, whole, runs, draws, seed)
        write_record(folder, RECORD, report, "study.html", sentences=sentences(report), from_scratch=from_scratch)
    return Studied(folder, report)


class _Runs:
    """The runs of a study: those that are kept, and those that are still to be done."""

    def __init__(self, task: Any, values: Mapping[str, Any], dataset: Any, folder: Path):
        self.task, self.values, self.dataset, self.folder = task, values, dataset, folder
        self.done = _read(folder / KEPT)

    def __call__(self, method: str, size: int | None, draw: int, place: str = "") -> dict[str, Any]:
        """What is kept of a run, done now if it has not been."""
        found = self.done.get((method, size, draw))
        if found is None:
            found = self.done[method, size, draw] = self._run(method, size, draw)
            with (self.folder / KEPT).open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(found) + "\n")
        said = found.get("failed")
        if said is None:
            said = f"{found['metric_name']} {format_metric(found['metrics'][found['metric']], found['metric'])}"
        logger.info("%s%s, %s examples, draw %d: %s", place, method, size or "all", draw + 1, said)
        return found

    def _run(self, method: str, size: int | None, draw: int) -> dict[str, Any]:
        work = self.folder / "run"
        for left in (work, work.with_name("run.partial")):  # by a study that was stopped
            remove_run_folder(left)
        own = {
            "method": method,
            "seed": self.values["seed"] + draw,
            "output_dir": str(work),
            "run_name": f"{self.values.get('run_name', self.folder.name)}/{method}-{size or 'all'}-{draw + 1}",
            **({} if size is None else {"max_train_samples": size}),
        }
        arguments = build_arguments(type(self.task), {**arguments_for_method(self.values, method), **own})
        try:
            result = finetune(self.task, dataclasses.replace(arguments, task=self.task), dataset=self.dataset)
        except Failure as error:
            if not self.done:
                raise
            return {"method": method, "size": size, "draw": draw, "failed": str(error)}
        remove_run_folder(work)
        return _kept(result.report, method, size, draw)


def _report(
    task: Any, whole: Mapping[str, Any], all_runs: list[dict[str, Any]], draws: int, seed: int
) -> dict[str, Any]:
    failed = [run for run in all_runs if "failed" in run]
    runs = [run for run in all_runs if "failed" not in run]
    return {
        "task": task.pipeline_tag,
        "source": local_name(whole["source"]),
        "metric": whole["metric"],
        "metric_name": whole["metric_name"],
        "greater_is_better": greater_is_better(whole["metric"]),
        "test_examples": whole["test_examples"],
        "train_examples": whole["examples"],
        "draws": draws,
        "untrained": whole["untrained"],
        "device": whole["device"],
        "runs": runs,
        "failed": failed,
        **describe_curves(runs, whole["metric"], greater_is_better=greater_is_better(whole["metric"]), seed=seed),
    }


def _sizes(given: Sequence[int | str] | None) -> list[int | str] | None:
    """Checked: whole numbers, and perhaps ``all``."""
    if given is None:
        return None
    sizes: list[int | str] = []
    for one in given:
        text = str(one).strip().lower()
        if text != "all" and not (text.isdecimal() and int(text) > 0):
            raise InputError(f"--sizes {one}: expected numbers of examples, 1 or more, separated by commas, or all.")
        sizes.append("all" if text == "all" else int(text))
    return sizes


def _up_to(wanted: list[int | str] | None, there: int) -> list[int | None]:
    """The numbers of examples to draw, in ascending order; None for all of them."""
    if wanted is None:
        doubled = [FEWEST * 2**k for k in range(max(0, math.ceil(math.log2(there / FEWEST))))]
        return [*doubled, None]
    numbers = sorted({size for size in wanted if isinstance(size, int) and size < there})
    too_many = [size for size in wanted if isinstance(size, int) and size >= there]
    if too_many:
        logger.info("There are %d training examples: %s is taken as all.", there, ", ".join(map(str, too_many)))
    return [*numbers, *([None] if too_many or "all" in wanted else [])]


def _read(file: Path) -> dict[tuple[str, int | None, int], dict[str, Any]]:
    """Finished runs; one that failed, or whose line was cut off when a study was killed, is done again."""
    found = {}
    if file.is_file():
        whole, text = [], file.read_text(encoding="utf-8")
        for line in text.splitlines():
            try:
                one = json.loads(line)
            except ValueError:
                continue
            if "failed" in one:
                continue
            whole.append(line)
            found[one["method"], one["size"], one["draw"]] = one
        rest = "".join(f"{line}\n" for line in whole)
        if rest != text:
            with atomic_file(file) as stream:
                stream.write(rest)
    return found


def _kept(report: Mapping[str, Any], method: str, size: int | None, draw: int) -> dict[str, Any]:
    """What a study keeps of a run."""
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
