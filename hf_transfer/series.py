"""A series of runs in one folder: what `compare()` and `study()` share."""

import contextlib
import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from hf_transfer.data.tables import digest_of
from hf_transfer.errors import InputError, logger
from hf_transfer.reporting.output_folder import as_json, written_whole
from hf_transfer.reporting.page import render

# Settings that belong to some methods only; the others do without.
OF_METHODS = {"trainable_layers": ("frozen",), "merge": ("lora",), "head_first": ("full", "lora")}
FILES = ("train_file", "validation_file", "test_file", "source_file", "dataset_name")


def fitting(values: Mapping[str, Any], method: str) -> dict[str, Any]:
    """The arguments without those that only other methods take."""
    return {key: value for key, value in values.items() if method in OF_METHODS.get(key, (method,))}


def claim(values: Mapping[str, Any], own: Mapping[str, Any], what: str) -> Path:
    """The folder to work in: new, or one where the same was begun on the same data.

    Args:
        values: arguments of the runs, by flag name.
        own: those of the series.
        what: it is, for messages.

    Raises:
        InputError: the folder holds something else, or the arguments do not fit a series.
    """
    if not values.get("output_dir"):
        raise InputError("--output_dir is missing: expected the folder to write the result to.")
    if values.get("push_to_hub"):
        raise InputError(f"--push_to_hub: {what} has many models; push the one that you take: hf-transfer push FOLDER")
    folder = Path(str(values["output_dir"]))
    told = {**own, **values, "data": {name: _state(Path(str(values[name]))) for name in FILES if values.get(name)}}
    record = folder / "arguments.yaml"
    # As it is read back: tuples are lists there.
    text = yaml.safe_dump(json.loads(json.dumps(told, default=str)), sort_keys=False, allow_unicode=True)
    if record.is_file() and not (folder / "report.json").exists():
        if record.read_text(encoding="utf-8") != text:
            raise InputError(
                f"--output_dir {folder}: {what} with other arguments or data lies there. Name another folder."
            )
        return folder
    if folder.exists() and (folder.is_file() or any(folder.iterdir())):
        raise InputError(f"--output_dir {folder}: there is something of that name. Name a new folder for {what}.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        record.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"--output_dir {folder}: the folder cannot be made: {error.strerror}.") from error
    return folder


def _state(path: Path) -> Any:
    """What changes with the data at a path; nothing for the name of a dataset on the Hub."""
    if path.is_file():
        return digest_of(path)
    return {str(f.relative_to(path)): f.stat().st_size for f in sorted(path.rglob("*")) if f.is_file()}


def write_record(folder: Path, name: str, report: Mapping[str, Any], template: str, **shown: Any) -> None:
    """The result as JSON and as a page, each whole or absent."""
    with written_whole(folder / name) as stream:
        stream.write(as_json(report))
    with written_whole(folder / "report.html") as stream:
        stream.write(render(template, title=folder.name, report=report, **shown))


@contextlib.contextmanager
def said_once() -> Iterator[None]:
    """Inside the block, what one run has said of data and model is not said again by the next."""
    heard: set[str] = set()

    def new(record: logging.LogRecord) -> bool:
        text = record.getMessage()
        known = text in heard
        heard.add(text)
        return not known

    logger.addFilter(new)
    try:
        yield
    finally:
        logger.removeFilter(new)
