"""Pushing a finished folder to the Hub: weights, card and metrics in one commit."""

import json
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

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

# The test split's texts are the user's own and stay at home.
KEPT = ("predictions.jsonl",)
# Files that make up a model: of a whole one, shards with their index, and of an adapter.
ADAPTER = re.compile(r"adapter_(config\.json|model\.(safetensors|bin))")
WEIGHTS = re.compile(rf"(pytorch_)?model(-\d{{5}}-of-\d{{5}})?\.(safetensors|bin)(\.index\.json)?|{ADAPTER.pattern}")


def repository_name(hub_model_id: str | None, output_dir: str | Path) -> str:
    """The repository that a run is pushed to: --hub_model_id, or the name of its output folder."""
    return hub_model_id or Path(output_dir).resolve().name


def require_repository(arguments: Any) -> None:
    """Make the repository before training, so that a missing login is found at once and not after a night.

    Raises:
        InputError: the Hub refuses or cannot be reached, or what would be trained could not be used from there.
    """
    training, model = arguments.training, str(arguments.model.model_name_or_path)
    if not training.should_save:
        return
    if arguments.method.leaves_adapter and is_local(model):
        raise InputError(
            f"--push_to_hub: the adapter's base model is the local folder {last_part(model)}, which nobody else has. "
            "Upload plain weights (--merge), or name a model on the Hub (--model_name_or_path); or leave "
            "--push_to_hub out, and name the same model on the Hub afterwards: hf-transfer push FOLDER --base_model "
            "NAMESPACE/NAME."
        )
    repository = repository_name(training.hub_model_id, str(training.output_dir))
    try:
        HfApi(token=training.hub_token).create_repo(repository, private=training.hub_private_repo, exist_ok=True)
    except Exception as error:  # whatever the client or the network raises: the answer to the user is one
        raise InputError(
            f"--push_to_hub: the repository {repository} cannot be made: {_reason(error)}. Log in with `hf auth "
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
    """Upload an output folder to the Hub in one commit; returns the commit's address.

    The files that the run has written are uploaded and no others, without test texts and paths of this machine.

    Args:
        folder: of a finished run.
        hub_model_id: repository to push to; made if it is not there.
        token: of the Hub; the login's own by default.
        private: whether a new repository is private.
        merge: upload plain weights instead of an adapter.
        base_model: the base model's id on the Hub, where the run took it from a local folder.

    Raises:
        InputError: the folder is not a finished run's, or an adapter's base model is a local folder.
        Failure: the Hub could not be reached or refused; the folder is untouched.
    """
    folder = Path(folder)
    if not (folder / "report.json").is_file():
        raise InputError(f"{folder}: no report.json in it; expected the output folder of a finished run.")
    if not (merge or base_model) and (folder / "adapter_config.json").is_file():
        _refuse_local_base(folder)
    with tempfile.TemporaryDirectory() as scratch:
        source = folder
        if merge:
            source = Path(scratch) / folder.resolve().name
            write_merged(folder, source)
        try:
            api = HfApi(token=token)
            named = None if base_model is None else _named_base(api, base_model)
            repository = api.create_repo(hub_model_id, private=private, exist_ok=True).repo_id
            files = _published(source, repository, named)
            done = api.create_commit(
                repository,
                [
                    *(CommitOperationAdd(path_in_repo=name, path_or_fileobj=file) for name, file in files.items()),
                    # Weights of an earlier push of another method would be loaded instead of these.
                    *(
                        CommitOperationDelete(path_in_repo=name)
                        for name in api.list_repo_files(repository)
                        if WEIGHTS.fullmatch(name) and name not in files
                    ),
                ],
                commit_message=f"Upload {hub_model_id.split('/')[-1]}",
            )
        except InputError:
            raise
        except HFValidationError as error:
            raise InputError(f"--hub_model_id {hub_model_id}: {_reason(error)}") from error
        except Exception as error:  # whatever the client or the network raises: the folder is safe
            again = f" --base_model {base_model}" if base_model else " --merge" if merge else ""
            raise Failure(
                f"The push to {hub_model_id} failed: {_reason(error)}. Nothing is lost: the model, its card and its "
                f"metrics are in {folder}. Try again: hf-transfer push {folder} --hub_model_id {hub_model_id}{again}"
            ) from error
    _say_what_stays(folder)
    logger.info("Pushed to %s.", done.commit_url)
    return str(done.commit_url)


def _published(source: Path, repository: str, named: tuple[str, str] | None) -> dict[str, Any]:
    """The files of a commit: a path, or the content where the folder's own says what stays at home."""
    files: dict[str, Any] = {name: source / name for name in result_files(source) if name not in KEPT}
    report, told = _report_of(source), _told(source)
    known = known_paths(source, told)
    if named is not None:
        report |= {"model": named[0], "local": {**report.get("local", {}), "model": False}}
    told = {**published_arguments(told, report, known), "hub_model_id": repository}
    report = published_report(report, known)
    for name in files:
        if name.endswith("config.json"):
            config = without_paths(json.loads(files[name].read_text(encoding="utf-8")), known)
            if name == "adapter_config.json" and named is not None:
                config |= dict(zip(("base_model_name_or_path", "revision"), named, strict=True))
            files[name] = as_json(config).encode()
    files["README.md"] = model_card(report, told).encode()
    files["report.json"] = as_json(report).encode()
    files["arguments.yaml"] = yaml.safe_dump(told, sort_keys=False, allow_unicode=True).encode()
    if "report.html" in files:
        files["report.html"] = report_page(report, told, []).encode()
    return files


def _named_base(api: HfApi, base_model: str) -> tuple[str, str]:
    """A model on the Hub and its commit of today.

    Raises:
        InputError: there is none of that name.
    """
    try:
        return base_model, str(api.model_info(base_model).sha or "main")
    except (HFValidationError, RepositoryNotFoundError) as error:
        raise InputError(
            f"--base_model {base_model}: there is no such model on the Hub, or this login does not see it; expected "
            "NAMESPACE/NAME of the model that the adapter was trained on."
        ) from error


def _refuse_local_base(folder: Path) -> None:
    base = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))["base_model_name_or_path"]
    if is_local(base):
        raise InputError(
            f"{folder}: the adapter's base model is the local folder {base}, which nobody else has. Upload plain "
            "weights (--merge), or name the same model on the Hub (--base_model NAMESPACE/NAME)."
        )


def _say_what_stays(folder: Path) -> None:
    ours = {*result_files(folder), LOG_FOLDER}
    others = sorted(path.name for path in folder.iterdir() if path.name not in ours)
    if others:
        shown = ", ".join(others[:5]) + (", ..." if len(others) > 5 else "")
        logger.info("Not uploaded, as the run has not written it: %s.", shown)


def write_merged(folder: Path, target: Path) -> None:
    """Write a finished run's folder again with plain weights instead of an adapter.

    Raises:
        InputError: the folder holds no adapter.
    """
    if not (folder / "adapter_config.json").is_file():
        raise InputError(f"{folder}: expected a run with an adapter; found no adapter_config.json.")
    plain = load_finetuned(folder, merge=True, device="cpu").model
    with atomic_folder(target) as staged:
        for name in result_files(folder):
            if not ADAPTER.fullmatch(name):
                shutil.copyfile(folder / name, staged / name)
        with quiet():
            plain.save_pretrained(staged)
        report = {**_report_of(staged), "adapter": False}
        (staged / "README.md").write_text(model_card(report, _told(staged)), encoding="utf-8", errors=ENCODING_ERRORS)
        files = sorted(file.name for file in staged.iterdir() if file.name != "report.json")
        write_json(staged / "report.json", {**report, "files": [*files, "report.json"]})


def _told(folder: Path) -> dict[str, Any]:
    return yaml.safe_load((folder / "arguments.yaml").read_text(encoding="utf-8"))


def _report_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "report.json").read_text(encoding="utf-8"))


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    return (text if len(text) <= 300 else f"{text[:300]} ...").rstrip(".") or type(error).__name__
