"""Showing the progress of training: a progress bar, or a log line each minute where there is no bar."""

import time
from typing import Any

from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import ProgressCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_transfer.errors import logger

SECONDS_BETWEEN_LINES = 60


class ProgressLines(TrainerCallback):
    """Callback that logs the step and the remaining minutes of training once a minute."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.last_line_at = time.monotonic()
        self.first_step: int | None = None

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        now = time.monotonic()
        if self.first_step is None:  # not measured, as it may include the compilation of the model
            self.measured_from, self.first_step = now, state.global_step
        elif state.is_world_process_zero and now - self.last_line_at >= SECONDS_BETWEEN_LINES:
            self.last_line_at = now
            seconds_per_step = (now - self.measured_from) / (state.global_step - self.first_step)
            remaining = seconds_per_step * (state.max_steps - state.global_step)
            minutes = f"about {remaining / 60:.0f} min" if remaining >= 60 else "less than 1 min"
            logger.info("Step %d of %d, %s left.", state.global_step, state.max_steps, minutes,
                        extra={"progress": True})  # fmt: skip


class QuietProgress(ProgressCallback):
    """Callback that shows a progress bar with the current loss, and prints no log dictionaries.

    The bar appears after two seconds.
    """

    prediction_bar: tqdm | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.is_world_process_zero:
            self.training_bar = tqdm(total=state.max_steps, desc="Training", dynamic_ncols=True, delay=2)
        self.current_step = 0

    def on_prediction_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        eval_dataloader: DataLoader | None = None,
        **kwargs: Any,
    ) -> None:
        if state.is_world_process_zero and eval_dataloader is not None:
            if self.prediction_bar is None:
                total = len(eval_dataloader)
                self.prediction_bar = tqdm(total=total, desc="Predicting", dynamic_ncols=True, delay=2, leave=False)
            self.prediction_bar.update(1)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if state.is_world_process_zero and self.training_bar is not None and logs and "loss" in logs:
            self.training_bar.set_postfix(loss=f"{logs['loss']:.3f}")
