"""The part of the trainer that writes checkpoints, and goes on from them."""

import shutil
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from transformers import EarlyStoppingCallback, Trainer
from transformers.trainer import TRAINER_STATE_NAME

from hf_transfer.errors import logger
from hf_transfer.training.checkpoints import STAGING, Progress, remove_old, seal, written_beside
from hf_transfer.training.health import require_finite


class CheckpointingTrainer(Trainer):
    """A Trainer whose checkpoints are whole or absent.

    Attributes:
        run: what the run is: see `checkpoints.describe_run`.
        staging: the folder in which a checkpoint is being written.
        whole_model: a block in which the model has all of its parts, where some are left out of training; it is not
            run there.
        progress: what Trainer's own checkpoints forget.
    """

    run: Mapping[str, Any]
    staging: Path | None
    whole_model: Callable[[], AbstractContextManager[None]]
    progress: Progress

    def _get_output_dir(self, trial: Any) -> str:
        return str(self.staging or super()._get_output_dir(trial))

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Written by all processes beside the others, then sealed and renamed into place by one."""
        require_finite(self.model, self.args.learning_rate, self.args.output_dir)
        folder = Path(self.args.output_dir)
        if self.args.should_save:
            shutil.rmtree(folder / STAGING, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        self.staging = folder / STAGING
        try:
            with written_beside(folder), self.whole_model():
                super()._save_checkpoint(model, trial)
                staged = self.staging / f"checkpoint-{self.state.global_step}"
                if not self.args.save_only_model:
                    self.progress.save(staged)
                self.accelerator.wait_for_everyone()
                self._know_best(folder)
                if self.args.should_save:
                    self.state.save_to_json(str(staged / TRAINER_STATE_NAME))
                    seal(staged, folder, self.run)
                    # Only now: before, an older one was the last that is whole.
                    remove_old(folder, self.args.save_total_limit, self.state.best_model_checkpoint)
        finally:
            self.staging = None
        self.accelerator.wait_for_everyone()

    def _know_best(self, *folders: Path) -> None:
        """The best checkpoint by its place now, wherever it was written; the search begins anew where it is gone."""
        step = self.state.best_global_step
        if step is None:
            return
        places = [
            *folders,
            *([Path(self.state.best_model_checkpoint).parent] if self.state.best_model_checkpoint else []),
        ]
        best = [place / f"checkpoint-{step}" for place in places]
        there = [checkpoint for checkpoint in best if checkpoint.is_dir()]
        if self.staging is not None and step == self.state.global_step:
            there = best[:1]  # being written
        self.state.best_model_checkpoint = str(there[0]) if there else None
        if not there:
            logger.info("The best checkpoint so far, of step %d, is gone: the best of those to come is kept.", step)
            self.state.best_metric = self.state.best_global_step = None

    def _init_training_state(
        self,
        max_steps: int,
        num_update_steps_per_epoch: int,
        num_train_epochs: int,
        resume_from_checkpoint: str | None = None,
        trial: Any = None,
    ) -> tuple[int, int]:
        done = super()._init_training_state(
            max_steps, num_update_steps_per_epoch, num_train_epochs, resume_from_checkpoint, trial
        )
        if resume_from_checkpoint is not None:
            self.progress.load(Path(resume_from_checkpoint))
            self._know_best(Path(self.args.output_dir), Path(resume_from_checkpoint).parent)
            if self.state.global_step >= max_steps:
                return num_train_epochs, 0  # it was stopped after its last step
            if any(
                isinstance(callback, EarlyStoppingCallback)
                and callback.early_stopping_patience_counter >= callback.early_stopping_patience
                for callback in self.callback_handler.callbacks
            ):
                return num_train_epochs, 0  # it had stopped early already
        return done

    def _run_epoch(self, **kwargs: Any) -> None:
        if not self.control.should_training_stop:  # an evaluation that was due has stopped it early
            super()._run_epoch(**kwargs)
