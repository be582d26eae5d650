"""Using a model: `load_finetuned()`, prediction over files, evaluation on new data."""

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
from transformers import AutoConfig
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
from hf_transfer.training.fit import PreparedData, make_trainer

# The arguments of the data that evaluate() takes.
OF_DATA = ("column_names", "delimiter", "group_column_name", "split_by", "drop_incomplete")


def load_finetuned(
    path_or_hub_id: str | Path,
    *,
    revision: str = "main",
    device: str | torch.device | int | None = None,
    merge: bool = False,
    trust_remote_code: bool = False,
) -> Any:
    """A `transformers.Pipeline` for a fine-tuned model, whatever the method was.

    Args:
        path_or_hub_id: an output folder, or a repository on the Hub.
        revision: branch, tag or commit on the Hub.
        device: where to run, as `transformers.pipeline` takes it; the accelerator, if there is one, by default.
        merge: add an adapter into its base model's weights, which makes prediction faster.
        trust_remote_code: run Python code that comes with the base model: only for authors you trust.

    Returns:
        The pipeline of the model's task, deciding as the model was measured.

    Raises:
        InputError: there is no fine-tuned model of that name.
    """
    name = str(path_or_hub_id)
    with explain_loading_errors(name, "a fine-tuned model"):
        config = AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=trust_remote_code)
        adapter = find_adapter_config_file(name, revision=revision)
        base, base_revision = (name, revision) if adapter is None else base_model_of(name, revision)
    task = task_class_for_config(config, name)
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
        task().target.prepare_base(model, base, base_revision)
        with explain_loading_errors(name, "the adapter's weights"):
            model = load_adapter(model, name, revision, merge=merge)
    processor = task().load_processor(ModelArguments(name, revision, trust_remote_code))
    if device is None:
        device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu"
    with quiet():
        return task().pipeline(model.to(device).eval(), processor)


def task_class_of(path_or_hub_id: str) -> Any:
    """The task class of a fine-tuned model, by its config alone.

    Raises:
        InputError: there is no fine-tuned model of that name.
    """
    with explain_loading_errors(path_or_hub_id, "a fine-tuned model"):
        config = AutoConfig.from_pretrained(path_or_hub_id)
    return task_class_for_config(config, path_or_hub_id)


def predict(pipeline: Any, rows: Iterable[Mapping[str, Any]], *, batch_size: int = 32) -> Iterator[dict[str, Any]]:
    """Predict rows of any number, in order, holding a chunk of them at a time.

    Args:
        pipeline: from `load_finetuned`.
        rows: dictionaries with ``text`` and, for pairs, ``text_pair``; or with ``audio``, a file, its content or
            ``{"array", "sampling_rate"}``, and ``start`` and ``end`` (or ``duration``) in seconds for a part of it.
        batch_size: inputs at once.

    Yields:
        For each row its input and what the pipeline's ``decide`` gives: ``label``, ``score`` and ``scores``; or
        ``prediction``, a number; or ``text`` and ``words``.
    """
    iterator = iter(rows)
    while chunk := list(itertools.islice(iterator, pipeline.rows_per_chunk)):
        # Inputs of similar length share a batch, so that little is padded.
        order = sorted(range(len(chunk)), key=lambda i: _letters(chunk[i]))
        with torch.inference_mode():
            found = pipeline.decide([dict(chunk[i]) for i in order], batch_size=batch_size)
        by_row = dict(zip(order, found, strict=True))
        for i, row in enumerate(chunk):
            yield {**_shown(row), **by_row[i]}


def _shown(row: Mapping[str, Any]) -> dict[str, Any]:
    """What a record says of its input: neither the content of a file nor samples."""
    plain = {
        name: value for name, value in row.items() if isinstance(value, (str, int, float, list, dict, type(None)))
    }
    return {n: v for n, v in plain.items() if not (isinstance(v, dict) and {"bytes", "array", "raw"} & v.keys())}


def _letters(row: Mapping[str, Any]) -> int:
    return sum(len(value) for value in row.values() if isinstance(value, str))


def evaluate(path_or_hub_id: str | Path, test_file: str, **settings: Any) -> dict[str, Any]:
    """Measure a fine-tuned model on new labelled data, deciding as it was shipped.

    Args:
        path_or_hub_id: an output folder, or a repository on the Hub.
        test_file: a table of labelled examples.
        **settings: arguments of the data and of the task, by their flag names.

    Returns:
        ``metrics``, their 95 % intervals (``confidence``) and what these are over (``intervals_over``: examples, or
        whole patients), ``caveats`` in sentences, ``groups``, the number of ``examples``, and how many rows were
        ``left_out`` by the reason.

    Raises:
        InputError: the model or the data cannot be used.
    """
    ensure_writable_caches()
    pipeline = load_finetuned(path_or_hub_id)
    config = pipeline.model.config
    task_class = task_class_for_config(config, str(path_or_hub_id))
    of_task = {key: value for key, value in settings.items() if key in task_class.__dataclass_fields__}
    of_data = {key: value for key, value in settings.items() if key in OF_DATA}
    unknown = [key for key in settings if key not in of_task and key not in of_data]
    if unknown:
        raise InputError(
            f"Unknown argument {unknown[0]}.{nearest(unknown[0], [*task_class.__dataclass_fields__, *OF_DATA])}"
        )
    data = DataArguments(test_file=test_file, **of_data)
    model = ModelArguments(model_name_or_path=str(path_or_hub_id))
    table = load_table(test_file, column_names=data.column_names, delimiter=data.delimiter)
    columns = columns_as_trained(path_or_hub_id, task_class, table.column_names)
    task = task_class(**columns | task_class.settings_from_config(config) | of_task)
    table = _test_rows(table, test_file)
    names = table.column_names
    data = dataclasses.replace(data, split_by=unit_column(data, names, task.unit_column(names)))
    show_progress_bars_for(len(table))
    given = replace_class_labels(DatasetDict({"test": table}), data)
    splits, left_out, _ = task.read(given, data, model, config)
    processor = task.load_processor(model)
    splits, inputs = task.model_inputs(splits, processor, pipeline.model, seed=0)
    with tempfile.TemporaryDirectory() as folder:
        arguments = Arguments(
            task,
            model,
            data,
            MethodArguments(),
            TransferTrainingArguments(
                output_dir=folder,
                use_cpu=pipeline.device.type == "cpu",
                bf16=False,
                auto_find_batch_size=True,
                per_device_eval_batch_size=task.defaults["per_device_eval_batch_size"],
            ),
        )
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
        "left_out": {why: count for why, count in left_out["test"].items() if count},
    }


def _test_rows(table: Dataset, file: str) -> Dataset:
    """The rows of a table that are to be measured on: all of them, or those of ``test`` where a column divides it.

    Raises:
        InputError: a column divides it, and no row is of ``test``.
    """
    divided = divide_by_split_column(table, file)
    if len(divided) > 1 and "test" not in divided:
        there = ", ".join(f"{len(split)} {name}" for name, split in divided.items())
        raise InputError(f"{file}: no row is of the test split, by its column ({there}). Give a file of what is to be "
                         "measured on alone.")  # fmt: skip
    return divided.get("test", table)


def columns_as_trained(path_or_hub_id: str | Path, task_class: Any, columns: Sequence[str]) -> dict[str, Any]:
    """The names of columns that the model was trained with, where a table has them, and how its labels are written.

    A table's own --column_names and --delimiter are not among them: they describe a file, and not the model.

    Args:
        path_or_hub_id: an output folder; of a repository on the Hub nothing is known.
        task_class: of the model.
        columns: of the table.
    """
    folder, fields = Path(path_or_hub_id), task_class.__dataclass_fields__
    if not (folder / "report.json").is_file():
        return {}
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    trained = {f"{own}_column_name": column for own, column in report["data"].get("columns", {}).items()}
    found = {name: column for name, column in trained.items() if name in fields and column in columns}
    told = yaml.safe_load((folder / "arguments.yaml").read_text(encoding="utf-8"))
    return found | {name: told[name] for name in ("class_names", "label_separator") if name in fields and name in told}
