"""Logs a run's curves and results to experiment trackers (``--report_to``): TensorBoard, trackio and wandb."""

import contextlib
import io
import math
import os
import re
import shutil
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from transformers.integrations import TensorBoardCallback, TrackioCallback, WandbCallback
from transformers.integrations.integration_utils import get_reporting_integration_callbacks

from hf_transfer.arguments import Arguments
from hf_transfer.errors import InputError, logger, short_path
from hf_transfer.reporting.model_card import cell, model_card
from hf_transfer.reporting.output_folder import OutputFolder
from hf_transfer.reporting.page import report_page
from hf_transfer.reporting.publishing import published_arguments, published_report
from hf_transfer.reporting.run_files import LOG_FOLDER

# Trackers that get results, too; transformers' other trackers get only what Trainer logs.
TRACKERS = ("tensorboard", "trackio", "wandb")


@contextlib.contextmanager
def tracking(arguments: Arguments, output: OutputFolder) -> Iterator["Tracking"]:
    """Context manager: yield the `Tracking` of a run's experiment trackers, all of which are closed after the block.

    Raises:
        InputError: a tracker is unknown, or its package is not installed.
    """
    training = arguments.training
    callbacks = {name: _callback(name) for name in training.report_to or ()}
    others = [name for name in callbacks if name not in TRACKERS]
    ours = {name: callback for name, callback in callbacks.items() if name in TRACKERS and not training.process_index}
    tracking = Tracking(ours, others, arguments, output)
    try:
        yield tracking
    finally:
        for name in list(ours):
            tracking.drop(name)


class Tracking(TrainerCallback):
    """Callback that calls transformers' callbacks of trackers, and keeps their runs open until results are logged.

    Trainer would end a tracker's run at the last step, and log each split that is predicted as ``test``.

    Args:
        callbacks: by tracker; empty on processes other than the main one.
        others: trackers that Trainer calls itself.
        arguments: of the run.
        output: the working folder and the output folder, for the logs.
    """

    def __init__(self, callbacks: dict[str, Any], others: list[str], arguments: Arguments, output: OutputFolder):
        self.callbacks, self.others = callbacks, others
        self.arguments, self.output = arguments, output
        self.name = str(arguments.training.run_name or output.path.resolve().name)
        self.open: set[str] = set()
        # Trackers count a model's weights when they begin: see `TransferTrainer.with_all_modules`.
        self.with_all_modules: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        places = []
        for name, callback in self.callbacks.items():
            try:
                with _quietly(name), self.with_all_modules():
                    is_open = name in self.open  # training was restarted when memory ran out
                    place = self._begin(callback, is_open, args, state, control, **kwargs)
                    places += [] if is_open else [place]
                    self.open.add(name)
            except Exception as error:  # trackers and networks raise errors of any kind
                raise InputError(
                    f"--report_to {name}: the tracker cannot be started: {_reason(error)}. Training has not begun."
                ) from error
        if places:
            logger.info("Tracked as %s: %s", self.name, "; ".join(places))

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        finite = _finite_numbers(logs or {})
        self._call(lambda callback: callback.on_log(args, state, control, logs=finite, **kwargs))

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._call(lambda callback: callback.on_save(args, state, control, **kwargs))

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if "tensorboard" in self.callbacks:  # its files will be moved
            self.callbacks["tensorboard"].on_train_end(args, state, control, **kwargs)

    def report(self, trainer: Any, report: Mapping[str, Any]) -> None:
        """Log the results of a run to its trackers and end their runs; an error of a tracker is only logged.

        Metrics are ``before/NAME`` at step 0 and ``after/NAME`` at the last step, of the test split;
        ``source/before/NAME`` of the source examples and ``groups/GROUP/before/NAME`` of each group, and so on.
        """
        arguments, step = self.arguments.as_dict(), trainer.state.global_step
        published = published_report(report)

        def log_results(callback: Any) -> None:
            if isinstance(callback, TensorBoardCallback):
                writer = _writer(self._logs(callback, self.output.path))
                for when, at in (("before", 0), ("after", step)):
                    for key, value in metrics(report, when).items():
                        writer.add_scalar(key, value, at)
                where = f"The whole report: `{self.output.path.resolve() / 'report.html'}`"
                writer.add_text("results", f"{_results(published, arguments)}\n\n{where}", step)
                writer.close()
            elif isinstance(callback, TrackioCallback):
                import trackio

                page = trackio.Html(report_page(published, published_arguments(arguments, report), []), inject=False)
                trackio.log({**metrics(report, "before"), "train/global_step": 0}, step=0)
                trackio.log({**metrics(report, "after"), "report": page, "train/global_step": step})
            elif isinstance(callback, WandbCallback):
                import wandb

                page = report_page(published, published_arguments(arguments, report), [])
                page = wandb.Html(io.StringIO(page), inject=False)
                wandb.log({**metrics(report, "before"), "train/global_step": 0})
                wandb.log({**metrics(report, "after"), "report": page, "train/global_step": step})
            callback.on_train_end(
                trainer.args, trainer.state, trainer.control, model=trainer.model,
                processing_class=trainer.processing_class,
            )  # fmt: skip
            if isinstance(callback, WandbCallback):
                wandb.finish()

        for name in list(self.callbacks):
            with _quietly(name):
                self._call(log_results, name)
        self.callbacks.clear()

    def drop(self, name: str) -> None:
        """Close the run of the tracker `name` without results."""
        callback = self.callbacks.pop(name, None)
        if name not in self.open:
            return
        with contextlib.suppress(Exception), _quietly(name):
            if isinstance(callback, TensorBoardCallback) and callback.tb_writer is not None:
                callback.tb_writer.close()
            elif isinstance(callback, TrackioCallback):
                import trackio

                trackio.finish()
            elif isinstance(callback, WandbCallback):
                import wandb

                wandb.finish(exit_code=1)

    def _call(self, event: Callable[[Any], None], *names: str) -> None:
        """Call `event` with the callbacks of some trackers, or of all; drop those that raise an error."""
        for name in names or list(self.callbacks):
            try:
                event(self.callbacks[name])
            except Exception as error:  # a tracker's error does not end the run
                logger.warning("--report_to %s: %s. The run goes on without it.", name, _reason(error))
                self.drop(name)

    def _begin(self, callback: Any, is_open: bool, args: Any, state: Any, control: Any, **kwargs: Any) -> str:
        """Open a tracker's run, or continue that of a checkpoint; return where the user can see it, as text."""
        told, continues = published_arguments(self.arguments.as_dict()), is_open or state.global_step > 0
        if isinstance(callback, TensorBoardCallback):
            if not continues:
                shutil.rmtree(self.output.work / LOG_FOLDER, ignore_errors=True)
            # Steps after the checkpoint are logged again.
            callback.tb_writer = _writer(
                self._logs(callback, self.output.work), purge_step=state.global_step + 1 if continues else None
            )
            callback.on_train_begin(args, state, control, **kwargs)
            rows = "\n".join(f"| {key} | {cell(value)} |" for key, value in told.items())
            callback.tb_writer.add_text("arguments", f"| argument | value |\n|---|---|\n{rows}")
            if os.environ.get("TENSORBOARD_LOGGING_DIR"):
                return f"tensorboard --logdir {short_path(callback.logging_dir)}"
            here, there = (short_path(folder / LOG_FOLDER) for folder in (self.output.work, self.output.path))
            return f"tensorboard --logdir {here} (in the end {there})"
        if isinstance(callback, TrackioCallback):
            import trackio

            if not is_open:
                trackio.init(
                    project=args.project, name=self.name, space_id=args.trackio_space_id,
                    bucket_id=args.trackio_bucket_id, private=args.hub_private_repo, config=told,
                    # trackio's callback would continue any run of that name.
                    resume="allow" if continues else "never", embed=False,
                )  # fmt: skip
                callback._space_id, callback._initialized = trackio.context_vars.current_space_id.get(), True
            if callback._space_id:
                return str(callback.SPACE_URL.format(space_id=callback._space_id))
            return f'trackio show --project "{args.project}"'
        import wandb

        if not is_open:
            wandb.init(
                project=os.environ.get("WANDB_PROJECT") or args.project, name=self.name,
                id=self._wandb_id(continues), resume="allow",
                # wandb would upload the command line, which may hold a token, and what is printed.
                settings=wandb.Settings(silent=True, console="off", x_disable_meta=True),
            )  # fmt: skip
        callback.on_train_begin(args, state, control, **kwargs)
        wandb.config.update(told, allow_val_change=True)
        return str(wandb.run.url or wandb.run.dir)

    def _logs(self, callback: Any, folder: Path) -> Path:
        """Return the folder of TensorBoard's logs inside the run's working folder or output folder."""
        if os.environ.get("TENSORBOARD_LOGGING_DIR"):
            return Path(callback.logging_dir)
        return folder / LOG_FOLDER / (re.sub(r"[^\w.-]+", "-", self.name).strip(".") or "run")

    def _wandb_id(self, continues: bool) -> str:
        """Return the id of the run at wandb, which is saved so that a resumed run continues it."""
        file = self.output.work / "wandb-id"
        if not (continues and file.is_file()):
            file.write_text(uuid.uuid4().hex, encoding="utf-8")
        return file.read_text(encoding="utf-8")


def metrics(report: Mapping[str, Any], when: str) -> dict[str, float]:
    """Return the metrics of a report by their names in trackers, without NaN and infinities.

    Args:
        report: as in ``report.json``.
        when: ``before`` or ``after``.
    """
    key, suffix = ("baseline", "_before") if when == "before" else ("metrics", "")
    named = {f"{when}/{name}": value for name, value in report[key].items()}
    if "source" in report:
        named |= {f"source/{when}/{name}": value for name, value in report["source"][key].items()}
    for group, of in report["groups"].items():
        named |= {f"groups/{group}/{when}/{name}": of[name + suffix] for name in report["headline"]}
    return _finite_numbers(named)


def _results(report: dict[str, Any], arguments: dict[str, Any]) -> str:
    """Return the results part of a run's model card, as Markdown text."""
    _, _, rest = model_card(report, arguments).partition("\n## Results\n")
    return rest.partition("\n## ")[0].strip()


def _finite_numbers(values: Mapping[str, Any]) -> dict[str, float]:
    return {key: value for key, value in values.items() if isinstance(value, (int, float)) and math.isfinite(value)}


def _callback(name: str) -> TrainerCallback:
    """Return a new callback of transformers for a tracker; raise an error if the tracker cannot be used."""
    try:
        (callback,) = get_reporting_integration_callbacks([name])
        with _quietly(name):
            if name == "tensorboard":
                import torch.utils.tensorboard  # noqa: F401 (the callback would use tensorboardX instead)
            return callback()
    except ValueError as error:
        raise InputError(f"--report_to {name}: {_reason(error)}.") from error
    except (ImportError, RuntimeError) as error:
        if name not in TRACKERS:
            raise InputError(f"--report_to {name}: {_reason(error)}.") from error
        raise InputError(f"--report_to {name} needs a package that is missing: `pip install {name}`.") from error


def _writer(folder: Path, purge_step: int | None = None) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    # TensorBoard reads files by name: by the second of their start, then by process. A second must not be used twice.
    while purge_step is not None and list(folder.glob(f"events.out.tfevents.{int(time.time())}.*")):
        time.sleep(0.05)
    return SummaryWriter(str(folder), purge_step=purge_step)


@contextlib.contextmanager
def _quietly(name: str) -> Iterator[None]:
    """Context manager: hide what a tracker prints, and log the first of its warnings as one line."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", UserWarning)
        yield
    if caught:
        logger.warning("--report_to %s: %s", name, " ".join(str(caught[0].message).split())[:300])


def _reason(error: Exception) -> str:
    """Return the message of an error on one line, or the name of its type if it has no message."""
    return (" ".join(str(error).split())[:300] or type(error).__name__).rstrip(".")
