"""Chooses examples to hold out for a split: whole units, near a wanted number, and with the strata in proportion.

It is what `sklearn.model_selection.StratifiedShuffleSplit` and `GroupShuffleSplit` do, at once.
"""

from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

# Only so many of the commonest strata are balanced one by one; the rarer ones are balanced as one stratum.
MAX_STRATA = 200
# Strata with a single unit cannot be on both sides. If they hold no more than this share of the examples, all of them
# stay in training.
RARE = 0.1
# The cost of one example too many or too few, where the cost of one example of the wrong stratum is 1.
SIZE_WEIGHT = 2.0
# To get a stratum on both sides, the size may miss the wanted one by this share of it.
SIZE_FOR_BOTH_SIDES = 0.5
# Searches whose costs differ by no more than this share of the wanted size count as equally good: of these, the seed
# decides, so that no example is held out more often than others.
AS_GOOD = 0.02
SEARCHES = 24
# Units with no more than this share of the wanted examples are small.
SMALL = 0.1
# Most exchanges of two units that a step of a search looks at.
MAX_EXCHANGES = 4096
ROUNDING = 1e-9

# The kinds of units that a step of a search removes and adds.
_Step = tuple[list[int], list[int]]


@dataclass(frozen=True)
class Holdout:
    """Dataclass of the indices of the examples that are held out, and of those that remain.

    Attributes:
        remaining: indices of the examples that remain, ascending.
        held_out: indices of the examples that are held out, ascending.
        stratified: whether strata were balanced; they are not if there are too many of them.
        one_sided: share of the examples whose stratum has two examples or more, and all of them on one side.
    """

    remaining: list[int]
    held_out: list[int]
    stratified: bool
    one_sided: float


def hold_out(units: np.ndarray, strata: Sequence[Hashable], wanted: int, seed: int) -> Holdout:
    """Choose about `wanted` examples to hold out, with the strata in proportion, and return them as a `Holdout`.

    No unit is on both sides, and each stratum is on both if it can be.

    A local search from random starts adds, removes and exchanges units. If each unit is a single example, size and
    strata are exact up to rounding.

    Args:
        units: the number of each example's unit, [n], from 0 without gaps.
        strata: the stratum of each example, [n].
        wanted: number of examples to hold out, from 1 to n - 1.
        seed: of the random starts.
    """
    generator = np.random.default_rng(seed)
    stratum_of, target = _targets(units, strata, wanted)
    contents, available, kind_of = _kinds(units, stratum_of)
    units_of_stratum = np.bincount(
        np.unique(np.stack([stratum_of, units]), axis=1)[0],
        minlength=len(target),
    )
    # Strata with the target 0 have to stay in training; others can be on both sides if they have two units or more.
    cost = _Cost(target, contents.T @ available, wanted, both_sides=(units_of_stratum > 1) & (target > 0))
    chosen = _choose_counts(contents, available, cost, generator)
    is_held_out = _choose_units(kind_of, chosen, generator)[units]
    return Holdout(
        np.flatnonzero(~is_held_out).tolist(),
        np.flatnonzero(is_held_out).tolist(),
        stratified=len(target) > 1 or len(set(strata)) == 1,
        one_sided=_one_sided_share(strata, is_held_out),
    )


def _targets(units: np.ndarray, strata: Sequence[Hashable], wanted: int) -> tuple[np.ndarray, np.ndarray]:
    """Number the strata, and return each example's number [n] and how many examples of each to hold out [strata].

    Rare strata are numbered as one.

    Returns:
        The number of each example's stratum, [n], and the examples to hold out of each stratum, [strata].
    """
    sizes = Counter(strata)
    units_of: dict[Hashable, set[int]] = defaultdict(set)
    for stratum, unit in zip(strata, units.tolist(), strict=True):
        units_of[stratum].add(unit)
    # A stratum of one example may be on either side; one of several examples in a single unit should be learned.
    of_one_unit = [stratum for stratum in sizes if len(units_of[stratum]) == 1 and sizes[stratum] > 1]
    are_rare = sum(sizes[stratum] for stratum in of_one_unit) <= RARE * len(strata)
    staying = set(of_one_unit) if are_rare else set()
    common = [stratum for stratum, _ in sizes.most_common() if len(units_of[stratum]) > 1][:MAX_STRATA]
    numbers = {stratum: i for i, stratum in enumerate(common)}
    rare, stay = len(common), len(common) + 1
    stratum_of = np.array([stay if stratum in staying else numbers.get(stratum, rare) for stratum in strata])
    if len(np.unique(stratum_of)) > min(wanted, len(strata) - wanted):  # more strata than examples on one of the sides
        return np.zeros(len(strata), dtype=int), np.array([float(wanted)])
    present, stratum_of = np.unique(stratum_of, return_inverse=True)
    counts = np.bincount(stratum_of).astype(float)
    counts[present == stay] = 0
    return stratum_of, wanted * counts / counts.sum()


def _kinds(units: np.ndarray, stratum_of: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Group the units into kinds, and return the content and number of units of each kind, and each unit's kind.

    Units of a kind hold the same number of examples of each stratum.

    Returns:
        How many examples of each stratum a unit of each kind holds, [kinds, strata]; how many units of each kind there
        are, [kinds]; and the kind of each unit, [units].
    """
    strata = int(stratum_of.max()) + 1
    pairs, counts = np.unique(units.astype(np.int64) * strata + stratum_of, return_counts=True)
    content_of: list[list[tuple[int, int]]] = [[] for _ in range(int(units.max()) + 1)]
    for pair, count in zip(pairs.tolist(), counts.tolist(), strict=True):
        content_of[pair // strata].append((pair % strata, count))
    kinds: dict[tuple[tuple[int, int], ...], int] = {}
    kind_of = np.array([kinds.setdefault(tuple(content), len(kinds)) for content in content_of])
    contents = np.zeros((len(kinds), strata))
    for content, kind in kinds.items():
        for stratum, count in content:
            contents[kind, stratum] = count
    return contents, np.bincount(kind_of), kind_of


class _Cost:
    """Callable that measures how far a choice of held-out examples is from what is wanted.

    It counts examples too many or too few, in all and of each stratum.

    Args:
        target: examples to hold out of each stratum, [strata].
        total: examples of each stratum, [strata].
        wanted: examples to hold out in all.
        both_sides: whether each stratum can be on both sides, [strata].
    """

    def __init__(self, target: np.ndarray, total: np.ndarray, wanted: int, both_sides: np.ndarray):
        self.target, self.total, self.wanted, self.both_sides = target, total, wanted, both_sides
        self.one_sided = SIZE_WEIGHT * SIZE_FOR_BOTH_SIDES * wanted
        # Of a choice that leaves one side empty: above all other costs.
        self.impossible = (SIZE_WEIGHT + 1) * float(total.sum()) + self.one_sided * total.size

    def __call__(self, held_out: np.ndarray) -> np.ndarray:
        """Return the costs [...] of holding out these numbers of examples of each stratum, [..., strata]."""
        size = held_out.sum(axis=-1)
        absent = ((held_out <= 0) | (held_out >= self.total)) & self.both_sides
        misplaced = absent.sum(axis=-1) + ((self.target == 0) & (held_out > 0)).sum(axis=-1)
        distance = SIZE_WEIGHT * abs(size - self.wanted) + abs(held_out - self.target).sum(axis=-1)
        return distance + self.one_sided * misplaced + self.impossible * ((size <= 0) | (size >= self.total.sum()))

    def lower_bound(self) -> float:
        """Return a number that the cost of every choice reaches or exceeds."""
        return float(abs(self.target - np.round(self.target)).sum())


def _choose_counts(
    contents: np.ndarray, available: np.ndarray, cost: _Cost, generator: np.random.Generator
) -> np.ndarray:
    """Search several times, and return how many units of each kind to hold out in one of the best results, [kinds]."""
    results: list[tuple[float, np.ndarray]] = []
    share = cost.wanted / cost.total.sum()
    all_kinds = np.arange(len(available))
    small_kinds = np.flatnonzero(contents.sum(axis=1) <= SMALL * cost.wanted)
    for _ in range(SEARCHES):
        chosen = np.floor(available * share + generator.random(len(available))).astype(int)
        # First, small units are fitted to the large ones that chance has chosen: each large unit gets its chance.
        _, chosen = _search(contents, available, chosen, cost, small_kinds, generator)
        results.append(_search(contents, available, chosen, cost, all_kinds, generator))
        if results[-1][0] <= cost.lower_bound() + AS_GOOD * cost.wanted:
            return results[-1][1]
    lowest = min(value for value, _ in results)
    return next(chosen for value, chosen in results if value <= lowest + AS_GOOD * cost.wanted)


def _search(
    contents: np.ndarray,
    available: np.ndarray,
    chosen: np.ndarray,
    cost: _Cost,
    kinds: np.ndarray,
    generator: np.random.Generator,
) -> tuple[float, np.ndarray]:
    """Add, remove or exchange single units of `kinds` while that lowers the cost; return the cost and the choice.

    Returns:
        The cost in the end, and how many units of each kind are chosen then, [kinds].
    """
    chosen = np.minimum(chosen, available)
    held_out = chosen @ contents
    current = float(cost(held_out))
    while len(kinds):
        removable, addable = kinds[chosen[kinds] > 0], kinds[chosen[kinds] < available[kinds]]
        step = _best_single(contents, held_out, current, cost, removable, addable) or _best_exchange(
            contents, held_out, current, cost, removable, addable, generator
        )
        if step is None:
            break
        removed, added = step
        chosen[removed] -= 1
        chosen[added] += 1
        held_out = chosen @ contents
        current = float(cost(held_out))
    return current, chosen


def _best_single(
    contents: np.ndarray,
    held_out: np.ndarray,
    current: float,
    cost: _Cost,
    removable: np.ndarray,
    addable: np.ndarray,
) -> _Step | None:
    """Return the removal or addition of one unit that lowers the cost most, or None if no such step lowers it."""
    costs = np.concatenate([cost(held_out - contents[removable]), cost(held_out + contents[addable])])
    best = int(costs.argmin())
    if costs[best] >= current - ROUNDING:
        return None
    if best < len(removable):
        return [int(removable[best])], []
    return [], [int(addable[best - len(removable)])]


def _best_exchange(
    contents: np.ndarray,
    held_out: np.ndarray,
    current: float,
    cost: _Cost,
    removable: np.ndarray,
    addable: np.ndarray,
    generator: np.random.Generator,
) -> _Step | None:
    """Return the exchange of two units that lowers the cost most, or None if no exchange lowers it.

    If there are more than `MAX_EXCHANGES`, so many random ones are tried.
    """
    if len(removable) * len(addable) <= MAX_EXCHANGES:
        removed, added = np.repeat(removable, len(addable)), np.tile(addable, len(removable))
    else:
        removed, added = generator.choice(removable, MAX_EXCHANGES), generator.choice(addable, MAX_EXCHANGES)
    if not len(removed):
        return None
    costs = cost(held_out - contents[removed] + contents[added])
    best = int(costs.argmin())
    return ([int(removed[best])], [int(added[best])]) if costs[best] < current - ROUNDING else None


def _choose_units(kind_of: np.ndarray, chosen: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Choose at random as many units of each kind as `chosen` says, and return a boolean for each unit, [units]."""
    order = generator.permutation(len(kind_of))
    order = order[np.argsort(kind_of[order], kind="stable")]  # kind after kind, each shuffled
    first = np.searchsorted(kind_of[order], np.arange(len(chosen)))
    rank = np.empty(len(kind_of), dtype=int)
    rank[order] = np.arange(len(kind_of)) - first[kind_of[order]]
    return rank < chosen[kind_of]


def _one_sided_share(strata: Sequence[Hashable], is_held_out: np.ndarray) -> float:
    """Return the share (0 to 1) of the examples whose stratum has several examples, all of them on one side."""
    sizes = Counter(strata)
    held_out = Counter(stratum for stratum, out in zip(strata, is_held_out.tolist(), strict=True) if out)
    one_sided = sum(size for stratum, size in sizes.items() if size > 1 and held_out[stratum] in (0, size))
    return one_sided / len(strata)
