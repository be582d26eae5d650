"""What decoding found about clips, in words: suspicious clips, and how unusual ones were dealt with."""

from collections.abc import Iterable, Mapping, Sequence

from hf_transfer.errors import logger

# What can be wrong with a clip that has samples: it is left out if --leave_out names it.
SUSPICIONS = ("silent", "truncated", "clipped", "pace")
# How decoding dealt with something unusual, by the word in `DecodedClip.findings`.
DECODING_NOTES = {
    "opposite": "have channels of opposite phase, which cancel each other out: the louder channel is used",
    "offset": "have a constant offset, which is removed",
    "truncated": "are truncated: the part that is there is used",
    "cut": "are already cut to the excerpt that their times name: used whole",
}
# Number of clips that are named in a message.
MAX_NAMED_CLIPS = 3


def first_names(names: Sequence[str]) -> str:
    """Return the first of some names of clips as text, for a message."""
    return ", ".join(names[:MAX_NAMED_CLIPS]) + (", ..." if len(names) > MAX_NAMED_CLIPS else "")


def log_decoding_notes(source: str, findings: Iterable[tuple[str, Sequence[str]]]) -> None:
    """Log how decoding dealt with unusual clips, with the names of the first of them.

    Args:
        source: what the clips are from, such as the name of a split.
        findings: for each clip its name and what was found.
    """
    findings = list(findings)
    for word, note in DECODING_NOTES.items():
        names = [name for name, words in findings if word in words]
        if names:
            logger.info("%d clips in %s %s: %s.", len(names), source, note, first_names(names))


def log_suspicious_clips(split: str, names: Mapping[str, Sequence[str]], pace_description: str) -> None:
    """Log which suspicious clips of a split are used all the same, and how to leave them out.

    Args:
        split: its name.
        names: of the clips, by suspicion.
        pace_description: what a suspicious pace means, in a clause.
    """
    descriptions = {
        "silent": "their peak is below -60 dB",
        "truncated": "they are truncated",
        "clipped": "more than 1 % of their samples are at full scale",
        "pace": pace_description,
    }
    for suspicion, suspicious in names.items():
        if suspicious:
            logger.info("%d clips in %s are used although %s (%s; --leave_out %s leaves them out): %s.",
                        len(suspicious), split, suspicion, descriptions[suspicion], suspicion,
                        first_names(suspicious))  # fmt: skip
