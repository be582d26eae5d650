"""`finetune()`: the run, from arguments to a model that has been measured, written, reloaded and pushed."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
import yaml
from datasets import Dataset, DatasetDict
from transformers import PreTrainedModel, set_seed

from hf_transfer import hub
from hf_transfer.arguments import Arguments, DataArguments, TransferTrainingArguments
from hf_transfer.data.splits import SPLITS, complete_splits, load_splits, overlap
from hf_transfer.errors import Failure, InputError, logger
from hf_transfer.evaluation.groups import measure_groups
from hf_transfer.inference import load_finetuned
from hf_transfer.methods import Anatomy, apply_method, count_parameters, merged
from hf_transfer.models import quiet
from hf_transfer.parsing import make_arguments
from hf_transfer.reporting.model_card import model_card
from hf_transfer.reporting.output_folder import OutputFolder, write_json, write_jsonl
from hf_transfer.reporting.report import Finetuned, device_name, versions
from hf_transfer.tasks.task import Task
from hf_transfer.training.cost import Meter
from hf_transfer.training.fit import fit, fit_head, make_trainer, settle_training
from hf_transfer.training.interruption import polite_stops

PARITY_TOLERANCE = 1e-3
PARITY_EXAMPLES = 32


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
    task, method, training = arguments.task, arguments.method, arguments.training
    output = OutputFolder(str(training.output_dir), resume=training.resume_from_checkpoint is not None)
    if output.is_finished(arguments.as_dict()):
        logger.info("The run in %s is finished: nothing to resume.", output.path)
        _push(arguments, output)
        return Finetuned(output.path, output.report())
    meter = Meter()
    with _tidy(output, training):
        with training.main_process_first(desc="preparation"):
            run = _prepare(task, arguments, dataset, output, meter)
        test = run.splits["test"]
        with meter.stage("before"):
            trainer = make_trainer(task, arguments, output.work, run.model, run.processor, run.splits, run.inputs)
            before = trainer.predict(run.inputs["test"]).predictions
            baseline = task.measure(before, test, run.model.config)
        with meter.stage("training"):
            if method.head_first:
                fit_head(trainer, run.anatomy, arguments, output.work)
            model = apply_method(run.model, run.anatomy, method, revision=arguments.model.model_revision)
            trainer = make_trainer(task, arguments, output.work, model, run.processor, run.splits, run.inputs)
            parameters = count_parameters(model)
            cost = fit(trainer, run.anatomy, arguments, output.work)
        with meter.stage("after"):
            validation = trainer.predict(run.inputs["validation"]).predictions if "validation" in run.inputs else None
            decision = task.decide(validation, run.splits.get("validation"), model.config)
            after = trainer.predict(run.inputs["test"]).predictions
            if not np.isfinite(after).all():
                raise Failure(
                    f"Training diverged: the model's outputs are not finite. Lower --learning_rate (it was "
                    f"{training.learning_rate:g}), or train without --fp16. Nothing is written."
                )
            metrics = task.measure(after, test, model.config)
            found = task.intervals(before, after, test, model.config, training.seed)
        report = {
            **_circumstances(task, arguments, run.facts),
            "headline": [name for name in ("accuracy", task.main_metric) if name in metrics],
            "baseline": baseline,
            "metrics": metrics,
            "confidence": found["after"],
            "gain": found["gain"],
            "groups": measure_groups(task, before, after, test, model.config),
            "decision": decision,
            "parameters": parameters,
            "training": cost,
            "history": trainer.state.log_history,
        }
        if training.should_save:
            # Without accelerate's wrapper for mixed precision: what is shipped computes in float32.
            model = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
            _deliver(arguments, run, model, report, task.predictions(after, test, model.config), output, meter)
    trainer.accelerator.wait_for_everyone()
    return Finetuned(output.path, report)


@dataclass(frozen=True)
class _Prepared:
    """What a run works on: splits as they are, as model inputs, and the model before training."""

    splits: DatasetDict
    facts: dict[str, Any]
    processor: Any
    model: PreTrainedModel
    anatomy: Anatomy
    inputs: DatasetDict


def _prepare(
    task: Task, arguments: Arguments, dataset: DatasetDict | Dataset | None, output: OutputFolder, meter: Meter
) -> _Prepared:
    """Everything that can be refused, before anything that takes long."""
    training = arguments.training
    if training.should_save:
        output.prepare()
    if training.push_to_hub:
        hub.require_repository(arguments)
    with meter.stage("data"):
        splits, facts = _prepare_splits(task, arguments, dataset)
    with meter.stage("model"):
        set_seed(training.seed)
        processor = task.load_processor(arguments.model)
        pretrained = arguments.method.method != "scratch"
        model, newly_initialised = task.load_model(arguments.model, splits, pretrained=pretrained)
        if training.should_save:
            output.require_space(4 * sum(p.numel() * p.element_size() for p in model.parameters()))
    with meter.stage("preprocessing"):
        inputs = task.preprocess(splits, processor, model)
        settle_training(arguments, model.config, len(inputs["train"]))
        if training.should_save:
            output.claim(arguments.as_dict())
    return _Prepared(splits, facts, processor, model, Anatomy.of(model, newly_initialised), inputs)


def _circumstances(task: Task, arguments: Arguments, facts: dict[str, Any]) -> dict[str, Any]:
    """What the report says of the run before any result."""
    return {
        "task": task.pipeline_tag,
        "method": arguments.method.method,
        "model": arguments.model.model_name_or_path,
        "adapter": arguments.method.method == "lora" and not arguments.method.merge,
        "seed": arguments.training.seed,
        "data": facts,
        "device": device_name(),
        "versions": versions(),
    }


def _deliver(
    arguments: Arguments,
    run: _Prepared,
    model: Any,
    report: dict[str, Any],
    predictions: list[dict[str, Any]],
    output: OutputFolder,
    meter: Meter,
) -> None:
    """Write the result, read it back, rename it into place, push it."""
    task = arguments.task
    with output.result() as folder, meter.stage("writing"):
        _write_model(folder, merged(model) if arguments.method.merge else model, run.processor)
        batch = _parity_batch(task, run.processor, run.inputs["test"])
        report["parity"] = _check_parity(
            model, folder, batch, adapter=report["adapter"], trust_remote_code=arguments.model.trust_remote_code
        )
        report["seconds"] = meter.seconds()
        told = arguments.as_dict()
        (folder / "arguments.yaml").write_text(
            yaml.safe_dump(told, sort_keys=False, allow_unicode=True), encoding="utf-8"
        )
        write_json(folder / "report.json", report)
        write_jsonl(folder / "predictions.jsonl", predictions)
        (folder / "README.md").write_text(model_card(report, told, task.usage), encoding="utf-8")
    _push(arguments, output)


def _push(arguments: Arguments, output: OutputFolder) -> None:
    training = arguments.training
    if training.push_to_hub and training.should_save:
        repository = str(training.hub_model_id or output.path.resolve().name)
        hub.push(output.path, repository, token=training.hub_token, private=training.hub_private_repo)


@contextlib.contextmanager
def _tidy(output: OutputFolder, training: TransferTrainingArguments) -> Iterator[None]:
    """Leave nothing half-written behind, whatever ends the run."""
    try:
        with quiet(), polite_stops():
            yield
    except BaseException:
        if training.should_save:
            output.discard()
        raise


def _prepare_splits(
    task: Task, arguments: Arguments, dataset: DatasetDict | Dataset | None
) -> tuple[DatasetDict, dict[str, Any]]:
    """Checked train, validation and test splits, and what the report says of them."""
    data, seed = arguments.data, arguments.training.seed
    datasets.disable_progress_bars()
    splits = task.standardise(_in_memory(dataset, data) if dataset is not None else load_splits(data), data)
    strata = {name: task.strata(split) for name, split in splits.items()}
    splits, made = complete_splits(splits, strata, data, seed)
    identities = {name: task.identities(split) for name, split in splits.items()}
    splits, also_in_training = overlap(splits, identities, remove=data.deduplicate)
    task.check(splits)
    if "validation" not in splits and str(arguments.training.eval_strategy) not in ("no", "IntervalStrategy.NO"):
        raise InputError("--eval_strategy needs a validation split: raise --validation_size, or leave it at `no`.")
    source = data.dataset_name or Path(data.train_file or "memory").name
    return splits, {"source": source, "made": made, "also_in_training": also_in_training, **task.facts(splits)}


def _in_memory(dataset: Any, data: DataArguments) -> DatasetDict:
    """The splits of a dataset given in Python; one without splits is training data."""
    files = [name for name in ("dataset_name", "train_file", "validation_file", "test_file") if getattr(data, name)]
    if files:
        raise InputError(f"dataset and {files[0]} are both given: expected one source of data.")
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


def _parity_batch(task: Task, processor: Any, split: Any) -> dict[str, torch.Tensor]:
    examples = split.remove_columns("length").__getitems__(list(range(min(PARITY_EXAMPLES, len(split)))))
    batch = task.collator(processor)(examples)
    batch.pop("labels")
    return dict(batch)


def _outputs(model: Any, batch: dict[str, torch.Tensor]) -> np.ndarray:
    model.eval()
    with torch.inference_mode():
        outputs = model(**{name: value.to(model.device) for name, value in batch.items()})
    return outputs["logits"].float().cpu().numpy()


def _check_parity(
    model: Any, folder: Path, batch: dict[str, torch.Tensor], *, adapter: bool, trust_remote_code: bool
) -> dict[str, Any]:
    """Load the written model, and compare it with the live one; an adapter is also merged and compared.

    Raises:
        Failure: the outputs differ by more than rounding.
    """
    live = _outputs(model, batch)
    found: dict[str, Any] = {"examples": len(live)}
    for name, merge in (("max_difference", False), ("max_difference_merged", True)):
        if adapter or not merge:
            reloaded = load_finetuned(
                folder, device=model.device, merge=merge, trust_remote_code=trust_remote_code
            ).model
            found[name] = float(np.abs(_outputs(reloaded, batch) - live).max())
    limit = PARITY_TOLERANCE * max(1.0, float(np.abs(live).max()))
    worst = max(found["max_difference"], found.get("max_difference_merged", 0.0))
    if not worst <= limit:
        raise Failure(
            f"The model read back from disk differs from the trained one: its outputs are {worst:.2g} apart, more "
            f"than rounding ({limit:.2g}). The result is not written."
        )
    return found
