"""Draws the missing validation and test splits from training, and cuts splits to a wanted number of examples."""

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import TypedDict

import numpy as np
from datasets import Dataset, DatasetDict

from hf_transfer.arguments import DataArguments
from hf_transfer.data.groups import NAMELESS
from hf_transfer.data.holdout import RARE, Holdout, hold_out
from hf_transfer.data.splits import SPLITS
from hf_transfer.data.units import UNIT, unit_noun, unit_numbers
from hf_transfer.errors import InputError, logger

# Without --validation_size, no more than so many examples are held out: more would hardly improve the choice of
# temperature and threshold, and training needs them.
ENOUGH_TO_VALIDATE = 400
# If --split_by is not given and there are fewer units, these are not kept whole: one would be too much of the data.
ENOUGH_UNITS = 5
# A split is near the wanted size if it has at least a half and at most the double of it.
NEAR = 2


# How a split was drawn, for the report. `from` is a keyword, so the class syntax of TypedDict cannot be used.
DrawnSplit = TypedDict(
    "DrawnSplit",
    {"from": str, "share": float, "asked": float, "seed": int, "split_by": str | None, "whole": str | None},
)


def complete_splits(
    splits: DatasetDict,
    strata: Mapping[str, list[Hashable]],
    identities: Mapping[str, list[str]],
    data: DataArguments,
    seed: int,
    *,
    asked: bool,
) -> tuple[DatasetDict, dict[str, DrawnSplit]]:
    """Draw missing test and validation splits from training, stratified; return all splits and how each was drawn.

    Equal examples, and units such as speakers, stay together in one split.

    Args:
        splits: at least ``train``; its column ``unit`` has the values of --split_by.
        strata: for each split the stratum of each example.
        identities: for each split a key for each example; examples with the same key are equal.
        data: with --test_size, --validation_size and --split_by.
        seed: of the draw.
        asked: whether the user named --split_by. A column of units that was found by its name is ignored if it leaves
            too little choice.

    Returns:
        The splits with ``test`` and, unless its share is 0, ``validation``; and how each drawn split was drawn.

    Raises:
        InputError: whole units cannot give a split near the wanted size, or there is no test split.
    """
    drawn: dict[str, DrawnSplit] = {}
    train = splits["train"]
    complete = DatasetDict({name: split for name, split in splits.items() if name != "train"})
    rows = np.arange(len(train))
    column = _column_to_keep_whole(splits, data, asked=asked)
    for name, share in (("test", data.test_size), ("validation", data.validation_size)):
        if name in splits or share == 0:
            continue
        pool = _Pool(name, share, train.select(rows), [strata["train"][i] for i in rows],
                     [identities["train"][i] for i in rows], data, seed)  # fmt: skip
        holdout, by = pool.hold_out(column, asked=asked)
        if holdout is None:
            continue
        complete[name] = train.select(rows[holdout.held_out])
        drawn[name] = {"from": "train", "share": len(holdout.held_out) / len(rows), "asked": pool.wanted / len(rows),
                       "seed": seed, "split_by": by, "whole": unit_noun(by) if by else None}  # fmt: skip
        rows = rows[holdout.remaining]
    if "test" not in complete:
        raise InputError("There is nothing to measure on: give --test_file, or --test_size above 0.")
    complete["train"] = train.select(rows) if drawn else train
    return DatasetDict({name: complete[name] for name in SPLITS if name in complete}), drawn


def _column_to_keep_whole(splits: DatasetDict, data: DataArguments, *, asked: bool) -> str | None:
    """Return the user's column of units (speakers, ...) that drawn splits keep whole, or None without such a column.

    It is None, too, if the column was found by its name and has too few units.
    """
    train = splits["train"]
    units = {value for value in train[UNIT] if value != NAMELESS} if UNIT in train.column_names else set()
    if asked or len(units) >= ENOUGH_UNITS:
        return data.split_by
    if units and not {"test", "validation"} <= set(splits):
        logger.info("%d %s in the column %r are too few to keep whole unasked (--split_by %s does).",
                    len(units), unit_noun(str(data.split_by)), data.split_by, data.split_by)  # fmt: skip
    return None


class _Pool:
    """Pool of training examples of which some are to be held out for another split.

    Args:
        name: of the split to draw.
        share: of the examples to hold out; None for the default share of a validation split.
        train: the training examples.
        strata: the stratum of each.
        identities: a key for each; examples with the same key are equal.
        data: with --split_by and --group_column_name.
        seed: of the draw.
    """

    def __init__(
        self,
        name: str,
        share: float | None,
        train: Dataset,
        strata: Sequence[Hashable],
        identities: Sequence[str],
        data: DataArguments,
        seed: int,
    ):
        count = len(train)
        self.name, self.share, self.seed = name, share, seed
        self.train, self.strata, self.identities = train, strata, identities
        wanted = count * (min(0.1, ENOUGH_TO_VALIDATE / count) if share is None else share)
        self.wanted = max(1, math.ceil(round(wanted, 6)))  # in floating point, 100 * 0.07 is a little more than 7
        if self.wanted >= count:
            raise InputError(
                f"{count} examples are too few to take {self.wanted} of them for the {name} split. Give more "
                f"examples, or a smaller --{name}_size."
            )
        if data.split_by is not None and data.split_by == data.group_column_name and strata == train["group"][:]:
            self.strata = [None] * count  # a group that is kept on one side cannot be balanced over both

    def hold_out(self, column: str | None, *, asked: bool) -> tuple[Holdout | None, str | None]:
        """Choose the examples to hold out for the split, and return them and the column of units kept whole.

        Args:
            column: the user's column of units to keep whole, if any.
            asked: whether the user named it.

        Returns:
            The examples, or None if no split near the wanted size is possible; and the column, if units were kept
            whole.

        Raises:
            InputError: no split near the wanted size is possible, and the user asked for it.
        """
        if column is not None:
            units = unit_numbers(self.identities, self.train[UNIT][:])
            holdout = hold_out(units, self.strata, self.wanted, self.seed)
            if self._is_near(holdout) and (asked or holdout.one_sided <= RARE):
                self._log(holdout, f"whole {unit_noun(column)}: --split_by {column}")
                return holdout, column
            if asked:
                self._go_without(units, holdout, column)
                return None, None
            logger.info(
                "Whole %s (column %r) give no %s split near %d examples with all labels or groups on both sides: they "
                "are not kept whole (--split_by %s keeps them whole).",
                unit_noun(column), column, self.name, self.wanted, column,
            )  # fmt: skip
        units = unit_numbers(self.identities)
        holdout = hold_out(units, self.strata, self.wanted, self.seed)
        if not self._is_near(holdout):
            self._go_without(units, holdout, None)
            return None, None
        how = "stratified" if holdout.stratified else "at random, as some labels or groups are too rare"
        self._log(holdout, how if units.max() + 1 == len(units) else f"{how}, equal examples together")
        return holdout, None

    def _is_near(self, holdout: Holdout) -> bool:
        """Return whether about as many examples are held out as wanted.

        Fewer will do if the user named no number.
        """
        count = len(holdout.held_out)
        return 0 < count <= NEAR * self.wanted and (self.share is None or NEAR * count >= self.wanted)

    def _log(self, holdout: Holdout, how: str) -> None:
        count = len(holdout.held_out)
        difference = "" if count == self.wanted else f", where {self.wanted} were asked for"
        logger.info(
            "No %s split: %d examples of the training split are kept for it%s (%s, seed %d; --%s_size).",
            self.name, count, difference, how, self.seed, self.name,
        )  # fmt: skip

    def _go_without(self, units: np.ndarray, holdout: Holdout, column: str | None) -> None:
        """Log that there is no split near the wanted size, or raise an error if the user asked for one.

        Args:
            units: the number of each example's unit, [n].
            holdout: the nearest that is possible.
            column: the user's column of units to keep whole, if any.

        Raises:
            InputError: the user asked for the split.
        """
        largest, count = int(np.bincount(units).max()), len(units)
        condition = f"whole {unit_noun(column)} (--split_by {column})" if column else "equal examples on one side"
        most = f"the largest of the {unit_noun(column)} has" if column else "the most that are equal are"
        problem = (
            f"with {condition} there is no {self.name} split near {self.wanted} of {count} examples: {most} {largest}"
        )
        if self.share is None:
            logger.info("No validation split: %s. Nothing is chosen or calibrated (--validation_size).", problem)
            return
        reached = len(holdout.held_out) / count
        nearest = f" The nearest is --{self.name}_size {reached:.2g}." if 0 < reached < 0.9 else ""
        other = "Name a file (--test_file FILE)" if self.name == "test" else "Do without (--validation_size 0)"
        without = ", or leave --split_by out" if column else ""
        raise InputError(f"--{self.name}_size {self.share:g}: {problem}.{nearest} {other}{without}.")


def cut_to_sizes(
    splits: DatasetDict, strata: Mapping[str, Sequence[Hashable]], data: DataArguments, seed: int, split_seed: int
) -> DatasetDict:
    """Return the splits with no more examples than --max_train_samples and --max_eval_samples, stratified.

    Units are not kept whole: examples that are cut off are in no split.

    Args:
        splits: all splits.
        strata: for each split the stratum of each example.
        data: with --max_train_samples and --max_eval_samples.
        seed: of the draw of training examples.
        split_seed: of the draw of others.
    """
    limits = dict.fromkeys(SPLITS, data.max_eval_samples) | {"train": data.max_train_samples, "replay": None}
    cut = DatasetDict(splits)
    for name, split in splits.items():
        limit = limits[name]
        if limit is not None and limit < len(split):
            holdout = hold_out(np.arange(len(split)), strata[name], limit, seed if name == "train" else split_seed)
            cut[name] = split.select(holdout.held_out)
    return cut
