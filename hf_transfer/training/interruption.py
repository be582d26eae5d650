"""Polite stops: SIGTERM and SIGINT end a run with a checkpoint, and with exit code 128 + signal."""

import contextlib
import functools
import os
import signal
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn

import torch
from transformers import TrainerCallback

from hf_transfer import errors
from hf_transfer.errors import Interrupted, logger
from hf_transfer.training.checkpoints import describe_last_checkpoint

STOPS = (signal.SIGTERM, signal.SIGINT)


@contextlib.contextmanager
def polite_stops() -> Iterator[None]:
    """Turn the signals into `Interrupted` inside the block, so that what is half-written is removed."""
    signals = errors.signals if errors.signals.program else errors.Signals(program=False)
    signals.follow()

    def stop(number: int, _: Any) -> None:
        signals.note(number)
        logger.info("Stopped by %s.", signal.Signals(number).name)
        raise Interrupted(number)

    with _handling(stop):
        yield


@contextlib.contextmanager
def checkpoint_on_signal(trainer: Any) -> Iterator[None]:
    """Write a checkpoint when a signal comes while the block trains: at the end of the current step.

    An evaluation ends with its current batch; the run that goes on from the checkpoint evaluates first.

    Raises:
        Interrupted: after the checkpoint has been written.
    """
    stop = trainer.stop = _StopAfterStep(trainer.args.ddp_timeout_delta)
    trainer.add_callback(stop)
    evaluating = False
    try:
        with _handling(stop.note):
            try:
                yield
            except _PassStopped:
                evaluating = True
            if stop.signal_number:
                # It may have come after the last step, where nothing was to be saved any more.
                there = _checkpoint(trainer).is_dir() or trainer.args.load_best_model_at_end
                _end(trainer, stop.signal_number, save=evaluating or not there)
    finally:
        trainer.stop = None
        trainer.remove_callback(stop)


@contextlib.contextmanager
def checkpoint_when_stopped(trainer: Any, is_delivered: Callable[[], bool]) -> Iterator[None]:
    """Write a checkpoint of the last step, unless there is one, when a signal ends the block: training is done there.

    A pass over examples ends with its current batch, anything else at once.

    Args:
        trainer: of the run.
        is_delivered: whether the result is in its place: then there is nothing to go on with.

    Raises:
        Interrupted: after the checkpoint has been written.
    """
    stop = trainer.stop = _StopAfterStep(trainer.args.ddp_timeout_delta)

    def note(number: int, frame: Any) -> None:
        stop.note(number, frame)
        if not trainer.in_pass:
            raise Interrupted(number)

    try:
        with _handling(note):
            try:
                yield
            except Interrupted as stopped:
                if is_delivered():
                    logger.info("Stopped by %s; the result is complete.", signal.Signals(stopped.signal_number).name)
                    raise
                # Several processes agree on the end of a pass, and elsewhere cannot write a checkpoint together.
                together = isinstance(stopped, _PassStopped) or trainer.args.world_size == 1
                there = _checkpoint(trainer).is_dir() or trainer.args.load_best_model_at_end
                _end(trainer, stopped.signal_number, save=together and not there)
    finally:
        trainer.stop = None


def _checkpoint(trainer: Any) -> Path:
    return Path(trainer.args.output_dir) / f"checkpoint-{trainer.state.global_step}"


def _end(trainer: Any, number: int, *, save: bool) -> NoReturn:
    if save:
        trainer._save_checkpoint(trainer.model, trial=None)
    where = describe_last_checkpoint(trainer.args.output_dir)
    logger.info("Stopped by %s at step %d. %s", signal.Signals(number).name, trainer.state.global_step, where)
    # A series of runs is gone on with otherwise.
    logger.info("Go on with --resume_from_checkpoint true.", extra={"of_one_run": True})
    raise Interrupted(number)


@functools.cache
def _group(timeout: timedelta) -> Any:
    """The processes that agree on stops, made once by all of them together; None of a single one."""
    several = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.new_group(backend="gloo", timeout=timeout) if several else None


class _PassStopped(Interrupted):
    """A pass over examples has ended before its time, on all processes."""


class _StopAfterStep(TrainerCallback):
    def __init__(self, timeout: timedelta):
        self.signal_number = 0
        self.process = os.getpid()
        self.signals = errors.signals if errors.signals.program else errors.Signals(program=False)
        self.beside = _group(timeout)

    def note(self, number: int, _: Any) -> None:
        if os.getpid() != self.process:  # a worker that loads data: Ctrl-C reaches it, too
            return
        self.signals.note(number)
        if not self.signal_number:
            logger.info("%s: a checkpoint is written first (SIGINT once more ends at once).",
                        signal.Signals(number).name)  # fmt: skip
        self.signal_number = self.signal_number or number

    def agree(self) -> int:
        """The signal that any of the processes has got, or 0; GPUs are not waited for."""
        if self.beside is not None:
            number = torch.tensor(self.signal_number)
            torch.distributed.all_reduce(number, op=torch.distributed.ReduceOp.MAX, group=self.beside)
            self.signal_number = int(number)
        return self.signal_number

    def end_pass(self) -> None:
        """At the end of a pass over examples, or before it: what was stopped raises on all processes.

        Raises:
            Interrupted: a signal has come to one of them.
        """
        if self.agree():
            raise _PassStopped(self.signal_number)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.agree():  # all processes stop at the same step, whichever of them was told
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
