"""What is published of a run: no texts of the test split, and no paths of the machine that it ran on."""

import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

# The parts of a report that quote test examples: whole ones, and the words that a recogniser misheard.
QUOTING = ("worst", "errors")
# Of values below these keys of a config, each is what somebody wrote as a label.
LABELS = ("id2label", "label2id")
# Keys whose values are paths, in configs, reports and arguments.
_OF_PATHS = re.compile(r"(.*_)?(paths?|dirs?|files?|file_?names?|folders?|checkpoint|deepspeed|fsdp_config)")
_PARTS = re.compile(r"[/\\]+[^/\\]")
_ABSOLUTE = re.compile(r"[/~\\]|\.{1,2}[/\\]|[A-Za-z]:[/\\]")


def is_local(name: str) -> bool:
    """Whether this is a path, of this or another system, and not the name of something on the Hub."""
    return bool(_ABSOLUTE.match(name)) or "\\" in name or name.count("/") > 1 or Path(name).exists()


def last_part(path: str) -> str:
    """The name of a file or folder by its path, of this or another system."""
    return re.split(r"[/\\]", path.rstrip("/\\"))[-1]


def local_name(name: str) -> str:
    """A model or dataset by its name: where a folder lies is nobody's business but its owner's."""
    return last_part(name) if is_local(name) else name


def model_name(report: Mapping[str, Any]) -> str:
    """The base model of a run as others may read it."""
    return last_part(report["model"]) if is_local_model(report) else report["model"]


def is_local_model(report: Mapping[str, Any]) -> bool:
    """Whether a run's base model was a folder, as it was then: relative paths mean nothing elsewhere."""
    return bool(report.get("local", {}).get("model", is_local(report["model"])))


def is_local_dataset(report: Mapping[str, Any], name: str) -> bool:
    """Whether a run's dataset was a folder, as it was then."""
    return bool(report.get("local", {}).get("dataset", is_local(name)))


def without_paths(value: Any, known: Mapping[str, str], *, names_paths: bool = False) -> Any:
    """JSON without the paths in it: those below a key that names paths become their last parts, `known` ones anywhere.

    Elsewhere what looks like a path may be a label, a group or a name: ``/r/politics`` stays.

    Args:
        value: of a config, a report or arguments.
        known: paths of this machine that may occur inside of other strings, and what takes their place.
        names_paths: whether the value stands below such a key.
    """
    if isinstance(value, dict):
        return {
            key: each
            if key in LABELS
            else without_paths(each, known, names_paths=bool(_OF_PATHS.fullmatch(str(key).lower())))
            for key, each in value.items()
        }
    if isinstance(value, list):
        return [without_paths(each, known, names_paths=names_paths) for each in value]
    if not isinstance(value, str):
        return value
    for path in sorted(known, key=len, reverse=True):
        value = value.replace(path, known[path])
    return last_part(value) if names_paths and _ABSOLUTE.match(value) and _PARTS.search(value) else value


def known_paths(folder: Path, arguments: Mapping[str, Any]) -> dict[str, str]:
    """The paths that a run knows, and their last parts: of its folder, of what it was made of, of home and here."""
    named = [value for key, value in arguments.items() if key in PATHS and isinstance(value, str)]
    whole = [str(Path(name).resolve()) for name in named if is_local(name)]
    paths = {path: last_part(path) for path in (*whole, *filter(is_local, named), str(folder), str(folder.resolve()))}
    with suppress(OSError):  # the current folder has been removed
        paths[str(Path.cwd())] = "."
    with suppress(RuntimeError):  # there is no home
        paths[str(Path.home())] = "~"
    return {path: name for path, name in paths.items() if len(_PARTS.findall(path)) > 1}


# Arguments that name files and folders.
PATHS = ("model_name_or_path", "dataset_name", "train_file", "validation_file", "test_file", "source_file",
         "output_dir", "logging_dir", "run_name")  # fmt: skip


def published_arguments(
    arguments: Mapping[str, Any], report: Mapping[str, Any] | None = None, known: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The arguments of a run as others may read them: files by their names.

    Args:
        arguments: as in ``arguments.yaml``.
        report: of the run, once there is one.
        known: see `without_paths`.
    """
    report = report or {"model": arguments["model_name_or_path"]}
    found = without_paths(dict(arguments), known or {})
    for key in PATHS:
        if isinstance(found.get(key), str) and is_local(found[key]):
            found[key] = last_part(found[key])
    found["model_name_or_path"] = model_name(report)
    if found.get("dataset_name") and is_local_dataset(report, found["dataset_name"]):
        found["dataset_name"] = last_part(found["dataset_name"])
    return found


def published_report(report: Mapping[str, Any], known: Mapping[str, str] | None = None) -> dict[str, Any]:
    """A run's report as others may read it."""
    found = {key: value for key, value in report.items() if key not in QUOTING}
    if "data" in report:
        source = report["data"]["source"]
        shown = last_part(source) if is_local_dataset(report, source) else source
        found |= {"model": model_name(report), "data": {**report["data"], "source": shown}}
    if "source" in report:
        found["source"] = published_report(report["source"])
    return without_paths(found, known or {})
