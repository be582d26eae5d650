"""Caveats about the speakers of a dataset: the same ones in train and test, or one who dominates."""

from collections import defaultdict

from datasets import Dataset

from hf_transfer.data.groups import NAMELESS
from hf_transfer.data.units import UNIT
from hf_transfer.errors import logger


def speaker_caveats(train: Dataset, test: Dataset) -> list[str]:
    """Return and log sentences on why the result may not hold for other speakers; only the log names speakers."""
    if "speaker" not in train.column_names:
        return []
    samples_by_speaker: dict[str, int] = defaultdict(int)
    for speaker, samples in zip(train["speaker"][:], train["length"][:], strict=True):
        samples_by_speaker[speaker] += samples
    samples_without_speaker = samples_by_speaker.pop(NAMELESS, 0)
    shared = sorted(set(samples_by_speaker) & set(test["speaker"][:]))
    caveats = []
    if shared and not all(_are_units(split) for split in (train, test)):  # `shared_units_caveats` is about units
        names = ", ".join(shared[:5]) + (", ..." if len(shared) > 5 else "")
        subject = "1 speaker is" if len(shared) == 1 else f"{len(shared)} speakers are"
        logger.info("%s in train and test (%s): the result holds for known voices.", subject, names)
        caveats.append(f"{subject} in train and test: the result holds for known voices.")
    speaker, most = max(samples_by_speaker.items(), key=lambda item: item[1], default=("", 0))
    share = most / (sum(samples_by_speaker.values()) + samples_without_speaker or 1)
    if len(samples_by_speaker) > 1 and share > max(0.5, 1.5 / len(samples_by_speaker)):
        logger.info("Speaker %s has %.0f %% of the training audio: the others may be learned badly.",
                    speaker, 100 * share)  # fmt: skip
        caveats.append(f"One speaker has {share:.0%} of the training audio: the others may be learned badly.")
    return caveats


def _are_units(split: Dataset) -> bool:
    """Return whether the speakers of a split are the units that are kept in one split each."""
    return UNIT in split.column_names and split[UNIT][:] == split["speaker"][:]
