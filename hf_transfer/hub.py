"""Pushes an output folder to the Hub in one commit, and merges an adapter into plain weights."""

import json
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

from hf_transfer.arguments import Arguments
from hf_transfer.errors import Failure, InputError, logger
from hf_transfer.inference import load_finetuned
from hf_transfer.models import quiet
from hf_transfer.reporting.atomic_writes import atomic_folder
from hf_transfer.reporting.json_files import ENCODING_ERRORS, as_json, write_json
from hf_transfer.reporting.model_card import model_card
from hf_transfer.reporting.page import report_page
from hf_transfer.reporting.publishing import (
    is_local,
    known_paths,
    last_part,
    published_arguments,
    published_report,
    without_paths,
)
from hf_transfer.reporting.run_files import LOG_FOLDER, result_files

# Files that are never uploaded: they hold the user's test examples.
_PRIVATE_FILES = ("predictions.jsonl",)
# Files of a model: those of an adapter; and plain weights, in shards with an index or in one file.
_ADAPTER_FILE = re.compile(r"adapter_(config\.json|model\.(safetensors|bin))")
_MODEL_FILE = re.compile(
    rf"(pytorch_)?model(-\d{{5}}-of-\d{{5}})?\.(safetensors|bin)(\.index\.json)?|{_ADAPTER_FILE.pattern}"
)


def repository_name(hub_model_id: str | None, output_dir: str | Path) -> str:
    """Return the Hub repository that a run is pushed to: --hub_model_id, or the name of its output folder."""
    return hub_model_id or Path(output_dir).resolve().name


def require_repository(arguments: Arguments) -> None:
    """Create a run's repository on the Hub before training; raise an error if that fails, as without a login.

    Raises:
        InputError: the Hub refuses or cannot be reached, or the adapter's base model is a local folder.
    """
    training, model = arguments.training, str(arguments.model.model_name_or_path)
    if not training.should_save:
        return
    if arguments.method.leaves_adapter and is_local(model):
        raise InputError(
            f"--push_to_hub: the adapter's base model is the local folder {last_part(model)}, which others cannot "
            "load. Upload plain weights (--merge), or train a model from the Hub (--model_name_or_path). Or leave "
            "--push_to_hub out, and afterwards name the same model on the Hub: hf-transfer push FOLDER --base_model "
            "NAMESPACE/NAME."
        )
    repository = repository_name(training.hub_model_id, str(training.output_dir))
    try:
        HfApi(token=training.hub_token).create_repo(repository, private=training.hub_private_repo, exist_ok=True)
    except Exception as error:  # the client and the network raise many types
        raise InputError(
            f"--push_to_hub: the repository {repository} cannot be created: {_reason(error)}. Log in with `hf auth "
            "login` or set HF_TOKEN; --hub_model_id NAMESPACE/NAME names another repository. Nothing was trained."
        ) from error


def push(
    folder: str | Path,
    hub_model_id: str,
    *,
    token: str | None = None,
    private: bool | None = None,
    merge: bool = False,
    base_model: str | None = None,
) -> str:
    """Upload an output folder to the Hub in one commit, and return the commit's address.

    Only files that the run has written are uploaded, without test examples and without paths of this machine.

    Args:
        folder: output folder of a finished run.
        hub_model_id: the repository; it is created if there is none.
        token: for the Hub; None: that of the login.
        private: whether a new repository is private.
        merge: upload plain weights instead of an adapter.
        base_model: the base model's id on the Hub, if the run took it from a local folder.

    Raises:
        InputError: the folder is not that of a finished run, or the adapter's base model is a local folder.
        Failure: the Hub cannot be reached or refuses; the folder is unchanged.
    """
    folder = Path(folder)
    if not (folder / "report.json").is_file():
        raise InputError(f"{folder}: no report.json in it; expected the output folder of a finished run.")
    if not (merge or base_model) and (folder / "adapter_config.json").is_file():
        _refuse_local_base(folder)
    with tempfile.TemporaryDirectory() as temporary:
        source = folder
        if merge:
            source = Path(temporary) / folder.resolve().name
            write_merged(folder, source)
        try:
            commit = _commit_folder(HfApi(token=token), source, hub_model_id, private=private, base_model=base_model)
        except InputError:
            raise
        except HFValidationError as error:
            raise InputError(f"--hub_model_id {hub_model_id}: {_reason(error)}") from error
        except Exception as error:  # the client and the network raise many types
            flags = f" --base_model {base_model}" if base_model else " --merge" if merge else ""
            raise Failure(
                f"The push to {hub_model_id} failed: {_reason(error)}. Nothing is lost: the model, its card and its "
                f"metrics are in {folder}. Try again: hf-transfer push {folder} --hub_model_id {hub_model_id}{flags}"
            ) from error
    _log_files_left_out(folder)
    logger.info("Pushed to %s.", commit.commit_url)
    return str(commit.commit_url)


def _commit_folder(
    api: HfApi, source: Path, hub_model_id: str, *, private: bool | None, base_model: str | None
) -> CommitInfo:
    """Create the repository if there is none, commit the files of a folder to it, and return the commit."""
    base = None if base_model is None else _base_on_hub(api, base_model)
    repository = api.create_repo(hub_model_id, private=private, exist_ok=True).repo_id
    files = _published_files(source, repository, base)
    additions = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=file) for name, file in files.items()]
    # Weights of an earlier push with another method would be loaded instead of these.
    deletions = [
        CommitOperationDelete(path_in_repo=name)
        for name in api.list_repo_files(repository)
        if _MODEL_FILE.fullmatch(name) and name not in files
    ]
    return api.create_commit(
        repository, [*additions, *deletions], commit_message=f"Upload {hub_model_id.split('/')[-1]}"
    )


def _published_files(source: Path, repository: str, base: tuple[str, str] | None) -> dict[str, Path | bytes]:
    """Return the files of a commit by name: a path, or new content if the file holds what must not be published.

    Args:
        source: output folder.
        repository: that is pushed to.
        base: id and commit on the Hub of the adapter's base model, if the run took it from a local folder.
    """
    files: dict[str, Path | bytes] = {
        name: source / name for name in result_files(source) if name not in _PRIVATE_FILES
    }
    report, arguments = _read_report(source), _read_arguments(source)
    known = known_paths(source, arguments)
    if base is not None:
        report |= {"model": base[0], "local": {**report.get("local", {}), "model": False}}
    arguments = {**published_arguments(arguments, report, known), "hub_model_id": repository}
    report = published_report(report, known)
    for name in files:
        if name.endswith("config.json"):
            config = without_paths(json.loads((source / name).read_text(encoding="utf-8")), known)
            if name == "adapter_config.json" and base is not None:
                config |= dict(zip(("base_model_name_or_path", "revision"), base, strict=True))
            files[name] = as_json(config).encode()
    files["README.md"] = model_card(report, arguments).encode()
    files["report.json"] = as_json(report).encode()
    files["arguments.yaml"] = yaml.safe_dump(arguments, sort_keys=False, allow_unicode=True).encode()
    if "report.html" in files:
        files["report.html"] = report_page(report, arguments, []).encode()
    return files


def _base_on_hub(api: HfApi, base_model: str) -> tuple[str, str]:
    """Return the id of a base model on the Hub, and its commit today.

    Raises:
        InputError: there is no model of that name.
    """
    try:
        return base_model, str(api.model_info(base_model).sha or "main")
    except (HFValidationError, RepositoryNotFoundError) as error:
        raise InputError(
            f"--base_model {base_model}: there is no such model on the Hub, or this login cannot read it; expected "
            "NAMESPACE/NAME of the model that the adapter was trained on."
        ) from error


def _refuse_local_base(folder: Path) -> None:
    base = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))["base_model_name_or_path"]
    if is_local(base):
        raise InputError(
            f"{folder}: the adapter's base model is the local folder {base}, which others cannot load. Upload plain "
            "weights (--merge), or name the same model on the Hub (--base_model NAMESPACE/NAME)."
        )


def _log_files_left_out(folder: Path) -> None:
    of_run = {*result_files(folder), LOG_FOLDER}
    others = sorted(path.name for path in folder.iterdir() if path.name not in of_run)
    if others:
        shown = ", ".join(others[:5]) + (", ..." if len(others) > 5 else "")
        logger.info("Not uploaded, because the run did not write them: %s.", shown)


def write_merged(folder: Path, target: Path) -> None:
    """Merge the adapter of an output folder into its base model, and write a complete folder with plain weights.

    Args:
        folder: output folder of a run with an adapter.
        target: the folder to write.

    Raises:
        InputError: the folder holds no adapter.
    """
    if not (folder / "adapter_config.json").is_file():
        raise InputError(f"{folder}: expected a run with an adapter; found no adapter_config.json.")
    model = load_finetuned(folder, merge=True, device="cpu").model
    with atomic_folder(target) as staged:
        for name in result_files(folder):
            if not _ADAPTER_FILE.fullmatch(name):
                shutil.copyfile(folder / name, staged / name)
        with quiet():
            model.save_pretrained(staged)
        report = {**_read_report(staged), "adapter": False}
        (staged / "README.md").write_text(
            model_card(report, _read_arguments(staged)), encoding="utf-8", errors=ENCODING_ERRORS
        )
        files = sorted(file.name for file in staged.iterdir() if file.name != "report.json")
        write_json(staged / "report.json", {**report, "files": [*files, "report.json"]})


def _read_arguments(folder: Path) -> dict[str, Any]:
    return yaml.safe_load((folder / "arguments.yaml").read_text(encoding="utf-8"))


def _read_report(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "report.json").read_text(encoding="utf-8"))


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    return (text if len(text) <= 300 else f"{text[:300]} ...").rstrip(".") or type(error).__name__
