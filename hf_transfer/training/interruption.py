"""SIGTERM and SIGINT: the run writes a checkpoint first, and then exits with code 128 + signal."""

import contextlib
import functools
import os
import signal
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_transfer import errors
from hf_transfer.errors import Interrupted, logger
from hf_transfer.training.checkpoints import describe_last_checkpoint

if TYPE_CHECKING:
    from hf_transfer.training.trainer import TransferTrainer

SIGNALS = (signal.SIGTERM, signal.SIGINT)
Handler = Callable[[int, FrameType | None], None]


@contextlib.contextmanager
def raise_interrupted() -> Iterator[None]:
    """Context manager: raise `Interrupted` when SIGTERM or SIGINT comes, so that unfinished files are removed."""
    signals = errors.signals if errors.signals.is_program else errors.Signals(is_program=False)
    signals.raise_if_received()

    def handler(number: int, _: FrameType | None) -> None:
        signals.note(number)
        logger.info("Stopped by %s.", signal.Signals(number).name)
        raise Interrupted(number)

    with _handling_signals(handler):
        yield


@contextlib.contextmanager
def checkpoint_on_signal(trainer: "TransferTrainer") -> Iterator[None]:
    """Context manager around training: if a signal comes, write a checkpoint after the step and stop the run.

    An evaluation ends after its current batch; the resumed run then evaluates first.

    Raises:
        Interrupted: after the checkpoint has been written.
    """
    stop = trainer.stop_callback = StopCallback(trainer.args.ddp_timeout_delta)
    trainer.add_callback(stop)
    was_evaluating = False
    try:
        with _handling_signals(stop.note_signal):
            try:
                yield
            except _EvaluationStopped:
                was_evaluating = True
            if stop.signal_number:
                # If the signal came after the last step, Trainer has not written its checkpoint.
                is_saved = _checkpoint_of_step(trainer).is_dir() or trainer.args.load_best_model_at_end
                _stop_run(trainer, stop.signal_number, save=was_evaluating or not is_saved)
    finally:
        trainer.stop_callback = None
        trainer.remove_callback(stop)


@contextlib.contextmanager
def checkpoint_when_stopped(trainer: "TransferTrainer", is_delivered: Callable[[], bool]) -> Iterator[None]:
    """Context manager for what follows training: if a signal ends it, write a checkpoint of the last step.

    A step that has its checkpoint already gets no second one. An evaluation ends after its current batch; anything
    else ends at once.

    Args:
        trainer: that has trained.
        is_delivered: whether the result is complete, so that no checkpoint is needed.

    Raises:
        Interrupted: after the checkpoint has been written.
    """
    stop = trainer.stop_callback = StopCallback(trainer.args.ddp_timeout_delta)

    def handler(number: int, frame: FrameType | None) -> None:
        stop.note_signal(number, frame)
        if not trainer.is_evaluating:
            raise Interrupted(number)

    try:
        with _handling_signals(handler):
            try:
                yield
            except Interrupted as stopped:
                if is_delivered():
                    logger.info("Stopped by %s; the result is complete.", signal.Signals(stopped.signal_number).name)
                    raise
                # All processes have to write a checkpoint together, and only at the end of an evaluation do all stop.
                can_save = isinstance(stopped, _EvaluationStopped) or trainer.args.world_size == 1
                is_saved = _checkpoint_of_step(trainer).is_dir() or trainer.args.load_best_model_at_end
                _stop_run(trainer, stopped.signal_number, save=can_save and not is_saved)
    finally:
        trainer.stop_callback = None


def _checkpoint_of_step(trainer: "TransferTrainer") -> Path:
    return Path(trainer.args.output_dir) / f"checkpoint-{trainer.state.global_step}"


def _stop_run(trainer: "TransferTrainer", number: int, *, save: bool) -> NoReturn:
    if save:
        trainer._save_checkpoint(trainer.model, trial=None)
    checkpoint = describe_last_checkpoint(trainer.args.output_dir)
    logger.info("Stopped by %s at step %d. %s", signal.Signals(number).name, trainer.state.global_step, checkpoint)
    # `compare` and `study`, which are resumed by the same command, do not show this line.
    logger.info("Continue with --resume_from_checkpoint true.", extra={"of_one_run": True})
    raise Interrupted(number)


@functools.cache
def _gloo_group(timeout: timedelta) -> Any:
    """Return the process group in which all processes tell each other of signals; None for a single process."""
    several = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.new_group(backend="gloo", timeout=timeout) if several else None


class _EvaluationStopped(Interrupted):
    """Exception: an evaluation has ended early, on all processes, because of a signal."""


class StopCallback(TrainerCallback):
    """Callback that ends training at the same step on all processes when one of them gets a signal.

    Args:
        timeout: for the processes to tell each other of signals.

    Attributes:
        signal_number: the first signal that has come, or 0.
    """

    def __init__(self, timeout: timedelta):
        self.signal_number = 0
        self.process_id = os.getpid()
        self.signals = errors.signals if errors.signals.is_program else errors.Signals(is_program=False)
        self.group = _gloo_group(timeout)

    def note_signal(self, number: int, _: FrameType | None) -> None:
        """Record a signal that has come, and log that a checkpoint follows (a signal handler)."""
        if os.getpid() != self.process_id:  # a data loader's worker process, which gets Ctrl-C too
            return
        self.signals.note(number)
        if not self.signal_number:
            logger.info("%s: a checkpoint is written first (a second SIGINT ends the run at once).",
                        signal.Signals(number).name)  # fmt: skip
        self.signal_number = self.signal_number or number

    def agree(self) -> int:
        """Return the number of the signal that any process has got, or 0, the same on all processes.

        GPUs are not synchronised.
        """
        if self.group is not None:
            number = torch.tensor(self.signal_number)
            torch.distributed.all_reduce(number, op=torch.distributed.ReduceOp.MAX, group=self.group)
            self.signal_number = int(number)
        return self.signal_number

    def end_evaluation(self) -> None:
        """Raise an error on all processes, at the end of an evaluation, if a signal has come to one of them.

        Raises:
            Interrupted: a signal has come to one of the processes.
        """
        if self.agree():
            raise _EvaluationStopped(self.signal_number)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.agree():
            control.should_training_stop = True
            # At the end of an epoch, its evaluation comes before the checkpoint: see `on_epoch_end`.
            control.should_save |= not _is_whole_number(state.epoch)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.signal_number and _is_whole_number(state.epoch):
            control.should_save = True
        elif self.signal_number:  # Trainer calls this in the middle of an epoch too; the checkpoint is written already
            control.should_log = control.should_evaluate = control.should_save = False


def _is_whole_number(epoch: float) -> bool:
    return abs(epoch - round(epoch)) < 1e-9


@contextlib.contextmanager
def _handling_signals(handler: Handler) -> Iterator[None]:
    """Context manager: call `handler` when SIGTERM or SIGINT comes inside the block."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Python allows signal handlers in the main thread only
        return
    handlers_before = {number: signal.signal(number, handler) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler_before in handlers_before.items():
            signal.signal(number, handler_before)
