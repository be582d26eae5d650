"""Stopping runs that have diverged or collapsed (--stop_when_sick)."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_transfer.errors import Failure, logger
from hf_transfer.training.checkpoints import describe_last_checkpoint
from hf_transfer.training.loss import Loss, TrainingPosition

# A run has diverged when its loss stays this many times above the first loss, and above that of a model that guesses,
# for this many logs in a row.
FAR_ABOVE, FAR_ABOVE_LOGS = 3.0, 5
# Mixed precision skips steps whose gradients overflow and lowers its loss scale: a few of them in a row are normal.
OVERFLOWING_LOGS = 5
# A final loss this many times above that of guessing deserves a warning.
WORSE_THAN_CHANCE = 1.5
# So does a weight that is larger than 1,000, and 1,000 times the largest one before training.
BLOWN_UP = 1000.0
HOW_TO_SWITCH_OFF = "(--stop_when_sick false continues nevertheless)"


class Health(TrainerCallback):
    """Callback that raises an error to stop a run that has diverged or collapsed.

    Args:
        loss: the training loss, whose figures are checked.

    Raises:
        Failure: with the likely cause, the remedy, and the last good checkpoint.
    """

    def __init__(self, loss: Loss):
        self.loss_function = loss
        self.first_loss: float | None = None
        self.far_above_logs = self.overflowing_logs = 0
        self.loss = 0.0
        self.first_weights: dict[str, float] = {}

    def state(self) -> dict[str, Any]:
        """Return the state of these checks that a checkpoint has to hold so that a resumed run continues them."""
        attributes = {name: value for name, value in vars(self).items() if name != "loss_function"}
        return {"health": attributes, "signs": dict(vars(self.loss_function.collapse_check))}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Set these checks to the `state` in a checkpoint."""
        self.__dict__.update(state["health"])
        vars(self.loss_function.collapse_check).update(state["signs"])

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if logs is None or "loss" not in logs:
            return
        self.loss = logs["loss"]
        self.first_loss = self.loss if self.first_loss is None else self.first_loss
        self._check_divergence(args, state, logs)
        examples = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        position = TrainingPosition(state.global_step, state.max_steps, examples)
        collapse = self.loss_function.collapse_check.check(logs, position)
        if collapse is not None:
            self._stop(args, state, collapse)
        # Trainer writes a step's checkpoint after its log.
        self._prevent_bad_checkpoint(control)

    def _check_divergence(self, args: TrainingArguments, state: TrainerState, logs: Mapping[str, float]) -> None:
        if not math.isfinite(self.loss):
            self._stop(args, state, f"the loss is {self.loss}: training has diverged")
        overflows = not math.isfinite(logs.get("grad_norm", 0.0))
        self.overflowing_logs = self.overflowing_logs + 1 if overflows else 0
        if self.overflowing_logs >= OVERFLOWING_LOGS:
            self._stop(args, state, f"the gradients are not finite, {OVERFLOWING_LOGS} logs in a row")
        # A model that starts at chance may be far above it at the first log already.
        first_loss = 0.0 if self.loss_function.starts_at_chance else float(self.first_loss or 0.0)
        is_far_above = self.loss > FAR_ABOVE * max(first_loss, self.loss_function.chance_loss)
        self.far_above_logs = self.far_above_logs + 1 if is_far_above else 0
        if self.far_above_logs >= FAR_ABOVE_LOGS:
            self._stop_diverged(args, state)

    def _prevent_bad_checkpoint(self, control: TrainerControl) -> None:
        """Clear ``should_save`` while something looks wrong, so that the last good checkpoint is not replaced."""
        if self.far_above_logs or self.overflowing_logs or self.loss_function.collapse_check.suspected:
            control.should_save = False

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._prevent_bad_checkpoint(control)
        if state.global_step >= state.max_steps:
            control.should_log = True  # so that the end of a run is checked, however short the run is

    on_epoch_end = on_step_end

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        """Record the largest value of each trained weight, unless a checkpoint has given those of the first start."""
        self.first_weights = self.first_weights or largest_weights(model)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        if self.far_above_logs and state.global_step >= state.max_steps:
            self._stop_diverged(args, state)
        if state.is_world_process_zero:
            self._warn_at_end(args, model)
            warning = self.loss_function.collapse_check.final_warning()
            if warning is not None:
                logger.warning("%s", warning)

    def _warn_at_end(self, args: TrainingArguments, model: torch.nn.Module) -> None:
        """Log a warning at the end of training about huge weights, or a loss above that of guessing.

        These are no reason to stop, but a bad sign.
        """
        grown = {
            name: largest
            for name, largest in largest_weights(model).items()
            if largest > BLOWN_UP * max(1.0, self.first_weights.get(name, 0.0))
        }
        chance_loss = self.loss_function.chance_loss
        if grown:
            name, largest = max(grown.items(), key=lambda pair: pair[1])
            logger.warning(
                "%s has grown to %.2g in training (from %.2g): training was unstable. %s.",
                name, largest, self.first_weights.get(name, 0.0), _remedy(args),
            )  # fmt: skip
        elif self.loss_function.starts_at_chance and self.loss > WORSE_THAN_CHANCE * chance_loss > 0:
            logger.warning(
                "The training loss ended at %.3g, above the %.3g of guessing: nothing was learned. %s.",
                self.loss, chance_loss, _remedy(args),
            )  # fmt: skip

    def _stop_diverged(self, args: TrainingArguments, state: TrainerState) -> None:
        chance_loss = self.loss_function.chance_loss
        start = f"it started at {self.first_loss:.3g}, and guessing gives {chance_loss:.3g}"
        self._stop(args, state, f"the loss is {self.loss:.3g} ({start}): training has diverged")

    def _stop(self, args: TrainingArguments, state: TrainerState, problem: str) -> None:
        checkpoint = describe_last_checkpoint(args.output_dir)
        raise Failure(f"At step {state.global_step} {problem}. {_remedy(args)} {HOW_TO_SWITCH_OFF}. {checkpoint}")


def largest_weights(model: torch.nn.Module) -> dict[str, float]:
    """Return the largest absolute value of each trained parameter, by its name."""
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    with torch.no_grad():
        return {name: float(parameter.abs().max()) for name, parameter in trained.items() if parameter.numel()}


def _remedy(args: TrainingArguments) -> str:
    """Return advice for a message on which flags most often make training stable."""
    precision = ", or use --bf16 instead of --fp16" if args.fp16 else ""
    return f"Lower --learning_rate (it was {args.learning_rate:g}), or raise --warmup_steps{precision}"


def require_finite(model: torch.nn.Module, learning_rate: float, folder: str) -> None:
    """Raise an error if a weight of the trained model is NaN or infinite.

    Args:
        model: the trained model.
        learning_rate: it was trained with, for the message.
        folder: of the run's checkpoints.

    Raises:
        Failure: a weight is not finite.
    """
    for name, parameter in model.named_parameters():
        if not torch.isfinite(parameter).all():
            raise Failure(
                f"Training diverged: {name} is not finite. Lower --learning_rate (it was {learning_rate:g}), or train "
                f"without --fp16. {describe_last_checkpoint(folder)}"
            )
