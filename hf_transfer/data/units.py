"""Units: the speakers, patients or cameras that examples come from, each kept in one split and resampled whole."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from datasets import Dataset
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from hf_transfer.arguments import DataArguments
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


def resampling_units(names: Sequence[str] | None, n: int) -> np.ndarray:
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


def resamples_single_examples(names: Sequence[str] | None, n: int) -> bool:
    """Whether each of `n` examples is resampled by itself: see `resampling_units`."""
    return int(resampling_units(names, n).max(initial=-1)) + 1 == n


def noun_of_resampling_units(test: Dataset, column: str | None) -> str:
    """What the intervals of a test split are over, in a word: ``examples``, or the whole ``patients`` of `column`."""
    if resamples_single_examples(unit_names(test), len(test)):
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


def unit_numbers(identities: Sequence[Hashable], values: Sequence[str] | None = None) -> np.ndarray:
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


def unit_numbers_of_split(split: Dataset, identities: Sequence[Hashable]) -> np.ndarray:
    """A number for each example, [n], the same for equal ones and those of one speaker, patient or camera."""
    return unit_numbers(identities, unit_names(split))


def few_units_caveats(test: Dataset, column: str) -> list[str]:
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
