"""Held-out examples chosen at random: whole units, near the size that is asked for and the shares of the strata."""

from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

# So many of the commonest strata are looked at, each by itself; the rarer ones are taken together.
MOST_STRATA = 200
# Strata of a single unit cannot be on both sides. While they hold no more of the examples, they stay in training.
RARE = 0.1
# An example too many or too few in all counts as much as so many that are of another stratum than they should be.
SIZE_WEIGHT = 2.0
# For a stratum on both sides instead of one, the size may miss by this share of what is asked for.
MISSING = 0.5
# Of several searches, all that come this near to the best are as good: the seed decides, and not the last example.
AS_GOOD = 0.02
SEARCHES = 24
# Units of no more than this share of what is wanted are small.
SMALL = 0.1
# Exchanges of two units that are looked at in one step of a search.
EXCHANGES = 4096
ROUNDING = 1e-9


@dataclass(frozen=True)
class Holdout:
    """Examples that stay and examples that are held out.

    Attributes:
        kept: indices of those that stay, ascending.
        taken: indices of those that are held out, ascending.
        stratified: whether the strata were aimed at: there may be too many.
        one_sided: share of the examples whose stratum has two examples or more and is on one side only.
    """

    kept: list[int]
    taken: list[int]
    stratified: bool
    one_sided: float


def hold_out(units: np.ndarray, strata: Sequence[Hashable], wanted: int, seed: int) -> Holdout:
    """Hold out about `wanted` examples: no unit on both sides, each stratum on both and in its share where it can be.

    A local search from random starts, which adds, removes and exchanges units. Where each unit is one example, size
    and strata are met to rounding.

    Args:
        units: the number of each example's unit, [n], from 0 on without gaps.
        strata: what each example is stratified by, [n].
        wanted: number of examples to hold out, from 1 to n - 1.
        seed: of the draw.
    """
    source = np.random.default_rng(seed)
    columns, target = _columns(units, strata, wanted)
    vectors, available, kind = _kinds(units, columns)
    several = np.bincount(np.unique(np.stack([columns, units]), axis=1)[0], minlength=len(target)) > 1
    # Two units or more of a stratum can be on both sides; what has the target 0 has to stay.
    cost = _Cost(target, vectors.T @ available, wanted, both_sides=several & (target > 0))
    chosen = _nearest(vectors, available, cost, source)
    held_out = _of_each_kind(kind, chosen, source)[units]
    return Holdout(
        np.flatnonzero(~held_out).tolist(),
        np.flatnonzero(held_out).tolist(),
        stratified=len(target) > 1 or len(set(strata)) == 1,
        one_sided=_one_sided(strata, held_out),
    )


def _columns(units: np.ndarray, strata: Sequence[Hashable], wanted: int) -> tuple[np.ndarray, np.ndarray]:
    """The number of each example's stratum, [n], rare ones taken together; and how many of each to hold out."""
    examples = Counter(strata)
    holders: dict[Hashable, set[int]] = defaultdict(set)
    for key, unit in zip(strata, units.tolist(), strict=True):
        holders[key].add(unit)
    # A stratum of one example is as good on one side as on the other; one of several is to be learned.
    alone = [key for key in examples if len(holders[key]) == 1 and examples[key] > 1]
    staying = set(alone) if sum(examples[key] for key in alone) <= RARE * len(strata) else set()
    common = [key for key, _ in examples.most_common() if len(holders[key]) > 1][:MOST_STRATA]
    numbers = {key: i for i, key in enumerate(common)}
    rare, stay = len(common), len(common) + 1
    columns = np.array([stay if key in staying else numbers.get(key, rare) for key in strata])
    if len(np.unique(columns)) > min(wanted, len(strata) - wanted):  # more strata than examples on one of the sides
        columns = np.zeros(len(strata), dtype=int)
        return columns, np.array([float(wanted)])
    there, columns = np.unique(columns, return_inverse=True)
    counts = np.bincount(columns).astype(float)
    counts[there == stay] = 0
    return columns, wanted * counts / counts.sum()


def _kinds(units: np.ndarray, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Units that hold the same numbers of the same strata, as one kind.

    Returns:
        How many examples of each stratum a unit of each kind holds, [kinds, strata]; how many units there are of it,
        [kinds]; and the kind of each unit.
    """
    strata = int(columns.max()) + 1
    pairs, counts = np.unique(units.astype(np.int64) * strata + columns, return_counts=True)
    content: list[list[tuple[int, int]]] = [[] for _ in range(int(units.max()) + 1)]
    for pair, count in zip(pairs.tolist(), counts.tolist(), strict=True):
        content[pair // strata].append((pair % strata, count))
    numbers: dict[tuple[tuple[int, int], ...], int] = {}
    kind = np.array([numbers.setdefault(tuple(one), len(numbers)) for one in content])
    vectors = np.zeros((len(numbers), strata))
    for held, row in numbers.items():
        for column, count in held:
            vectors[row, column] = count
    return vectors, np.bincount(kind), kind


class _Cost:
    """How far a choice is from what is asked for: examples too many or too few, in all and of each stratum."""

    def __init__(self, target: np.ndarray, total: np.ndarray, wanted: int, both_sides: np.ndarray):
        self.target, self.total, self.wanted, self.both_sides = target, total, wanted, both_sides
        self.missing = SIZE_WEIGHT * MISSING * wanted
        self.impossible = (SIZE_WEIGHT + 1) * float(total.sum()) + self.missing * total.size  # above all other costs

    def __call__(self, taken: np.ndarray) -> np.ndarray:
        """Of the numbers of examples taken from each stratum, [..., strata]."""
        size = taken.sum(axis=-1)
        absent = ((taken <= 0) | (taken >= self.total)) & self.both_sides
        broken = absent.sum(axis=-1) + ((self.target == 0) & (taken > 0)).sum(axis=-1)
        distance = SIZE_WEIGHT * abs(size - self.wanted) + abs(taken - self.target).sum(axis=-1)
        return distance + self.missing * broken + self.impossible * ((size <= 0) | (size >= self.total.sum()))

    def lowest(self) -> float:
        """What no choice is below."""
        return float(abs(self.target - np.round(self.target)).sum())


def _nearest(vectors: np.ndarray, available: np.ndarray, cost: _Cost, source: np.random.Generator) -> np.ndarray:
    """How many units of each kind to take, [kinds]: one of the best of several searches."""
    results: list[tuple[float, np.ndarray]] = []
    share = cost.wanted / cost.total.sum()
    small = np.flatnonzero(vectors.sum(axis=1) <= SMALL * cost.wanted)
    for _ in range(SEARCHES):
        chosen = np.floor(available * share + source.random(len(available))).astype(int)
        # The small ones are fitted to the large that chance has chosen, before it is asked whether others do better.
        _, chosen = _search(vectors, available, chosen, cost, small, source)
        results.append(_search(vectors, available, chosen, cost, np.arange(len(available)), source))
        if results[-1][0] <= cost.lowest() + AS_GOOD * cost.wanted:
            return results[-1][1]
    best = min(value for value, _ in results)
    return next(chosen for value, chosen in results if value <= best + AS_GOOD * cost.wanted)


def _search(
    vectors: np.ndarray,
    available: np.ndarray,
    chosen: np.ndarray,
    cost: _Cost,
    kinds: np.ndarray,
    source: np.random.Generator,
) -> tuple[float, np.ndarray]:
    """Add, remove or exchange a unit of `kinds` while that brings the choice nearer: its cost in the end, and it."""
    chosen = np.minimum(chosen, available)
    taken = chosen @ vectors
    now = float(cost(taken))
    while len(kinds):
        out, into = kinds[chosen[kinds] > 0], kinds[chosen[kinds] < available[kinds]]
        step = _better(vectors, taken, now, cost, out, into) or _exchange(vectors, taken, now, cost, out, into, source)
        if step is None:
            break
        removed, added = step
        chosen[removed] -= 1
        chosen[added] += 1
        taken = chosen @ vectors
        now = float(cost(taken))
    return now, chosen


def _better(
    vectors: np.ndarray, taken: np.ndarray, now: float, cost: _Cost, out: np.ndarray, into: np.ndarray
) -> tuple[list[int], list[int]] | None:
    """The unit whose removal (of the kinds `out`) or addition (of `into`) brings a choice nearest, if any does."""
    costs = np.concatenate([cost(taken - vectors[out]), cost(taken + vectors[into])])
    best = int(costs.argmin())
    if costs[best] >= now - ROUNDING:
        return None
    return ([int(out[best])], []) if best < len(out) else ([], [int(into[best - len(out)])])


def _exchange(
    vectors: np.ndarray,
    taken: np.ndarray,
    now: float,
    cost: _Cost,
    out: np.ndarray,
    into: np.ndarray,
    source: np.random.Generator,
) -> tuple[list[int], list[int]] | None:
    """The exchange of two units that brings a choice nearest, of all or of many at random, if any does."""
    if len(out) * len(into) <= EXCHANGES:
        removed, added = np.repeat(out, len(into)), np.tile(into, len(out))
    else:
        removed, added = source.choice(out, EXCHANGES), source.choice(into, EXCHANGES)
    if not len(removed):
        return None
    costs = cost(taken - vectors[removed] + vectors[added])
    best = int(costs.argmin())
    return ([int(removed[best])], [int(added[best])]) if costs[best] < now - ROUNDING else None


def _of_each_kind(kind: np.ndarray, chosen: np.ndarray, source: np.random.Generator) -> np.ndarray:
    """Whether each unit is taken, [units]: of each kind as many as `chosen` says, by chance."""
    order = source.permutation(len(kind))
    order = order[np.argsort(kind[order], kind="stable")]  # kind after kind, each shuffled
    first = np.searchsorted(kind[order], np.arange(len(chosen)))
    place = np.empty(len(kind), dtype=int)
    place[order] = np.arange(len(kind)) - first[kind[order]]
    return place < chosen[kind]


def _one_sided(strata: Sequence[Hashable], held_out: np.ndarray) -> float:
    counts = Counter(strata)
    taken = Counter(key for key, out in zip(strata, held_out.tolist(), strict=True) if out)
    return sum(count for key, count in counts.items() if count > 1 and taken[key] in (0, count)) / len(strata)
