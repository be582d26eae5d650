"""Clips that are left out: counted by reason, logged with the remedy, and listed in files."""

import contextlib
from collections import defaultdict
from pathlib import Path

from hf_transfer.errors import logger
from hf_transfer.inputs.audio.decoding import DecodingSettings
from hf_transfer.inputs.audio.findings import MAX_NAMED_CLIPS, SUSPICIONS


class LeftOutClips:
    """Record of the clips of a split that are left out, by reason.

    Attributes:
        names: of the clips with details, by reason.
    """

    def __init__(self) -> None:
        self.names: dict[str, list[str]] = defaultdict(list)

    def add(self, reason: str, name: str) -> None:
        """Add the name of a clip under the reason for which it is left out."""
        self.names[reason].append(name)

    def counts(self) -> dict[str, int]:
        """Return the number of clips that are left out, by reason."""
        return {reason: len(names) for reason, names in self.names.items()}

    def log(self, split: str, settings: DecodingSettings, folder: Path) -> None:
        """Log a line for each reason: how many clips are left out, the first of them and the remedy."""
        remedies = _remedies(settings)
        for reason, names in self.names.items():
            log_left_out(split, reason, names, remedies.get(reason, "repair or remove the files"), folder)


def log_left_out(split: str, reason: str, names: list[str], remedy: str, folder: Path) -> None:
    """Log how many clips of a split are left out and why, with the first of them and the remedy.

    Args:
        split: its name.
        reason: in a word or two.
        names: of the clips.
        remedy: what to do about it.
        folder: where a file with all names is written if they are many.
    """
    shown = ", ".join(names[:MAX_NAMED_CLIPS])
    if len(names) > MAX_NAMED_CLIPS:
        file = folder / f"left_out_of_{split}_{reason.replace(' ', '_')}.txt"
        with contextlib.suppress(OSError):  # the disk may be full, or the folder another user's
            file.write_text("\n".join(names) + "\n", encoding="utf-8")
            shown += f", ... (all in {file})"
    logger.info("Left out of %s: %d x %s (%s): %s.", split, len(names), reason, remedy, shown)


def _remedies(settings: DecodingSettings) -> dict[str, str]:
    wrong_times = "correct the times, or rename their columns if they are about something else"
    return {
        "too short": f"--min_seconds {settings.min_seconds:g}",
        "too long": f"--max_seconds {settings.max_seconds:g}",
        "unknown format": "convert them",
        "outside its file": wrong_times,
        "no part of its file": wrong_times,
        **dict.fromkeys(SUSPICIONS, "--leave_out says which are"),
        "empty transcript": "nothing to learn from; write it, or remove the row",
    }
