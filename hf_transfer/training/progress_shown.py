"""How far training has come, as a person sees it: one bar, or a line a minute where there is no bar."""

import time
from typing import Any

from tqdm.auto import tqdm
from transformers import ProgressCallback, TrainerCallback

from hf_transfer.errors import logger

SECONDS_BETWEEN_LINES = 60


class ProgressLines(TrainerCallback):
    """Where there is no bar, a line a minute."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.said = time.monotonic()
        self.first: int | None = None

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        now = time.monotonic()
        if self.first is None:  # not counted: it may have compiled the model
            self.began, self.first = now, state.global_step
        elif state.is_world_process_zero and now - self.said >= SECONDS_BETWEEN_LINES:
            self.said = now
            left = (now - self.began) / (state.global_step - self.first) * (state.max_steps - state.global_step)
            logger.info("Step %d of %d, about %.0f min left.", state.global_step, state.max_steps, left / 60,
                        extra={"progress": True})  # fmt: skip


class QuietProgress(ProgressCallback):
    """One bar with the loss beside it, instead of a printed dictionary every few steps; none for what is quick."""

    prediction_bar: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            self.training_bar = tqdm(total=state.max_steps, desc="Training", dynamic_ncols=True, delay=2)
        self.current_step = 0

    def on_prediction_step(
        self, args: Any, state: Any, control: Any, eval_dataloader: Any = None, **kwargs: Any
    ) -> None:
        if state.is_world_process_zero:
            if self.prediction_bar is None:
                total = len(eval_dataloader)
                self.prediction_bar = tqdm(total=total, desc="Predicting", dynamic_ncols=True, delay=2, leave=False)
            self.prediction_bar.update(1)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if state.is_world_process_zero and self.training_bar is not None and logs and "loss" in logs:
            self.training_bar.set_postfix(loss=f"{logs['loss']:.3f}")
