"""`report.html`: the run as a page that needs nothing from elsewhere, from its report and arguments."""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from hf_transfer.evaluation.metric_format import format_interval, format_metric
from hf_transfer.evaluation.metric_names import IN_LABEL_UNIT, unit_of
from hf_transfer.reporting.publishing import is_local_dataset, last_part, model_name
from hf_transfer.reporting.report import answer, source_change, verdict

# base.html, on top of it a template a target, and macros of each input.
PAGES = Path(__file__).with_name("pages")


def report_page(report: Mapping[str, Any], arguments: Mapping[str, Any], media: Sequence[str]) -> str:
    """The page of a run.

    Args:
        report: as in ``report.json``.
        arguments: as in ``arguments.yaml``.
        media: data URIs of the worst examples, where they are to be heard or seen.
    """
    name = Path(str(arguments.get("hub_model_id") or arguments["output_dir"])).resolve().name
    source = report["data"]["source"]
    return render(
        f"targets/{report['template']}.html",
        title=name,
        answer=answer(report),
        report=report,
        arguments=arguments,
        verdict=verdict(report),
        base_model=model_name(report),
        source=last_part(source) if is_local_dataset(report, source) else source,
        curves=learning_curves(report["history"]),
        axes=by_unit(report["headline"]),
        source_change=source_change(report) if "source" in report else "",
        media=media,
    )


def learning_curves(history: list[Mapping[str, Any]]) -> dict[str, Any]:
    """What was logged while training, as lines over steps: ``loss``, and by unit the ``metrics`` of evaluations."""
    found: dict[str, dict[str, Any]] = {}
    for entry in history:
        for key, value in entry.items():
            if isinstance(value, (int, float)) and (key == "loss" or key.startswith("eval_")):
                line = found.setdefault(key, {"name": key.removeprefix("eval_"), "x": [], "y": []})
                line["x"].append(entry["step"])
                line["y"].append(value)
    names = {"loss": "training", "eval_loss": "validation"}
    losses = [found[key] | {"name": name} for key, name in names.items() if key in found]
    speeds = ("_runtime", "_per_second", "_preparation_time")
    metrics = [line for key, line in found.items() if key not in ("loss", "eval_loss") and not key.endswith(speeds)]
    units = by_unit([line["name"] for line in metrics])
    return {"loss": losses, "metrics": [[line for line in metrics if line["name"] in unit] for unit in units]}


def by_unit(names: Sequence[str]) -> list[list[str]]:
    """Metrics that can stand on one axis together; those of groups (``wer_GROUP``) are of the unit of the metric."""
    found: dict[str, list[str]] = {}
    for name in names:
        unit = next((unit for unit in sorted(IN_LABEL_UNIT) if name.startswith(unit)), unit_of(name))
        found.setdefault(unit, []).append(name)
    return list(found.values())


def render(template: str, **values: Any) -> str:
    """A page from a template of `PAGES`; what comes from the data cannot write markup into it."""
    # Only here: matplotlib takes a while to be imported, and most commands draw nothing.
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
    own = {
        "format_metric": format_metric,
        "format_interval": format_interval,
        "shell": quote,
        "brief": brief,
        "number": number,
        "interval": interval,
        "percent": percent,
        "amount": amount,
    }
    pages.filters |= own
    return pages


def number(value: Any, digits: int = 3) -> str:
    """A metric as it is shown; a dash for what is not there."""
    return "–" if value is None or value != value else f"{value:.{digits}f}"


def interval(ends: Any, digits: int = 3) -> str:
    """``[low, high]``, or nothing."""
    return f"[{ends[0]:.{digits}f}, {ends[1]:.{digits}f}]" if ends else ""


def percent(value: Any) -> str:
    """A share, with a decimal where it is small."""
    return "–" if value is None else f"{value:.0%}" if value >= 0.1 or value == 0 else f"{value:.1%}"


def brief(text: Any, letters: int = 60) -> str:
    """A name or several of them, as long as a table has room for."""
    one = ", ".join(map(str, text)) if isinstance(text, list) else str(text)
    return one if len(one) <= letters else f"{one[: letters - 1]}…"


def amount(value: Any) -> str:
    """A whole number with separators."""
    return "–" if value is None else f"{value:,.0f}"
