"""The folder and the log of a series of runs, for `compare()` and `study()`."""

import contextlib
import dataclasses
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from datasets import Dataset, DatasetDict
from filelock import FileLock, Timeout

from hf_transfer.arguments.run import NO_EFFECT_ON_RESULT, differing_arguments
from hf_transfer.data.tables import file_digest
from hf_transfer.errors import InputError, Interrupted, logger
from hf_transfer.reporting.atomic_writes import atomic_file
from hf_transfer.reporting.json_files import as_json
from hf_transfer.reporting.page import render
from hf_transfer.run_folders import remove_empty_folders
from hf_transfer.tasks.task import Task

METHODS = ("full", "lora", "frozen", "scratch")
SeriesKind = Literal["a comparison", "a study"]
_LOCK = ".lock"
_RECORD = "arguments.yaml"
# Arguments that name files or folders, whose content must stay the same when a series continues.
_DATA_ARGUMENTS = ("train_file", "validation_file", "test_file", "source_file", "dataset_name")


def checked_methods(methods: Sequence[str]) -> list[str]:
    """Return the names of training methods as a list; raise an error if one is unknown or given twice.

    Args:
        methods: a sequence, or a string with commas.

    Raises:
        InputError: a name is not a method, or is given twice.
    """
    methods = methods.replace(",", " ").split() if isinstance(methods, str) else list(methods)
    if not methods or not set(methods) <= set(METHODS):
        raise InputError(f"--methods {','.join(methods)}: expected some of {', '.join(METHODS)}.")
    if len(set(methods)) < len(methods):
        raise InputError(f"--methods {','.join(methods)}: a method is named twice. Name each once.")
    return methods


@contextlib.contextmanager
def series_folder(
    task: Task,
    values: Mapping[str, Any],
    settings: Mapping[str, Any],
    dataset: DatasetDict | Dataset | None,
    kind: SeriesKind,
) -> Iterator[Path]:
    """Context manager: lock and yield the folder of a series of runs, which is new or holds the same series.

    The same series was begun with the same arguments and data, and continues. If the block fails before a run has
    written anything, the folder is left as it was.

    Args:
        task: the task of the runs, with its settings.
        values: the other arguments of the runs, by flag name.
        settings: of the series itself, such as its methods.
        dataset: splits in memory, or None.
        kind: of the series; it is also used in messages.

    Yields:
        The folder.

    Raises:
        InputError: the folder holds something else, or the arguments do not fit a series.
    """
    _check_arguments(values, kind)
    if "method" in values:
        logger.info(
            "--method %s is ignored: the methods of %s are %s (--methods).",
            values["method"], kind, ", ".join(settings["methods"]),
        )  # fmt: skip
    folder = Path(str(values["output_dir"]))
    record = _series_record(task, values, settings, dataset, folder, kind)
    is_new = not folder.exists()
    lock = _acquire_lock(folder, kind)
    try:
        _begin_or_continue(folder, record, values, kind)
        try:
            yield folder
        except BaseException as error:
            if not _files_of_runs(folder):
                for path in folder.iterdir():
                    if path.is_dir():
                        remove_empty_folders(path)
                (folder / _RECORD).unlink()
            elif isinstance(error, Interrupted):
                logger.info("The same command continues %s in %s.", kind.replace("a ", "the ", 1), folder)
            raise
    finally:
        # Removed before it is released: a process that waits for it would otherwise hold a lock on a removed file.
        (folder / _LOCK).unlink(missing_ok=True)
        lock.release()
        if is_new and not any(folder.iterdir()):
            folder.rmdir()


def _files_of_runs(folder: Path) -> list[Path]:
    """Return the paths of the files that runs have left in the folder of a series."""
    of_series = (folder / _RECORD, folder / _LOCK)
    return [path for path in folder.rglob("*") if path not in of_series and not path.is_dir()]


def _series_record(
    task: Task,
    values: Mapping[str, Any],
    settings: Mapping[str, Any],
    dataset: DatasetDict | Dataset | None,
    folder: Path,
    kind: SeriesKind,
) -> dict[str, Any]:
    """Return a dictionary of the arguments of a series and the state of its data, without a token."""
    data = {name: _data_state(Path(str(values[name])), folder) for name in _DATA_ARGUMENTS if values.get(name)}
    if dataset is not None:
        data["dataset"] = {name: split._fingerprint for name, split in _dataset_splits(dataset).items()}
    record = {**settings, **values, **dataclasses.asdict(task), "data": data, "series": kind}
    # Through JSON, as the record is compared with one that was read: tuples are lists there.
    return json.loads(json.dumps({name: record[name] for name in sorted(record) if name != "hub_token"}, default=str))


def _acquire_lock(folder: Path, kind: SeriesKind) -> FileLock:
    """Make the folder of a series if there is none, lock it, and return the lock."""
    if folder.is_file():
        raise InputError(f"--output_dir {folder}: a file has that name. Name a new folder for {kind}.")
    if folder.is_dir():
        _check_is_empty_or_series(folder, kind)  # before a lock is written into a folder of others
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / _LOCK, timeout=0)
        lock.acquire()
    except Timeout as error:
        raise InputError(
            f"--output_dir {folder}: another process is working there now. Wait for it, or name another folder."
        ) from error
    except OSError as error:
        raise InputError(f"--output_dir {folder}: the folder cannot be made: {error.strerror}.") from error
    return lock


def _begin_or_continue(folder: Path, record: Mapping[str, Any], values: Mapping[str, Any], kind: SeriesKind) -> None:
    """Write the record of a new series, or raise an error if the folder holds another series."""
    file = folder / _RECORD
    _check_is_empty_or_series(folder, kind)
    if file.is_file():
        _check_is_same_series(folder, _read_record(folder), record, values, kind)
    else:
        file.write_text(yaml.safe_dump(record, sort_keys=False, allow_unicode=True), encoding="utf-8")


def _check_is_empty_or_series(folder: Path, kind: SeriesKind) -> None:
    names = [path.name for path in folder.iterdir() if path.name != _LOCK or path.stat().st_size]
    if names and not (_read_record(folder) and not (folder / "report.json").exists()):
        shown = ", ".join(sorted(names)[:5])
        raise InputError(
            f"--output_dir {folder}: the folder exists and holds other files ({shown}). Name a new folder for {kind}."
        )


def _read_record(folder: Path) -> dict[str, Any]:
    """Return the record of the series in a folder, a dictionary; an empty one if there is none."""
    try:
        record = yaml.safe_load((folder / _RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return record if isinstance(record, dict) and "series" in record else {}


def _check_arguments(values: Mapping[str, Any], kind: SeriesKind) -> None:
    if not values.get("output_dir"):
        raise InputError("--output_dir is missing: expected the folder to write the result to.")
    if values.get("push_to_hub"):
        raise InputError(f"--push_to_hub: {kind} makes several models. Push the best one: hf-transfer push FOLDER")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError(f"{kind[0].upper()}{kind[1:]} runs in one process: start it without `accelerate launch`.")


def _check_is_same_series(
    folder: Path, before: Mapping[str, Any], now: Mapping[str, Any], values: Mapping[str, Any], kind: SeriesKind
) -> None:
    """Raise an error if the series in a folder has other arguments or data than the present one.

    Raises:
        InputError: it has others.
    """
    if before.get("series") != kind:
        other = before.get("series", "something else")
        raise InputError(f"--output_dir {folder}: the folder holds {other}. Name another folder.")
    data_before = before.get("data", {})
    changed_data = [
        values.get(name, name)
        for name, state in now["data"].items()
        if before.get(name) == now.get(name) and data_before.get(name, state) != state
    ]
    if changed_data:
        raise InputError(
            f"--output_dir {folder}: {', '.join(map(str, changed_data))} has changed since {kind} was begun "
            "there. Restore it, or name another folder."
        )
    # Data are left out: if other data are named, the names differ.
    changed = differing_arguments(before, now, (*NO_EFFECT_ON_RESULT, "disable_tqdm", "report_to", "data"))
    if changed:
        shown = ", ".join(f"{name} {old!r}, not {new!r}" for name, (old, new) in list(changed.items())[:3])
        raise InputError(
            f"--output_dir {folder}: the folder holds {kind} with other arguments or data ({shown[:300]}). Name "
            "another folder."
        )


def _dataset_splits(dataset: DatasetDict | Dataset) -> Mapping[str, Dataset]:
    splits = dataset if isinstance(dataset, Mapping) else {"train": dataset}
    return {name: split for name, split in splits.items() if isinstance(split, Dataset)}


def _data_state(path: Path, output: Path) -> str | dict[str, list[int]]:
    """Return a value that changes with the data at a path: a file's digest, or sizes and times of a folder's files.

    It is empty for the name of a dataset on the Hub. Files of the output folder are not counted.
    """
    if path.is_file():
        return file_digest(path)
    output = output.resolve()
    files = [file for file in sorted(path.rglob("*")) if file.is_file() and output not in file.resolve().parents]
    return {str(file.relative_to(path)): [file.stat().st_size, file.stat().st_mtime_ns] for file in files}


def write_series_report(
    folder: Path, name: str, report: Mapping[str, Any], template: str, **template_values: Any
) -> None:
    """Write the report of a series as JSON and as report.html, each of them complete or not at all."""
    with atomic_file(folder / name) as stream:
        stream.write(as_json(report))
    with atomic_file(folder / "report.html") as stream:
        stream.write(render(template, title=folder.name, report=report, **template_values))


@contextlib.contextmanager
def log_once() -> Iterator[None]:
    """Context manager: log a message of several runs only once; warnings and progress are always logged."""
    logged: set[str] = set()

    def is_new(record: logging.LogRecord) -> bool:
        if record.levelno >= logging.WARNING or getattr(record, "progress", False):
            return True
        if getattr(record, "of_one_run", False):
            return False  # a hint for a single run, such as how to resume it; the series logs its own
        message = record.getMessage()
        is_repeated = message in logged
        logged.add(message)
        return not is_repeated

    logger.addFilter(is_new)
    try:
        yield
    finally:
        logger.removeFilter(is_new)
