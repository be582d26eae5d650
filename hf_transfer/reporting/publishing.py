"""Reports and arguments as they may be published: without texts of the test split and paths of this machine."""

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

# Keys of a config whose values hold labels: a label may look like a path.
LABEL_KEYS = ("id2label", "label2id")
# Keys whose values are paths, in configs, reports and arguments.
_PATH_KEYS = re.compile(r"(.*_)?(paths?|dirs?|files?|file_?names?|folders?|checkpoint|deepspeed|fsdp_config)")
_SEPARATORS = re.compile(r"[/\\]+[^/\\]")
_LOCAL_PATH = re.compile(r"[/~\\]|\.{1,2}[/\\]|[A-Za-z]:[/\\]")


def is_local(name: str) -> bool:
    """Return whether the name of a model or dataset is a path, of any operating system, and not an id on the Hub."""
    return bool(_LOCAL_PATH.match(name)) or "\\" in name or name.count("/") > 1 or Path(name).exists()


def last_part(path: str) -> str:
    """Return the last part of a path, which may be of any operating system."""
    return re.split(r"[/\\]", path.rstrip("/\\"))[-1]


def local_name(name: str) -> str:
    """Return the name of a model or dataset as it may be shown: of a path, the last part only."""
    return last_part(name) if is_local(name) else name


def model_name(report: Mapping[str, Any]) -> str:
    """Return the name of a run's base model as it may be shown: of a path, the last part only."""
    return last_part(report["model"]) if is_local_model(report) else report["model"]


def is_local_model(report: Mapping[str, Any]) -> bool:
    """Return whether a run's base model was a local folder, by its report.

    Its path may not exist here.
    """
    return bool(report.get("local", {}).get("model", is_local(report["model"])))


def is_local_dataset(report: Mapping[str, Any], name: str) -> bool:
    """Return whether the dataset `name` of a run was a local folder, by its report."""
    return bool(report.get("local", {}).get("dataset", is_local(name)))


def without_paths(value: Any, known: Mapping[str, str], *, is_path: bool = False) -> Any:
    """Return a JSON value with paths of this machine cut to their last part or replaced.

    Values below a key for paths are cut; `known` paths are replaced anywhere. Other values that look like paths are
    kept, because they may be labels, groups or names, such as ``/r/politics``.

    Args:
        value: a config, a report or arguments, or a part of them.
        known: paths of this machine that may occur inside other strings, and their replacements.
        is_path: whether the value is below a key for paths.
    """
    if isinstance(value, dict):
        return {
            key: each
            if key in LABEL_KEYS
            else without_paths(each, known, is_path=bool(_PATH_KEYS.fullmatch(str(key).lower())))
            for key, each in value.items()
        }
    if isinstance(value, list):
        return [without_paths(each, known, is_path=is_path) for each in value]
    if not isinstance(value, str):
        return value
    for path in sorted(known, key=len, reverse=True):
        value = value.replace(path, known[path])
    return last_part(value) if is_path and _LOCAL_PATH.match(value) and _SEPARATORS.search(value) else value


def known_paths(folder: Path, arguments: Mapping[str, Any]) -> dict[str, str]:
    """Return the paths that a run may mention (its folders, home, the current folder), with replacements.

    Args:
        folder: the output folder.
        arguments: as in ``arguments.yaml``.
    """
    named = [value for key, value in arguments.items() if key in PATH_ARGUMENTS and isinstance(value, str)]
    resolved = [str(Path(name).resolve()) for name in named if is_local(name)]
    paths = {
        path: last_part(path) for path in (*resolved, *filter(is_local, named), str(folder), str(folder.resolve()))
    }
    with suppress(OSError):  # the current folder was removed
        paths[str(Path.cwd())] = "."
    with suppress(RuntimeError):  # there is no home folder
        paths[str(Path.home())] = "~"
    return {path: name for path, name in paths.items() if len(_SEPARATORS.findall(path)) > 1}


# Arguments that name files and folders.
PATH_ARGUMENTS = ("model_name_or_path", "dataset_name", "train_file", "validation_file", "test_file", "source_file",
         "output_dir", "logging_dir", "run_name")  # fmt: skip


def published_arguments(
    arguments: Mapping[str, Any], report: Mapping[str, Any] | None = None, known: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Return the arguments of a run as they may be published: of paths, the last part only.

    Args:
        arguments: as in ``arguments.yaml``.
        report: of the run; None where there is none yet.
        known: see `without_paths`.
    """
    report = report or {"model": arguments["model_name_or_path"]}
    published = without_paths(dict(arguments), known or {})
    for key in PATH_ARGUMENTS:
        if isinstance(published.get(key), str) and is_local(published[key]):
            published[key] = last_part(published[key])
    published["model_name_or_path"] = model_name(report)
    if published.get("dataset_name") and is_local_dataset(report, published["dataset_name"]):
        published["dataset_name"] = last_part(published["dataset_name"])
    return published


def published_report(
    report: Mapping[str, Any], known: Mapping[str, str] | None = None, quoting: Sequence[str] = ("worst",)
) -> dict[str, Any]:
    """Return a run's report as it may be published: without test examples and paths.

    Args:
        report: as in ``report.json``.
        known: see `without_paths`.
        quoting: names of entries that quote test examples, unless the report itself says so (``quoting_entries``).
    """
    quoting = report.get("quoting_entries", quoting)
    published = {key: value for key, value in report.items() if key not in quoting}
    if "data" in report:
        source = report["data"]["source"]
        shown = last_part(source) if is_local_dataset(report, source) else source
        published |= {"model": model_name(report), "data": {**report["data"], "source": shown}}
    if "source" in report:
        published["source"] = published_report(report["source"], quoting=quoting)
    return without_paths(published, known or {})
