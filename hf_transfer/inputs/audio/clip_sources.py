"""The clips that a table names: files beside it, bytes and samples in its cells, and parts of long recordings."""

import functools
import json
import math
import os
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.compute
from datasets import Dataset

from hf_transfer.errors import InputError, logger
from hf_transfer.inputs.audio.sources import Excerpt, Samples, Source, UnusableAudio

# Columns that say which part of its recording a row means, in seconds.
STARTS = ("offset", "start", "start_time", "begin", "begin_time", "start_seconds", "segment_start", "audio_start")
ENDS = ("end", "end_time", "stop", "stop_time", "end_seconds", "segment_end", "audio_end")
DURATIONS = ("duration", "duration_seconds", "segment_duration")
CLIPS = ("clips", "wavs")
ENDINGS = (".wav", ".mp3", ".flac", ".ogg", ".opus", ".m4a")
# Times that are no number of seconds: 0,5 and 1:23.5.
OTHER_TIMES = re.compile(r"\s*\d+(?:[:,]\d+)+(?:[.,]\d+)?\s*")
RATES = ("sampling_rate", "sample_rate", "samplerate")


def excerpt_columns(columns: Sequence[str]) -> dict[str, str]:
    """The columns of the part of a recording that a row means: ``start``, and ``end`` or ``duration``; or none."""
    by_name = {name.lower().strip(): name for name in reversed(columns)}

    def first(usual: Sequence[str]) -> str | None:
        return next((by_name[name] for name in usual if name in by_name), None)

    start, end, duration = first(STARTS), first(ENDS), first(DURATIONS)
    # NeMo's manifests have offset and duration.
    if duration is not None and start is not None and (end is None or start.lower().strip() == "offset"):
        return {"start": start, "duration": duration}
    return {} if start is None or end is None else {"start": start, "end": end}


def seconds_of(value: Any) -> float | None:
    """A cell as a number of seconds; None where it is none."""
    try:
        seconds = float(value.strip() if isinstance(value, str) else value)
    except (TypeError, ValueError):
        return None
    return seconds if math.isfinite(seconds) else None


def _is_empty(value: Any) -> bool:
    return value is None or value != value or (isinstance(value, str) and not value.strip())


def excerpt_of(whole: Any, times: Mapping[str, Any]) -> Source:
    """The part of a recording that a row means; the whole where it says nothing.

    Args:
        whole: the recording.
        times: ``start``, and ``end`` or ``duration``, as the row has them.
    """
    if all(_is_empty(value) for value in times.values()):
        return whole
    found = {name: seconds_of(value) for name, value in times.items()}
    start = 0.0 if _is_empty(times.get("start")) else found["start"]
    length, end = found.get("duration"), found.get("end")
    end = None if end is None else round(end, 6)  # as sums are
    odd = [name for name, value in times.items() if found[name] is None and not _is_empty(value)]
    if "duration" in times and start is not None:
        # NeMo writes -1 for "up to the end".
        end = None if length is None or length == -1 else round(start + length, 6)
    if odd or start is None or start < 0 or (end is not None and end <= start):
        told = ", ".join(f"{name} {value!r}" for name, value in times.items())
        return UnusableAudio("no part of its file", f"{told}: expected seconds, the end behind the start")
    return Excerpt(whole, start, end)


def source_of(cell: Any, folder: Path | None, sampling_rate: Any = None) -> "Path | bytes | Samples | UnusableAudio":
    """What a cell names: a file, its content, or samples.

    Args:
        cell: a path, bytes, ``{"bytes", "path"}``, ``{"array", "sampling_rate"}`` or samples.
        folder: where relative paths begin.
        sampling_rate: of samples that come without.
    """
    if isinstance(cell, (Samples, UnusableAudio)):
        return cell
    cell = _object_in(cell) or cell
    if isinstance(cell, Mapping):
        array = cell.get("array") if cell.get("array") is not None else cell.get("raw")
        if array is not None:
            return Samples(_as_array(array), cell.get("sampling_rate", sampling_rate))
        cell = cell["bytes"] if cell.get("bytes") is not None else cell.get("path")
    if isinstance(cell, (bytes, bytearray, memoryview)):
        return bytes(cell)
    if isinstance(cell, (list, np.ndarray)):
        return Samples(_as_array(cell), sampling_rate)
    if isinstance(cell, (str, Path)) and str(cell).strip():
        return resolve(str(cell), folder)
    return UnusableAudio("no audio", f"the cell holds {'nothing' if _is_empty(cell) else type(cell).__name__}")


def _object_in(cell: Any) -> dict[str, Any] | None:
    """The object of a JSON file that a table holds as text; None where a cell is something else."""
    if not isinstance(cell, str) or not cell.startswith("{"):
        return None
    try:
        found = json.loads(cell)
    except ValueError:  # a name that begins so
        return None
    return found if isinstance(found, dict) else None


def _as_array(values: Any) -> Any:
    try:
        return np.asarray(values)
    except ValueError:  # lists of different lengths: refused where they are decoded
        return values


def resolve(name: str, folder: Path | None) -> Path:
    """The file that a table in `folder` means: relative paths begin there, or in its folder ``clips`` or ``wavs``.

    Where there is none of that name and it has no ending of audio, one with such an ending behind it; and one whose
    name has the same letters in another Unicode form, as archives made on a Mac hold them.
    """
    forms = [name] if name.isascii() else [name, *(unicodedata.normalize(form, name) for form in ("NFC", "NFD"))]
    # Common Voice and LJ Speech keep their clips in folders of these names beside the tables, and have named them
    # there without the ending.
    folders = [folder] if folder is None or Path(name).is_absolute() else [folder, *(folder / own for own in CLIPS)]
    endings = ("",) if name.lower().endswith(ENDINGS) else ("", *ENDINGS)
    places = (
        Path(form + ending) if place is None else place / (form + ending)
        for ending in endings
        for form in forms
        for place in folders
    )
    named = Path(name) if folder is None else folder / name
    try:
        return next((place for place in places if place.is_file()), named)
    except (OSError, ValueError):  # a name that no file can have
        return named


def similar_name(path: Path, listed: dict[Path, dict[str, str]]) -> str:
    """In a clause, that a file beside a missing one has its name but for case and spaces; or nothing.

    Args:
        path: of the missing file.
        listed: the folders that were looked at before, to be added to.
    """
    if path.parent not in listed:
        try:
            listed[path.parent] = {_plain(file.name): file.name for file in path.parent.iterdir()}
        except (OSError, ValueError):
            listed[path.parent] = {}
    there = listed[path.parent].get(_plain(path.name))
    return "" if there is None else f", but {there!r}: mend the name {path.name!r} in the table"


def _plain(name: str) -> str:
    return " ".join(unicodedata.normalize("NFC", name).casefold().split())


class ClipSources:
    """The audio of a split, one clip after another. Can be gone through twice.

    Args:
        split: the user's rows.
        column: of the audio.
        folder: where relative paths begin.
    """

    def __init__(self, split: Dataset, column: str, folder: Path | None):
        self.column, self.folder = column, folder
        self.times = excerpt_columns([name for name in split.column_names if name != column])
        if self.times and not self._hold_seconds(split):
            self.times = {}
        names = {name.lower(): name for name in split.column_names if name != column}
        self.rate = next((names[name] for name in RATES if name in names), None)
        wanted = [column, *self.times.values(), *([self.rate] if self.rate else [])]
        # As Arrow: encoded as it is, where `datasets` would decode with torchcodec; samples without a list of each.
        self.split = split.select_columns(list(dict.fromkeys(wanted))).with_format("arrow")

    def _hold_seconds(self, split: Dataset) -> bool:
        """Whether the columns of times hold seconds, or else something that has nothing to do with parts of clips.

        Raises:
            InputError: they hold times that are written in another way.
        """
        column = self.times["start"]
        cells = split[column][:]
        if any(seconds_of(value) is not None for value in cells):
            return True
        for row, cell in enumerate(cells, start=1):
            if isinstance(cell, str) and OTHER_TIMES.fullmatch(cell):
                raise InputError(
                    f"Row {row} has {cell!r} in its column {column!r}, which says where a clip begins: expected "
                    "seconds with a decimal point, as 83.5. Write the times so, or rename the columns if they are of "
                    "something else."
                )
        told = next((cell for cell in cells if not _is_empty(cell)), None)
        if told is not None:
            logger.info("The columns %s hold no seconds (as %r): each row is taken to mean the whole of its file.",
                        " and ".join(map(repr, self.times.values())), str(told)[:40])  # fmt: skip
        return False

    def __iter__(self) -> Iterator[Source]:
        files = iter(self.files if self.times else ())
        for table in self.split.iter(batch_size=16):
            rates = table[self.rate].to_pylist() if self.rate else [None] * len(table)
            times = {own: table[name].to_pylist() for own, name in self.times.items()}
            for i, cell in enumerate(table[self.column]):
                source: Any = source_of(_cell(cell), self.folder, rates[i])
                if times:
                    source = self._part(source, {own: values[i] for own, values in times.items()}, next(files))
                yield source

    def _part(self, whole: Any, times: Mapping[str, Any], file: str | None) -> Source:
        """The part that a row means; none where it says nothing and other rows name its file as well."""
        part = excerpt_of(whole, times)
        if part is whole and file in self._shared:
            return UnusableAudio("no part of its file", f"no {' and no '.join(times)}, and other rows name it as well")
        return part

    @functools.cached_property
    def _shared(self) -> set[str]:
        """The files, as rows name them, of which other rows mean parts."""
        times = [self.split.with_format(None)[name][:] for name in self.times.values()]
        rows = zip(self.files, zip(*times, strict=True), strict=True)
        places = self._places
        parts = {places[file] for file, told in rows if file and not all(_is_empty(value) for value in told)}
        return {file for file, place in places.items() if file and place in parts}

    @functools.cached_property
    def _places(self) -> dict[str, str]:
        """Where each file is, however rows spell it."""
        named = {file for file in self.files if file is not None}
        return {file: os.path.normpath(resolve(file, self.folder)) for file in named}

    @functools.cached_property
    def files(self) -> list[str | None]:
        """The name of each clip's file, as its row has it; None for clips whose audio is in the table itself."""
        found: list[str | None] = []
        for table in self.split.iter(batch_size=256):
            for chunk in table[self.column].chunks:
                paths, embedded = _paths(chunk)
                found += [None if inside else path for path, inside in zip(paths, embedded, strict=True)]
        return found

    @functools.cached_property
    def names(self) -> list[str]:
        """A name for each clip, for messages and predictions: its file, or the number of its row."""
        found: list[str] = []
        for table in self.split.iter(batch_size=256):
            for chunk in table[self.column].chunks:
                found += [path or f"row {len(found) + i}" for i, path in enumerate(_paths(chunk)[0], start=1)]
        return found

    @functools.cached_property
    def _told(self) -> list[Source]:
        """What each row says of the part that it means: an excerpt, a problem, or else the whole."""
        if not self.times:
            return [Path()] * len(self.split)
        times = {own: self.split.with_format(None)[name][:] for own, name in self.times.items()}
        rows = (dict(zip(times, values, strict=True)) for values in zip(*times.values(), strict=True))
        return [self._part(Path(), row, file) for row, file in zip(rows, self.files, strict=True)]

    @functools.cached_property
    def parts(self) -> list[tuple[float, float | None] | None]:
        """The start and end of each clip in its recording, in seconds; None where it is the whole of it."""
        return [(one.start, one.end) if isinstance(one, Excerpt) else None for one in self._told]

    def rows_by_part(self) -> dict[Any, list[int]]:
        """The rows that name the same part of the same file, by both."""
        rows: dict[Any, list[int]] = {}
        for i, (file, told) in enumerate(zip(self.files, self._told, strict=True)):
            if file is not None and not isinstance(told, UnusableAudio):
                rows.setdefault((self._places[file], told), []).append(i)
        return rows

    @functools.cached_property
    def labels(self) -> list[str]:
        """The names with the parts of their recordings."""
        return [name if part is None else f"{name} ({described(part)})"
                for name, part in zip(self.names, self.parts, strict=True)]  # fmt: skip


def described(part: tuple[float, float | None]) -> str:
    """A part of a recording in words."""
    return f"{part[0]:g} s to {'its end' if part[1] is None else f'{part[1]:g} s'}"


def _paths(cells: pyarrow.Array) -> tuple[list[str | None], list[bool]]:
    """The paths in a column of audio, and which cells hold the audio itself."""
    embedded = [False] * len(cells)
    if pyarrow.types.is_struct(cells.type):
        fields = [field.name for field in cells.type]
        for name in ("bytes", "array", "raw"):
            if name in fields:
                inside = pyarrow.compute.is_valid(cells.field(name)).to_pylist()
                embedded = [one or other for one, other in zip(embedded, inside, strict=True)]
        cells = cells.field("path") if "path" in fields else pyarrow.nulls(len(cells))
    if not (pyarrow.types.is_string(cells.type) or pyarrow.types.is_large_string(cells.type)):
        return [None] * len(cells), [True] * len(cells)
    paths = cells.to_pylist()
    objects = [_object_in(path) is not None for path in paths]
    return (
        [None if inside else path for path, inside in zip(paths, objects, strict=True)],
        [one or other for one, other in zip(embedded, objects, strict=True)],
    )


def _cell(cell: Any) -> Any:
    """An Arrow scalar as Python has it, samples as an array."""
    if isinstance(cell, pyarrow.StructScalar):
        names = [field.name for field in cell.type]
        return {name: _cell(cell[name]) for name in names} if cell.is_valid else None
    if isinstance(cell, (pyarrow.ListScalar, pyarrow.LargeListScalar)) and cell.is_valid:
        values = cell.values
        if pyarrow.types.is_integer(values.type) or pyarrow.types.is_floating(values.type):
            return values.to_numpy(zero_copy_only=False)
    return cell.as_py()
