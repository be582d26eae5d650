"""A series of runs in one folder: what `compare()` and `study()` share."""

import contextlib
import dataclasses
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from datasets import Dataset
from filelock import FileLock, Timeout

from hf_transfer.arguments import OF_NO_EFFECT, differences
from hf_transfer.data.tables import digest_of
from hf_transfer.errors import InputError, Interrupted, logger
from hf_transfer.reporting.output_folder import as_json, written_whole
from hf_transfer.reporting.page import render

# Settings that belong to some methods only; the others do without.
OF_METHODS = {"trainable_layers": ("frozen",), "merge": ("lora",), "head_first": ("full", "lora")}
LOCK = ".lock"
FILES = ("train_file", "validation_file", "test_file", "source_file", "dataset_name")


def fitting(values: Mapping[str, Any], method: str) -> dict[str, Any]:
    """The arguments without those that only other methods take."""
    return {key: value for key, value in values.items() if method in OF_METHODS.get(key, (method,))}


@contextlib.contextmanager
def claimed(task: Any, values: Mapping[str, Any], own: Mapping[str, Any], dataset: Any, what: str) -> Iterator[Path]:
    """The folder to work in: new, or one where the same was begun on the same data.

    Nothing is left of a new one if the block ends before any run has kept something.

    Args:
        task: whose settings belong to the runs.
        values: the other arguments of the runs, by flag name.
        own: those of the series.
        dataset: splits in memory, if there are any.
        what: it is, for messages.

    Raises:
        InputError: the folder holds something else, or the arguments do not fit a series.
    """
    if not values.get("output_dir"):
        raise InputError("--output_dir is missing: expected the folder to write the result to.")
    if values.get("push_to_hub"):
        raise InputError(f"--push_to_hub: {what} has many models; push the one that you take: hf-transfer push FOLDER")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError(f"{what[0].upper()}{what[1:]} runs in one process: start it without `accelerate launch`.")
    data = {name: _state(Path(str(values[name]))) for name in FILES if values.get(name)}
    if dataset is not None:
        data["dataset"] = {name: split._fingerprint for name, split in _splits(dataset).items()}
    told = {**own, **values, **dataclasses.asdict(task), "data": data}
    # As it is read back: tuples are lists there. Never a token.
    told = json.loads(json.dumps({key: told[key] for key in sorted(told) if key != "hub_token"}, default=str))
    folder = Path(str(values["output_dir"]))
    record, new = folder / "arguments.yaml", not folder.exists()
    if record.is_file() and not (folder / "report.json").exists():
        before = yaml.safe_load(record.read_text(encoding="utf-8")) or {}
        files = [values[name] for name, state in data.items() if before.get("data", {}).get(name, state) != state]
        if files:
            raise InputError(
                f"--output_dir {folder}: {', '.join(map(str, files))} has changed since {what} was begun "
                "there. Restore it, or name another folder."
            )
        changed = differences(before, told, (*OF_NO_EFFECT, "disable_tqdm", "report_to"))
        if changed:
            shown = ", ".join(f"{key} {old!r}, not {now!r}" for key, (old, now) in list(changed.items())[:3])
            raise InputError(
                f"--output_dir {folder}: {what} with other arguments or data lies there ({shown[:300]}). Name another "
                "folder."
            )
    elif folder.exists() and (folder.is_file() or any(folder.iterdir())):
        raise InputError(f"--output_dir {folder}: there is something of that name. Name a new folder for {what}.")
    else:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            record.write_text(yaml.safe_dump(told, sort_keys=False, allow_unicode=True), encoding="utf-8")
        except OSError as error:
            raise InputError(f"--output_dir {folder}: the folder cannot be made: {error.strerror}.") from error
    lock = FileLock(folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise InputError(f"--output_dir {folder}: another process is working there at this moment.") from error
    try:
        yield folder
    except BaseException as error:
        kept = [file for file in folder.rglob("*") if file.is_file() and file.name not in (record.name, LOCK)]
        if not kept:
            record.unlink(missing_ok=True)
        elif isinstance(error, Interrupted):
            logger.info("The same command goes on with %s in %s.", what.replace("a ", "the ", 1), folder)
        raise
    finally:
        lock.release()
        (folder / LOCK).unlink(missing_ok=True)
        if new and not any(file.is_file() for file in folder.rglob("*")):
            shutil.rmtree(folder, ignore_errors=True)


def _splits(dataset: Any) -> Mapping[str, Any]:
    splits = dataset if isinstance(dataset, Mapping) else {"train": dataset}
    return {name: split for name, split in splits.items() if isinstance(split, Dataset)}


def _state(path: Path) -> Any:
    """What changes with the data at a path; nothing for the name of a dataset on the Hub."""
    if path.is_file():
        return digest_of(path)
    files = [file for file in sorted(path.rglob("*")) if file.is_file()]
    return {str(file.relative_to(path)): [file.stat().st_size, file.stat().st_mtime_ns] for file in files}


def write_record(folder: Path, name: str, report: Mapping[str, Any], template: str, **shown: Any) -> None:
    """The result as JSON and as a page, each whole or absent."""
    with written_whole(folder / name) as stream:
        stream.write(as_json(report))
    with written_whole(folder / "report.html") as stream:
        stream.write(render(template, title=folder.name, report=report, **shown))


@contextlib.contextmanager
def said_once() -> Iterator[None]:
    """Inside the block, what one run has said of data and model is not said again by the next; warnings are."""
    heard: set[str] = set()

    def new(record: logging.LogRecord) -> bool:
        if record.levelno >= logging.WARNING or getattr(record, "progress", False):
            return True
        text = record.getMessage()
        known = text in heard
        heard.add(text)
        return not known

    logger.addFilter(new)
    try:
        yield
    finally:
        logger.removeFilter(new)
