"""`report.html`: a run as a page with nothing to load, made from its report and arguments with Jinja templates."""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from hf_transfer.evaluation.metric_format import format_interval, format_metric
from hf_transfer.evaluation.metric_names import IN_LABEL_UNIT, unit_of
from hf_transfer.reporting.publishing import is_local_dataset, last_part, model_name
from hf_transfer.reporting.report import result_sentence, source_change, throughput, verdict

# base.html, a template for each target that extends it, and macros for each input.
PAGES = Path(__file__).with_name("pages")


def report_page(report: Mapping[str, Any], arguments: Mapping[str, Any], media: Sequence[str]) -> str:
    """Return the page of a finished run, ``report.html``, as HTML text.

    Args:
        report: as in ``report.json``.
        arguments: as in ``arguments.yaml``.
        media: data URIs of the worst examples, in their order; empty where they are texts.
    """
    title = Path(str(arguments.get("hub_model_id") or arguments["output_dir"])).resolve().name
    source = report["data"]["source"]
    return render(
        f"targets/{report['template']}.html",
        title=title,
        result_sentence=result_sentence(report),
        report=report,
        arguments=arguments,
        verdict=verdict(report),
        base_model=model_name(report),
        source=last_part(source) if is_local_dataset(report, source) else source,
        throughput=throughput(report),
        curves=learning_curves(report["history"]),
        headline_by_unit=group_by_unit(report["headline"]),
        source_change=source_change(report) if "source" in report else "",
        media=media,
    )


def learning_curves(history: list[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the losses and metrics that were logged in training as lines over steps, for charts.

    Args:
        history: as in ``report.json``: what Trainer logged, each entry with its ``step``.

    Returns:
        ``loss``: the lines of the training and validation loss; ``metrics``: those of the other metrics of
        evaluations, in a list for each unit.
    """
    curves: dict[str, dict[str, Any]] = {}
    for entry in history:
        for key, value in entry.items():
            if isinstance(value, (int, float)) and (key == "loss" or key.startswith("eval_")):
                line = curves.setdefault(key, {"name": key.removeprefix("eval_"), "x": [], "y": []})
                line["x"].append(entry["step"])
                line["y"].append(value)
    names = {"loss": "training", "eval_loss": "validation"}
    losses = [curves[key] | {"name": name} for key, name in names.items() if key in curves]
    timings = ("_runtime", "_per_second", "_preparation_time")
    metrics = [line for key, line in curves.items() if key not in ("loss", "eval_loss") and not key.endswith(timings)]
    units = group_by_unit([line["name"] for line in metrics])
    return {"loss": losses, "metrics": [[line for line in metrics if line["name"] in unit] for unit in units]}


def group_by_unit(names: Sequence[str]) -> list[list[str]]:
    """Return lists of metric names, each of metrics that have the same unit and can share the axis of a chart.

    A metric of a group (``wer_GROUP``) has the unit of the metric.
    """
    by_unit: dict[str, list[str]] = {}
    for name in names:
        unit = next((unit for unit in sorted(IN_LABEL_UNIT) if name.startswith(unit)), unit_of(name))
        by_unit.setdefault(unit, []).append(name)
    return list(by_unit.values())


def render(template: str, **values: Any) -> str:
    """Return the HTML text of a template in `PAGES`, filled with values.

    Text from the data is escaped: it cannot add markup.
    """
    # Imported here because matplotlib takes long to import and most commands draw nothing.
    from hf_transfer.reporting import charts

    return _templates().get_template(template).render(charts=charts, **values)


@functools.cache
def _templates() -> Environment:
    pages = Environment(
        loader=FileSystemLoader(PAGES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    pages.filters |= {
        "format_metric": format_metric,
        "format_interval": format_interval,
        "shell_quote": quote,
        "shorten": shorten,
        "decimal": decimal,
        "percent": percent,
        "thousands": thousands,
    }
    return pages


def decimal(value: float | None, digits: int = 3) -> str:
    """Return a number as text with `digits` decimals; a dash for None or NaN."""
    return "–" if value is None or value != value else f"{value:.{digits}f}"


def percent(value: float | None) -> str:
    """Return a share (0 to 1) as text in percent, with a decimal below 10 %; a dash for None."""
    return "–" if value is None else f"{value:.0%}" if value >= 0.1 or value == 0 else f"{value:.1%}"


def shorten(text: Any, length: int = 60) -> str:
    """Return a name, or a list of names joined by commas, as text cut to `length` characters."""
    joined = ", ".join(map(str, text)) if isinstance(text, list) else str(text)
    return joined if len(joined) <= length else f"{joined[: length - 1]}…"


def thousands(value: float | None) -> str:
    """Return a number as text, rounded to a whole one, with thousands separators; a dash for None."""
    return "–" if value is None else f"{value:,.0f}"
