"""`finetune()`: the run, from arguments to a model that has been measured, written, reloaded and pushed."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
import yaml
from datasets import DatasetDict
from transformers import set_seed

from hf_transfer import hub
from hf_transfer.arguments import Arguments, make_arguments
from hf_transfer.data.splits import complete_splits, load_splits, overlap
from hf_transfer.errors import Failure, logger
from hf_transfer.evaluation.groups import measure_groups
from hf_transfer.inference import load_finetuned
from hf_transfer.methods import Anatomy, apply_method, count_parameters, is_adapter, merged
from hf_transfer.models import quiet
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
    task: Task, arguments: Arguments | None = None, *, dataset: DatasetDict | None = None, **keywords: Any
) -> Finetuned:
    """Adapt a pretrained model to a dataset, measure it before and after, and write a folder that can be shipped.

    Args:
        task: what to learn, with the task's own settings: `TextClassification(max_length=128)`.
        arguments: from `parse_arguments`; instead of `keywords`.
        dataset: splits in memory, instead of files or a Hub dataset.
        **keywords: arguments by their flag names: ``model_name_or_path``, ``train_file``, ``method``,
            ``output_dir``, any of `transformers.TrainingArguments`.

    Returns:
        The folder and the report; `print` shows the summary.

    Raises:
        InputError: the input or the arguments are wrong; nothing is written.
        Failure: the result cannot be written, differs after reloading, or was not pushed.
    """
    arguments = arguments or make_arguments(task, keywords)
    task, method, training = arguments.task, arguments.method, arguments.training
    output = OutputFolder(str(training.output_dir), resume=str(training.resume_from_checkpoint).lower() != "none")
    if (finished := output.finished()) is not None:
        logger.info("The run in %s is finished: nothing to resume.", output.path)
        return Finetuned(output.path, finished)
    meter = Meter()
    with _tidy(output), training.main_process_first(desc="preparation"):
        output.prepare()
        if training.push_to_hub:
            hub.require_repository(arguments)
        with meter.stage("data"):
            splits, data_facts = _prepare_splits(task, arguments, dataset)
        with meter.stage("model"):
            set_seed(training.seed)
            processor = task.load_processor(arguments.model)
            model, new = task.load_model(arguments.model, splits, pretrained=method.method != "scratch")
            anatomy = Anatomy.of(model, new)
        with meter.stage("preprocessing"):
            inputs = task.preprocess(splits, processor, model)
            settle_training(arguments, model.config, len(inputs["train"]))
    with _tidy(output):
        output.require_space(4 * sum(p.numel() * p.element_size() for p in model.parameters()))
        with meter.stage("before"):
            trainer = make_trainer(task, arguments, output.work, model, processor, splits, inputs)
            before = trainer.predict(inputs["test"]).predictions
            baseline = task.measure(before, splits["test"], model.config)
        with meter.stage("training"):
            if method.head_first:
                fit_head(trainer, anatomy, arguments, output.work)
            model = apply_method(model, anatomy, method)
            parameters = count_parameters(model)
            trainer = make_trainer(task, arguments, output.work, model, processor, splits, inputs)
            cost = fit(trainer, anatomy, arguments, output.work)
        with meter.stage("after"):
            validation = splits.get("validation")
            chosen = trainer.predict(inputs["validation"]).predictions if validation is not None else None
            decision = task.decide(chosen, validation, model.config)
            after = trainer.predict(inputs["test"]).predictions
            metrics = task.measure(after, splits["test"], model.config)
        report: dict[str, Any] = {
            "task": task.pipeline_tag,
            "method": method.method,
            "model": arguments.model.model_name_or_path,
            "seed": training.seed,
            "headline": [name for name in ("accuracy", task.main_metric) if name in metrics],
            "baseline": baseline,
            "metrics": metrics,
            "decision": decision,
            "data": data_facts,
            "parameters": parameters,
            "training": cost,
            "adapter": is_adapter(model) and not method.merge,
            "device": device_name(),
            "versions": versions(),
        }
        if training.should_save:
            with meter.stage("report"):
                found = task.intervals(before, after, splits["test"], model.config, training.seed)
                report |= {"confidence": found["after"], "gain": found["gain"]}
                report["groups"] = measure_groups(task, before, after, splits["test"], model.config)
                report["history"] = trainer.state.log_history
                predictions = task.predictions(after, splits["test"], model.config)
            # Without accelerate's wrapper for mixed precision: what is shipped computes in float32.
            model = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
            with output.result() as folder, meter.stage("writing"):
                _write_model(folder, merged(model) if method.merge else model, processor)
                batch = _parity_batch(task, processor, inputs["test"])
                report["parity"] = _check_parity(model, folder, batch, adapter=report["adapter"])
                report["seconds"] = meter.seconds()
                _write_documents(folder, task, arguments, report, predictions)
            if training.push_to_hub:
                hub.push(output.path, str(training.hub_model_id or output.path.name), token=training.hub_token,
                         private=training.hub_private_repo)  # fmt: skip
    trainer.accelerator.wait_for_everyone()
    return Finetuned(output.path, report)


@contextlib.contextmanager
def _tidy(output: OutputFolder) -> Iterator[None]:
    """Leave nothing half-written behind, whatever ends the run."""
    try:
        with quiet(), polite_stops():
            yield
    except BaseException:
        output.discard()
        raise


def _prepare_splits(
    task: Task, arguments: Arguments, dataset: DatasetDict | None
) -> tuple[DatasetDict, dict[str, Any]]:
    """Checked train, validation and test splits, and what the report says of them."""
    data, seed = arguments.data, arguments.training.seed
    datasets.disable_progress_bars()
    splits = task.standardise(dataset if dataset is not None else load_splits(data), data)
    strata = {name: task.strata(split) for name, split in splits.items()}
    splits, made = complete_splits(splits, strata, data, seed)
    identities = {name: task.identities(split) for name, split in splits.items()}
    splits, also_in_training = overlap(splits, identities, remove=data.deduplicate)
    task.check(splits)
    source = data.dataset_name or Path(data.train_file or "memory").name
    return splits, {"source": source, "made": made, "also_in_training": also_in_training, **task.facts(splits)}


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


def _check_parity(model: Any, folder: Path, batch: dict[str, torch.Tensor], *, adapter: bool) -> dict[str, Any]:
    """Load the written model, and compare it with the live one; an adapter is also merged and compared.

    Raises:
        Failure: the outputs differ by more than rounding.
    """
    live = _outputs(model, batch)
    found: dict[str, Any] = {"examples": len(live)}
    for name, merge in (("max_difference", False), ("max_difference_merged", True)):
        if adapter or not merge:
            reloaded = load_finetuned(folder, device=model.device, merge=merge).model
            found[name] = float(np.abs(_outputs(reloaded, batch) - live).max())
    limit = PARITY_TOLERANCE * max(1.0, float(np.abs(live).max()))
    worst = max(found["max_difference"], found.get("max_difference_merged", 0.0))
    if not worst <= limit:
        raise Failure(
            f"The model read back from disk differs from the trained one: its outputs are {worst:.2g} apart, more "
            f"than rounding ({limit:.2g}). The result is not written."
        )
    return found


def _write_documents(
    folder: Path, task: Task, arguments: Arguments, report: dict[str, Any], predictions: list[dict[str, Any]]
) -> None:
    told = arguments.as_dict()
    (folder / "arguments.yaml").write_text(yaml.safe_dump(told, sort_keys=False, allow_unicode=True), encoding="utf-8")
    write_json(folder / "report.json", report)
    write_jsonl(folder / "predictions.jsonl", predictions)
    (folder / "README.md").write_text(model_card(report, told, task.usage), encoding="utf-8")
