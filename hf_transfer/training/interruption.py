"""Polite stops: SIGTERM and SIGINT end a run with a checkpoint, and with exit code 128 + signal."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from hf_transfer.errors import Interrupted, logger
from hf_transfer.training.checkpoints import last_checkpoint

STOPS = (signal.SIGTERM, signal.SIGINT)


@contextlib.contextmanager
def polite_stops() -> Iterator[None]:
    """Turn the signals into `Interrupted` inside the block, so that what is half-written is removed."""

    def stop(number: int, _: Any) -> None:
        logger.info("Stopped by %s.", signal.Signals(number).name)
        raise Interrupted(number)

    with _handling(stop):
        yield


@contextlib.contextmanager
def checkpoint_on_signal(trainer: Any) -> Iterator[None]:
    """Write a checkpoint at the end of the current step when a signal comes inside the block.

    Raises:
        Interrupted: after the checkpoint has been written.
    """
    stop = _StopAfterStep(trainer.args.ddp_timeout_delta)
    trainer.add_callback(stop)
    try:
        with _handling(stop.note):
            yield
    finally:
        trainer.remove_callback(stop)
    if stop.signal_number:
        # It may have come after the last step, where nothing was to be saved any more.
        step = f"checkpoint-{trainer.state.global_step}"
        if not (Path(trainer.args.output_dir) / step).is_dir() and not trainer.args.load_best_model_at_end:
            trainer._save_checkpoint(trainer.model, trial=None)
        logger.info(
            "Stopped by %s at step %d. %s Go on with --resume_from_checkpoint true.",
            signal.Signals(stop.signal_number).name, trainer.state.global_step,
            last_checkpoint(trainer.args.output_dir),
        )  # fmt: skip
        raise Interrupted(stop.signal_number)


class _StopAfterStep(TrainerCallback):
    def __init__(self, timeout: timedelta):
        self.signal_number = 0
        several = torch.distributed.is_available() and torch.distributed.is_initialized()
        self.beside: Any = torch.distributed.new_group(backend="gloo", timeout=timeout) if several else None

    def note(self, number: int, _: Any) -> None:
        self.signal_number = number

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if args.world_size > 1:
            # All processes stop at the same step, whichever of them was told; GPUs are not waited for.
            number = torch.tensor(self.signal_number)
            torch.distributed.all_reduce(number, op=torch.distributed.ReduceOp.MAX, group=self.beside)
            self.signal_number = int(number)
        if self.signal_number:
            control.should_training_stop = True
            # At the end of an epoch what belongs to it comes first: see below.
            control.should_save |= not _is_whole(state.epoch)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.signal_number and _is_whole(state.epoch):
            control.should_save = True
        elif self.signal_number:  # it was not its end: the checkpoint is written already
            control.should_log = control.should_evaluate = control.should_save = False


def _is_whole(epoch: float) -> bool:
    return abs(epoch - round(epoch)) < 1e-9


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
