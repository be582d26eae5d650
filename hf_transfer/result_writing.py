"""Writes the files of a finished run (weights, report, card, page, predictions) and checks the weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from datasets import Dataset

from hf_transfer.arguments import Arguments
from hf_transfer.errors import logger
from hf_transfer.methods.lora import merged_copy
from hf_transfer.parity import check_parity
from hf_transfer.preparation import PreparedRun
from hf_transfer.reporting.json_files import ENCODING_ERRORS, write_json, write_jsonl
from hf_transfer.reporting.model_card import model_card
from hf_transfer.reporting.output_folder import OutputFolder
from hf_transfer.reporting.page import report_page
from hf_transfer.tasks.task import Task
from hf_transfer.training.cost import Meter


def write_result(
    arguments: Arguments,
    run: PreparedRun,
    model: Any,
    report: dict[str, Any],
    predictions: list[dict[str, Any]],
    output: OutputFolder,
    meter: Meter,
) -> None:
    """Write the files of a finished run, check the saved weights, and move the folder into place.

    Args:
        arguments: of the run.
        run: what it was prepared with.
        model: the trained model.
        report: the report; ``parity``, ``seconds`` and ``files`` are added.
        predictions: lines of predictions.jsonl.
        output: the output folder.
        meter: for the seconds of writing.

    Raises:
        Failure: the result cannot be written, or differs after it is read back.
    """
    task = arguments.task
    with output.result() as folder, meter.stage("writing"):
        _write_model(folder, merged_copy(model) if arguments.method.merge else model, run.processor)
        report["parity"] = check_parity(
            model, folder, task, run.processor, run.inputs["test"], adapter=report["adapter"],
            trust_remote_code=arguments.model.trust_remote_code,
        )  # fmt: skip
        report["seconds"] = meter.seconds()
        settings = arguments.as_dict() | ({"dataset": "in memory"} if arguments.data.is_in_memory() else {})
        # With the commits, as a branch on the Hub may hold something else when the run is repeated.
        settings |= {f"{name}_revision": hub["commit"] for name, hub in run.commits.items()}
        (folder / "arguments.yaml").write_text(
            yaml.safe_dump(settings, sort_keys=False, allow_unicode=True), encoding="utf-8"
        )
        write_jsonl(folder / "predictions.jsonl", predictions)
        (folder / "README.md").write_text(model_card(report, settings), encoding="utf-8", errors=ENCODING_ERRORS)
        _write_page(folder / "report.html", task, run, report, settings)
        # Written last: where report.json exists, all files that it lists do.
        report["files"] = [*sorted(file.name for file in folder.iterdir()), "report.json"]
        write_json(folder / "report.json", report)


def _write_page(file: Path, task: Task, run: PreparedRun, report: dict[str, Any], settings: dict[str, Any]) -> None:
    try:
        media = task.input.media_data_uris(run.inputs["test"], [example["row"] for example in report.get("worst", [])])
        file.write_text(report_page(report, settings, media), encoding="utf-8", errors=ENCODING_ERRORS)
    except Exception as error:  # a trained model is not lost because its page fails
        if isinstance(error, OSError) and error.errno is not None:
            raise  # a disk error: the rest cannot be written either
        logger.warning(
            "report.html could not be written (%s: %s). The other files are complete.", type(error).__name__, error
        )


def _write_model(folder: Path, model: Any, processor: Any) -> None:
    model.save_pretrained(folder, safe_serialization=True)
    # peft writes no config.json beside an adapter; it holds the labels and the decision.
    model.config.save_pretrained(folder)
    processor.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)  # the card that peft writes


def prediction_records(
    task: Task, outputs: Mapping[str, Any], measured: Mapping[str, Dataset], config: Any
) -> list[dict[str, Any]]:
    """Return a record (dictionary) for each evaluated example; outside the test split it has the field ``split``."""
    return [
        {"split": name, **record} if name != "test" else record
        for name, split in measured.items()
        for record in task.predictions(outputs[name], split, config)
    ]
