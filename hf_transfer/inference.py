"""Using a fine-tuned model: `load_finetuned()`, `predict()`, `evaluate()`."""

import dataclasses
import itertools
import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from datasets import Dataset, DatasetDict
from transformers import AutoConfig, Pipeline, PretrainedConfig
from transformers.utils.peft_utils import find_adapter_config_file

from hf_transfer.arguments import Arguments, DataArguments, MethodArguments, ModelArguments, TransferTrainingArguments
from hf_transfer.caches import ensure_writable_caches
from hf_transfer.data.groups import replace_class_labels
from hf_transfer.data.split_column import divide_by_split_column
from hf_transfer.data.tables import load_table, show_progress_bars_for
from hf_transfer.data.units import few_units_caveats, noun_of_resampling_units, unit_column
from hf_transfer.errors import InputError, nearest
from hf_transfer.evaluation.groups import measure_groups
from hf_transfer.methods.lora import base_model_of, load_adapter
from hf_transfer.models import explain_loading_errors, quiet
from hf_transfer.tasks import task_class_for_config
from hf_transfer.tasks.task import Task
from hf_transfer.training.fit import PreparedData, make_trainer

# The fields of DataArguments that evaluate() takes.
_DATA_SETTINGS = ("column_names", "delimiter", "group_column_name", "split_by", "drop_incomplete")


def load_finetuned(
    path_or_hub_id: str | Path,
    *,
    revision: str = "main",
    device: str | torch.device | int | None = None,
    merge: bool = False,
    trust_remote_code: bool = False,
) -> Pipeline:
    """Return a fine-tuned model, with or without an adapter, as a `transformers.Pipeline`.

    Args:
        path_or_hub_id: an output folder, or a repository on the Hub.
        revision: branch, tag or commit on the Hub.
        device: as for `transformers.pipeline`; None: the GPU if there is one.
        merge: merge an adapter into its base model, which makes prediction faster.
        trust_remote_code: run Python code that comes with the base model; only for authors you trust.

    Returns:
        The pipeline of the model's task. It predicts with the threshold and the temperature that the run has chosen.

    Raises:
        InputError: there is no fine-tuned model of that name.
    """
    name = str(path_or_hub_id)
    with explain_loading_errors(name, "a fine-tuned model"):
        config = AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=trust_remote_code)
        adapter = find_adapter_config_file(name, revision=revision)
        base, base_revision = (name, revision) if adapter is None else base_model_of(name, revision)
    task = task_class_for_config(config, name)()
    with explain_loading_errors(
        base, "safetensors weights" if adapter is None else f"the base model of the adapter {name}"
    ):
        model = task.auto_model.from_pretrained(
            base,
            config=config,
            revision=base_revision,
            trust_remote_code=trust_remote_code,
            use_safetensors=True,
            dtype=torch.float32,
            ignore_mismatched_sizes=adapter is not None,  # the adapter brings its own head
        )
    if adapter is not None:
        task.target.prepare_base(model, base, base_revision)
        with explain_loading_errors(name, "the adapter's weights"):
            model = load_adapter(model, name, revision, merge=merge)
    processor = task.load_processor(ModelArguments(name, revision, trust_remote_code))
    if device is None:
        device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu"
    with quiet():
        return task.pipeline(model.to(device).eval(), processor)


def task_class_of(path_or_hub_id: str) -> type[Task]:
    """Return the task class of a fine-tuned model, read from its config.

    Raises:
        InputError: there is no fine-tuned model of that name.
    """
    with explain_loading_errors(path_or_hub_id, "a fine-tuned model"):
        config = AutoConfig.from_pretrained(path_or_hub_id)
    return task_class_for_config(config, path_or_hub_id)


def predict(pipeline: Any, rows: Iterable[Mapping[str, Any]], *, batch_size: int = 32) -> Iterator[dict[str, Any]]:
    """Yield a prediction for each of any number of rows, in order; only some rows are in memory at a time.

    Args:
        pipeline: from `load_finetuned`.
        rows: dictionaries with ``text`` and, for pairs, ``text_pair``; or with ``audio``, a file, its content or
            ``{"array", "sampling_rate"}``, and ``start`` and ``end`` (or ``duration``) in seconds for a part of it.
        batch_size: number of inputs in a batch.

    Yields:
        For each row its input and the prediction: ``label``, ``score`` and ``scores``; or ``prediction``, a number;
        or ``text`` and ``words``.
    """
    iterator = iter(rows)
    while chunk := list(itertools.islice(iterator, pipeline.rows_per_chunk)):
        # Inputs of similar length share a batch, so that there is little padding.
        order = sorted(range(len(chunk)), key=lambda i: _text_length(chunk[i]))
        with torch.inference_mode():
            predictions = pipeline.predict_records([dict(chunk[i]) for i in order], batch_size=batch_size)
        by_row = dict(zip(order, predictions, strict=True))
        for i, row in enumerate(chunk):
            yield {**_json_fields(row), **by_row[i]}


def _json_fields(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a row that a JSON record can hold, without the content of files and samples."""
    values = {
        name: value for name, value in row.items() if isinstance(value, (str, int, float, list, dict, type(None)))
    }
    content = {"bytes", "array", "raw"}
    return {name: value for name, value in values.items() if not (isinstance(value, dict) and content & value.keys())}


def _text_length(row: Mapping[str, Any]) -> int:
    return sum(len(value) for value in row.values() if isinstance(value, str))


def evaluate(path_or_hub_id: str | Path, test_file: str, **settings: Any) -> dict[str, Any]:
    """Measure a fine-tuned model on new labelled data, and return metrics, their intervals and counts.

    The model decides as in its run (threshold, temperature).

    Args:
        path_or_hub_id: an output folder, or a repository on the Hub.
        test_file: a table of labelled examples.
        **settings: settings of the data and of the task, by their flag names.

    Returns:
        ``metrics``; their 95 % intervals (``confidence``), and over what these are computed (``intervals_over``:
        examples, or units such as patients); ``caveats``, sentences; ``groups``; the number of ``examples``; and the
        number of rows that were ``left_out``, by reason.

    Raises:
        InputError: the model or the data cannot be used.
    """
    ensure_writable_caches()
    pipeline: Any = load_finetuned(path_or_hub_id)
    config = pipeline.model.config
    task, data, table = _task_and_table(path_or_hub_id, config, test_file, settings)
    model = ModelArguments(model_name_or_path=str(path_or_hub_id))
    rows = replace_class_labels(DatasetDict({"test": table}), data)
    splits, left_out, _ = task.read(rows, data, model, config)
    processor = task.load_processor(model)
    splits, inputs = task.model_inputs(splits, processor, pipeline.model, seed=0)
    with tempfile.TemporaryDirectory() as folder:
        training = TransferTrainingArguments(
            output_dir=folder,
            use_cpu=pipeline.device.type == "cpu",
            bf16=False,
            auto_find_batch_size=True,
            per_device_eval_batch_size=task.defaults["per_device_eval_batch_size"],
        )
        arguments = Arguments(task, model, data, MethodArguments(), training)
        trainer = make_trainer(PreparedData(arguments, processor, splits, inputs), pipeline.model, Path(folder))
        outputs = pipeline.outputs_of(inputs["test"], lambda examples: trainer.predict(examples).predictions)
    split = splits["test"]
    return {
        "metrics": task.target.compute_metrics(outputs, split, config),
        "confidence": task.target.intervals(outputs, outputs, split, config, seed=0)["after"],
        "intervals_over": noun_of_resampling_units(split, data.split_by),
        "caveats": few_units_caveats(split, str(data.split_by)) if data.split_by else [],
        "groups": measure_groups(task, None, outputs, split, config),
        "examples": len(split),
        "left_out": {reason: count for reason, count in left_out["test"].items() if count},
    }


def _task_and_table(
    path_or_hub_id: str | Path, config: PretrainedConfig, test_file: str, settings: Mapping[str, Any]
) -> tuple[Task, DataArguments, Dataset]:
    """Return the task, the settings of the data as they are for a table, and the table's rows to measure on.

    Raises:
        InputError: a setting is unknown, or the table cannot be read.
    """
    task_class = task_class_for_config(config, str(path_or_hub_id))
    names = [*task_class.setting_names(), *_DATA_SETTINGS]
    for name in settings:
        if name not in names:
            raise InputError(f"Unknown argument {name}.{nearest(name, names)}")
    task_settings = {name: value for name, value in settings.items() if name in task_class.setting_names()}
    data_settings = {name: value for name, value in settings.items() if name in _DATA_SETTINGS}
    data = DataArguments(test_file=test_file, **data_settings)
    table = load_table(test_file, column_names=data.column_names, delimiter=data.delimiter)
    trained = columns_as_trained(path_or_hub_id, task_class, table.column_names)
    task = task_class(**trained | task_class.settings_from_config(config) | task_settings)
    table = _test_rows(table, test_file)
    columns = table.column_names
    data = dataclasses.replace(data, split_by=unit_column(data, columns, task.unit_column(columns)))
    show_progress_bars_for(len(table))
    return task, data, table


def _test_rows(table: Dataset, file: str) -> Dataset:
    """Return the rows of the test split if the table has a column of splits; else all rows.

    Raises:
        InputError: the column of splits has no test split.
    """
    splits = divide_by_split_column(table, file)
    if len(splits) > 1 and "test" not in splits:
        counts = ", ".join(f"{len(split)} {name}" for name, split in splits.items())
        raise InputError(
            f"{file}: no row is of the test split, by its column of splits ({counts}). Give a file with the rows to "
            "measure on."
        )
    return splits.get("test", table)


def columns_as_trained(path_or_hub_id: str | Path, task_class: type[Task], columns: Sequence[str]) -> dict[str, Any]:
    """Return the settings that name a table's columns and describe its labels, as the model was trained with them.

    --column_names and --delimiter are not among them: they describe a file, not the model.

    Args:
        path_or_hub_id: an output folder; for a repository on the Hub the result is empty.
        task_class: of the model.
        columns: of the table; the names of others are left out.
    """
    folder, names = Path(path_or_hub_id), task_class.setting_names()
    if not (folder / "report.json").is_file():
        return {}
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    trained = {f"{ours}_column_name": theirs for ours, theirs in report["data"].get("columns", {}).items()}
    column_settings = {name: column for name, column in trained.items() if name in names and column in columns}
    arguments = yaml.safe_load((folder / "arguments.yaml").read_text(encoding="utf-8"))
    label_settings = [name for name in ("class_names", "label_separator") if name in names and name in arguments]
    return column_settings | {name: arguments[name] for name in label_settings}
