"""Choosing the checkpoint that a run resumes from (--resume_from_checkpoint), and checking that it fits the run."""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import broadcast_object_list
from datasets import Dataset
from transformers import PreTrainedModel, TrainingArguments

from hf_transfer.arguments import Arguments, arguments_for_method
from hf_transfer.arguments.run import NO_EFFECT_ON_RESULT, differing_arguments
from hf_transfer.errors import Failure, InputError, logger
from hf_transfer.run_folders import MANIFEST
from hf_transfer.training.checkpoints import checkpoints_in, find_problem

if TYPE_CHECKING:
    from hf_transfer.inputs.input import ModelInputs

# Arguments (or their first letters) that may change when a run is resumed: how long it trains, how often it saves and
# evaluates, how a step is divided into micro-batches and among processes, and where the data are. Whether the data
# are the same is compared by their digest.
MAY_DIFFER = (*NO_EFFECT_ON_RESULT, "max_steps", "num_train_epochs", "save_", "eval_", "per_device_",
              "gradient_accumulation_steps", "auto_find_batch_size", "train_file", "validation_file", "test_file",
              "source_file", "dataset_name", "push_to_hub")  # fmt: skip


def describe_run(
    arguments: Arguments,
    splits: Mapping[str, Dataset],
    inputs: "Mapping[str, ModelInputs]",
    model: PreTrainedModel,
    newly_initialised: list[str],
) -> dict[str, Any]:
    """Return what has to be equal in a run and in a checkpoint that it resumes from, as a dictionary.

    Args:
        arguments: with learning rate and number of epochs filled in.
        splits: the examples.
        inputs: the preprocessed examples.
        model: before training.
        newly_initialised: names of its parameters that did not come from the pretrained checkpoint.

    Returns:
        ``arguments``, by flag name; ``examples_a_step``; ``data``, a digest of all examples in their order; ``base``,
        a digest of the pretrained weights.
    """
    data_digest = hashlib.sha256()
    for name, split in splits.items():
        data_digest.update(name.encode())
        for values in (arguments.task.input.content_hashes(split), inputs[name].lengths, inputs[name].labels):
            for value in values:
                data_digest.update(f"{value}\n".encode())
    pretrained = {name: value for name, value in model.state_dict().items() if name not in newly_initialised}
    weights = [(name, torch.hash_tensor(value).view(torch.int64).item()) for name, value in sorted(pretrained.items())]
    training = arguments.training
    return {
        "arguments": arguments.as_dict(),
        "examples_a_step": training.train_batch_size * training.gradient_accumulation_steps * training.world_size,
        "data": data_digest.hexdigest(),
        "base": hashlib.sha256(repr(weights).encode()).hexdigest(),
    }


def checkpoint_to_resume(requested: str | None, folder: Path, run: Mapping[str, Any], *, despite: bool) -> Path | None:
    """Return the folder of the checkpoint to resume from, or None where training starts from the beginning.

    Args:
        requested: --resume_from_checkpoint: a checkpoint's folder, or ``true`` for the newest complete one.
        folder: the run's folder of checkpoints.
        run: from `describe_run`.
        despite: --resume_despite_changes: resume even if the checkpoint is of a run with other data or arguments.

    Raises:
        InputError: no checkpoint is complete, or the newest complete one is of another run.
    """
    if requested is None:
        return None
    if requested == "true":
        candidates = checkpoints_in(folder)
    else:
        candidates = [Path(requested)]
        problem = find_problem(candidates[0])
        if problem:
            raise InputError(
                f"--resume_from_checkpoint {requested}: {problem}. Expected true, or the folder of a complete "
                "checkpoint."
            )
    for checkpoint in candidates:
        problem = find_problem(checkpoint)
        if problem:
            logger.info("%s is skipped: %s.", checkpoint, problem)
            continue
        if not despite:
            _check_same_run(checkpoint, run)
        logger.info("Resuming from %s.", checkpoint)
        return checkpoint
    if candidates:
        raise InputError(f"No checkpoint in {folder} is complete. Remove that folder to start from the beginning.")
    logger.info("There is no checkpoint in %s: training starts from the beginning.", folder)
    return None


def _check_same_run(checkpoint: Path, run: Mapping[str, Any]) -> None:
    """Raise an error if a checkpoint is of a run with other arguments, data or pretrained weights."""
    saved = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))["run"]
    run = json.loads(json.dumps(run, default=str))
    method = saved["arguments"].get("method", "full")
    changed = differing_arguments(
        arguments_for_method(saved["arguments"], method), arguments_for_method(run["arguments"], method), MAY_DIFFER
    )
    if saved["examples_a_step"] != run["examples_a_step"]:
        changed["examples per step"] = (saved["examples_a_step"], run["examples_a_step"])
    shown = [f"{name} {before!r}, not {now!r}" for name, (before, now) in list(changed.items())[:3]]
    if saved["data"] != run["data"]:
        shown.append("other examples, labels or splits")
    if saved.get("base", run["base"]) != run["base"]:
        shown.append("other weights of the base model")
    if shown:
        raise InputError(
            f"{checkpoint} was written by a run with {'; '.join(shown)}. Use that run's data and arguments again, "
            "choose another --output_dir, or resume nevertheless: --resume_despite_changes."
        )


def agreed_checkpoint(training: TrainingArguments, find: Callable[[], Path | None]) -> Path | None:
    """Return, on all processes, the checkpoint's folder that the main process finds, or None.

    The other processes do not look for it themselves: a shared file system may show them a new folder later.

    Args:
        training: the training arguments.
        find: finds the checkpoint; called in the main process only.

    Raises:
        InputError: `find` raised it in the main process; or this process does not see the checkpoint's folder.
        Failure: `find` raised another error in the main process, which raises that error itself.
    """
    checkpoint: Path | None = None
    message: str | None = None
    error: Exception | None = None
    if training.process_index == 0:
        try:
            checkpoint = find()
        except Exception as raised:  # of any type: the other processes wait for the broadcast
            error, message = raised, f"{raised}"
    if training.world_size > 1:
        broadcast: list[Any] = [checkpoint, message, isinstance(error, InputError)]
        broadcast_object_list(broadcast)
        checkpoint, message, is_input_error = broadcast
        if error is None and message is not None:
            if is_input_error:
                raise InputError(message)
            raise Failure(f"The main process could not look for a checkpoint: {message}")
    if error is not None:
        raise error
    if checkpoint is not None and not Path(checkpoint).is_dir():
        raise InputError(
            f"{checkpoint}: the main process resumes from there, and process {training.process_index} sees no such "
            "folder. Put --output_dir on a file system that all machines share."
        )
    return checkpoint
