"""Excerpts: parts of long recordings that rows of a table name by their times, in seconds."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from hf_transfer.inputs.audio.sources import Excerpt, Source, UnusableAudio, WholeSource

# Usual names of the columns that hold the times of excerpts.
START_COLUMNS = (
    "offset", "start", "start_time", "begin", "begin_time", "start_seconds", "segment_start", "audio_start"
)  # fmt: skip
END_COLUMNS = ("end", "end_time", "stop", "stop_time", "end_seconds", "segment_end", "audio_end")
DURATION_COLUMNS = ("duration", "duration_seconds", "segment_duration")
# Times that are not a number of seconds, such as 0,5 and 1:23.5.
OTHER_TIME_FORMATS = re.compile(r"\s*\d+(?:[:,]\d+)+(?:[.,]\d+)?\s*")


def excerpt_columns(columns: Sequence[str]) -> dict[str, str]:
    """Return the columns of excerpts' times, ``start`` and ``end`` or ``duration``; empty without such columns."""
    by_name = {name.lower().strip(): name for name in reversed(columns)}

    def first_of(usual_names: Sequence[str]) -> str | None:
        return next((by_name[name] for name in usual_names if name in by_name), None)

    start, end, duration = first_of(START_COLUMNS), first_of(END_COLUMNS), first_of(DURATION_COLUMNS)
    # NeMo's manifests have offset and duration.
    if duration is not None and start is not None and (end is None or start.lower().strip() == "offset"):
        return {"start": start, "duration": duration}
    return {} if start is None or end is None else {"start": start, "end": end}


def parse_seconds(value: Any) -> float | None:
    """Return a cell as a number of seconds, or None if it is not a number."""
    try:
        seconds = float(value.strip() if isinstance(value, str) else value)
    except (TypeError, ValueError):
        return None
    return seconds if math.isfinite(seconds) else None


def is_empty(value: object) -> bool:
    """Return whether a cell is None, NaN or blank."""
    return value is None or value != value or (isinstance(value, str) and not value.strip())


def excerpt_of(recording: WholeSource, times: Mapping[str, Any]) -> Source:
    """Return the part of a recording that a row names, or the whole recording if the row has no times.

    Args:
        recording: the file or samples that the row names.
        times: ``start``, and ``end`` or ``duration``, as the row has them.
    """
    if all(is_empty(value) for value in times.values()):
        return recording
    seconds = {name: parse_seconds(value) for name, value in times.items()}
    start = 0.0 if is_empty(times.get("start")) else seconds["start"]
    end = seconds.get("end")
    end = None if end is None else round(end, 6)  # as the sum of offset and duration is
    if "duration" in times and start is not None:
        duration = seconds["duration"]
        # NeMo writes -1 for "up to the end".
        end = None if duration is None or duration == -1 else round(start + duration, 6)
    has_invalid_time = any(seconds[name] is None and not is_empty(value) for name, value in times.items())
    if has_invalid_time or start is None or start < 0 or (end is not None and end <= start):
        cells = ", ".join(f"{name} {value!r}" for name, value in times.items())
        expected = "expected times in seconds, with the end after the start"
        return UnusableAudio("no part of its file", f"{cells}: {expected}")
    return Excerpt(recording, start, end)


def format_time_range(time_range: tuple[float, float | None]) -> str:
    """Return the start and end of an excerpt (seconds) as text, such as ``1.5 s to its end``."""
    start, end = time_range
    return f"{start:g} s to {'its end' if end is None else f'{end:g} s'}"
