"""Training state that transformers' checkpoints lack: losses since the last log, counts, time, health checks."""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_transfer.errors import logger
from hf_transfer.training.loss import restored_counts

if TYPE_CHECKING:
    from hf_transfer.training.standardisation import Coordinates
    from hf_transfer.training.trainer import TransferTrainer

COORDINATES = "coordinates.safetensors"


class ResumableState(TrainerCallback):
    """Callback that saves and restores what a resumed run needs to continue exactly as if it had not been stopped.

    Args:
        trainer: whose state it is.

    Attributes:
        training_started: time at which training started in this process, by `time.perf_counter`.
        seconds_before_resume: seconds of training that led to the checkpoint which the run was resumed from.
        head_seconds: seconds in which the head was trained first (--head_first).
        evaluation_due: whether an evaluation was interrupted, and has to be done first when the run is resumed.
        coordinates: of the head's standardised input, if it is standardised.
    """

    def __init__(self, trainer: "TransferTrainer"):
        self.trainer = trainer
        self.training_started = time.perf_counter()
        self.seconds_before_resume = 0.0
        self.head_seconds = 0.0
        self.evaluation_due = False
        self.coordinates: Coordinates | None = None
        self._restored: dict[str, Any] | None = None

    def seconds(self) -> float:
        """Return the seconds of training so far, including those before the run was resumed."""
        return self.seconds_before_resume + time.perf_counter() - self.training_started

    def seconds_in_earlier_processes(self) -> float:
        """Return the seconds of training before the run was resumed, those of the head alone included.

        They are 0 where it was not resumed.
        """
        return self.seconds_before_resume + (self.head_seconds if self.seconds_before_resume else 0.0)

    def save(self, checkpoint: Path) -> None:
        """Write this process's loss, counts, seconds and health checks into a checkpoint's folder."""
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
        """Read this process's training state from a checkpoint's folder, if there is one for this process."""
        file = self._file(checkpoint)
        self._restored = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
        if self._restored is not None:
            self.seconds_before_resume = self._restored["seconds"]
            self.head_seconds = self._restored["head_seconds"]
        if self._file(checkpoint, process=0).is_file():
            self._restore_health(checkpoint)
        if self.coordinates is not None and (checkpoint / COORDINATES).is_file():
            saved, current = load_file(checkpoint / COORDINATES), self.coordinates.tensors()
            if saved.keys() == current.keys():
                for name, tensor in current.items():
                    tensor.copy_(saved[name])
            elif self.trainer.args.should_log:
                logger.info("The checkpoint's head was standardised by another version of this package: training "
                            "resumes from its weights, but not exactly as if it had not been stopped.")  # fmt: skip

    def _restore_health(self, checkpoint: Path) -> None:
        """Set this process's health checks to those that process 0 saved in a checkpoint.

        All processes then stop together.
        """
        main = json.loads(self._file(checkpoint, process=0).read_text(encoding="utf-8"))
        if self.trainer.health is not None and "health" in main:
            self.trainer.health.restore(main)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Set the loss and the counts, which Trainer resets when training begins, to those of the checkpoint.

        An evaluation that was interrupted is done now.
        """
        if self._restored is None:
            return
        restored, self._restored = self._restored, None
        trainer, device = self.trainer, args.device
        trainer._tr_loss = torch.tensor(restored["loss"], device=device)
        trainer._globalstep_last_logged = restored["last_logged"]
        trainer.loss.counts[:] = [restored_counts(numbers, device) for numbers in restored["watched"]]
        control.should_save = bool(restored.get("save_due"))
        if restored.get("evaluation_due"):
            trainer.evaluate_as_due()

    def _file(self, checkpoint: Path, process: int | None = None) -> Path:
        return checkpoint / f"progress_{self.trainer.args.process_index if process is None else process}.json"
