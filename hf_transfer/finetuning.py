"""`finetune()`: a whole run, from arguments to a model that is measured, written, reloaded and pushed."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from accelerate.utils.memory import should_reduce_batch_size
from datasets import Dataset, DatasetDict
from transformers import PreTrainedModel

from hf_transfer import hub
from hf_transfer.arguments import Arguments, TransferTrainingArguments
from hf_transfer.arguments.parsing import make_arguments
from hf_transfer.caches import ensure_writable_caches
from hf_transfer.errors import Failure, InputError, disk_error_message, logger
from hf_transfer.evaluation.before_after import measure_before_and_after
from hf_transfer.methods.trainable import apply_method, count_parameters
from hf_transfer.models import quiet
from hf_transfer.preparation import PreparedRun, prepare_run
from hf_transfer.reporting.output_folder import OutputFolder
from hf_transfer.reporting.publishing import is_local
from hf_transfer.reporting.report import Finetuned, device_name, versions
from hf_transfer.reporting.trackers import Tracking, tracking
from hf_transfer.result_writing import prediction_records, write_result
from hf_transfer.tasks.task import Task
from hf_transfer.training.activations.precomputed import precompute_for_run, predict
from hf_transfer.training.checkpoints import describe_last_checkpoint
from hf_transfer.training.cost import Meter
from hf_transfer.training.default_settings import set_best_metric
from hf_transfer.training.fit import fit, fit_head, make_trainer, trained_model
from hf_transfer.training.health import require_finite
from hf_transfer.training.interruption import checkpoint_when_stopped, raise_interrupted
from hf_transfer.training.resuming import agreed_checkpoint, checkpoint_to_resume


def finetune(
    task: Task, arguments: Arguments | None = None, *, dataset: DatasetDict | Dataset | None = None, **keywords: Any
) -> Finetuned:
    """Fine-tune a pretrained model, measure it before and after, write it to a folder, and return the report.

    Args:
        task: what to learn, with the task's own settings: `TextClassification(max_length=128)`.
        arguments: from `parse_arguments`, the task included; instead of `keywords`.
        dataset: splits in memory, instead of files or a Hub dataset.
        **keywords: arguments by their flag names: ``model_name_or_path``, ``train_file``, ``method``,
            ``output_dir``, any of `transformers.TrainingArguments`.

    Returns:
        The folder and the report; `print` shows the summary.

    Raises:
        InputError: the input or the arguments are wrong; nothing is written.
        Failure: the result cannot be written, differs after reloading, or was not pushed.
    """
    if arguments is None:
        arguments = make_arguments(task, keywords)
    elif keywords:
        raise InputError(f"Both arguments and keywords are given ({', '.join(keywords)}): expected one of the two.")
    training = arguments.training
    output = OutputFolder(str(training.output_dir), resume=training.resume_from_checkpoint is not None)
    if output.is_finished(arguments.as_dict()):
        logger.info("The run in %s is finished: nothing to resume.", output.path)
        _push(arguments, output)
        return Finetuned(output.path, output.report())
    meter = Meter(training.device)
    with _clean_up(output, training), tracking(arguments, output) as trackers:
        return Finetuned(output.path, _run(arguments, dataset, output, meter, trackers))


def _run(
    arguments: Arguments,
    dataset: DatasetDict | Dataset | None,
    output: OutputFolder,
    meter: Meter,
    trackers: Tracking,
) -> dict[str, Any]:
    """Prepare, measure, train, measure again, write and push a model, and return the report."""
    task, method, training = arguments.task, arguments.method, arguments.training
    with training.main_process_first(desc="preparation"):
        run = prepare_run(arguments, dataset, output, meter)
    checkpoint = agreed_checkpoint(
        training,
        lambda: checkpoint_to_resume(
            training.resume_from_checkpoint, output.work, run.description, despite=training.resume_despite_changes
        ),
    )
    measured = {name: run.splits[name] for name in ("test", "source") if name in run.splits}
    with meter.stage("before"):
        trainer = make_trainer(run, run.model, output.work)
        untrained, precomputed = precompute_for_run(trainer, run.anatomy, method, run.inputs, measured)
        before = predict(trainer, {name: run.inputs[name] for name in measured}, untrained)
        set_best_metric(arguments, task.target.compute_metrics(before["test"], measured["test"], None), run.splits)
    with meter.stage("training"):
        head_seconds = 0.0
        if method.head_first and checkpoint is None:
            head_seconds = fit_head(trainer, run.anatomy, arguments, untrained)
        model = apply_method(run.model, run.anatomy, method, revision=run.model_arguments.model_revision)
        trainer = make_trainer(run, model, output.work, run.description, trackers)
        trainer.resumable_state.head_seconds = head_seconds
        parameters = count_parameters(model)
        cost = fit(trainer, run.anatomy, method, precomputed, checkpoint)
    meter.add("training", trainer.resumable_state.seconds_in_earlier_processes())
    model = trained_model(trainer)
    with checkpoint_when_stopped(trainer, output.is_result_in_place), task.target.finalised(model):
        with meter.stage("after"):
            require_finite(model, training.learning_rate or 0.0, str(output.work))
            after = predict(trainer, {name: run.inputs[name] for name in run.inputs if name != "train"}, precomputed)
            results = _results(run, before, after, measured, model)
        report = {
            **_run_facts(run),
            **results,
            "parameters": parameters,
            "training": cost,
            "history": trainer.state.log_history,
            "seconds": meter.seconds(),
        }
        report["remarks"] = task.target.remarks(report)
        if training.should_save:
            predictions = prediction_records(task, after, measured, model.config)
            write_result(arguments, run, model, report, predictions, output, meter)
    if training.should_save:
        trackers.report(trainer, report)
        _push(arguments, output)
    trainer.accelerator.wait_for_everyone()
    return report


def _results(
    run: PreparedRun,
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    measured: Mapping[str, Dataset],
    model: PreTrainedModel,
) -> dict[str, Any]:
    """Fit the decision (such as a threshold) on the validation split, and return metrics before and after training.

    They are of the test and the source split.

    Args:
        run: what the run was prepared with.
        before: outputs of the untrained model, by split.
        after: outputs of the trained model, by split.
        measured: the splits that are reported.
        model: the trained model; its config keeps the decision.
    """
    task, seed = run.arguments.task, run.arguments.training.seed
    decision = task.decide(after.get("validation"), run.splits.get("validation"), model.config)
    by_split = {
        name: measure_before_and_after(task, before[name], after[name], split, model.config, seed)
        for name, split in measured.items()
    }
    return {**by_split.pop("test"), **by_split, "decision": decision}


def _run_facts(run: PreparedRun) -> dict[str, Any]:
    """Return what the report says about the run apart from results: task, model, data, versions."""
    arguments, task = run.arguments, run.arguments.task
    return {
        "task": task.pipeline_tag,
        "method": arguments.method.method,
        "model": arguments.model.model_name_or_path,
        "local": {
            "model": is_local(str(arguments.model.model_name_or_path)),
            "dataset": not arguments.data.dataset_name or is_local(arguments.data.dataset_name),
        },
        "commits": run.commits,
        "adapter": arguments.method.leaves_adapter,
        "input": {
            "name": task.input.name,
            "noun": task.input.noun,
            "pipeline_example": task.input.pipeline_example,
            "throughput_name": run.inputs["train"].throughput_name,
        },
        "template": task.target.template,
        "quoting_entries": ["worst", *task.target.quoting_entries],
        "headline": list(task.target.headline),
        "seed": arguments.training.seed,
        "data": run.facts,
        "device": device_name(arguments.training.device),
        "versions": versions(),
        "newly_initialised": run.newly_initialised,
    }


def _push(arguments: Arguments, output: OutputFolder) -> None:
    """Upload the output folder to the Hub if --push_to_hub is given, from one process."""
    training = arguments.training
    if training.push_to_hub and training.should_save:
        repository = hub.repository_name(training.hub_model_id, output.path)
        hub.push(output.path, repository, token=training.hub_token, private=training.hub_private_repo)


@contextlib.contextmanager
def _clean_up(output: OutputFolder, training: TransferTrainingArguments) -> Iterator[None]:
    """Context manager: if a run fails, remove unfinished files, and raise a `Failure` for a full memory or disk."""
    try:
        with quiet(), raise_interrupted():
            ensure_writable_caches()
            yield
    except BaseException as error:
        if training.should_save:
            output.discard()
        if isinstance(error, Exception) and should_reduce_batch_size(error):
            raise Failure(
                "Out of memory. Halve --per_device_train_batch_size and double --gradient_accumulation_steps, which "
                "does not change the result (--auto_find_batch_size true does both by itself), lower "
                f"--per_device_eval_batch_size, or use --bf16. ({' '.join(str(error).split())[:200]})"
            ) from error
        disk_error = None if isinstance(error, (InputError, Failure)) else disk_error_message(error)
        if disk_error is not None:
            raise Failure(f"{disk_error} {describe_last_checkpoint(output.work)}") from error
        raise
    finally:
        output.release()
