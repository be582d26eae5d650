"""The part of the trainer that writes checkpoints and resumes from them."""

import shutil
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from transformers import EarlyStoppingCallback, PreTrainedModel, Trainer
from transformers.trainer import TRAINER_STATE_NAME

from hf_transfer.errors import logger
from hf_transfer.training.checkpoints import (
    STAGING,
    explain_write_errors,
    finish_checkpoint,
    remove_old_checkpoints,
)
from hf_transfer.training.health import require_finite
from hf_transfer.training.resumable_state import ResumableState


class CheckpointingTrainer(Trainer):
    """`transformers.Trainer` whose checkpoints are complete or absent, and hold all that a resumed run needs.

    Attributes:
        run: from `resuming.describe_run`.
        staging: the folder in which a checkpoint is being written, or None.
        with_all_modules: a context manager in which the model has the modules that are left out of training steps,
            to be saved; it cannot be run there.
        resumable_state: the training state that Trainer's own checkpoints lack.
    """

    run: Mapping[str, Any]
    staging: Path | None
    with_all_modules: Callable[[], AbstractContextManager[None]]
    resumable_state: ResumableState

    def _get_output_dir(self, trial: Any) -> str:
        return str(self.staging or super()._get_output_dir(trial))

    def _save_checkpoint(self, model: PreTrainedModel, trial: Any) -> None:
        """Write a checkpoint of the current step, whose folder appears when all its files are complete.

        All processes write into the staging folder; the main one renames it.
        """
        require_finite(self.model, self.args.learning_rate, self.args.output_dir)
        folder = Path(self.args.output_dir)
        if self.args.should_save:
            shutil.rmtree(folder / STAGING, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        self.staging = folder / STAGING
        try:
            with explain_write_errors(folder), self.with_all_modules():
                super()._save_checkpoint(model, trial)
                staged = self.staging / f"checkpoint-{self.state.global_step}"
                if not self.args.save_only_model:
                    self.resumable_state.save(staged)
                self.accelerator.wait_for_everyone()
                self._update_best_checkpoint(folder)
                if self.args.should_save:
                    self.state.save_to_json(str(staged / TRAINER_STATE_NAME))
                    finish_checkpoint(staged, folder, self.run)
                    # Not earlier: until here, an older checkpoint was the last complete one.
                    remove_old_checkpoints(folder, self.args.save_total_limit, self.state.best_model_checkpoint)
        finally:
            self.staging = None
        self.accelerator.wait_for_everyone()

    def _update_best_checkpoint(self, *folders: Path) -> None:
        """Set ``state.best_model_checkpoint`` to where that checkpoint is now; if it is gone, clear the best metric.

        Args:
            *folders: of checkpoints, to look in before the folder in which the state says that it is.
        """
        step = self.state.best_global_step
        if step is None:
            return
        recorded = [Path(self.state.best_model_checkpoint).parent] if self.state.best_model_checkpoint else []
        candidates = [folder / f"checkpoint-{step}" for folder in (*folders, *recorded)]
        existing = [checkpoint for checkpoint in candidates if checkpoint.is_dir()]
        if self.staging is not None and step == self.state.global_step:
            existing = candidates[:1]  # it is the one that is being written
        self.state.best_model_checkpoint = str(existing[0]) if existing else None
        if not existing:
            logger.info("The best checkpoint so far, of step %d, no longer exists: the best of the next ones is kept.",
                        step)  # fmt: skip
            self.state.best_metric = self.state.best_global_step = None

    def _init_training_state(
        self,
        max_steps: int,
        num_update_steps_per_epoch: int,
        num_train_epochs: int,
        resume_from_checkpoint: str | None = None,
        trial: Any = None,
    ) -> tuple[int, int]:
        """Load a checkpoint's state, and return the trained epochs and the trained steps of the current epoch.

        Where the run had ended, all its epochs count as trained.
        """
        epochs_trained, steps_trained = super()._init_training_state(
            max_steps, num_update_steps_per_epoch, num_train_epochs, resume_from_checkpoint, trial
        )
        if resume_from_checkpoint is not None:
            self.resumable_state.load(Path(resume_from_checkpoint))
            self._update_best_checkpoint(Path(self.args.output_dir), Path(resume_from_checkpoint).parent)
            if self.state.global_step >= max_steps or self._has_stopped_early():
                return num_train_epochs, 0
        return epochs_trained, steps_trained

    def _has_stopped_early(self) -> bool:
        return any(
            isinstance(callback, EarlyStoppingCallback)
            and callback.early_stopping_patience_counter >= callback.early_stopping_patience
            for callback in self.callback_handler.callbacks
        )

    def _run_epoch(self, **kwargs: Any) -> None:
        # An evaluation that was due when the run was resumed may have stopped it early.
        if not self.control.should_training_stop:
            super()._run_epoch(**kwargs)
