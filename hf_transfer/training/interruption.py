"""Polite stops: SIGTERM and SIGINT end a run with a checkpoint, and with exit code 128 + signal."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch
from transformers import TrainerCallback

from hf_transfer.errors import Interrupted, logger

STOPS = (signal.SIGTERM, signal.SIGINT)


@contextlib.contextmanager
def polite_stops() -> Iterator[None]:
    """Turn the signals into `Interrupted` inside the block, so that what is half-written is removed."""

    def stop(number: int, _: Any) -> None:
        raise Interrupted(number)

    with _handling(stop):
        yield


@contextlib.contextmanager
def checkpoint_on_signal(trainer: Any) -> Iterator[None]:
    """Write a checkpoint at the end of the current step when a signal comes inside the block.

    Raises:
        Interrupted: after the checkpoint has been written.
    """
    stop = _StopAfterStep()
    trainer.add_callback(stop)
    try:
        with _handling(stop.note):
            yield
    finally:
        trainer.remove_callback(stop)
    if stop.signal_number:
        logger.info(
            "Stopped by %s at step %d; the checkpoint is in %s. Go on with --resume_from_checkpoint true.",
            signal.Signals(stop.signal_number).name, trainer.state.global_step, trainer.args.output_dir,
        )  # fmt: skip
        raise Interrupted(stop.signal_number)


class _StopAfterStep(TrainerCallback):
    def __init__(self) -> None:
        self.signal_number = 0

    def note(self, number: int, _: Any) -> None:
        self.signal_number = number

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if args.world_size > 1:
            # All processes stop at the same step, whichever of them was told.
            number = torch.tensor(self.signal_number, device=args.device)
            torch.distributed.all_reduce(number, op=torch.distributed.ReduceOp.MAX)
            self.signal_number = int(number)
        if self.signal_number:
            control.should_save = control.should_training_stop = True


@contextlib.contextmanager
def _handling(handler: Callable[[int, Any], None]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set handlers
        return
    before = {number: signal.signal(number, handler) for number in STOPS}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
