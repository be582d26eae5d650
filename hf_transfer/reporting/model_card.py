"""The model card: ``README.md`` with the metadata that the Hub reads."""

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

# base.md, and on top of it a template a target.
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
    """The model card for the report of a run, with its metadata.

    Args:
        report: as in ``report.json``.
        arguments: as in ``arguments.yaml``.
    """
    name = arguments.get("hub_model_id") or Path(arguments["output_dir"]).resolve().name
    numbers = {key: value for key, value in report["metrics"].items() if isinstance(value, float)}
    names = [*report["headline"], *(key for key in numbers if key not in report["headline"])]
    source, dataset = report["data"]["source"], arguments.get("dataset_name")
    source = last_part(source) if is_local_dataset(report, source) else source
    data = ModelCardData(
        base_model=None if is_local_model(report) or report["method"] == "scratch" else report["model"],
        datasets=None if not dataset or is_local_dataset(report, dataset) else dataset,
        library_name="peft" if report["adapter"] else "transformers",
        pipeline_tag=report["task"],
        tags=["hf-transfer-learning", report["method"]],
        model_name=name.split("/")[-1],
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
            if value == value
        ],
    )
    text = (
        _templates()
        .get_template(f"targets/{report['template']}.md")
        .render(
            name=cell(name.split("/")[-1]),
            base_model=cell(model_name(report)),
            model_id=name if arguments.get("hub_model_id") else arguments["output_dir"],
            report=report,
            metric_names=names,
            hyperparameters=_hyperparameters(arguments),
            resamples=RESAMPLES,
            before=_before(report),
            cell=cell,
            label=lambda value: format_metric(value, "mean_absolute_error"),
            number=lambda value, metric="": "" if value is None else format_metric(value, metric),
            interval=lambda key, of=report: format_interval(of["confidence"].get(key), key),
        )
    )
    text = re.sub(r"\|\n\n\|", "|\n|", re.sub(r"\n{3,}", "\n\n", text))
    return f"---\n{data.to_yaml()}\n---\n\n{text}\n"


@functools.cache
def _templates() -> Environment:
    return Environment(loader=FileSystemLoader(CARDS), trim_blocks=True, lstrip_blocks=True)


def _before(report: dict[str, Any]) -> str:
    """What was measured before training."""
    if report["method"] == "scratch":
        return "the same architecture with random weights"
    return f"the same model {'with its head untrained' if report['newly_initialised'] else 'as it came'}"


def _hyperparameters(arguments: dict[str, Any]) -> dict[str, Any]:
    """Those that had a part in the run."""
    unused = {"lora": ("trainable_layers",), "frozen": ("lora", "head_first")}.get(
        arguments["method"], ("lora", "trainable_layers")
    )
    told = {key: arguments[key] for key in HYPERPARAMETERS if key in arguments and not key.startswith(unused)}
    return {key: value for key, value in told.items() if value != "none"}


def cell(value: Any) -> str:
    """Text from the data as it may stand in Markdown: no markup, no table borders, no line breaks."""
    text = " ".join(str(value).split())
    return re.sub(r"([\\`*_\[\]<>|#!~$])", r"\\\1", text).replace("\\<", "&lt;").replace("\\>", "&gt;")


def _slug(text: str) -> str:
    return re.sub(r"[^a-zA-Z0-9._/-]+", "-", text).strip("-") or "data"
