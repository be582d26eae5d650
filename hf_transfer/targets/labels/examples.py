"""The labels of all splits: their names, ids and counts, and what nothing can be learned from."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from datasets import ClassLabel, Dataset, DatasetDict, List

from hf_transfer.data.values import canonical_name, canonical_names, names_by_canonical_form
from hf_transfer.errors import InputError, logger
from hf_transfer.targets.labels.label_form import several_in_a_cell
from hf_transfer.targets.labels.number_form import number_hint

# What programs write for a value that is missing, and hardly anybody calls a label.
MISSING_AS_TEXT = ("nan", "<na>", "nat", "null", "#n/a")


def label_counts(split: Dataset, names: list[str] | None = None) -> dict[str, int]:
    """How many examples have each label; `names` turns label ids into names."""
    counts: Counter[Any] = Counter()
    for batch in split.select_columns("label").iter(batch_size=1000):
        for label in batch["label"]:
            counts.update(label if isinstance(label, list) else [label])
    return {names[key] if names is not None else key: count for key, count in sorted(counts.items())}


def contradictions(splits: Mapping[str, tuple[list[str], Dataset]], names: list[str]) -> list[str]:
    """In a sentence, that examples have one label here and another there; one of them is shown on the screen alone.

    Args:
        splits: by name, what makes two examples the same, an entry an example, and the examples.
        names: of the labels, by id.
    """
    known: dict[str, int | tuple[int, ...]] = {}  # by identity the first label; no more: there may be many examples
    several: dict[str, set[int | tuple[int, ...]]] = {}
    shown = ""
    for identities, split in splits.values():
        for i, (identity, label) in enumerate(zip(identities, split["label"][:], strict=True)):
            own = tuple(sorted(label)) if isinstance(label, list) else label
            if known.setdefault(identity, own) != own:
                several.setdefault(identity, {known[identity]}).add(own)
                shown = shown or " ".join(split[i]["text"].split())
    if not several:
        return []
    shown = shown if len(shown) <= 60 else f"{shown[:59]}…"
    told = " and ".join(sorted(f"'{_named(own, names)}'" for own in next(iter(several.values()))))
    have = "text has" if len(several) == 1 else "texts have"
    found = f"{len(several):,} {have} different labels in different rows"
    logger.warning("%s ('%s' is %s): no model can be right about both. Mend them.", found, shown, told)
    return [f"{found}: no model can be right about both."]


def _named(label: int | tuple[int, ...], names: list[str]) -> str:
    return ", ".join(names[k] for k in (label if isinstance(label, tuple) else (label,))) or "none"


def encode_labels(
    read: Mapping[str, Dataset], counts: Mapping[str, dict[str, int]], names: list[str], *, several: bool
) -> DatasetDict:
    """The splits with label ids, a `ClassLabel` or a list of them, where they had names.

    Args:
        read: the splits, with the names of labels.
        counts: how often each label occurs in each.
        names: of the labels, by id.
        several: whether an example may have several labels.

    Raises:
        InputError: a split holds a label that is none of `names`, or lists where others hold none.
    """
    index = {name: i for i, name in enumerate(names)}
    plain = {written: index[name] for written, name in names_by_canonical_form(names).items()}
    for own in counts.values():  # the same value as another file, or another format, writes it
        for label in own:
            if label not in index and canonical_name(label) in plain:
                index[label] = plain[canonical_name(label)]
    for name, own in counts.items():
        unknown = sorted(set(own) - set(index))
        if unknown:
            raise InputError(
                f"The {name} split holds labels that training never saw: {', '.join(map(repr, unknown[:5]))} "
                f"({sum(own[label] for label in unknown)} rows). Training has: "
                f"{', '.join(map(repr, names[:20]))}. Add examples of them to training, or correct the spelling."
                f"{several_in_a_cell([*unknown, *names])}{number_hint([*unknown, *names])}"
            )
    labels = List(ClassLabel(names=names)) if several else ClassLabel(names=names)
    encoded = DatasetDict()
    for name, split in read.items():
        if isinstance(split.features["label"], List) != several:
            form = ("one label a row", "lists of labels")
            raise InputError(
                f"The labels of the {name} split are {form[not several]}, and {form[several]} are expected. "
                "--label_separator says what separates several labels in a cell; leave it out where there is one."
            )
        features = split.features.copy()
        features["label"] = labels
        encoded[name] = split.map(_label_ids, batched=True, features=features,
                                  fn_kwargs={"index": index, "several": several})  # fmt: skip
    return encoded


def _label_ids(batch: dict[str, list[Any]], index: dict[str, int], several: bool) -> dict[str, list[Any]]:
    if several:
        return {"label": [sorted({index[name] for name in label}) for label in batch["label"]]}
    return {"label": [index[label] for label in batch["label"]]}


def _numeric_first(label: str) -> tuple[int, float, str]:
    """Sort key: numbers by value, then text by letter."""
    try:
        number = float(label)
    except ValueError:
        return (1, 0.0, label)
    return (0, number, label) if math.isfinite(number) else (1, 0.0, label)  # "nan" and "inf" are text


def _but_for_case(names: list[str]) -> list[list[str]]:
    """Names that are the same in small letters."""
    by_letters: dict[str, list[str]] = {}
    for name in names:
        by_letters.setdefault(name.casefold(), []).append(name)
    return [alike for alike in by_letters.values() if len(alike) > 1]


def learnable_labels(
    train: Dataset, counts: dict[str, int], given: Sequence[str] | None, positive_label: str | None
) -> list[str]:
    """The labels' names in order, the positive one last.

    Args:
        train: the training split, with label names.
        counts: how often each occurs in it.
        given: the names in order, where the labels are ids or vectors.
        positive_label: of two labels, the one to be last, if not the last already.

    Raises:
        InputError: nothing can be learned from them, or `positive_label` is none of two.
    """
    names = list(given) if given else sorted(set(canonical_names(counts).values()), key=_numeric_first)
    several = isinstance(train.features["label"], List)
    for alike in _but_for_case(names):
        logger.warning("Labels %s differ in case alone and are learned as different ones. Mend them if they are one.",
                       ", ".join(map(repr, alike)))  # fmt: skip
    for name in names:
        if name.casefold() in MISSING_AS_TEXT and counts.get(name):
            logger.warning("A label is called %r (%d examples) and is learned as one. If a program wrote it for what "
                           "is missing, remove those rows.", name, counts[name])  # fmt: skip
    if len(names) < 2 or (len(counts) < 2 and not several):
        found = ", ".join(f"{name!r} x {count}" for name, count in counts.items()) or "none"
        raise InputError(f"The training split holds one label only ({found}); a classifier needs two or more.")
    if len(train) < 2 * len(names) and not several:
        raise InputError(
            f"The training split has {len(train)} examples for {len(names)} labels ({', '.join(names[:5])}, ...); "
            f"expected two examples a label at the least. Is --label_column_name the right column?{number_hint(names)}"
        )
    if hint := "" if several or given else number_hint(names):
        if any(not float(name).is_integer() for name in names):
            raise InputError(f"{hint.strip()} If they are names of classes, write them as words: 'v{names[0]}'.")
        logger.info("%s", hint.strip())
    if positive_label is not None:
        positive_label = names_by_canonical_form(names).get(canonical_name(positive_label), positive_label)
        if len(names) != 2 or positive_label not in names:
            raise InputError(f"--positive_label {positive_label}: expected one of two labels; found {names}.")
        names = [name for name in names if name != positive_label] + [positive_label]
    if len(names) == 2 and not several:
        logger.info("Labels: %s. F1 and thresholds are about %r (--positive_label).", ", ".join(names), names[1])
        return names
    shown = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
    logger.info("%d labels%s: %s.", len(names), " (a text may have several)" if several else "", shown)
    return names
