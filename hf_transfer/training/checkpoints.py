"""Checkpoints that are whole or absent, and know which run they are of."""

import contextlib
import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import broadcast_object_list
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback

from hf_transfer.arguments import OF_NO_EFFECT, Arguments, differences, fitting
from hf_transfer.errors import Failure, InputError, logger
from hf_transfer.fsync import fsync_path
from hf_transfer.run_folders import MANIFEST, remove_folder
from hf_transfer.training.loss import restored_counts

if TYPE_CHECKING:
    from hf_transfer.training.standardisation import Coordinates

# Where a checkpoint is written before it is renamed into place.
STAGING = "writing"
COORDINATES = "coordinates.safetensors"
# Arguments that may differ when a run is gone on with: how long and how often, how a step is divided among processes
# and micro-batches, and where the data lie (what they are is compared by itself).
MAY_DIFFER = (*OF_NO_EFFECT, "max_steps", "num_train_epochs", "save_", "eval_", "per_device_",
              "gradient_accumulation_steps", "auto_find_batch_size", "train_file", "validation_file", "test_file",
              "source_file", "dataset_name", "push_to_hub")  # fmt: skip


def describe_run(
    arguments: Arguments,
    splits: Mapping[str, Any],
    inputs: Mapping[str, Any],
    model: Any,
    new: list[str],
) -> dict[str, Any]:
    """What a run has to share with the one that wrote a checkpoint to go on from it.

    Args:
        arguments: with learning rate and number of epochs settled.
        splits: the examples.
        inputs: the same, preprocessed, with ``length`` and ``labels``.
        model: before training.
        new: names of its weights that did not come from the checkpoint of the base model.

    Returns:
        ``arguments``, by flag name; ``examples_a_step``; ``data``, a digest of the examples in their order; ``base``,
        one of the pretrained weights.
    """
    digest = hashlib.sha256()
    for name, split in splits.items():
        digest.update(name.encode())
        for values in (arguments.task.input.content_hashes(split), inputs[name].lengths, inputs[name].labels):
            for value in values:
                digest.update(f"{value}\n".encode())
    pretrained = {name: value for name, value in model.state_dict().items() if name not in new}
    weights = [(name, torch.hash_tensor(value).view(torch.int64).item()) for name, value in sorted(pretrained.items())]
    training = arguments.training
    return {
        "arguments": arguments.as_dict(),
        "examples_a_step": training.train_batch_size * training.gradient_accumulation_steps * training.world_size,
        "data": digest.hexdigest(),
        "base": hashlib.sha256(repr(weights).encode()).hexdigest(),
    }


def checkpoints_in(folder: Path) -> list[Path]:
    """The checkpoints of a run, the newest first."""
    found = [path for path in folder.glob("checkpoint-*") if path.name.rpartition("-")[2].isdigit()]
    return sorted(found, key=_step, reverse=True)


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def describe_last_checkpoint(folder: str | Path) -> str:
    """In words, where the last good checkpoint is."""
    good = next((path for path in checkpoints_in(Path(folder)) if problem_of(path) is None), None)
    return f"The last good checkpoint is {good}." if good else "Nothing is written."


def seal(staged: Path, folder: Path, run: Mapping[str, Any]) -> Path:
    """Write the manifest of a checkpoint and rename it into `folder`.

    Args:
        staged: the checkpoint, written in full beside it.
        folder: of the run's checkpoints.
        run: from `describe_run`.
    """
    (staged / "training_args.bin").unlink(missing_ok=True)  # a pickle that nothing reads
    files = {}
    for file in sorted(staged.rglob("*")):
        if file.is_file():
            with file.open("rb") as stream:
                sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
            fsync_path(file)
            files[str(file.relative_to(staged))] = {"bytes": file.stat().st_size, "sha256": sha256}
    with (staged / MANIFEST).open("w", encoding="utf-8") as stream:
        json.dump({"run": run, "files": files}, stream, indent=1, default=str)
    fsync_path(staged / MANIFEST)
    place = folder / staged.name
    replaced = staged.with_name("replaced")
    if place.exists():  # damaged, or of a run that was gone back on
        os.replace(place, replaced)
    os.replace(staged, place)
    fsync_path(folder)
    remove_folder(replaced)
    if replaced.exists():  # somebody has put files of their own there
        os.replace(replaced, place.with_name(f"{place.name}.{uuid.uuid4().hex[:8]}"))
    shutil.rmtree(staged.parent, ignore_errors=True)
    for later in checkpoints_in(folder):
        if _step(later) > _step(place):
            logger.info("%s is removed: the run was gone on with from an earlier one.", later)
            remove_folder(later)
    return place


def remove_old(folder: Path, limit: int | None, best: str | None) -> None:
    """Remove all but the newest `limit` checkpoints of a run, and the `best`; folders of other names stay."""
    if limit is None or limit <= 0:
        return
    there = checkpoints_in(folder)
    kept_best = {path for path in there if best is not None and path.resolve() == Path(best).resolve()}
    spared = {*there[:1], *kept_best}
    spared.update([path for path in there if path not in spared][: max(0, limit - len(spared))])
    for checkpoint in there:
        if checkpoint not in spared:
            remove_folder(checkpoint)


def problem_of(checkpoint: Path) -> str | None:
    """Why a checkpoint is not whole; None where it is."""
    try:
        manifest = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))
        files, arguments = manifest["files"], manifest["run"]["arguments"]
        if not isinstance(arguments, dict) or not {"examples_a_step", "data"} <= manifest["run"].keys():
            return f"{MANIFEST} does not say of which run it is"
        for name, told in files.items():
            with (checkpoint / name).open("rb") as stream:
                if os.fstat(stream.fileno()).st_size != told["bytes"]:
                    return f"{name} has not the size that its manifest tells"
                if hashlib.file_digest(stream, "sha256").hexdigest() != told["sha256"]:
                    return f"{name} has changed since it was written (SHA-256)"
        if not any(name.startswith("optimizer") for name in files):
            return "it holds weights alone (--save_only_model), from which training cannot go on"
    except OSError as error:
        return f"{Path(error.filename).name}: {error.strerror}"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{MANIFEST} cannot be read"
    return None


def checkpoint_to_resume(asked: str | None, folder: Path, run: Mapping[str, Any], *, despite: bool) -> Path | None:
    """The checkpoint that --resume_from_checkpoint means: ``true`` is the newest whole one in `folder`.

    Args:
        asked: the argument.
        folder: of the run's checkpoints.
        run: what the run is, from `describe_run`.
        despite: whether to go on from the checkpoint of another run.

    Returns:
        None where there is none yet.

    Raises:
        InputError: no checkpoint is whole, or it is another run's.
    """
    if asked is None:
        return None
    if asked != "true":
        problem = problem_of(Path(asked))
        if problem:
            raise InputError(
                f"--resume_from_checkpoint {asked}: {problem}; expected true, or the folder of a whole checkpoint."
            )
        found = [Path(asked)]
    else:
        found = checkpoints_in(folder)
    for checkpoint in found:
        problem = problem_of(checkpoint)
        if problem:
            logger.info("%s is passed over: %s.", checkpoint, problem)
            continue
        if not despite:
            _refuse_other(checkpoint, run)
        logger.info("Resuming from %s.", checkpoint)
        return checkpoint
    if found:
        raise InputError(f"No checkpoint in {folder} is whole. Remove that folder to start anew.")
    logger.info("No checkpoint in %s: starting anew.", folder)
    return None


def agreed_checkpoint(training: Any, find: Callable[[], Path | None]) -> Path | None:
    """The checkpoint to go on from that the main process finds, on all processes.

    Each by itself might find another one: on a file system that shows a new folder late, say.

    Args:
        training: the training arguments.
        find: looks for it.

    Raises:
        InputError: as `find` on the main process does; or the folder is not there for this process.
        Failure: the main process has failed otherwise. It raises what it has met itself.
    """
    found: list[Any] = [None, None, False]
    raised: Exception | None = None
    if training.process_index == 0:
        try:
            found[0] = find()
        except Exception as error:  # whatever it is: the others wait for word of it
            raised, found[1], found[2] = error, f"{error}", isinstance(error, InputError)
    if training.world_size > 1:
        broadcast_object_list(found)
    if raised is not None:
        raise raised
    if found[1] is not None:
        if found[2]:
            raise InputError(found[1])
        raise Failure(f"The main process could not look for a checkpoint: {found[1]}")
    if found[0] is not None and not Path(found[0]).is_dir():
        raise InputError(
            f"{found[0]}: the main process goes on from there, and process {training.process_index} has no such "
            "folder. Put --output_dir on a file system that all machines see."
        )
    return found[0]


def _refuse_other(checkpoint: Path, run: Mapping[str, Any]) -> None:
    written = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))["run"]
    run = json.loads(json.dumps(run, default=str))
    method = written["arguments"].get("method", "full")
    other = differences(fitting(written["arguments"], method), fitting(run["arguments"], method), MAY_DIFFER)
    if written["examples_a_step"] != run["examples_a_step"]:
        other["examples a step"] = (written["examples_a_step"], run["examples_a_step"])
    shown = [f"{key} {before!r}, not {after!r}" for key, (before, after) in list(other.items())[:3]]
    if written["data"] != run["data"]:
        shown.append("other examples, labels or splits")
    if written.get("base", run["base"]) != run["base"]:
        shown.append("other weights of the base model")
    if shown:
        raise InputError(
            f"{checkpoint} is of a run with {'; '.join(shown)}. Repeat that run's data and arguments, name "
            "another --output_dir, or go on nevertheless: --resume_despite_changes."
        )


@contextlib.contextmanager
def written_beside(folder: Path) -> Iterator[None]:
    """Explain what keeps a checkpoint from being written, and leave nothing of it.

    Raises:
        Failure: the disk is full or cannot be written.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        # torch and safetensors tell of a full disk in errors of their own.
        if isinstance(error, RuntimeError) and "writ" not in str(error):
            raise
        shutil.rmtree(folder / STAGING, ignore_errors=True)
        cause = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise Failure(
            f"A checkpoint could not be written to {folder}: {cause}. {describe_last_checkpoint(folder)} Make room "
            "on the disk, and continue with --resume_from_checkpoint true."
        ) from error


class Progress(TrainerCallback):
    """What Trainer forgets: the losses since the last log, what is watched beside them, the time that it all took.

    Args:
        trainer: a `TransferTrainer`.
    """

    def __init__(self, trainer: Any):
        self.trainer = trainer
        self.started = time.perf_counter()
        self.earlier_seconds = 0.0
        self.head_seconds = 0.0
        self.restored: dict[str, Any] | None = None
        self.evaluation_due = False
        self.coordinates: Coordinates | None = None

    def seconds(self) -> float:
        """Of training up to now, with those that led to the checkpoint that a run goes on from."""
        return self.earlier_seconds + time.perf_counter() - self.started

    def seconds_of_stopped(self) -> float:
        """Of training in processes that were stopped, with those of the head that they fitted first."""
        return self.earlier_seconds + (self.head_seconds if self.earlier_seconds else 0.0)

    def save(self, checkpoint: Path) -> None:
        """Into a checkpoint, for each process its own."""
        trainer = self.trainer
        state = {
            "loss": trainer._tr_loss.item(),
            "last_logged": trainer._globalstep_last_logged,
            "watched": [counts.tolist() for counts in trainer.loss.counts],
            "seconds": self.seconds(),
            "head_seconds": self.head_seconds,
            "evaluation_due": self.evaluation_due,
            "save_due": trainer.control.should_save,
            **({} if trainer.health is None else trainer.health.state()),
        }
        self._file(checkpoint).write_text(json.dumps(state), encoding="utf-8")
        if self.coordinates is not None and trainer.args.should_save:
            save_file(self.coordinates.tensors(), checkpoint / COORDINATES)

    def load(self, checkpoint: Path) -> None:
        """From a checkpoint; a process that it does not know begins with nothing."""
        file = self._file(checkpoint)
        self.restored = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
        if self.restored is not None:
            self.earlier_seconds, self.head_seconds = self.restored["seconds"], self.restored["head_seconds"]
        if self._file(checkpoint, 0).is_file():
            self._restore_health(checkpoint)
        if self.coordinates is not None and (checkpoint / COORDINATES).is_file():
            kept, own = load_file(checkpoint / COORDINATES), self.coordinates.tensors()
            if kept.keys() == own.keys():
                for name, tensor in own.items():
                    tensor.copy_(kept[name])
            elif self.trainer.args.should_log:
                logger.info("The checkpoint's head was standardised by another version: training goes on from its "
                            "weights, and not as if it had not been stopped.")  # fmt: skip

    def _restore_health(self, checkpoint: Path) -> None:
        """As the first process knew it: all of them stop together."""
        first = json.loads(self._file(checkpoint, 0).read_text(encoding="utf-8"))
        if self.trainer.health is not None and "health" in first:
            self.trainer.health.restore(first)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.restored is not None:
            trainer, device = self.trainer, args.device
            trainer._tr_loss = torch.tensor(self.restored["loss"], device=device)
            trainer._globalstep_last_logged = self.restored["last_logged"]
            watched = self.restored["watched"]
            trainer.loss.counts[:] = [restored_counts(numbers, device) for numbers in watched]
            due, control.should_save = self.restored.get("evaluation_due"), bool(self.restored.get("save_due"))
            self.restored = None
            if due:
                trainer.evaluate_what_is_due()

    def _file(self, checkpoint: Path, process: int | None = None) -> Path:
        return checkpoint / f"progress_{self.trainer.args.process_index if process is None else process}.json"
