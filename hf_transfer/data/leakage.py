"""Leakage between splits: equal examples, and those of one speaker, patient or camera, on both sides."""

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from hf_transfer.arguments import DataArguments
from hf_transfer.data.drawing import Array
from hf_transfer.data.groups import NAMELESS
from hf_transfer.errors import InputError, logger, nearest

# The column of a standardised split with the values of --split_by.
UNIT = "unit"
# Who or what is usually kept on one side, and the columns that name it, in small letters without signs between them.
USUAL_UNITS = {
    "speakers": ("speaker", "speakerid", "clientid"),
    "patients": ("patient", "patientid", "subjectid"),
    "cameras": ("camera", "cameraid"),
}
# From so many speakers, patients or cameras on, resampling whole ones tells how much they differ.
ENOUGH_TO_RESAMPLE = 10
# Of no width, and in no text a sign of its own: soft hyphen, zero-width space, word joiner, byte order mark.
INVISIBLE = dict.fromkeys(map(ord, "\u00ad\u200b\u2060\ufeff"))


def text_identity(*texts: str) -> str:
    """A digest that is the same for texts that differ in case, spacing or Unicode form alone.

    Compatibility caseless matching of the Unicode Standard (section 3.13, D146), without spaces.
    """
    return hashlib.blake2b("\0".join(map(_folded, texts)).encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()


def _folded(text: str) -> str:
    folded = text.lower() if text.isascii() else text.translate(INVISIBLE)
    if not folded.isascii():
        folded = unicodedata.normalize("NFD", folded).casefold()
        folded = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", folded).casefold())
    return "".join(folded.split())


def usual_unit_column(
    columns: Sequence[str], other: Sequence[str | None] = (), nouns: Sequence[str] = tuple(USUAL_UNITS)
) -> str | None:
    """The first column named like a speaker, patient or camera, whatever its case and signs.

    Args:
        columns: of the table.
        other: columns that are used for something else.
        nouns: which of `USUAL_UNITS` are looked for.
    """
    for noun in nouns:
        for name in USUAL_UNITS[noun]:
            for column in columns:
                if _letters(column) == name and column not in other:
                    return column
    return None


def unit_names(split: Dataset) -> list[str] | None:
    """Whom each example of a standardised split is of: the value of --split_by, or its speaker; None if unknown."""
    known = next((name for name in (UNIT, "speaker") if name in split.column_names), None)
    return None if known is None else split[known][:]


def unit_of_record(record: Mapping[str, Any]) -> str:
    """Whom a record of ``predictions.jsonl`` is of: the value of --split_by, or its speaker; or `NAMELESS`."""
    return record.get(UNIT, record.get("speaker", NAMELESS))


def drawn_together(names: Sequence[str] | None, n: int) -> Array:
    """For each of `n` examples the number of what is resampled together, [n]: its speaker, patient or camera.

    Examples of one are alike. Where fewer than `ENOUGH_TO_RESAMPLE` are known, each example is resampled by itself.

    Args:
        names: of the speaker of each example; `NAMELESS` where there is none. None where they are not known at all.
        n: number of examples.
    """
    if names is None or len({*names} - {NAMELESS}) < ENOUGH_TO_RESAMPLE:
        return np.arange(n)
    alone = [f"{NAMELESS} {i}" if name == NAMELESS else name for i, name in enumerate(names)]
    return np.unique(np.asarray(alone), return_inverse=True)[1]


def drawn_alone(names: Sequence[str] | None, n: int) -> bool:
    """Whether each of `n` examples is resampled by itself: see `drawn_together`."""
    return int(drawn_together(names, n).max(initial=-1)) + 1 == n


def measured_over(test: Dataset, column: str | None) -> str:
    """What the intervals of a test split are over, in a word: ``examples``, or the whole ``patients`` of `column`."""
    if drawn_alone(unit_names(test), len(test)):
        return "examples"
    return unit_noun(str(column)) if UNIT in test.column_names else "speakers"


def unit_column(data: DataArguments, columns: Sequence[str], usual: str | None) -> str | None:
    """The column whose values are kept on one side of drawn splits: --split_by, or the `usual` one.

    Raises:
        InputError: there is no such column.
    """
    if data.split_by is None:
        # The source's group is trained and tested on.
        return None if data.source_group is not None and usual == data.group_column_name else usual
    if data.split_by not in columns:
        raise InputError(
            f"--split_by {data.split_by}: there is no such column. It has: {', '.join(columns)}."
            f"{nearest(data.split_by, columns)}"
        )
    return data.split_by


def unit_noun(column: str) -> str:
    """What the values of a column are called in a sentence: ``patients``, or ``values of 'ward'``."""
    usual = (noun for noun, names in USUAL_UNITS.items() if _letters(column) in names)
    return next(usual, f"values of '{column}'")


def _letters(column: str) -> str:
    return "".join(character for character in column.lower() if character.isalnum())


def unit_numbers(identities: Sequence[Hashable], values: Sequence[str] | None = None) -> Array:
    """A number for each example, the same for examples that have to be on one side of a split.

    Args:
        identities: what makes two examples equal.
        values: of --split_by; an example with the value `NAMELESS` has none.

    Returns:
        The connected components of examples that are equal or share a value, numbered from 0, [n].
    """
    count = len(identities)
    first: dict[Hashable, int] = {}
    links = [first.setdefault(("identity", key), i) for i, key in enumerate(identities)]
    ends = list(range(count))
    if values is not None:
        named = [i for i, value in enumerate(values) if value != NAMELESS]
        links += [first.setdefault(("value", values[i]), i) for i in named]
        ends += named
    graph = coo_array((np.ones(len(ends), dtype=np.int8), (ends, links)), shape=(count, count))
    return connected_components(graph.tocsr(), directed=False)[1]


def alike(split: Dataset, identities: Sequence[Hashable]) -> Array:
    """A number for each example, [n], the same for equal ones and those of one speaker, patient or camera."""
    return unit_numbers(identities, unit_names(split))


def unknown_units(splits: Sequence[str], column: str) -> list[str]:
    """In a sentence, that some splits do not say whom their examples are of; none where all do.

    Args:
        splits: names of those without the column.
        column: of --split_by.
    """
    if not splits:
        return []
    have = "split has" if len(splits) == 1 else "splits have"
    told = (
        f"The {' and '.join(splits)} {have} no column {column!r}: whether their {unit_noun(column)} are in training "
        "nobody can tell, and intervals are over examples."
    )
    logger.warning("%s", told)
    return [told]


def shared_units(splits: DatasetDict, column: str) -> list[str]:
    """What makes the result flatter or narrower than it looks: units in training and test, or a single one of them.

    The values are named on the screen alone.
    """
    if any(UNIT not in splits[name].column_names for name in ("train", "test")):
        return []
    train, test = (Counter(value for value in splits[name][UNIT] if value != NAMELESS) for name in ("train", "test"))
    shared, noun = sorted(train.keys() & test.keys()), unit_noun(column)
    found = []
    if shared:
        shown = ", ".join(shared[:5]) + (", ..." if len(shared) > 5 else "")
        holds = f"the result holds for known {'voices' if noun == 'speakers' else 'ones'}."
        logger.info("%d %s are in train and test (%s): %s", len(shared), noun, shown, holds)
        found.append(f"{len(shared)} {noun} are in train and test: {holds}")
    for name, units in (("training", train), ("test", test)):
        if name == "test" and not shared:
            found += few_units(splits["test"], column)
        if len(units) == 1 and not shared:
            single = noun.replace("values", "value") if noun.startswith("values") else noun.removesuffix("s")
            found.append(f"All {name} examples are of one {single}: with others the result may be another.")
            logger.info("%s", found[-1])
    return found


def few_units(test: Dataset, column: str) -> list[str]:
    """In a sentence, that test examples are of too few patients or the like for intervals over them; or none."""
    count, noun = len({*(unit_names(test) or [])} - {NAMELESS}), unit_noun(column)
    if not 1 < count < ENOUGH_TO_RESAMPLE:
        return []
    told = (
        f"The test examples are of {count} {noun}: too few for intervals over {noun}, so these are over examples, and "
        "with others the result may lie outside of them."
    )
    logger.info("%s", told)
    return [told]


def overlap(
    splits: DatasetDict, keys: dict[str, list[str]], *, remove: bool
) -> tuple[DatasetDict, dict[str, int], list[str]]:
    """Count the examples that several splits hold, and leave each in one if asked.

    Args:
        splits: with ``train`` and ``test``.
        keys: for each split, what makes two examples the same, an entry an example.
        remove: take out of ``train`` what others hold, and out of ``validation`` what ``test`` holds.

    Returns:
        The splits; how many examples of each held-out split are in training too, and how many were
        ``removed_from_train`` and, where there are such, ``removed_from_validation``; what the test examples among
        them make of the result, in sentences.
    """
    splits, counts_of_validation, caveats = _chosen_on(splits, keys, remove=remove)
    held_out = {key for name in splits if name != "train" for key in keys[name]}
    seen_in_train = set(keys["train"])
    counts = {name: sum(key in seen_in_train for key in keys[name]) for name in splits if name != "train"}
    kept = [i for i, key in enumerate(keys["train"]) if key not in held_out]
    shared = len(keys["train"]) - len(kept)
    if shared:
        found = ", ".join(f"{count} of {len(keys[name])} in {name}" for name, count in counts.items())
        if remove:
            if not kept:
                raise InputError("--deduplicate leaves nothing to train on: every training example is held out too.")
            splits["train"] = splits["train"].select(kept)
            logger.info("Also in training: %s. %d training examples are removed (--deduplicate).", found, shared)
        else:
            logger.info(
                "Also in training: %s. They do not tell how it does on new ones; --deduplicate removes them.", found
            )
            if counts["test"]:
                caveats.append(
                    f"{counts['test']} of {len(keys['test'])} test examples occur in training as well: they do not "
                    "tell how it does on new ones."
                )
    removed = {"removed_from_train": shared if remove else 0, **counts_of_validation}
    return splits, {**counts, **removed}, caveats


def _chosen_on(
    splits: DatasetDict, keys: dict[str, list[str]], *, remove: bool
) -> tuple[DatasetDict, dict[str, int], list[str]]:
    """As `overlap`, of the examples of validation that test holds as well."""
    tested = set(keys["test"])
    kept = [i for i, key in enumerate(keys.get("validation", [])) if key not in tested]
    shared = len(keys.get("validation", [])) - len(kept)
    if not shared:
        return splits, {}, []
    found = f"{shared} of {len(keys['validation'])} validation examples are test examples as well"
    if not remove:
        logger.info("%s: the thresholds and checkpoints that are chosen on them fit the test; --deduplicate removes "
                    "them from validation.", found)  # fmt: skip
        return splits, {}, [f"{found}: what is chosen on them fits the test."]
    if not kept:
        raise InputError("--deduplicate leaves nothing to validate on: every validation example is a test example.")
    logger.info("%s: they are removed from validation (--deduplicate).", found)
    keys["validation"] = [keys["validation"][i] for i in kept]
    return (
        DatasetDict({**splits, "validation": splits["validation"].select(kept)}),
        {"removed_from_validation": shared},
        [],
    )
