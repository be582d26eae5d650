"""Signs that a run is sick, before a night is lost to it."""

import math
from typing import Any

import torch
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from hf_transfer.errors import Failure, logger
from hf_transfer.training.checkpoints import last_checkpoint

# A recogniser that has spoken and then stays silent for so many clips and logs in a row has collapsed to blanks; a
# classifier that gives one answer only for so many texts has collapsed to it.
COLLAPSED_LOGS, COLLAPSED_CLIPS, COLLAPSED_TEXTS = 10, 100, 1000
SILENT_SHARE, SPEAKING_SHARE = 0.99, 0.9
# In nats a letter. A head that is new babbles at twice as much, and then is silent for a while before it learns.
SPEAKING_LOSS = 2.0
# Labels less even than this are answered with the commonest one for good reason; and so are all, at first.
COMMONEST_LABEL, SETTLING_SHARE = 0.95, 1 / 3
# Numbers whose spread is this small a part of that of the true ones are one, up to rounding. Before a small model has
# learned anything it may be a thousandth.
ONE_NUMBER = 1e-5
# Far above: so many times the loss at the beginning, or that of a model that knows nothing if this is more.
FAR_ABOVE, FAR_ABOVE_LOGS = 3.0, 5
# Mixed precision skips steps whose gradients overflow, and lowers its scale: a few in a row are no harm.
OVERFLOWING_LOGS = 5
# So many times the loss of guessing, at the end of training, is worth a remark.
WORSE_THAN_CHANCE = 1.5
# Trained weights stay within some tens; so many times what the largest was before, and more than that, is no learning.
BLOWN_UP = 1000.0
OFF = "(--stop_when_sick false goes on nevertheless)"


class Health(TrainerCallback, ExportableState):
    """Stops a run that has diverged or collapsed; names a recogniser that never spoke.

    Raises:
        Failure: with the likely cause, the cure, and where the last good checkpoint is.
    """

    def __init__(self) -> None:
        self.first_loss: float | None = None
        self.has_spoken = False
        self.silent_logs = self.one_answer_logs = self.far_above_logs = self.overflowing_logs = 0
        self.silent_since = self.one_answer_since = 0
        self.loss = self.chance = 0.0
        self.knows_chance = False
        self.first_weights: dict[str, float] = {}

    def state(self) -> dict[str, Any]:
        """For checkpoints: a run that goes on has seen what it saw."""
        return {"args": {}, "attributes": dict(vars(self))}

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if logs is None or "loss" not in logs:
            return
        loss, self.first_loss = logs["loss"], logs["loss"] if self.first_loss is None else self.first_loss
        if not math.isfinite(loss):
            self._stop(args, state, f"the loss is {loss}: training has diverged. {_calmer(args)}")
        overflows = not math.isfinite(logs.get("grad_norm", 0.0))
        self.overflowing_logs = self.overflowing_logs + 1 if overflows else 0
        if self.overflowing_logs >= OVERFLOWING_LOGS:
            why = f"the gradients are not finite, {OVERFLOWING_LOGS} logs in a row"
            self._stop(args, state, f"{why}. {_calmer(args)}")
        # A new classifier begins at chance, and may be far above it at the first log; a recogniser begins anywhere.
        beginning = 0.0 if "commonest_prediction" in logs else self.first_loss
        far = loss > FAR_ABOVE * max(beginning, logs.get("loss_at_chance", 0.0))
        self.far_above_logs = self.far_above_logs + 1 if far else 0
        self.loss, self.chance = loss, logs.get("loss_at_chance", 0.0)
        # Of classifiers; a recogniser's loss a letter is no guess among letters.
        self.knows_chance = "commonest_prediction" in logs
        if self.far_above_logs >= FAR_ABOVE_LOGS:
            self._stop_diverged(args, state)
        if "empty_hypotheses" in logs:
            self._listen(args, state, loss, logs["empty_hypotheses"])
        if "commonest_prediction" in logs:
            one = logs["commonest_prediction"] >= 1.0 and logs["commonest_label"] <= COMMONEST_LABEL
            self._compare(args, state, one, "all got the same label: the classifier has collapsed")
        if "prediction_spread" in logs:
            one = logs["prediction_spread"] < ONE_NUMBER
            self._compare(args, state, one, "all got the same number: the model has collapsed")
        self._hold_back(control)  # a step's checkpoint is written after its log

    def _hold_back(self, control: Any) -> None:
        """Write no checkpoint while the signs are bad: it would push out the last good one."""
        if self.far_above_logs or self.overflowing_logs or (self.has_spoken and self.silent_logs):
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
        if self.silent_logs and not self.has_spoken and state.is_world_process_zero:
            logger.warning(
                "By the last step the recogniser still writes nothing: train longer (--num_train_epochs), raise "
                "--learning_rate, or start from a checkpoint that can spell."
            )

    def _remark(self, args: Any, model: Any) -> None:
        """Say what is no reason to stop and no good sign either: huge weights, a loss above that of guessing."""
        grown = {
            name: largest
            for name, largest in largest_weights(model).items()
            if largest > BLOWN_UP * max(1.0, self.first_weights.get(name, 0.0))
        }
        if grown:
            name, largest = max(grown.items(), key=lambda pair: pair[1])
            logger.warning(
                "%s has grown to %.2g in training (from %.2g): such weights are thrown about and not learned. %s.",
                name, largest, self.first_weights.get(name, 0.0), _calmer(args),
            )  # fmt: skip
        elif self.knows_chance and self.loss > WORSE_THAN_CHANCE * self.chance > 0:
            logger.warning(
                "The training loss ended at %.3g, above the %.3g of guessing: nothing was learned. %s.",
                self.loss, self.chance, _calmer(args),
            )  # fmt: skip

    def _listen(self, args: Any, state: Any, loss: float, empty: float) -> None:
        self.has_spoken |= empty < SPEAKING_SHARE and loss < SPEAKING_LOSS
        if empty < SILENT_SHARE:
            self.silent_logs, self.silent_since = 0, state.global_step
            return
        self.silent_logs += 1
        clips = (state.global_step - self.silent_since) * _examples_a_step(args)
        if self.has_spoken and self.silent_logs >= COLLAPSED_LOGS and clips >= COLLAPSED_CLIPS:
            self._stop(args, state, f"the recogniser has collapsed to blanks: it wrote nothing for {clips} clips. "
                                    f"{_calmer(args)}")  # fmt: skip

    def _compare(self, args: Any, state: Any, one_answer: bool, what: str) -> None:
        if not one_answer:
            self.one_answer_logs, self.one_answer_since = 0, state.global_step
            return
        self.one_answer_logs += 1
        texts = (state.global_step - self.one_answer_since) * _examples_a_step(args)
        settled = state.global_step >= SETTLING_SHARE * state.max_steps
        if settled and self.one_answer_logs >= COLLAPSED_LOGS and texts >= COLLAPSED_TEXTS:
            self._stop(args, state, f"the last {texts} texts {what}. {_calmer(args)}")

    def _stop_diverged(self, args: Any, state: Any) -> None:
        told = f"the loss is {self.loss:.3g}, where it began at {self.first_loss:.3g}, and {self.chance:.3g} is chance"
        self._stop(args, state, f"{told}: training has diverged. {_calmer(args)}")

    def _stop(self, args: Any, state: Any, what: str) -> None:
        raise Failure(f"At step {state.global_step} {what} {OFF}. {last_checkpoint(args.output_dir)}")


def _examples_a_step(args: Any) -> int:
    return int(args.train_batch_size * args.gradient_accumulation_steps * args.world_size)


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
