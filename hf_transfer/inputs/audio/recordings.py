"""The user's rows of clips, as clips that can be used, under our names."""

import contextlib
import sys
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from hf_transfer.data.column_readers import TargetReader, refuse_or_leave_out
from hf_transfer.data.groups import NAMELESS, group_name
from hf_transfer.data.units import UNIT
from hf_transfer.data.values import quoted
from hf_transfer.errors import InputError, logger, short_path
from hf_transfer.inputs.audio.cache import StoredClips, store_clips
from hf_transfer.inputs.audio.clip_sources import (
    DURATIONS,
    ENDS,
    STARTS,
    ClipSources,
    described,
    resolve,
    similar_name,
)
from hf_transfer.inputs.audio.decoding import Decoding

AUDIO_COLUMNS = ("audio", "file_name", "path", "audio_filepath", "file", "filename", "audio_path", "clip", "wav")
# What can be wrong with a clip that still has samples: it is left out where --leave_out says so.
SUSPICIONS = ("silent", "truncated", "clipped", "pace")
PACE_SECONDS = 1.0
# So many clips are named on the screen.
SHOWN = 3


@dataclass
class LeftOut:
    """Clips that are not used, by the reason, for the message and the report."""

    clips: dict[str, list[str]]

    def add(self, reason: str, clip: str) -> None:
        """Note `clip`."""
        self.clips[reason].append(clip)

    def counts(self) -> dict[str, int]:
        """How many, by the reason."""
        return {reason: len(clips) for reason, clips in self.clips.items()}

    def say(self, split: str, cures: dict[str, str], folder: Path) -> None:
        """A line for each reason: see `say_left_out`."""
        for reason, clips in self.clips.items():
            say_left_out(split, reason, clips, cures.get(reason, "mend or remove the files"), folder)


def say_left_out(split: str, reason: str, clips: list[str], remedy: str, folder: Path) -> None:
    """How many clips of a split are not used and why, the first of them, what changes it, and where all are listed."""
    shown = ", ".join(clips[:SHOWN])
    if len(clips) > SHOWN:
        listed = folder / f"left_out_of_{split}_{reason.replace(' ', '_')}.txt"
        with contextlib.suppress(OSError):  # the folder may be full, or another user's
            listed.write_text("\n".join(clips) + "\n", encoding="utf-8")
            shown += f", ... (all in {listed})"
    logger.info("Left out of %s: %d x %s (%s): %s.", split, len(clips), reason, remedy, shown)


def read_recordings(
    split: Dataset,
    name: str,
    columns: Mapping[str, str],
    folder: Path | None,
    settings: Decoding,
    target: str,
    reader: TargetReader,
    leave_out: list[str],
    *,
    drop: bool,
) -> tuple[Dataset, dict[str, int]]:
    """Decoded clips of a split with what is learned of them; what cannot be used is left out, counted and said.

    Args:
        split: the user's rows.
        name: of the split, for messages.
        columns: the user's column for ``audio`` and `target`, and perhaps ``speaker``, ``group`` and ``unit``.
        folder: where relative paths begin.
        settings: how clips are decoded.
        target: our name for the column of what is learned.
        reader: of that column.
        leave_out: which suspicious clips are not used, of `SUSPICIONS`.
        drop: leave out rows without a target where they would be refused.

    Returns:
        The clips with the columns ``audio`` (a name), `target`, ``speaker``, ``group`` and ``unit`` where there are
        such, and ``store``, ``offset``, ``length``, ``seconds`` and ``checksum`` of the samples; and the numbers left
        out by reason.

    Raises:
        InputError: a target is absent, or most clips cannot be used.
    """
    sources = ClipSources(split, columns["audio"], folder)
    if sources.times:
        shown = " and ".join(map(repr, sources.times.values()))
        logger.info("%s: each row means a part of its recording, by the columns %s, in seconds.", name, shown)
    targets = _read_targets(split, name, columns[target], target, reader, drop=drop)
    if reader.unique_per_input:
        _refuse_several_of_one_file(name, sources, targets.contents)
    clips, there = store_clips(sources, len(split), settings, name=name, show=sys.stderr.isatty())
    hours = float(clips.offsets[-1]) / settings.sampling_rate / 3600
    state = "read from" if there else "written to"
    logger.info(
        "%s: %.2f h of audio at %d Hz %s %s.",
        name,
        hours,
        settings.sampling_rate,
        state,
        short_path(clips.file.parent),
    )
    names = sources.labels
    seconds = np.diff(clips.offsets) / settings.sampling_rate
    kept, left_out = _usable(sources, targets, clips, seconds, leave_out)
    left_out.say(name, _cures(settings), clips.file.parent)
    _mention_suspicions(name, names, clips, targets, seconds, leave_out)
    decisions = [(names[i], [found for found in clips.findings[i] if found not in SUSPICIONS]) for i in kept]
    mention_decisions(name, decisions)
    if len(kept) < len(names) / 2:
        reason, worst = max(left_out.clips.items(), key=lambda item: len(item[1]))
        begin = "" if reason != "missing" else f" Relative paths begin in {Path(folder or '.').resolve()}."
        raise InputError(
            f"Only {len(kept)} of {len(names)} clips in the {name} split can be used; the commonest reason is "
            f"{reason!r} ({len(worst)} clips), as with {worst[0]}.{begin}"
        )
    table = _table(split, columns, kept, sources, clips, seconds)
    contents = [targets.contents[i] for i in kept]
    return table.add_column(target, contents, feature=reader.feature), left_out.counts()


@dataclass(frozen=True)
class _Targets:
    """What is to be learned of each clip.

    Attributes:
        contents: as its reader reads it.
        problems: why a clip cannot be used; an empty string where there is nothing to be said of that; None where it
            can.
        reader: of the column.
    """

    contents: list[Any]
    problems: list[str | None]
    reader: TargetReader

    def has_unusual_pace(self, i: int, seconds: float) -> bool:
        """Whether the target of a clip does not fit its duration."""
        return (
            self.problems[i] is None
            and seconds >= PACE_SECONDS
            and self.reader.has_unusual_pace(self.contents[i], seconds)
        )


def _read_targets(split: Dataset, name: str, column: str, own: str, reader: TargetReader, *, drop: bool) -> _Targets:
    cells = split[column][:]
    read = [reader.read(cell) for cell in cells]
    contents, problems = [content for content, _ in read], [problem for _, problem in read]
    if reader.required and any(problems):
        located = [
            problem and f"{problem}: {column} is {quoted(cell)}" for problem, cell in zip(problems, cells, strict=True)
        ]
        refuse_or_leave_out(name, located, {own: reader}, {own: contents}, drop=drop)
    reader.log_changes(name, cells, contents)
    if problems and None not in problems:
        raise InputError(str(reader.unusable_column_message(name, column)))
    return _Targets(contents, problems, reader)


def _refuse_several_of_one_file(split: str, sources: ClipSources, texts: list[str]) -> None:
    """Refuse rows that name one file, and the same part of it, for different transcripts."""
    for rows in sources.rows_by_part().values():
        first, *others = [i for i in rows if texts[i]] or [0]
        i = next((i for i in others if texts[i] != texts[first]), None)
        if i is not None:
            looked_for = f"{', '.join(STARTS[:4])}, ... with {', '.join(ENDS[:3])}, ... or {DURATIONS[0]}"
            raise InputError(
                f"Rows {first + 1} and {i + 1} of the {split} split name one file, {sources.labels[i]}, with "
                f"different transcripts: {texts[first][:40]!r} and {texts[i][:40]!r}. Which part of it does each "
                "mean? Say so in seconds, in columns named offset and duration, or start and end (looked for: "
                f"{looked_for}). If both are transcripts of the whole, keep one."
            )


def mention_decisions(name: str, findings: list[tuple[str, list[str]]]) -> None:
    """Say of which clips something was decided in decoding, by their names and what was found of them."""
    meaning = {
        "opposite": "have channels of opposite phase, which leave nothing of each other: the louder one is heard",
        "offset": "have a constant offset, which is taken away",
        "truncated": "break off: what is there is heard",
        "cut": "are parts already, as long as their times say, which are those of a longer recording: heard whole",
    }
    for decision, told in meaning.items():
        clips = [clip for clip, found in findings if decision in found]
        if clips:
            shown = ", ".join(clips[:SHOWN]) + (", ..." if len(clips) > SHOWN else "")
            logger.info("%d clips in %s %s: %s.", len(clips), name, told, shown)


def _usable(
    sources: ClipSources, targets: _Targets, clips: StoredClips, seconds: np.ndarray, leave_out: list[str]
) -> tuple[list[int], LeftOut]:
    """Indices of the clips that are used, and the others by the reason."""
    left_out = LeftOut(defaultdict(list))
    kept = []
    listed: dict[Path, dict[str, str]] = {}
    for i, clip in enumerate(sources.labels):
        reason = _reason(i, clips, targets, float(seconds[i]), leave_out)
        if reason is None:
            kept.append(i)
            continue
        found = clips.problems[i].partition(": ")[2] if clips.problems[i] else targets.problems[i] or ""
        if reason == "missing" and len(left_out.clips[reason]) < SHOWN:
            found += similar_name(resolve(str(sources.files[i]), sources.folder), listed)
        left_out.add(reason, f"{clip} ({found})" if found else clip)
    return kept, left_out


def _reason(i: int, clips: StoredClips, targets: _Targets, seconds: float, leave_out: list[str]) -> str | None:
    """Why a clip is not used, in a word or two."""
    if clips.problems[i]:
        return clips.problems[i].partition(":")[0]
    if targets.problems[i] is not None:
        return targets.reader.missing_reason
    suspicions = [*clips.findings[i], *(["pace"] if targets.has_unusual_pace(i, seconds) else [])]
    return next((found for found in suspicions if found in leave_out), None)


def _cures(settings: Decoding) -> dict[str, str]:
    return {
        "too short": f"--min_seconds {settings.min_seconds:g}",
        "too long": f"--max_seconds {settings.max_seconds:g}",
        "unknown format": "convert them",
        "outside its file": "mend the times, or rename their columns if they are of something else",
        "no part of its file": "mend the times, or rename their columns if they are of something else",
        **dict.fromkeys(SUSPICIONS, "--leave_out says which"),
        "empty transcript": "nothing to learn from; write it, or remove the row",
    }


def _mention_suspicions(
    name: str, names: list[str], clips: StoredClips, targets: _Targets, seconds: np.ndarray, leave_out: list[str]
) -> None:
    """What is suspicious and used nevertheless."""
    meaning = {
        "silent": "peak below -60 dB",
        "truncated": "they break off",
        "clipped": "more than 1 % of the samples at full scale",
        "pace": targets.reader.pace_description,
    }
    for suspicion in SUSPICIONS:
        if suspicion in leave_out:
            continue
        found = [
            names[i]
            for i in range(len(names))
            if suspicion in clips.findings[i]
            or (suspicion == "pace" and targets.has_unusual_pace(i, float(seconds[i])))
        ]
        if found:
            shown = ", ".join(found[:SHOWN]) + (", ..." if len(found) > SHOWN else "")
            logger.info("%d clips in %s are used although %s (%s; --leave_out %s leaves them out): %s.",
                        len(found), name, suspicion, meaning[suspicion], suspicion, shown)  # fmt: skip


def _table(
    split: Dataset,
    columns: Mapping[str, str],
    kept: list[int],
    sources: ClipSources,
    clips: StoredClips,
    seconds: np.ndarray,
) -> Dataset:
    table: dict[str, Any] = {
        "audio": [sources.names[i] for i in kept],
        "store": [str(clips.file)] * len(kept),
        "offset": [int(clips.offsets[i]) for i in kept],
        "length": [int(clips.offsets[i + 1] - clips.offsets[i]) for i in kept],
        "seconds": [float(seconds[i]) for i in kept],
        "checksum": [clips.checksums[i] for i in kept],
    }
    if any(sources.parts):
        parts = [sources.parts[i] or (0.0, None) for i in kept]
        table["start"], table["end"] = [start for start, _ in parts], [end for _, end in parts]
    for own in ("speaker", "group", UNIT):
        if own in columns:
            values = split[columns[own]][:]
            table[own] = [group_name(values[i]) for i in kept]
    return Dataset.from_dict(table)


def clip_labels(split: Dataset) -> list[str]:
    """The names of a split's clips, with the parts of their recordings where there are such."""
    names = split["audio"][:]
    if "start" not in split.column_names:
        return names
    parts = zip(split["start"][:], split["end"][:], strict=True)
    return [f"{name} ({described(part)})" for name, part in zip(names, parts, strict=True)]


def caveats_of_speakers(train: Dataset, test: Dataset) -> list[str]:
    """What makes the result flatter or narrower than it looks: shared speakers, and one who dominates.

    The speakers are named on the screen alone.
    """
    if "speaker" not in train.column_names:
        return []
    seconds: dict[str, int] = defaultdict(int)
    for speaker, length in zip(train["speaker"][:], train["length"][:], strict=True):
        seconds[speaker] += length
    found = []
    nameless = seconds.pop(NAMELESS, 0)
    shared = sorted(set(seconds) & set(test["speaker"][:]))
    told = all(UNIT in split.column_names and split[UNIT][:] == split["speaker"][:] for split in (train, test))
    if shared and not told:  # by `shared_units_caveats`
        shown = ", ".join(shared[:5]) + (", ..." if len(shared) > 5 else "")
        who = "1 speaker is" if len(shared) == 1 else f"{len(shared)} speakers are"
        logger.info("%s in train and test (%s): the result holds for known voices.", who, shown)
        found.append(f"{who} in train and test: the result holds for known voices.")
    speaker, most = max(seconds.items(), key=lambda item: item[1], default=("", 0))
    share = most / (sum(seconds.values()) + nameless or 1)
    if len(seconds) > 1 and share > max(0.5, 1.5 / len(seconds)):
        logger.info("Speaker %s has %.0f %% of the training audio: the others may be learned badly.",
                    speaker, 100 * share)  # fmt: skip
        found.append(f"One speaker has {share:.0%} of the training audio: the others may be learned badly.")
    return found
