"""Splits that are drawn where the user gives none, and examples drawn where fewer are wanted."""

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict

from hf_transfer.arguments import DataArguments
from hf_transfer.data.groups import NAMELESS
from hf_transfer.data.holdout import RARE, Holdout, hold_out
from hf_transfer.data.splits import SPLITS
from hf_transfer.data.units import UNIT, unit_noun, unit_numbers
from hf_transfer.errors import InputError, logger

# More than this says little more about temperature and threshold, and is missed in training.
ENOUGH_TO_VALIDATE = 400
# With fewer speakers (patients, cameras), one that is held out unasked is too much of what is learned.
ENOUGH_UNITS = 5
# A split is near to the size asked for if it has no less than its half and no more than its double.
NEAR = 2


def complete_splits(
    splits: DatasetDict,
    strata: Mapping[str, list[Any]],
    identities: Mapping[str, list[str]],
    data: DataArguments,
    seed: int,
    *,
    asked: bool,
) -> tuple[DatasetDict, dict[str, Any]]:
    """Make the splits that are missing: stratified, seeded, equal examples and whole units on one side.

    Args:
        splits: at least ``train``; its column ``unit`` has the values of --split_by.
        strata: for each split, what each example is stratified by.
        identities: for each split, what makes two examples equal.
        data: shares, and the column of the units.
        seed: of the draw.
        asked: whether the user named that column. One that was found is passed over where it leaves too little choice.

    Returns:
        The splits with ``test`` and, unless its share is 0, ``validation``; and what was made from what.

    Raises:
        InputError: no choice of whole units is near the size that is asked for.
    """
    made: dict[str, Any] = {}
    train = splits["train"]
    complete = DatasetDict({name: split for name, split in splits.items() if name != "train"})
    rows = np.arange(len(train))
    units = [value for value in train[UNIT] if value != NAMELESS] if UNIT in train.column_names else []
    column = data.split_by if asked or len(set(units)) >= ENOUGH_UNITS else None
    draws = [name for name in ("test", "validation") if name not in splits]
    if units and column is None and draws:
        logger.info("%d %s in the column %r are too few to keep whole unasked (--split_by %s does).",
                    len(set(units)), unit_noun(str(data.split_by)), data.split_by, data.split_by)  # fmt: skip
    for name, share in (("test", data.test_size), ("validation", data.validation_size)):
        if name in splits or share == 0:
            continue
        pool = _Pool(name, share, train.select(rows), [strata["train"][i] for i in rows],
                     [identities["train"][i] for i in rows], data, seed)  # fmt: skip
        drawn, by = pool.held_out(column, asked=asked)
        if drawn is None:
            continue
        complete[name] = train.select(rows[drawn.taken])
        made[name] = {"from": "train", "share": len(drawn.taken) / len(rows), "asked": pool.wanted / len(rows),
                      "seed": seed, "split_by": by, "whole": unit_noun(by) if by else None}  # fmt: skip
        rows = rows[drawn.kept]
    if "test" not in complete:
        raise InputError("There is nothing to measure on: give --test_file, or --test_size above 0.")
    complete["train"] = train.select(rows) if made else train
    return DatasetDict({name: complete[name] for name in SPLITS if name in complete}), made


class _Pool:
    """Examples of which some are to be held out for a split; None as the share asks for what is usual."""

    def __init__(
        self,
        name: str,
        share: float | None,
        train: Dataset,
        strata: list[Any],
        identities: list[str],
        data: DataArguments,
        seed: int,
    ):
        count = len(train)
        self.name, self.share, self.seed = name, share, seed
        self.train, self.strata, self.identities = train, strata, identities
        part = count * (min(0.1, ENOUGH_TO_VALIDATE / count) if share is None else share)
        self.wanted = max(1, math.ceil(round(part, 6)))  # 100 * 0.07 is a little more than 7
        if self.wanted >= count:
            raise InputError(f"{count} examples are too few to take {self.wanted} of them for another split.")
        if data.split_by is not None and data.split_by == data.group_column_name and strata == train["group"][:]:
            self.strata = [None] * count  # what is kept on one side cannot be on both

    def held_out(self, column: str | None, *, asked: bool) -> tuple[Holdout | None, str | None]:
        """The examples of the split, and the column whose values it has whole; no examples where none can be.

        Raises:
            InputError: there can be none, and the split was asked for.
        """
        if column is not None:
            units = unit_numbers(self.identities, self.train[UNIT][:])
            drawn = hold_out(units, self.strata, self.wanted, self.seed)
            if self._is_near(drawn) and (asked or drawn.one_sided <= RARE):
                self._say(drawn, f"whole {unit_noun(column)}: --split_by {column}")
                return drawn, column
            if asked:
                self._go_without(units, drawn, column)
                return None, None
            logger.info(
                "Whole %s (column %r) leave no %s split near %d examples with each kind of them: they are on both "
                "sides of it (--split_by %s keeps them whole).",
                unit_noun(column), column, self.name, self.wanted, column,
            )  # fmt: skip
        units = unit_numbers(self.identities)
        drawn = hold_out(units, self.strata, self.wanted, self.seed)
        if not self._is_near(drawn):
            self._go_without(units, drawn, None)
            return None, None
        how = "stratified" if drawn.stratified else "at random, as some kinds are too rare"
        self._say(drawn, how if units.max() + 1 == len(units) else f"{how}, equal examples together")
        return drawn, None

    def _is_near(self, drawn: Holdout) -> bool:
        """Whether there are about as many as wanted; fewer will do where nobody has named a number."""
        taken = len(drawn.taken)
        return 0 < taken <= NEAR * self.wanted and (self.share is None or NEAR * taken >= self.wanted)

    def _say(self, drawn: Holdout, how: str) -> None:
        taken = len(drawn.taken)
        asked = "" if taken == self.wanted else f", where {self.wanted} were asked for"
        logger.info(
            "No %s split: %d examples of the training split are kept for it%s (%s, seed %d; --%s_size).",
            self.name, taken, asked, how, self.seed, self.name,
        )  # fmt: skip

    def _go_without(self, units: np.ndarray, drawn: Holdout, column: str | None) -> None:
        """Say that there is no such split.

        Raises:
            InputError: it was asked for.
        """
        largest, count = int(np.bincount(units).max()), len(units)
        kept = f"whole {unit_noun(column)} (--split_by {column})" if column else "equal examples on one side"
        most = f"the largest of the {unit_noun(column)} has" if column else "the most that are equal are"
        found = f"with {kept} there is no {self.name} split near {self.wanted} of {count} examples: {most} {largest}"
        if self.share is None:
            logger.info("No validation split: %s. Nothing is chosen or calibrated (--validation_size).", found)
            return
        reached = len(drawn.taken) / count
        nearest = f" The nearest is --{self.name}_size {reached:.2g}." if 0 < reached < 0.9 else ""
        other = "Name a file (--test_file FILE)" if self.name == "test" else "Do without (--validation_size 0)"
        without = ", or leave --split_by out" if column else ""
        raise InputError(f"--{self.name}_size {self.share:g}: {found}.{nearest} {other}{without}.")


def cut_to_sizes(
    splits: DatasetDict, strata: Mapping[str, Sequence[Hashable]], data: DataArguments, seed: int, split_seed: int
) -> DatasetDict:
    """The splits with no more examples than --max_train_samples (by `seed`) and --max_eval_samples, stratified.

    What is cut off is in no split, so that nothing has to be kept together.
    """
    limits = dict.fromkeys(SPLITS, data.max_eval_samples) | {"train": data.max_train_samples, "replay": None}
    cut = DatasetDict(splits)
    for name, split in splits.items():
        limit = limits[name]
        if limit is not None and limit < len(split):
            drawn = hold_out(np.arange(len(split)), strata[name], limit, seed if name == "train" else split_seed)
            cut[name] = split.select(drawn.taken)
    return cut
