"""Names of the files and folders that a run writes, and the removal of a run's folder."""

import json
import re
from contextlib import suppress
from pathlib import Path

from hf_transfer.errors import InputError
from hf_transfer.run_folders import RUN_MARKER, manifest_files, remove_entries

# TensorBoard's logs, in the working folder and later in the output folder.
LOG_FOLDER = "runs"
LOCK = ".lock"
# Regular expression of the whole names of what a run writes into its working folder, apart from lock and marker.
WORKING_FILES = rf"checkpoint-\d+|writing|result|{LOG_FOLDER}|wandb-id"
# The files of output folders whose report.json, of an earlier version, does not list them.
EARLIER_FILES = ("README.md", "adapter_config.json", "adapter_model.safetensors", "added_tokens.json",
                 "arguments.yaml", "config.json", "generation_config.json", "merges.txt", "model.safetensors",
                 "predictions.jsonl", "preprocessor_config.json", "processor_config.json", "report.html",
                 "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json", "vocab.json", "vocab.txt",
                 "report.json")  # fmt: skip


def entries(folder: Path) -> list[Path]:
    """Return the paths in a folder in the order of their names; an empty list where there is no such folder."""
    return sorted(folder.iterdir()) if folder.is_dir() else []


def is_working_folder(folder: Path) -> bool:
    """Return whether a run may work in a folder: it holds a run's marker, only files of a run, or no files.

    Earlier versions wrote no marker; their folder is known by checkpoints that list their files, beside nothing else.
    An empty lock file is left by a run that ended before it wrote anything. The folder is read once: another process
    of the run may be making it.
    """
    paths = {path.name: path for path in entries(folder)}
    if RUN_MARKER in paths:
        return True
    names = paths.keys() - {LOCK}
    if not names:
        return LOCK not in paths or not _size(paths[LOCK])
    only_of_runs = all(re.fullmatch(WORKING_FILES, name) for name in names)
    return only_of_runs and any(manifest_files(paths[name]) for name in names if name.startswith("checkpoint-"))


def _size(file: Path) -> int:
    """Return the size of a file in bytes; 0 where it was removed in the meantime."""
    with suppress(OSError):
        return file.stat().st_size
    return 0


def result_files(folder: Path) -> list[str]:
    """Return the names of the files in a finished run's output folder that its report lists."""
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    names = report.get("files", EARLIER_FILES)
    return [name for name in names if Path(name).name == name and (folder / name).is_file()]


def remove_run_folder(folder: Path) -> None:
    """Remove the output folder of a finished run, or the working folder of a run that ended.

    Raises:
        InputError: the folder holds files that no run has written; these stay.
    """
    if (folder / "report.json").is_file():
        remove_entries(folder / LOG_FOLDER, ".*")
        for name in result_files(folder):
            (folder / name).unlink()
    elif is_working_folder(folder):
        remove_entries(folder, f"{WORKING_FILES}|{re.escape(LOCK)}|{re.escape(RUN_MARKER)}")
    with suppress(OSError):
        folder.rmdir()
    if folder.exists():
        names = ", ".join(path.name for path in entries(folder)[:5])
        raise InputError(f"{folder} holds files that no run has written ({names}): move it away and start again.")
