"""Signs that a run is sick, before a night is lost to it."""

import math
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from hf_transfer.errors import Failure, logger

# A recogniser that has spoken and then stays silent for so many logs in a row has collapsed to blanks.
SILENT_LOGS = 10
SILENT_SHARE, SPEAKING_SHARE = 0.99, 0.9
# In nats a letter. A head that is new babbles at twice as much, and then is silent for a while before it learns.
SPEAKING_LOSS = 2.0


class Health(TrainerCallback):
    """Stops a run whose loss is not finite, or whose recogniser has collapsed to blanks; names one that never spoke.

    Raises:
        Failure: with the likely cause, the cure, and where the last good checkpoint is.
    """

    def __init__(self) -> None:
        self.has_spoken = False
        self.silent_logs = 0

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        logs = logs or {}
        if not math.isfinite(logs.get("loss", 0.0)):
            other = ", or use --bf16 instead of --fp16" if args.fp16 else ""
            raise Failure(
                f"The loss is {logs['loss']} at step {state.global_step}: training has diverged. Lower "
                f"--learning_rate (it was {args.learning_rate:g}){other}. "
                f"{last_checkpoint(args.output_dir)}"
            )
        if "empty_hypotheses" in logs:
            self._listen(args, state, logs["loss"], logs["empty_hypotheses"])

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.silent_logs and not self.has_spoken and state.is_world_process_zero:
            logger.warning(
                "By the last step the recogniser still writes nothing: train longer (--num_train_epochs), raise "
                "--learning_rate, or start from a checkpoint that can spell."
            )

    def _listen(self, args: Any, state: Any, loss: float, empty: float) -> None:
        self.has_spoken |= empty < SPEAKING_SHARE and loss < SPEAKING_LOSS
        self.silent_logs = self.silent_logs + 1 if empty >= SILENT_SHARE else 0
        if self.has_spoken and self.silent_logs >= SILENT_LOGS:
            raise Failure(
                f"The recogniser has collapsed to blanks by step {state.global_step}: it wrote nothing for "
                f"{SILENT_LOGS} logs. Lower --learning_rate (it was {args.learning_rate:g}), or raise --warmup_steps. "
                f"{last_checkpoint(args.output_dir)}"
            )


def last_checkpoint(folder: str) -> str:
    """In words, where the last good checkpoint is."""
    found = sorted(Path(folder).glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    return f"The last good checkpoint is {found[-1]}." if found else "Nothing is written."


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
