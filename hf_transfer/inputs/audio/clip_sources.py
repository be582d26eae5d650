"""The audio of each row of a table: files beside it, bytes and samples in its cells, excerpts of long recordings."""

import functools
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.compute
from datasets import Dataset

from hf_transfer.errors import InputError, logger
from hf_transfer.inputs.audio.clip_paths import find_clip
from hf_transfer.inputs.audio.excerpts import (
    OTHER_TIME_FORMATS,
    excerpt_columns,
    excerpt_of,
    format_time_range,
    is_empty,
    parse_seconds,
)
from hf_transfer.inputs.audio.sources import Excerpt, Samples, Source, UnusableAudio, WholeSource

SAMPLING_RATE_COLUMNS = ("sampling_rate", "sample_rate", "samplerate")


def source_of(cell: Any, folder: Path | None, sampling_rate: Any = None) -> WholeSource:
    """Return the audio that a cell of a table names: a path, the bytes of a file, or samples.

    It is `UnusableAudio` if the cell names no audio.

    Args:
        cell: a path, bytes, ``{"bytes", "path"}``, ``{"array", "sampling_rate"}`` or samples.
        folder: where relative paths begin.
        sampling_rate: of samples whose cell does not give it, in Hz.
    """
    if isinstance(cell, (Samples, UnusableAudio)):
        return cell
    cell = _json_object(cell) or cell
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
        return find_clip(str(cell), folder)
    return UnusableAudio("no audio", f"the cell holds {'nothing' if is_empty(cell) else type(cell).__name__}")


def _json_object(cell: object) -> dict[str, Any] | None:
    """Return the JSON object that a cell holds as text, or None if it holds something else."""
    if not isinstance(cell, str) or not cell.startswith("{"):
        return None
    try:
        value = json.loads(cell)
    except ValueError:  # a file name that begins with a brace
        return None
    return value if isinstance(value, dict) else None


def _as_array(values: Any) -> Any:
    try:
        return np.asarray(values)
    except ValueError:  # lists of different lengths, which `Samples.channels_last` refuses
        return values


class ClipSources:
    """Iterable over the `Source` of the audio in each row of a split; it can be iterated over several times.

    Args:
        split: the user's rows.
        column: of the audio.
        folder: where relative paths begin.

    Raises:
        InputError: the columns of times hold another format than seconds.
    """

    def __init__(self, split: Dataset, column: str, folder: Path | None):
        self.column, self.folder = column, folder
        self.time_columns = excerpt_columns([name for name in split.column_names if name != column])
        if self.time_columns and not self._times_are_seconds(split):
            self.time_columns = {}
        by_name = {name.lower(): name for name in split.column_names if name != column}
        self.rate_column = next((by_name[name] for name in SAMPLING_RATE_COLUMNS if name in by_name), None)
        columns = [column, *self.time_columns.values(), *([self.rate_column] if self.rate_column else [])]
        # In the Arrow format audio stays encoded, which `datasets` would decode with torchcodec, and samples do not
        # become lists.
        self.split = split.select_columns(list(dict.fromkeys(columns))).with_format("arrow")

    def _times_are_seconds(self, split: Dataset) -> bool:
        """Return whether the columns of times hold seconds; if not, they are about something else than excerpts.

        Raises:
            InputError: they hold times in another format.
        """
        column = self.time_columns["start"]
        cells = split[column][:]
        if any(parse_seconds(cell) is not None for cell in cells):
            return True
        for row, cell in enumerate(cells, start=1):
            if isinstance(cell, str) and OTHER_TIME_FORMATS.fullmatch(cell):
                raise InputError(
                    f"Row {row} has {cell!r} in its column {column!r}, which says where a clip begins: expected "
                    "seconds with a decimal point, such as 83.5. Write the times in seconds, or rename the columns if "
                    "they are about something else."
                )
        example = next((cell for cell in cells if not is_empty(cell)), None)
        if example is not None:
            logger.info("The columns %s do not hold seconds (for example %r): each row stands for its whole file.",
                        " and ".join(map(repr, self.time_columns.values())), str(example)[:40])  # fmt: skip
        return False

    def __iter__(self) -> Iterator[Source]:
        file_names = iter(self.files if self.time_columns else ())
        for table in self.split.iter(batch_size=16):
            rates = table[self.rate_column].to_pylist() if self.rate_column else [None] * len(table)
            times = {key: table[column].to_pylist() for key, column in self.time_columns.items()}
            for i, cell in enumerate(table[self.column]):
                recording = source_of(_to_python(cell), self.folder, rates[i])
                if times:
                    row = {key: cells[i] for key, cells in times.items()}
                    yield self._excerpt(recording, row, next(file_names))
                else:
                    yield recording

    def _excerpt(self, recording: WholeSource, times: Mapping[str, Any], file: str | None) -> Source:
        """Return the excerpt that a row names, or its whole file; `UnusableAudio` if excerpts share the whole file."""
        source = excerpt_of(recording, times)
        if source is recording and file in self._files_with_excerpts:
            return UnusableAudio("no part of its file", f"no {' and no '.join(times)}, and other rows name this file")
        return source

    @functools.cached_property
    def _files_with_excerpts(self) -> set[str]:
        """Set of the names of the files, as rows write them, of which some row names an excerpt."""
        times = [self.split.with_format(None)[column][:] for column in self.time_columns.values()]
        rows = zip(self.files, zip(*times, strict=True), strict=True)
        paths = self._resolved_paths
        with_excerpts = {paths[file] for file, cells in rows if file and not all(is_empty(cell) for cell in cells)}
        return {file for file, path in paths.items() if file and path in with_excerpts}

    @functools.cached_property
    def _resolved_paths(self) -> dict[str, str]:
        """Dictionary of the path of each file name, the same for all spellings of a file's name."""
        names = {file for file in self.files if file is not None}
        return {file: os.path.normpath(find_clip(file, self.folder)) for file in names}

    @functools.cached_property
    def files(self) -> list[str | None]:
        """List of the file name of each clip, as its row has it; None for clips with their audio in the table."""
        files: list[str | None] = []
        for table in self.split.iter(batch_size=256):
            for chunk in table[self.column].chunks:
                paths, embedded = _paths_in(chunk)
                files += [None if inside else path for path, inside in zip(paths, embedded, strict=True)]
        return files

    @functools.cached_property
    def names(self) -> list[str]:
        """List of a name for each clip, for messages and predictions: its file, or the number of its row."""
        names: list[str] = []
        for table in self.split.iter(batch_size=256):
            for chunk in table[self.column].chunks:
                names += [path or f"row {len(names) + i}" for i, path in enumerate(_paths_in(chunk)[0], start=1)]
        return names

    @functools.cached_property
    def _excerpts(self) -> list[Source]:
        """List of each row's `Excerpt` of a placeholder path, `UnusableAudio`, or the path itself for a whole file."""
        if not self.time_columns:
            return [Path()] * len(self.split)
        times = {key: self.split.with_format(None)[column][:] for key, column in self.time_columns.items()}
        rows = (dict(zip(times, cells, strict=True)) for cells in zip(*times.values(), strict=True))
        return [self._excerpt(Path(), row, file) for row, file in zip(rows, self.files, strict=True)]

    @functools.cached_property
    def time_ranges(self) -> list[tuple[float, float | None] | None]:
        """List of each clip's start and end in its recording, in seconds; None for clips that are whole files."""
        return [(source.start, source.end) if isinstance(source, Excerpt) else None for source in self._excerpts]

    def rows_by_excerpt(self) -> dict[tuple[str, Source], list[int]]:
        """Return the numbers of the rows that name the same excerpt of the same file, by path and excerpt."""
        rows: dict[tuple[str, Source], list[int]] = {}
        for i, (file, source) in enumerate(zip(self.files, self._excerpts, strict=True)):
            if file is not None and not isinstance(source, UnusableAudio):
                rows.setdefault((self._resolved_paths[file], source), []).append(i)
        return rows

    @functools.cached_property
    def display_names(self) -> list[str]:
        """List of the names of the clips, with the times of excerpts."""
        return [name if times is None else f"{name} ({format_time_range(times)})"
                for name, times in zip(self.names, self.time_ranges, strict=True)]  # fmt: skip


def _paths_in(cells: pyarrow.Array) -> tuple[list[str | None], list[bool]]:
    """Return the path in each cell of a column of audio, or None, and whether the cell holds the audio itself."""
    embedded = [False] * len(cells)
    if pyarrow.types.is_struct(cells.type):
        fields = [field.name for field in cells.type]
        for name in ("bytes", "array", "raw"):
            if name in fields:
                present = pyarrow.compute.is_valid(cells.field(name)).to_pylist()
                embedded = [before or now for before, now in zip(embedded, present, strict=True)]
        cells = cells.field("path") if "path" in fields else pyarrow.nulls(len(cells))
    if not (pyarrow.types.is_string(cells.type) or pyarrow.types.is_large_string(cells.type)):
        return [None] * len(cells), [True] * len(cells)
    paths = cells.to_pylist()
    is_json = [_json_object(path) is not None for path in paths]
    return (
        [None if is_object else path for path, is_object in zip(paths, is_json, strict=True)],
        [inside or is_object for inside, is_object in zip(embedded, is_json, strict=True)],
    )


def _to_python(cell: pyarrow.Scalar) -> Any:
    """Return an Arrow scalar as a Python value, with lists of numbers as NumPy arrays."""
    if isinstance(cell, pyarrow.StructScalar):
        names = [field.name for field in cell.type]
        return {name: _to_python(cell[name]) for name in names} if cell.is_valid else None
    if isinstance(cell, (pyarrow.ListScalar, pyarrow.LargeListScalar)) and cell.is_valid:
        values = cell.values
        if pyarrow.types.is_integer(values.type) or pyarrow.types.is_floating(values.type):
            return values.to_numpy(zero_copy_only=False)
    return cell.as_py()
