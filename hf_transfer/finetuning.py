"""`finetune()`: the run, from arguments to a model that has been measured, written, reloaded and pushed."""

import contextlib
import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from accelerate.utils.memory import should_reduce_batch_size
from datasets import Dataset, DatasetDict
from transformers import PreTrainedModel, set_seed

from hf_transfer import hub
from hf_transfer.arguments import Arguments, DataArguments, ModelArguments, TransferTrainingArguments
from hf_transfer.arguments.parsing import make_arguments
from hf_transfer.caches import ensure_writable_caches
from hf_transfer.data.batches import to_device
from hf_transfer.data.drawn_splits import complete_splits, cut_to_sizes
from hf_transfer.data.groups import replace_class_labels, select_groups
from hf_transfer.data.leakage import count_overlap, shared_units_caveats, unknown_units_caveats
from hf_transfer.data.loading import hub_commit, load_splits
from hf_transfer.data.source import REPLAYED, add_replay, separate_source
from hf_transfer.data.splits import SPLITS
from hf_transfer.data.tables import show_progress_bars_for
from hf_transfer.data.units import noun_of_resampling_units, unit_column
from hf_transfer.errors import Failure, InputError, disk_trouble, logger
from hf_transfer.evaluation.before_after import measure_before_and_after
from hf_transfer.methods.anatomy import Anatomy
from hf_transfer.methods.lora import merged_copy, unreachable_layers
from hf_transfer.methods.trainable import apply_method, check_method_fits, count_parameters
from hf_transfer.models import pin_to_commit, quiet
from hf_transfer.parity import check_parity
from hf_transfer.reporting.json_files import ENCODING_ERRORS, write_json, write_jsonl
from hf_transfer.reporting.model_card import model_card
from hf_transfer.reporting.output_folder import OutputFolder
from hf_transfer.reporting.page import report_page
from hf_transfer.reporting.publishing import is_local
from hf_transfer.reporting.report import Finetuned, describe_lengths, device_name, versions
from hf_transfer.reporting.trackers import Tracking, tracking
from hf_transfer.tasks.task import Task
from hf_transfer.training.activations.precomputed import precompute_for_run, predict
from hf_transfer.training.checkpoints import describe_last_checkpoint
from hf_transfer.training.cost import Meter
from hf_transfer.training.default_settings import check_best_metric_name, fill_in_training_defaults, set_best_metric
from hf_transfer.training.fit import (
    PreparedData,
    fit,
    fit_head,
    make_trainer,
    trained_model,
)
from hf_transfer.training.health import require_finite
from hf_transfer.training.interruption import checkpoint_when_stopped, raise_interrupted
from hf_transfer.training.resuming import agreed_checkpoint, checkpoint_to_resume, describe_run


def finetune(
    task: Task, arguments: Arguments | None = None, *, dataset: DatasetDict | Dataset | None = None, **keywords: Any
) -> Finetuned:
    """Adapt a pretrained model to a dataset, measure it before and after, and write a folder that can be shipped.

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
    with _tidy(output, training), tracking(arguments, output) as trackers:
        return Finetuned(output.path, _run(arguments, dataset, output, meter, trackers))


def _run(
    arguments: Arguments,
    dataset: DatasetDict | Dataset | None,
    output: OutputFolder,
    meter: Meter,
    trackers: Tracking,
) -> dict[str, Any]:
    """Prepare, measure, train, measure again, write and push; returns the report."""
    task, method, training = arguments.task, arguments.method, arguments.training
    with training.main_process_first(desc="preparation"):
        run = _prepare(arguments, dataset, output, meter)
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
            decision = task.decide(after.get("validation"), run.splits.get("validation"), model.config)
            found = {
                name: measure_before_and_after(task, before[name], after[name], split, model.config, training.seed)
                for name, split in measured.items()
            }
        report = {
            **_circumstances(task, arguments, run),
            **found.pop("test"),
            **found,
            "decision": decision,
            "parameters": parameters,
            "training": cost,
            "history": trainer.state.log_history,
            "seconds": meter.seconds(),
        }
        report["remarks"] = task.target.remarks(report)
        if training.should_save:
            predictions = _predictions(task, after, measured, model.config)
            _deliver(arguments, run, model, report, predictions, output, meter)
    if training.should_save:
        trackers.report(trainer, report)
        _push(arguments, output)
    trainer.accelerator.wait_for_everyone()
    return report


@dataclass(frozen=True)
class _PreparedRun(PreparedData):
    """What a run works on, with the model before training and what the report says of both."""

    facts: dict[str, Any]
    model: PreTrainedModel
    anatomy: Anatomy
    newly_initialised: list[str]
    description: Mapping[str, Any]
    model_arguments: ModelArguments
    commits: Mapping[str, Any]


def _prepare(
    arguments: Arguments, dataset: DatasetDict | Dataset | None, output: OutputFolder, meter: Meter
) -> _PreparedRun:
    """Everything that can be refused, before anything that takes long."""
    task, training = arguments.task, arguments.training
    if training.should_save:
        output.prepare()
    if training.push_to_hub:
        hub.require_repository(arguments)
    check_best_metric_name(arguments)
    task.input.require_settings(arguments.model)
    with meter.stage("data"):
        splits, facts = _prepare_splits(task, arguments, dataset)
    with meter.stage("model"):
        set_seed(training.seed)
        model_arguments, commit = pin_to_commit(arguments.model)
        commits = _commits(arguments, commit, facts.pop("commit"))
        processor = task.load_processor(model_arguments, splits)
        pretrained = arguments.method.method != "scratch"
        model, newly_initialised = task.load_model(model_arguments, splits, processor, pretrained=pretrained)
        if newly_initialised:
            logger.info("Newly initialised: %s.", ", ".join(newly_initialised))
        anatomy = Anatomy.of(model, newly_initialised)
        check_method_fits(model, anatomy, arguments.method)
        if training.should_save:
            # Weights, and checkpoints of them with the optimizer's moments; an adapter is a small part of that.
            share = 0.5 if arguments.method.leaves_adapter else 4
            output.require_space(int(share * sum(p.numel() * p.element_size() for p in model.parameters())))
    with meter.stage("preprocessing"):
        before = {name: len(split) for name, split in splits.items()}
        splits, inputs = task.model_inputs(splits, processor, model, training.seed)
        for name, split in splits.items():
            if before[name] > len(split):
                facts["left_out"].setdefault(name, {})["does not fit the model"] = before[name] - len(split)
        facts |= {**_counts(splits), **task.facts(splits), "lengths": describe_lengths(inputs)}
        fill_in_training_defaults(arguments, model.config, len(inputs["train"]))
        if arguments.method.method == "lora":  # merged or not
            example = task.collator(processor)(
                inputs["train"].without_augmentation().__getitems__([int(inputs["train"].lengths.argmin())])
            )
            unreachable = unreachable_layers(model, anatomy, to_device(model.device, example))
            anatomy = dataclasses.replace(anatomy, unreachable=unreachable)
    description = describe_run(arguments, splits, inputs, model, newly_initialised)
    return _PreparedRun(
        arguments, processor, splits, inputs, facts, model, anatomy, newly_initialised, description, model_arguments,
        commits,
    )  # fmt: skip


def _commits(arguments: Arguments, model: str | None, dataset: str | None) -> dict[str, dict[str, str | None]]:
    """What is on the Hub of model and dataset: the revision that was asked for, and the commit that it was today."""
    asked = {"model": arguments.model.model_revision, "dataset": arguments.data.dataset_revision}
    found = {"model": model, "dataset": dataset}
    return {name: {"revision": asked[name], "commit": found[name]} for name in found if found[name] is not None}


def _circumstances(task: Task, arguments: Arguments, run: _PreparedRun) -> dict[str, Any]:
    """What the report says of the run before any result."""
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
            "word": task.input.noun,
            "sample": task.input.pipeline_example,
            "rate": run.inputs["train"].throughput_name,
        },
        "template": task.target.template,
        "headline": list(task.target.headline),
        "seed": arguments.training.seed,
        "data": run.facts,
        "device": device_name(arguments.training.device),
        "versions": versions(),
        "newly_initialised": run.newly_initialised,
    }


def _predictions(
    task: Task, outputs: Mapping[str, Any], measured: Mapping[str, Dataset], config: Any
) -> list[dict[str, Any]]:
    """A record for each example that was measured; those of the test split do not name it."""
    return [
        {"split": name, **record} if name != "test" else record
        for name, split in measured.items()
        for record in task.predictions(outputs[name], split, config)
    ]


def _deliver(
    arguments: Arguments,
    run: _PreparedRun,
    model: Any,
    report: dict[str, Any],
    predictions: list[dict[str, Any]],
    output: OutputFolder,
    meter: Meter,
) -> None:
    """Write the result, read it back, rename it into place."""
    task = arguments.task
    with output.result() as folder, meter.stage("writing"):
        _write_model(folder, merged_copy(model) if arguments.method.merge else model, run.processor)
        report["parity"] = check_parity(
            model, folder, task, run.processor, run.inputs["test"], adapter=report["adapter"],
            trust_remote_code=arguments.model.trust_remote_code,
        )  # fmt: skip
        report["seconds"] = meter.seconds()
        told = arguments.as_dict() | ({"dataset": "in memory"} if arguments.data.is_in_memory() else {})
        # The content of today, for who repeats the run when there is another.
        told |= {f"{name}_revision": of["commit"] for name, of in run.commits.items()}
        (folder / "arguments.yaml").write_text(
            yaml.safe_dump(told, sort_keys=False, allow_unicode=True), encoding="utf-8"
        )
        write_jsonl(folder / "predictions.jsonl", predictions)
        (folder / "README.md").write_text(model_card(report, told), encoding="utf-8", errors=ENCODING_ERRORS)
        _write_page(folder / "report.html", task, run, report, told)
        # In this order where the folder is removed: what lists the files goes last.
        report["files"] = [*sorted(file.name for file in folder.iterdir()), "report.json"]
        write_json(folder / "report.json", report)


def _write_page(file: Path, task: Task, run: _PreparedRun, report: dict[str, Any], told: dict[str, Any]) -> None:
    try:
        media = task.input.media_data_uris(run.inputs["test"], [one["row"] for one in report.get("worst", [])])
        file.write_text(report_page(report, told, media), encoding="utf-8", errors=ENCODING_ERRORS)
    except Exception as error:  # a page is not worth a trained model
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk: the result as a whole cannot be written
        logger.warning("report.html could not be made (%s: %s); all else is there.", type(error).__name__, error)


def _push(arguments: Arguments, output: OutputFolder) -> None:
    training = arguments.training
    if training.push_to_hub and training.should_save:
        repository = hub.repository_name(training.hub_model_id, output.path)
        hub.push(output.path, repository, token=training.hub_token, private=training.hub_private_repo)


@contextlib.contextmanager
def _tidy(output: OutputFolder, training: TransferTrainingArguments) -> Iterator[None]:
    """Leave nothing half-written behind, whatever ends the run."""
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
                "leaves the result as it is (--auto_find_batch_size true does it by itself), lower "
                f"--per_device_eval_batch_size, or use --bf16. ({' '.join(str(error).split())[:200]})"
            ) from error
        trouble = None if isinstance(error, (InputError, Failure)) else disk_trouble(error)
        if trouble is not None:
            raise Failure(f"{trouble} {describe_last_checkpoint(output.work)}") from error
        raise
    finally:
        output.release()


def _prepare_splits(
    task: Task, arguments: Arguments, dataset: DatasetDict | Dataset | None
) -> tuple[DatasetDict, dict[str, Any]]:
    """Checked train, validation and test splits, and what the report says of how they came to be."""
    data, seed = arguments.data, arguments.training.seed
    split_seed = seed if data.split_seed is None else data.split_seed
    given = _in_memory(dataset, data) if dataset is not None else load_splits(data)
    commit = hub_commit(given["train"]) if dataset is None and data.dataset_name else None
    asked = data.split_by is not None
    names = given["train"].column_names
    data = dataclasses.replace(data, split_by=unit_column(data, names, task.unit_column(names)))
    given = select_groups(replace_class_labels(given, data), data)
    show_progress_bars_for(sum(len(split) for split in given.values()))
    absent = [name for name, split in given.items() if asked and data.split_by not in split.column_names]
    unknown = unknown_units_caveats(absent, str(data.split_by))
    splits, left_out, columns = task.read(given, data, arguments.model)
    strata = {name: task.target.strata(split) for name, split in splits.items()}
    evaluates = str(arguments.training.eval_strategy) not in ("no", "IntervalStrategy.NO")
    if data.validation_size is None and not (task.target.uses_validation_split or evaluates):
        data = dataclasses.replace(data, validation_size=0)  # nothing would be asked of it
    identities = {name: task.identities(split) for name, split in splits.items()}
    splits, made = complete_splits(splits, strata, identities, data, split_seed, asked=asked)
    splits, pool = separate_source(splits, data, split_seed, task.identities, asked=asked)
    splits = cut_to_sizes(
        splits, {name: task.target.strata(split) for name, split in splits.items()}, data, seed, split_seed
    )
    splits = add_replay(splits, pool, data, seed, task.identities)
    identities = {name: task.identities(split) for name, split in splits.items()}
    splits, also_in_training, caveats = count_overlap(splits, identities, remove=data.deduplicate)
    caveats += unknown + shared_units_caveats(splits, str(data.split_by)) + task.check(splits)
    if "validation" not in splits and evaluates:
        raise InputError("--eval_strategy needs a validation split: raise --validation_size, or leave it at `no`.")
    source = data.dataset_name or Path(data.train_file or "memory").name
    return splits, {
        "source": source,
        "commit": commit,
        "columns": columns,
        "left_out": {name: {why: n for why, n in counts.items() if n} for name, counts in left_out.items()},
        "made": made,
        "also_in_training": also_in_training,
        "intervals_over": noun_of_resampling_units(splits["test"], data.split_by),
        "caveats": caveats,
    }


def _counts(splits: DatasetDict) -> dict[str, Any]:
    """Of the examples that are used: how many, how many of them replayed, and of which groups."""
    grouped = {name: Counter(split["group"]) for name, split in splits.items() if "group" in split.column_names}
    train = splits["train"]
    return {
        "examples": {name: len(split) for name, split in splits.items()},
        "replayed": sum(train[REPLAYED]) if REPLAYED in train.column_names else 0,
        **({"group_counts": {name: dict(counts) for name, counts in grouped.items()}} if grouped else {}),
    }


def _in_memory(dataset: Any, data: DataArguments) -> DatasetDict:
    """The splits of a dataset given in Python; one without splits is training data."""
    named = ("dataset_name", "train_file", "validation_file", "test_file", "source_file")
    files = [name for name in named if getattr(data, name)]
    if files:
        raise InputError(f"dataset and {files[0]} are both given: expected one source of data.")
    if not isinstance(dataset, (Dataset, Mapping)):
        raise InputError(f"dataset is a {type(dataset).__name__}: expected a Dataset, or a DatasetDict of splits.")
    splits = {"train": dataset} if isinstance(dataset, Dataset) else dict(dataset)
    if "train" not in splits:
        raise InputError(f"dataset has the splits {', '.join(splits)}; expected one named train.")
    return DatasetDict({name: splits[name] for name in SPLITS if name in splits})


def _write_model(folder: Path, model: Any, processor: Any) -> None:
    model.save_pretrained(folder, safe_serialization=True)
    # An adapter's folder has no config of its own; labels and decision are kept in it.
    model.config.save_pretrained(folder)
    processor.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)  # peft's own
