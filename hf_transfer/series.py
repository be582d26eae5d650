"""A series of runs in one folder: what `compare()` and `study()` share."""

import contextlib
import dataclasses
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from datasets import Dataset
from filelock import FileLock, Timeout

from hf_transfer.arguments.run import NO_EFFECT_ON_RESULT, differing_arguments
from hf_transfer.data.tables import file_digest
from hf_transfer.errors import InputError, Interrupted, logger
from hf_transfer.reporting.atomic_writes import atomic_file
from hf_transfer.reporting.json_files import as_json
from hf_transfer.reporting.page import render
from hf_transfer.run_folders import remove_empty_folders

METHODS = ("full", "lora", "frozen", "scratch")
LOCK = ".lock"
RECORD = "arguments.yaml"
FILES = ("train_file", "validation_file", "test_file", "source_file", "dataset_name")


def checked_methods(methods: Sequence[str]) -> list[str]:
    """The methods of a list, or of a string as the command takes it.

    Raises:
        InputError: something is no method, or named twice.
    """
    methods = methods.replace(",", " ").split() if isinstance(methods, str) else list(methods)
    if not methods or not set(methods) <= set(METHODS):
        raise InputError(f"--methods {','.join(methods)}: expected some of {', '.join(METHODS)}.")
    if len(set(methods)) < len(methods):
        raise InputError(f"--methods {','.join(methods)}: one is named twice.")
    return methods


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
    _fit_for_a_series(values, what)
    if "method" in values:
        logger.info("--method %s is left aside: the methods of %s are %s (--methods).",
                    values["method"], what, ", ".join(own["methods"]))  # fmt: skip
    folder = Path(str(values["output_dir"]))
    told = _told(task, values, own, dataset, folder, what)
    new = not folder.exists()
    lock = _locked(folder, what)
    try:
        _begin_or_go_on(folder, told, values, what)
        try:
            yield folder
        except BaseException as error:
            if not _kept_in(folder):
                for path in folder.iterdir():
                    if path.is_dir():
                        remove_empty_folders(path)
                (folder / RECORD).unlink()
            elif isinstance(error, Interrupted):
                logger.info("The same command goes on with %s in %s.", what.replace("a ", "the ", 1), folder)
            raise
    finally:
        # In this order: whoever asks from now on locks a file of their own.
        (folder / LOCK).unlink(missing_ok=True)
        lock.release()
        if new and not any(folder.iterdir()):
            folder.rmdir()


def _kept_in(folder: Path) -> list[Path]:
    """What runs have left there."""
    own = (folder / RECORD, folder / LOCK)
    return [path for path in folder.rglob("*") if path not in own and not path.is_dir()]


def _told(
    task: Any, values: Mapping[str, Any], own: Mapping[str, Any], dataset: Any, folder: Path, what: str
) -> dict[str, Any]:
    """All that decides a series, and what its data were; never a token."""
    data = {name: _state(Path(str(values[name])), folder) for name in FILES if values.get(name)}
    if dataset is not None:
        data["dataset"] = {name: split._fingerprint for name, split in _splits(dataset).items()}
    told = {**own, **values, **dataclasses.asdict(task), "data": data, "series": what}
    # As it is read back: tuples are lists there.
    return json.loads(json.dumps({key: told[key] for key in sorted(told) if key != "hub_token"}, default=str))


def _locked(folder: Path, what: str) -> FileLock:
    """The folder's lock, held; the folder is made if it is not there."""
    if folder.is_file():
        raise InputError(f"--output_dir {folder}: there is a file of that name. Name a new folder for {what}.")
    if folder.is_dir():
        _require_record_or_nothing(folder, what)  # before a lock is written into a folder that is another's
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK, timeout=0)
        lock.acquire()
    except Timeout as error:
        raise InputError(f"--output_dir {folder}: another process is working there at this moment.") from error
    except OSError as error:
        raise InputError(f"--output_dir {folder}: the folder cannot be made: {error.strerror}.") from error
    return lock


def _begin_or_go_on(folder: Path, told: Mapping[str, Any], values: Mapping[str, Any], what: str) -> None:
    """Note what is begun in an empty folder; what was begun in another has the arguments and the data of today."""
    record = folder / RECORD
    _require_record_or_nothing(folder, what)
    if record.is_file():
        _require_the_same(folder, _record_of(folder), told, values, what)
    else:
        record.write_text(yaml.safe_dump(told, sort_keys=False, allow_unicode=True), encoding="utf-8")


def _require_record_or_nothing(folder: Path, what: str) -> None:
    held = [path.name for path in folder.iterdir() if path.name != LOCK or path.stat().st_size]
    if held and not (_record_of(folder) and not (folder / "report.json").exists()):
        shown = ", ".join(sorted(held)[:5])
        raise InputError(
            f"--output_dir {folder}: there is something of that name ({shown}). Name a new folder for {what}."
        )


def _record_of(folder: Path) -> dict[str, Any]:
    """What was noted of the series in a folder; nothing where that is no series' folder."""
    try:
        told = yaml.safe_load((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return told if isinstance(told, dict) and "series" in told else {}


def _fit_for_a_series(values: Mapping[str, Any], what: str) -> None:
    if not values.get("output_dir"):
        raise InputError("--output_dir is missing: expected the folder to write the result to.")
    if values.get("push_to_hub"):
        raise InputError(f"--push_to_hub: {what} has many models; push the one that you take: hf-transfer push FOLDER")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError(f"{what[0].upper()}{what[1:]} runs in one process: start it without `accelerate launch`.")


def _require_the_same(
    folder: Path, before: Mapping[str, Any], told: Mapping[str, Any], values: Mapping[str, Any], what: str
) -> None:
    if before.get("series") != what:
        other = before.get("series", "something else")
        raise InputError(f"--output_dir {folder}: {other} lies there. Name another folder.")
    then = before.get("data", {})
    files = [
        values.get(name, name)
        for name, state in told["data"].items()
        if before.get(name) == told.get(name) and then.get(name, state) != state
    ]
    if files:
        raise InputError(
            f"--output_dir {folder}: {', '.join(map(str, files))} has changed since {what} was begun "
            "there. Restore it, or name another folder."
        )
    # Of data by other names, the names tell.
    changed = differing_arguments(before, told, (*NO_EFFECT_ON_RESULT, "disable_tqdm", "report_to", "data"))
    if changed:
        shown = ", ".join(f"{key} {old!r}, not {now!r}" for key, (old, now) in list(changed.items())[:3])
        raise InputError(
            f"--output_dir {folder}: {what} with other arguments or data lies there ({shown[:300]}). Name another "
            "folder."
        )


def _splits(dataset: Any) -> Mapping[str, Any]:
    splits = dataset if isinstance(dataset, Mapping) else {"train": dataset}
    return {name: split for name, split in splits.items() if isinstance(split, Dataset)}


def _state(path: Path, output: Path) -> Any:
    """What changes with the data at a path, beside the output; nothing for the name of a dataset on the Hub."""
    if path.is_file():
        return file_digest(path)
    own = output.resolve()
    files = [file for file in sorted(path.rglob("*")) if file.is_file() and own not in file.resolve().parents]
    return {str(file.relative_to(path)): [file.stat().st_size, file.stat().st_mtime_ns] for file in files}


def write_record(folder: Path, name: str, report: Mapping[str, Any], template: str, **shown: Any) -> None:
    """The result as JSON and as a page, each whole or absent."""
    with atomic_file(folder / name) as stream:
        stream.write(as_json(report))
    with atomic_file(folder / "report.html") as stream:
        stream.write(render(template, title=folder.name, report=report, **shown))


@contextlib.contextmanager
def said_once() -> Iterator[None]:
    """Inside the block, what one run has said of data and model is not said again by the next; warnings are."""
    heard: set[str] = set()

    def new(record: logging.LogRecord) -> bool:
        if record.levelno >= logging.WARNING or getattr(record, "progress", False):
            return True
        if getattr(record, "of_one_run", False):
            return False  # the series says how it goes on
        text = record.getMessage()
        known = text in heard
        heard.add(text)
        return not known

    logger.addFilter(new)
    try:
        yield
    finally:
        logger.removeFilter(new)
