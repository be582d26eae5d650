"""Pushing a finished folder to the Hub: weights, card and metrics in one commit."""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HFValidationError

from hf_transfer.errors import Failure, InputError, logger
from hf_transfer.inference import load_finetuned
from hf_transfer.models import quiet
from hf_transfer.reporting.model_card import model_card
from hf_transfer.reporting.output_folder import LOGS, as_json, write_json, written_whole_folder
from hf_transfer.reporting.page import report_page
from hf_transfer.reporting.report import published_arguments, without_examples

# The test split's texts are the user's own and stay at home.
KEPT = ("predictions.jsonl",)
WEIGHTS = ("adapter_", "model.safetensors", "model-0", "pytorch_model")


def require_repository(arguments: Any) -> None:
    """Make the repository before training, so that a missing login is found at once and not after a night.

    Raises:
        InputError: the Hub refuses, or cannot be reached.
    """
    training = arguments.training
    if not training.should_save:
        return
    repository = str(training.hub_model_id or Path(str(training.output_dir)).name)
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
) -> str:
    """Upload an output folder to the Hub in one commit; returns the commit's address.

    Args:
        folder: of a finished run.
        hub_model_id: repository to push to; made if it is not there.
        token: of the Hub; the login's own by default.
        private: whether a new repository is private.
        merge: upload plain weights instead of an adapter.

    Raises:
        InputError: the folder is not a finished run's.
        Failure: the Hub could not be reached or refused; the folder is untouched.
    """
    folder = Path(folder)
    if not (folder / "report.json").is_file():
        raise InputError(f"{folder}: no report.json in it; expected the output folder of a finished run.")
    with tempfile.TemporaryDirectory() as scratch:
        source = folder
        if not merge and (folder / "adapter_config.json").is_file():
            _warn_of_local_base(folder)
        if merge:
            source = Path(scratch) / "merged"
            write_merged(folder, source)
        try:
            api = HfApi(token=token)
            repository = api.create_repo(hub_model_id, private=private, exist_ok=True).repo_id
            files = _published(source, repository)
            done = api.create_commit(
                repository,
                [
                    *(CommitOperationAdd(path_in_repo=name, path_or_fileobj=file) for name, file in files.items()),
                    # Weights of an earlier push of another method would be loaded instead of these.
                    *(
                        CommitOperationDelete(path_in_repo=name)
                        for name in api.list_repo_files(repository)
                        if name.startswith(WEIGHTS) and name not in files
                    ),
                ],
                commit_message=f"Upload {folder.name}",
            )
        except HFValidationError as error:
            raise InputError(f"--hub_model_id {hub_model_id}: {_reason(error)}") from error
        except Exception as error:  # whatever the client or the network raises: the folder is safe
            raise Failure(
                f"The push to {hub_model_id} failed: {_reason(error)}. Nothing is lost: the model, its card and its "
                f"metrics are in {folder}. Try again: hf-transfer push {folder} --hub_model_id {hub_model_id}"
            ) from error
    logger.info("Pushed to %s.", done.commit_url)
    return str(done.commit_url)


def _published(source: Path, repository: str) -> dict[str, Any]:
    """The files of a commit: a path, or the content where the folder's own says what stays at home."""
    files: dict[str, Any] = {f.name: f for f in sorted(source.iterdir()) if f.is_file() and f.name not in KEPT}
    files["README.md"] = _card_of(source, hub_model_id=repository).encode()
    report = without_examples(_report_of(source))
    files["report.json"] = as_json(report).encode()
    told = {**published_arguments(_told(source)), "hub_model_id": repository}
    files["arguments.yaml"] = yaml.safe_dump(told, sort_keys=False, allow_unicode=True).encode()
    if "report.html" in files:
        files["report.html"] = report_page(report, told, []).encode()
    return files


def write_merged(folder: Path, target: Path) -> None:
    """Write a finished run's folder again with plain weights instead of an adapter.

    Raises:
        InputError: the folder holds no adapter.
    """
    if not (folder / "adapter_config.json").is_file():
        raise InputError(f"{folder}: expected a run with an adapter; found no adapter_config.json.")
    plain = load_finetuned(folder, merge=True, device="cpu").model
    with written_whole_folder(target) as staged:
        shutil.copytree(folder, staged, ignore=shutil.ignore_patterns("adapter_*", LOGS), dirs_exist_ok=True)
        with quiet():
            plain.save_pretrained(staged)
        write_json(staged / "report.json", {**_report_of(staged), "adapter": False})
        (staged / "README.md").write_text(_card_of(staged), encoding="utf-8")


def _warn_of_local_base(folder: Path) -> None:
    base = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))["base_model_name_or_path"]
    if Path(base).is_absolute():
        logger.warning("The adapter's base model is the local folder %s: nobody else can load it. Use --merge.", base)


def _card_of(folder: Path, **arguments: Any) -> str:
    """The card of a finished run, written anew with some arguments changed."""
    return model_card(_report_of(folder), {**_told(folder), **arguments})


def _told(folder: Path) -> dict[str, Any]:
    return yaml.safe_load((folder / "arguments.yaml").read_text(encoding="utf-8"))


def _report_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "report.json").read_text(encoding="utf-8"))


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    return (text if len(text) <= 300 else f"{text[:300]} ...").rstrip(".") or type(error).__name__
