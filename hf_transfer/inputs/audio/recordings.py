"""The user's rows of clips and transcripts, as clips that can be used, under the names of the speech tasks."""

import contextlib
import sys
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from hf_transfer.data.groups import group_name
from hf_transfer.data.leakage import UNIT
from hf_transfer.data.splits import require_columns
from hf_transfer.data.values import is_blank, is_missing, read_text
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
from hf_transfer.inputs.audio.decoding import AudioSettings

AUDIO_COLUMNS = ("audio", "file_name", "path", "audio_filepath", "file", "filename", "audio_path", "clip", "wav")
TRANSCRIPT_COLUMNS = ("transcription", "sentence", "text", "transcript", "normalized_text", "raw_transcription")
# What can be wrong with a clip that still has samples: it is left out where --leave_out says so.
SUSPICIONS = ("silent", "truncated", "clipped", "pace")
# Letters a second that nobody speaks: the header's sampling rate is wrong, or the transcript another clip's.
FASTEST, SLOWEST = 35.0, 0.5
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


def say_left_out(split: str, reason: str, clips: list[str], cure: str, folder: Path) -> None:
    """How many clips of a split are not used and why, the first of them, what changes it, and where all are listed."""
    shown = ", ".join(clips[:SHOWN])
    if len(clips) > SHOWN:
        listed = folder / f"left_out_of_{split}_{reason.replace(' ', '_')}.txt"
        with contextlib.suppress(OSError):  # the folder may be full, or another user's
            listed.write_text("\n".join(clips) + "\n", encoding="utf-8")
            shown += f", ... (all in {listed})"
    logger.info("Left out of %s: %d x %s (%s): %s.", split, len(clips), reason, cure, shown)


def read_recordings(
    split: Dataset,
    name: str,
    columns: dict[str, str],
    folder: Path | None,
    settings: AudioSettings,
    spell: Callable[[str], str],
    leave_out: list[str],
) -> tuple[Dataset, dict[str, int]]:
    """Decoded clips of a split with their transcripts; what cannot be used is left out, counted and said.

    Args:
        split: the user's rows.
        name: of the split, for messages.
        columns: the user's column for ``audio`` and ``text``, and perhaps ``speaker``, ``group`` and ``unit``.
        folder: where relative paths begin.
        settings: how clips are decoded.
        spell: the normaliser of transcripts.
        leave_out: which suspicious clips are not used, of `SUSPICIONS`.

    Returns:
        The clips with the columns ``audio`` (a name), ``text``, ``speaker``, ``group`` and ``unit`` where there are
        such, and ``store``, ``offset``, ``length``, ``seconds`` and ``checksum`` of the samples; and the numbers left
        out by reason.

    Raises:
        InputError: a column is absent, or most clips cannot be used.
    """
    require_columns(split, name, columns)
    sources = ClipSources(split, columns["audio"], folder)
    if sources.times:
        shown = " and ".join(map(repr, sources.times.values()))
        logger.info("%s: each row means a part of its recording, by the columns %s, in seconds.", name, shown)
    written, problems = read_transcripts(split, columns["text"])
    texts = [spell(text) for text in written]
    _mention_spelling(written, texts)
    if not any(texts):
        raise InputError(
            f"The {name} split has no transcripts: column {columns['text']!r} is empty throughout. Name the right "
            "one: --text_column_name COLUMN."
        )
    _refuse_several_of_one_file(name, sources, texts)
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
    kept, left_out = _usable(sources, texts, problems, clips, seconds, leave_out)
    left_out.say(name, _cures(settings), clips.file.parent)
    _mention_suspicions(name, names, clips, texts, seconds, leave_out)
    decisions = [(names[i], [found for found in clips.findings[i] if found not in SUSPICIONS]) for i in kept]
    mention_decisions(name, decisions)
    if len(kept) < len(names) / 2:
        reason, worst = max(left_out.clips.items(), key=lambda item: len(item[1]))
        begin = "" if reason != "missing" else f" Relative paths begin in {Path(folder or '.').resolve()}."
        raise InputError(
            f"Only {len(kept)} of {len(names)} clips in the {name} split can be used; the commonest reason is "
            f"{reason!r} ({len(worst)} clips), as with {worst[0]}.{begin}"
        )
    return _table(split, columns, kept, sources, texts, clips, seconds), left_out.counts()


def read_transcripts(split: Dataset, column: str) -> tuple[list[str], list[str | None]]:
    """The transcripts in a column of any type, and for each what keeps it from being used, if something does.

    An empty cell (None, NaN) is an empty transcript, of which nothing more need be said.
    """
    cells = split[column][:]
    found = [read_text(cell) for cell in cells]
    texts = ["" if problem else text for text, problem in found]
    absent = [is_missing(cell) or (isinstance(cell, str) and is_blank(cell)) for cell in cells]
    return texts, [None if none else problem for (_, problem), none in zip(found, absent, strict=True)]


def _refuse_several_of_one_file(split: str, sources: ClipSources, texts: list[str]) -> None:
    """Refuse rows that name one file, and the same part of it, for different transcripts."""
    for first, *others in sources.rows_by_part().values():
        i = next((i for i in others if texts[i] and texts[first] and texts[i] != texts[first]), None)
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


def _mention_spelling(written: list[str], spelt: list[str]) -> None:
    """Say with an example what the normaliser does to transcripts."""
    changed = [(old, new) for old, new in zip(written, spelt, strict=True) if old != new and new]
    if changed:
        old, new = changed[0]
        logger.info(
            "%d transcripts are written in the vocabulary's letters: %r as %r.", len(changed), old[:60], new[:60]
        )


def _usable(
    sources: ClipSources,
    texts: list[str],
    problems: list[str | None],
    clips: StoredClips,
    seconds: np.ndarray,
    leave_out: list[str],
) -> tuple[list[int], LeftOut]:
    """Indices of the clips that are used, and the others by the reason."""
    left_out = LeftOut(defaultdict(list))
    kept = []
    listed: dict[Path, dict[str, str]] = {}
    for i, (clip, text) in enumerate(zip(sources.labels, texts, strict=True)):
        reason = _reason(i, clips, text, float(seconds[i]), leave_out)
        if reason is None:
            kept.append(i)
            continue
        found = clips.problems[i].partition(": ")[2] if clips.problems[i] else problems[i] or ""
        if reason == "missing" and len(left_out.clips[reason]) < SHOWN:
            found += similar_name(resolve(str(sources.files[i]), sources.folder), listed)
        left_out.add(reason, f"{clip} ({found})" if found else clip)
    return kept, left_out


def _reason(i: int, clips: StoredClips, text: str, seconds: float, leave_out: list[str]) -> str | None:
    """Why a clip is not used, in a word or two."""
    if clips.problems[i]:
        return clips.problems[i].partition(":")[0]
    if not text:
        return "empty transcript"
    suspicions = [*clips.findings[i], *(["pace"] if _odd_pace(text, seconds) else [])]
    return next((found for found in suspicions if found in leave_out), None)


def _odd_pace(text: str, seconds: float) -> bool:
    return seconds >= PACE_SECONDS and not SLOWEST <= len(text) / seconds <= FASTEST


def _cures(settings: AudioSettings) -> dict[str, str]:
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
    name: str, names: list[str], clips: StoredClips, texts: list[str], seconds: np.ndarray, leave_out: list[str]
) -> None:
    """What is suspicious and used nevertheless."""
    meaning = {
        "silent": "peak below -60 dB",
        "truncated": "they break off",
        "clipped": "more than 1 % of the samples at full scale",
        "pace": f"more than {FASTEST:g} or less than {SLOWEST:g} letters a second: is the sampling rate in the header "
        "wrong, or the transcript another clip's?",
    }
    for suspicion in SUSPICIONS:
        if suspicion in leave_out:
            continue
        found = [
            names[i]
            for i in range(len(names))
            if suspicion in clips.findings[i] or (suspicion == "pace" and texts[i] and _odd_pace(texts[i], seconds[i]))
        ]
        if found:
            shown = ", ".join(found[:SHOWN]) + (", ..." if len(found) > SHOWN else "")
            logger.info("%d clips in %s are used although %s (%s; --leave_out %s leaves them out): %s.",
                        len(found), name, suspicion, meaning[suspicion], suspicion, shown)  # fmt: skip


def _table(
    split: Dataset,
    columns: dict[str, str],
    kept: list[int],
    sources: ClipSources,
    texts: list[str],
    clips: StoredClips,
    seconds: np.ndarray,
) -> Dataset:
    table: dict[str, Any] = {
        "audio": [sources.names[i] for i in kept],
        "text": [texts[i] for i in kept],
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
    shared = sorted(set(seconds) & set(test["speaker"][:]))
    told = all(UNIT in split.column_names and split[UNIT][:] == split["speaker"][:] for split in (train, test))
    if shared and not told:  # by `shared_units`
        shown = ", ".join(shared[:5]) + (", ..." if len(shared) > 5 else "")
        logger.info("%d speakers are in train and test (%s): the result holds for known voices.", len(shared), shown)
        found.append(f"{len(shared)} speakers are in train and test: the result holds for known voices.")
    speaker, most = max(seconds.items(), key=lambda item: item[1])
    share = most / sum(seconds.values())
    if len(seconds) > 1 and share > max(0.5, 1.5 / len(seconds)):
        logger.info("Speaker %s has %.0f %% of the training audio: the others may be learned badly.",
                    speaker, 100 * share)  # fmt: skip
        found.append(f"One speaker has {share:.0%} of the training audio: the others may be learned badly.")
    return found
