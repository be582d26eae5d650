"""Units: the speakers, patients or cameras that examples come from, each kept in one split and resampled whole.

Examples of one unit are alike. In training and test, they make results look better than they are; resampled one by one
in a bootstrap, they make confidence intervals too narrow.
"""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from datasets import Dataset
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from hf_transfer.arguments import DataArguments
from hf_transfer.data.groups import NAMELESS
from hf_transfer.errors import InputError, logger, nearest

# The standard column with the values of --split_by.
UNIT = "unit"
# Columns that usually name units: by the noun for these, in small letters without spaces and punctuation.
USUAL_UNITS = {
    "speakers": ("speaker", "speakerid", "clientid"),
    "patients": ("patient", "patientid", "subjectid"),
    "cameras": ("camera", "cameraid"),
}
# With fewer units, a bootstrap over whole units does not show how much they differ.
ENOUGH_TO_RESAMPLE = 10


def usual_unit_column(
    columns: Sequence[str], other: Sequence[str | None] = (), nouns: Sequence[str] = tuple(USUAL_UNITS)
) -> str | None:
    """Return the first column named like a speaker, patient or camera, or None if there is no such column.

    Case and punctuation are ignored.

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
    """Return the unit of each example, [n]: its value of --split_by or its speaker; None without such a column."""
    column = next((name for name in (UNIT, "speaker") if name in split.column_names), None)
    return None if column is None else split[column][:]


def unit_of_record(record: Mapping[str, Any]) -> str:
    """Return the unit of a record of ``predictions.jsonl``: the value of --split_by, its speaker, or `NAMELESS`."""
    return record.get(UNIT, record.get("speaker", NAMELESS))


def resampling_units(names: Sequence[str] | None, n: int) -> np.ndarray:
    """Return for each of `n` examples the number of its resampling unit, [n]: what a bootstrap draws as a whole.

    It is the speaker, patient or camera if `ENOUGH_TO_RESAMPLE` of these are known, and else the example itself.

    Args:
        names: the unit of each example, or `NAMELESS`; None if they are not known at all.
        n: number of examples.
    """
    if names is None or len({*names} - {NAMELESS}) < ENOUGH_TO_RESAMPLE:
        return np.arange(n)
    distinct = [f"{NAMELESS} {i}" if name == NAMELESS else name for i, name in enumerate(names)]
    return np.unique(np.asarray(distinct), return_inverse=True)[1]


def resamples_single_examples(names: Sequence[str] | None, n: int) -> bool:
    """Return whether a bootstrap draws each of `n` examples by itself, as they have too few units to draw."""
    return int(resampling_units(names, n).max(initial=-1)) + 1 == n


def noun_of_resampling_units(test: Dataset, column: str | None) -> str:
    """Return the noun for what the intervals of a test split resample: ``examples``, ``speakers``, ``patients``.

    Args:
        test: the test split.
        column: of --split_by.
    """
    if resamples_single_examples(unit_names(test), len(test)):
        return "examples"
    return unit_noun(str(column)) if UNIT in test.column_names else "speakers"


def unit_column(data: DataArguments, columns: Sequence[str], usual: str | None) -> str | None:
    """Return the column of units that drawn splits keep whole (--split_by, or one with a usual name), or None.

    Args:
        data: with --split_by.
        columns: of the table.
        usual: the column with a usual name, if there is one.

    Raises:
        InputError: --split_by names no column of the table.
    """
    if data.split_by is None:
        # With --source_group, the source's group has to be in training and test.
        return None if data.source_group is not None and usual == data.group_column_name else usual
    if data.split_by not in columns:
        raise InputError(
            f"--split_by {data.split_by}: there is no such column. It has: {', '.join(columns)}."
            f"{nearest(data.split_by, columns)}"
        )
    return data.split_by


def unit_noun(column: str) -> str:
    """Return the noun for the values of a column in a sentence: ``patients``, or ``values of 'ward'``."""
    nouns = (noun for noun, names in USUAL_UNITS.items() if _letters(column) in names)
    return next(nouns, f"values of '{column}'")


def _letters(column: str) -> str:
    """Return the letters and digits of a column's name, in small letters."""
    return "".join(character for character in column.lower() if character.isalnum())


def unit_numbers(identities: Sequence[Hashable], values: Sequence[str] | None = None) -> np.ndarray:
    """Return a number for each example, [n], the same for those that have to be on the same side of a split.

    Args:
        identities: a key for each example; examples with the same key are equal.
        values: of --split_by; an example with the value `NAMELESS` has no unit.

    Returns:
        For each example the number, from 0, of its connected component: examples are connected if they are equal or
        share a value.
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
    """Return a number for each example of a split, [n], the same for equal ones and those of one unit."""
    return unit_numbers(identities, unit_names(split))


def few_units_caveats(test: Dataset, column: str) -> list[str]:
    """Return and log a sentence if the test split has too few units to resample whole; else return an empty list.

    Args:
        test: the test split.
        column: of --split_by.
    """
    count, noun = len({*(unit_names(test) or [])} - {NAMELESS}), unit_noun(column)
    if not 1 < count < ENOUGH_TO_RESAMPLE:
        return []
    sentence = (
        f"The test examples are of {count} {noun}: too few for intervals over {noun}, so these are over examples, and "
        f"results with other {noun} may lie outside of them."
    )
    logger.info("%s", sentence)
    return [sentence]
