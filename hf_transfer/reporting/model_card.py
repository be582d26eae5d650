"""The model card: ``README.md`` with the metadata that the Hub reads, made with Jinja templates."""

import functools
import re
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData
from jinja2 import Environment, FileSystemLoader

from hf_transfer.evaluation.bootstrap import RESAMPLES
from hf_transfer.evaluation.metric_format import format_interval, format_metric
from hf_transfer.evaluation.metric_names import IN_LABEL_UNIT
from hf_transfer.reporting.publishing import is_local_dataset, is_local_model, last_part, model_name

# base.md, and a template for each target that extends it.
CARDS = Path(__file__).with_name("cards")
HYPERPARAMETERS = (
    "learning_rate",
    "num_train_epochs",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "warmup_steps",
    "weight_decay",
    "max_length",
    "class_weights",
    "trainable_layers",
    "lora_r",
    "lora_alpha",
    "lora_variant",
    "head_first",
    "seed",
    "fp16",
    "bf16",
)


def model_card(report: dict[str, Any], arguments: dict[str, Any]) -> str:
    """Return the model card of a run as text: metadata in YAML, then Markdown.

    Args:
        report: as in ``report.json``.
        arguments: as in ``arguments.yaml``.
    """
    model_id = arguments.get("hub_model_id") or Path(arguments["output_dir"]).resolve().name
    name = model_id.split("/")[-1]
    source = report["data"]["source"]
    source = last_part(source) if is_local_dataset(report, source) else source
    numbers = {key: value for key, value in report["metrics"].items() if isinstance(value, float)}
    text = (
        _templates()
        .get_template(f"targets/{report['template']}.md")
        .render(
            name=cell(name),
            base_model=cell(model_name(report)),
            model_id=arguments.get("hub_model_id") or arguments["output_dir"],
            report=report,
            source=source,
            metric_names=[*report["headline"], *(key for key in numbers if key not in report["headline"])],
            hyperparameters=_hyperparameters(arguments),
            resamples=RESAMPLES,
            before=_describe_baseline(report),
            cell=cell,
            label=lambda value: format_metric(value, "mean_absolute_error"),
            number=lambda value, metric="": "" if value is None else format_metric(value, metric),
            interval=lambda key, results=report: format_interval(results["confidence"].get(key), key),
        )
    )
    text = re.sub(r"\|\n\n\|", "|\n|", re.sub(r"\n{3,}", "\n\n", text))
    return f"---\n{_metadata(report, arguments, name, source, numbers).to_yaml()}\n---\n\n{text}\n"


def _metadata(
    report: dict[str, Any], arguments: dict[str, Any], name: str, source: str, numbers: dict[str, float]
) -> ModelCardData:
    """Return the metadata that the Hub reads of a model: its base model, task, dataset and results."""
    dataset = arguments.get("dataset_name")
    return ModelCardData(
        base_model=None if is_local_model(report) or report["method"] == "scratch" else report["model"],
        datasets=None if not dataset or is_local_dataset(report, dataset) else dataset,
        library_name="peft" if report["adapter"] else "transformers",
        pipeline_tag=report["task"],
        tags=["hf-transfer-learning", report["method"]],
        model_name=name,
        eval_results=[
            EvalResult(
                task_type=report["task"],
                dataset_type=_slug(source),
                dataset_name=source,
                dataset_split="test",
                metric_type=key,
                metric_value=float(f"{value:.5g}") if key in IN_LABEL_UNIT else round(value, 5),
            )
            for key, value in numbers.items()
            if value == value  # not NaN
        ],
    )


@functools.cache
def _templates() -> Environment:
    return Environment(loader=FileSystemLoader(CARDS), trim_blocks=True, lstrip_blocks=True)


def _describe_baseline(report: dict[str, Any]) -> str:
    """Return a phrase that says which model was measured before training."""
    if report["method"] == "scratch":
        return "the same architecture with random weights"
    return f"the same model {'with an untrained head' if report['newly_initialised'] else 'before training'}"


def _hyperparameters(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return by name those `HYPERPARAMETERS` that the training method of the run uses, with their values."""
    unused = {"lora": ("trainable_layers",), "frozen": ("lora", "head_first")}.get(
        arguments["method"], ("lora", "trainable_layers")
    )
    used = {key: arguments[key] for key in HYPERPARAMETERS if key in arguments and not key.startswith(unused)}
    return {key: value for key, value in used.items() if value != "none"}


def cell(value: Any) -> str:
    """Return a value as text for a cell of a Markdown table: escaped, without line breaks.

    It can add no markup and no column borders.
    """
    text = " ".join(str(value).split())
    return re.sub(r"([\\`*_\[\]<>|#!~$])", r"\\\1", text).replace("\\<", "&lt;").replace("\\>", "&gt;")


def _slug(text: str) -> str:
    """Return a name with only such characters as the Hub takes in the id of a dataset."""
    return re.sub(r"[^a-zA-Z0-9._/-]+", "-", text).strip("-") or "data"
