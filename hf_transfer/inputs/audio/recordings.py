"""From the user's rows to decoded clips with their targets; clips that cannot be used are left out."""

import functools
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from hf_transfer.data.column_readers import TargetReader, refuse_or_leave_out
from hf_transfer.data.groups import group_name
from hf_transfer.data.units import UNIT
from hf_transfer.data.values import quoted
from hf_transfer.errors import InputError, logger, short_path
from hf_transfer.inputs.audio.cache import StoredClips, store_clips
from hf_transfer.inputs.audio.clip_paths import find_clip, similar_name_hint
from hf_transfer.inputs.audio.clip_sources import ClipSources
from hf_transfer.inputs.audio.decoding import DecodingSettings
from hf_transfer.inputs.audio.excerpts import END_COLUMNS, START_COLUMNS, format_time_range
from hf_transfer.inputs.audio.findings import (
    MAX_NAMED_CLIPS,
    SUSPICIONS,
    log_decoding_notes,
    log_suspicious_clips,
)
from hf_transfer.inputs.audio.left_out import LeftOutClips

AUDIO_COLUMNS = ("audio", "file_name", "path", "audio_filepath", "file", "filename", "audio_path", "clip", "wav")
# The pace of shorter clips is not judged.
MIN_PACE_SECONDS = 1.0


def read_recordings(
    split: Dataset,
    name: str,
    columns: Mapping[str, str],
    folder: Path | None,
    settings: DecodingSettings,
    target: str,
    reader: TargetReader,
    leave_out: list[str],
    *,
    drop: bool,
) -> tuple[Dataset, dict[str, int]]:
    """Decode the clips of a split and read their targets; return a table of clips and counts of those left out.

    Clips that cannot be used are left out, counted and logged.

    Args:
        split: the user's rows.
        name: of the split, for messages.
        columns: the user's columns by standard column: ``audio``, `target`, perhaps ``speaker``, ``group``, ``unit``.
        folder: where relative paths begin.
        settings: how clips are decoded.
        target: the standard column of targets.
        reader: of that column.
        leave_out: the kinds of suspicious clips that are left out, of `SUSPICIONS`.
        drop: leave out rows without a target if the reader requires one, instead of raising an error.

    Returns:
        The clips with the columns ``audio`` (a name), `target`, ``store``, ``offset``, ``length``, ``seconds`` and
        ``checksum`` of the samples, and if there are such ``speaker``, ``group`` and ``unit``; and the number of clips
        left out, by reason.

    Raises:
        InputError: a required target is missing, or most clips cannot be used.
    """
    sources = ClipSources(split, columns["audio"], folder)
    if sources.time_columns:
        quoted_columns = " and ".join(map(repr, sources.time_columns.values()))
        logger.info(
            "%s: each row names an excerpt of a recording, by the columns %s, in seconds.", name, quoted_columns
        )
    targets = _read_targets(split, name, columns[target], target, reader, drop=drop)
    if reader.unique_per_input:
        _check_targets_of_equal_clips(name, sources, targets.contents)
    clips = _DecodedSplit(name, sources, targets, _decode(sources, len(split), settings, name), settings)
    used_rows, left_out = clips.select(leave_out)
    left_out.log(name, settings, clips.stored.file.parent)
    suspicious = {suspicion: clips.names_with(suspicion) for suspicion in SUSPICIONS if suspicion not in leave_out}
    log_suspicious_clips(name, suspicious, reader.pace_description)
    log_decoding_notes(name, [(sources.display_names[i], clips.decoding_notes(i)) for i in used_rows])
    _check_most_are_used(name, len(used_rows), len(split), left_out, folder)
    table = _clip_table(split, columns, used_rows, clips)
    contents = [targets.contents[i] for i in used_rows]
    return table.add_column(target, contents, feature=reader.feature), left_out.counts()


@dataclass(frozen=True)
class _Targets:
    """Dataclass of the targets of the clips of a split, and of what is wrong with each.

    Attributes:
        contents: as the reader reads them.
        problems: for each clip why its target cannot be used; an empty string for a reason without details; None if it
            can be used.
        reader: of the column.
    """

    contents: list[Any]
    problems: list[str | None]
    reader: TargetReader

    def has_unusual_pace(self, i: int, seconds: float) -> bool:
        """Return whether the target of a clip is too long or too short for its seconds."""
        if self.problems[i] is not None or seconds < MIN_PACE_SECONDS:
            return False
        return self.reader.has_unusual_pace(self.contents[i], seconds)


@dataclass(frozen=True)
class _DecodedSplit:
    """Dataclass of all clips of a split with their targets, before any clip is left out."""

    name: str
    sources: ClipSources
    targets: _Targets
    stored: StoredClips
    settings: DecodingSettings

    @functools.cached_property
    def seconds(self) -> list[float]:
        """List of the duration of each clip in seconds."""
        return (np.diff(self.stored.offsets) / self.settings.sampling_rate).tolist()

    @functools.cached_property
    def suspicions(self) -> list[list[str]]:
        """List, for each clip, of the words of `SUSPICIONS` that apply to it."""
        return [
            [word for word in words if word in SUSPICIONS]
            + (["pace"] if self.targets.has_unusual_pace(i, self.seconds[i]) else [])
            for i, words in enumerate(self.stored.findings)
        ]

    def names_with(self, suspicion: str) -> list[str]:
        """Return the names of the clips of the split that have this suspicion, such as ``silent``."""
        return [name for i, name in enumerate(self.sources.display_names) if suspicion in self.suspicions[i]]

    def decoding_notes(self, i: int) -> list[str]:
        """Return the words of `DECODING_NOTES` that say how decoding dealt with an unusual clip.

        Suspicions are not among them.
        """
        return [word for word in self.stored.findings[i] if word not in SUSPICIONS]

    def select(self, leave_out: list[str]) -> tuple[list[int], LeftOutClips]:
        """Return the row numbers of the clips that can be used, and the clips that are left out.

        Args:
            leave_out: the suspicions that make a clip be left out.
        """
        used_rows, left_out = [], LeftOutClips()
        names_by_folder: dict[Path, dict[str, str]] = {}
        for i, name in enumerate(self.sources.display_names):
            reason, details = self._reason_to_leave_out(i, leave_out)
            if reason is None:
                used_rows.append(i)
                continue
            if reason == "missing" and len(left_out.names[reason]) < MAX_NAMED_CLIPS:
                path = find_clip(str(self.sources.files[i]), self.sources.folder)
                details += similar_name_hint(path, names_by_folder)
            left_out.add(reason, f"{name} ({details})" if details else name)
        return used_rows, left_out

    def _reason_to_leave_out(self, i: int, leave_out: list[str]) -> tuple[str | None, str]:
        """Return the reason to leave a clip out, in a word or two, and details; None if it is used."""
        if self.stored.problems[i]:
            reason, _, details = self.stored.problems[i].partition(": ")
            return reason, details
        problem = self.targets.problems[i]
        if problem is not None:
            return self.targets.reader.missing_reason, problem
        return next((word for word in self.suspicions[i] if word in leave_out), None), ""


def _read_targets(
    split: Dataset, name: str, column: str, target: str, reader: TargetReader, *, drop: bool
) -> _Targets:
    """Read the column of targets of a split, and return the targets and what is wrong with each.

    The arguments are those of `read_recordings`.
    """
    cells = split[column][:]
    read = [reader.read(cell) for cell in cells]
    contents, problems = [content for content, _ in read], [problem for _, problem in read]
    if reader.required and any(problems):
        messages = [
            problem and f"{problem}: {column} is {quoted(cell)}" for problem, cell in zip(problems, cells, strict=True)
        ]
        refuse_or_leave_out(name, messages, {target: reader}, {target: contents}, drop=drop)
    reader.log_changes(name, cells, contents)
    if problems and None not in problems:
        raise InputError(str(reader.unusable_column_message(name, column)))
    return _Targets(contents, problems, reader)


def _check_targets_of_equal_clips(split: str, sources: ClipSources, transcripts: list[str]) -> None:
    """Raise an error if rows name the same excerpt of a file with different transcripts."""
    for rows in sources.rows_by_excerpt().values():
        first, *others = [i for i in rows if transcripts[i]] or [0]
        other = next((i for i in others if transcripts[i] != transcripts[first]), None)
        if other is not None:
            usual_names = f"{', '.join(START_COLUMNS[:4])}, ... with {', '.join(END_COLUMNS[:3])}, ... or duration"
            raise InputError(
                f"Rows {first + 1} and {other + 1} of the {split} split name one file, "
                f"{sources.display_names[other]}, with different transcripts: {transcripts[first][:40]!r} and "
                f"{transcripts[other][:40]!r}. If each is the transcript of a part of the file, give the times of the "
                "parts in seconds, in columns named offset and duration, or start and end (usual names: "
                f"{usual_names}). If both are transcripts of the whole file, keep one row."
            )


def _decode(sources: ClipSources, count: int, settings: DecodingSettings, name: str) -> StoredClips:
    """Decode the clips of a split, or read them from the cache, and return them as `StoredClips`."""
    clips, were_cached = store_clips(sources, count, settings, name=name, show=sys.stderr.isatty())
    hours = float(clips.offsets[-1]) / settings.sampling_rate / 3600
    verb = "read from" if were_cached else "written to"
    folder = short_path(clips.file.parent)
    logger.info("%s: %.2f h of audio at %d Hz %s %s.", name, hours, settings.sampling_rate, verb, folder)
    return clips


def _check_most_are_used(split: str, used: int, count: int, left_out: LeftOutClips, folder: Path | None) -> None:
    """Raise an error if fewer than half of the clips of a split can be used."""
    if used < count / 2:
        reason, names = max(left_out.names.items(), key=lambda item: len(item[1]))
        hint = f" Relative paths begin in {Path(folder or '.').resolve()}." if reason == "missing" else ""
        raise InputError(
            f"Only {used} of {count} clips in the {split} split can be used; the most frequent reason is "
            f"{reason!r} ({len(names)} clips), as with {names[0]}.{hint}"
        )


def _clip_table(split: Dataset, columns: Mapping[str, str], used_rows: list[int], clips: _DecodedSplit) -> Dataset:
    """Return a table of the clips that are used, with the standard columns, without their targets."""
    offsets = clips.stored.offsets
    table: dict[str, Any] = {
        "audio": [clips.sources.names[i] for i in used_rows],
        "store": [str(clips.stored.file)] * len(used_rows),
        "offset": [int(offsets[i]) for i in used_rows],
        "length": [int(offsets[i + 1] - offsets[i]) for i in used_rows],
        "seconds": [clips.seconds[i] for i in used_rows],
        "checksum": [clips.stored.checksums[i] for i in used_rows],
    }
    time_ranges = clips.sources.time_ranges
    if any(time_ranges):
        of_used = [time_ranges[i] or (0.0, None) for i in used_rows]
        table["start"], table["end"] = [start for start, _ in of_used], [end for _, end in of_used]
    for name in ("speaker", "group", UNIT):
        if name in columns:
            cells = split[columns[name]][:]
            table[name] = [group_name(cells[i]) for i in used_rows]
    return Dataset.from_dict(table)


def display_names_of(split: Dataset) -> list[str]:
    """Return the names of the clips of a split, with the times of excerpts."""
    names = split["audio"][:]
    if "start" not in split.column_names:
        return names
    time_ranges = zip(split["start"][:], split["end"][:], strict=True)
    return [f"{name} ({format_time_range(times)})" for name, times in zip(names, time_ranges, strict=True)]
