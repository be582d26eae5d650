"""Signs that a run is sick, before a night is lost to it."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from transformers import TrainerCallback

from hf_transfer.errors import Failure, logger
from hf_transfer.training.checkpoints import last_checkpoint
from hf_transfer.training.loss import Loss, Moment

# Far above: so many times the loss at the beginning, or that of a model that knows nothing if this is more.
FAR_ABOVE, FAR_ABOVE_LOGS = 3.0, 5
# Mixed precision skips steps whose gradients overflow, and lowers its scale: a few in a row are no harm.
OVERFLOWING_LOGS = 5
# So many times the loss of guessing, at the end of training, is worth a remark.
WORSE_THAN_CHANCE = 1.5
# Trained weights stay within some tens; so many times what the largest was before, and more than that, is no learning.
BLOWN_UP = 1000.0
OFF = "(--stop_when_sick false goes on nevertheless)"


class Health(TrainerCallback):
    """Stops a run that has diverged or collapsed.

    Args:
        loss: whose figures are looked at.

    Raises:
        Failure: with the likely cause, the cure, and where the last good checkpoint is.
    """

    def __init__(self, loss: Loss):
        self.minimised = loss
        self.first_loss: float | None = None
        self.far_above_logs = self.overflowing_logs = 0
        self.loss = 0.0
        self.first_weights: dict[str, float] = {}

    def state(self) -> dict[str, Any]:
        """For checkpoints: a run that goes on has seen what it saw."""
        own = {name: value for name, value in vars(self).items() if name != "minimised"}
        return {"health": own, "signs": dict(vars(self.minimised.signs))}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from the `state` of a checkpoint."""
        self.__dict__.update(state["health"])
        vars(self.minimised.signs).update(state["signs"])

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if logs is None or "loss" not in logs:
            return
        self.loss, chance = logs["loss"], self.minimised.chance
        self.first_loss = self.loss if self.first_loss is None else self.first_loss
        if not math.isfinite(self.loss):
            self._stop(args, state, f"the loss is {self.loss}: training has diverged")
        overflows = not math.isfinite(logs.get("grad_norm", 0.0))
        self.overflowing_logs = self.overflowing_logs + 1 if overflows else 0
        if self.overflowing_logs >= OVERFLOWING_LOGS:
            self._stop(args, state, f"the gradients are not finite, {OVERFLOWING_LOGS} logs in a row")
        # A model that begins at chance may be far above it at the first log.
        beginning = 0.0 if self.minimised.begins_at_chance else self.first_loss
        far = self.loss > FAR_ABOVE * max(beginning, chance)
        self.far_above_logs = self.far_above_logs + 1 if far else 0
        if self.far_above_logs >= FAR_ABOVE_LOGS:
            self._stop_diverged(args, state)
        examples = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        wrong = self.minimised.signs.look(logs, Moment(state.global_step, state.max_steps, examples))
        if wrong is not None:
            self._stop(args, state, wrong)
        self._hold_back(control)  # a step's checkpoint is written after its log

    def _hold_back(self, control: Any) -> None:
        """Write no checkpoint while the signs are bad: it would push out the last good one."""
        if self.far_above_logs or self.overflowing_logs or self.minimised.signs.bad:
            control.should_save = False

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._hold_back(control)
        if state.global_step >= state.max_steps:
            control.should_log = True  # how a run ends is looked at, however short it is

    on_epoch_end = on_step_end

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Note how large the weights are that will be trained; a run that goes on knows it of its beginning."""
        self.first_weights = self.first_weights or largest_weights(model)

    def on_train_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        if self.far_above_logs and state.global_step >= state.max_steps:
            self._stop_diverged(args, state)
        if state.is_world_process_zero:
            self._remark(args, model)
            remark = self.minimised.signs.remark()
            if remark is not None:
                logger.warning("%s", remark)

    def _remark(self, args: Any, model: Any) -> None:
        """Say what is no reason to stop and no good sign either: huge weights, a loss above that of guessing."""
        grown = {
            name: largest
            for name, largest in largest_weights(model).items()
            if largest > BLOWN_UP * max(1.0, self.first_weights.get(name, 0.0))
        }
        chance = self.minimised.chance
        if grown:
            name, largest = max(grown.items(), key=lambda pair: pair[1])
            logger.warning(
                "%s has grown to %.2g in training (from %.2g): such weights are thrown about and not learned. %s.",
                name, largest, self.first_weights.get(name, 0.0), _calmer(args),
            )  # fmt: skip
        elif self.minimised.begins_at_chance and self.loss > WORSE_THAN_CHANCE * chance > 0:
            logger.warning(
                "The training loss ended at %.3g, above the %.3g of guessing: nothing was learned. %s.",
                self.loss, chance, _calmer(args),
            )  # fmt: skip

    def _stop_diverged(self, args: Any, state: Any) -> None:
        began = f"where it began at {self.first_loss:.3g}, and {self.minimised.chance:.3g} is chance"
        self._stop(args, state, f"the loss is {self.loss:.3g}, {began}: training has diverged")

    def _stop(self, args: Any, state: Any, what: str) -> None:
        last = last_checkpoint(args.output_dir)
        raise Failure(f"At step {state.global_step} {what}. {_calmer(args)} {OFF}. {last}")


def largest_weights(model: Any) -> dict[str, float]:
    """The largest absolute value in each parameter that is trained, by its name."""
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    with torch.no_grad():
        return {name: float(parameter.abs().max()) for name, parameter in trained.items() if parameter.numel()}


def _calmer(args: Any) -> str:
    """What most often helps."""
    other = ", or use --bf16 instead of --fp16" if args.fp16 else ""
    return f"Lower --learning_rate (it was {args.learning_rate:g}), or raise --warmup_steps{other}"


def require_finite(model: Any, learning_rate: float, folder: str) -> None:
    """Refuse to go on with weights that are not finite.

    Raises:
        Failure: some are NaN or infinite.
    """
    for name, parameter in model.named_parameters():
        if not torch.isfinite(parameter).all():
            raise Failure(
                f"Training diverged: {name} is not finite. Lower --learning_rate (it was {learning_rate:g}), or train "
                f"without --fp16. {last_checkpoint(folder)}"
            )
