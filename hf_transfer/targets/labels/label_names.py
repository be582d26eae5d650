"""Label names: which labels can be learned, in which order; their ids and counts; examples with different labels."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from datasets import ClassLabel, Dataset, DatasetDict, List

from hf_transfer.data.values import canonical_name, canonical_names, names_by_canonical_form
from hf_transfer.errors import InputError, logger
from hf_transfer.targets.labels.label_reader import separator_hint
from hf_transfer.targets.labels.number_reader import regression_hint

# What programs write for a missing value; hardly anybody calls a label so.
MISSING_AS_TEXT = ("nan", "<na>", "nat", "null", "#n/a")
# Messages show no more label names than these.
MAX_SHOWN = 20


def label_names(split: Dataset) -> list[str]:
    """Return the label names of a split that has label ids, in the order of the ids."""
    feature = split.features["label"]
    return list(getattr(feature, "feature", feature).names)


def is_multi_label(split: Dataset) -> bool:
    """Return whether an example of the split may have several labels."""
    return isinstance(split.features["label"], List)


def label_counts(split: Dataset, names: Sequence[str] | None = None) -> dict[str, int]:
    """Return by label name the number of examples of a split that have the label.

    Args:
        split: with a column ``label`` that holds names, ids, or lists of them.
        names: of the labels by id, where the column holds ids.
    """
    counts: Counter[str | int] = Counter()
    for batch in split.select_columns("label").iter(batch_size=1000):
        for label in batch["label"]:
            counts.update(label if isinstance(label, list) else [label])
    return {names[int(key)] if names is not None else str(key): count for key, count in sorted(counts.items())}


def untested_labels(test: Dataset, names: Sequence[str]) -> list[str]:
    """Return and log a sentence if some labels have no test examples; else return an empty list.

    Args:
        test: the test split, with label ids.
        names: of the labels, by id.
    """
    counts = label_counts(test, names)
    untested = [name for name in names if not counts.get(name)]
    if not untested:
        return []
    shown = ", ".join(f"'{name}'" for name in untested[:5]) + (", ..." if len(untested) > 5 else "")
    caveat = f"No test example has the label {shown}: how well it is predicted is not measured."
    logger.info("%s", caveat)
    return [caveat]


def contradictions(
    splits: Mapping[str, tuple[list[str], Dataset]], names: Sequence[str], describe: Callable[[Dataset, int], str]
) -> list[str]:
    """Return and log a sentence if equal examples have different labels; else return an empty list.

    Args:
        splits: for each split its identities, a string for each example that is the same for equal ones, and the
            examples.
        names: of the labels, by id.
        describe: ``describe(split, row)`` names an example's input in a sentence.
    """
    # The first label of each identity; further labels are kept only where they differ, as there may be many examples.
    first_labels: dict[str, int | tuple[int, ...]] = {}
    different: dict[str, set[int | tuple[int, ...]]] = {}
    shown = ""
    for identities, split in splits.values():
        for i, (identity, value) in enumerate(zip(identities, split["label"][:], strict=True)):
            label = tuple(sorted(value)) if isinstance(value, list) else value
            if first_labels.setdefault(identity, label) != label:
                different.setdefault(identity, {first_labels[identity]}).add(label)
                shown = shown or describe(split, i)
    if not different:
        return []
    labels = " and ".join(sorted(f"'{_label_text(label, names)}'" for label in next(iter(different.values()))))
    have = "example has" if len(different) == 1 else "examples have"
    caveat = f"{len(different):,} {have} different labels in different rows"
    logger.warning("%s (the %s is %s): no model can predict both. Correct them.", caveat, shown, labels)
    return [f"{caveat}: no model can predict both."]


def _label_text(label: int | tuple[int, ...], names: Sequence[str]) -> str:
    return ", ".join(names[k] for k in (label if isinstance(label, tuple) else (label,))) or "none"


def encode_labels(
    splits: Mapping[str, Dataset],
    counts: Mapping[str, Mapping[str, int]],
    names: Sequence[str],
    *,
    multi_label: bool,
) -> DatasetDict:
    """Return the splits with label ids (a `ClassLabel`, or a list of them) in place of label names.

    Args:
        splits: with label names.
        counts: how often each label occurs in each split.
        names: of the labels, by id.
        multi_label: whether an example may have several labels.

    Raises:
        InputError: a split holds a label that is not in `names`, or lists where single labels are expected, or the
            other way round.
    """
    ids = {name: i for i, name in enumerate(names)}
    ids_by_canonical_form = {form: ids[name] for form, name in names_by_canonical_form(names).items()}
    for split_counts in counts.values():  # another file, or another format, may write the same label differently
        for label in split_counts:
            if label not in ids and canonical_name(label) in ids_by_canonical_form:
                ids[label] = ids_by_canonical_form[canonical_name(label)]
    for name, split_counts in counts.items():
        unknown = sorted(set(split_counts) - set(ids))
        if unknown:
            raise InputError(
                f"The {name} split holds labels that training never saw: {', '.join(map(repr, unknown[:5]))} "
                f"({sum(split_counts[label] for label in unknown)} rows). Training has: "
                f"{', '.join(map(repr, names[:MAX_SHOWN]))}. Add examples of them to training, or correct the "
                f"spelling.{separator_hint([*unknown, *names])}{regression_hint([*unknown, *names])}"
            )
    feature = List(ClassLabel(names=list(names))) if multi_label else ClassLabel(names=list(names))
    encoded = DatasetDict()
    for name, split in splits.items():
        if is_multi_label(split) != multi_label:
            forms = ("single labels", "lists of labels")
            raise InputError(
                f"The {name} split holds {forms[not multi_label]}; expected {forms[multi_label]}. --label_separator "
                "says what separates several labels in a cell; leave it out where there is one."
            )
        features = split.features.copy()
        features["label"] = feature
        encoded[name] = split.map(_label_ids, batched=True, features=features,
                                  fn_kwargs={"ids": ids, "multi_label": multi_label})  # fmt: skip
    return encoded


def _label_ids(batch: dict[str, list], ids: dict[str, int], multi_label: bool) -> dict[str, list]:
    if multi_label:
        return {"label": [sorted({ids[name] for name in label}) for label in batch["label"]]}
    return {"label": [ids[label] for label in batch["label"]]}


def _numeric_sort_key(label: str) -> tuple[int, float, str]:
    """Return a sort key for a label that puts numbers in the order of their value, before other text."""
    try:
        number = float(label)
    except ValueError:
        return (1, 0.0, label)
    return (0, number, label) if math.isfinite(number) else (1, 0.0, label)  # "nan" and "inf" are text


def _equal_but_for_case(names: Sequence[str]) -> list[list[str]]:
    """Return the groups of names that differ in case only, as lists."""
    by_casefold: dict[str, list[str]] = {}
    for name in names:
        by_casefold.setdefault(name.casefold(), []).append(name)
    return [group for group in by_casefold.values() if len(group) > 1]


def learnable_labels(
    train: Dataset, counts: Mapping[str, int], given: Sequence[str] | None, positive_label: str | None
) -> list[str]:
    """Return the label names of the training split in order, by id; the positive label is the last of two.

    Args:
        train: the training split, with label names.
        counts: how often each label occurs in it.
        given: the names in order, where they are fixed: of labels that are ids or vectors.
        positive_label: the value of --positive_label; None for the order by name.

    Raises:
        InputError: there are too few labels or examples, or `positive_label` is not one of two labels.
    """
    names = list(given) if given else sorted(set(canonical_names(counts).values()), key=_numeric_sort_key)
    multi_label = is_multi_label(train)
    _warn_of_suspicious_names(names, counts)
    if len(names) < 2 or (len(counts) < 2 and not multi_label):
        found = ", ".join(f"{name!r} x {count}" for name, count in counts.items()) or "none"
        raise InputError(f"The training split holds one label only ({found}); a classifier needs two or more.")
    if len(train) < 2 * len(names) and not multi_label:
        raise InputError(
            f"The training split has {len(train)} examples for {len(names)} labels ({', '.join(names[:5])}, ...); "
            "expected at least two examples for each label. Is --label_column_name the right column?"
            f"{regression_hint(names)}"
        )
    if hint := "" if multi_label or given else regression_hint(names):
        if any(not float(name).is_integer() for name in names):
            raise InputError(f"{hint.strip()} If they are names of classes, write them as words: 'v{names[0]}'.")
        logger.info("%s", hint.strip())
    if positive_label is not None:
        names = _with_positive_label_last(names, positive_label)
    if len(names) == 2 and not multi_label:
        logger.info("Labels: %s. F1 and thresholds are about %r (--positive_label).", ", ".join(names), names[1])
        return names
    shown = ", ".join(names[:MAX_SHOWN]) + (", ..." if len(names) > MAX_SHOWN else "")
    several = " (an example may have several)" if multi_label else ""
    logger.info("%d labels%s: %s.", len(names), several, shown)
    return names


def _warn_of_suspicious_names(names: Sequence[str], counts: Mapping[str, int]) -> None:
    """Log a warning about labels that differ in case only, and about those that look like missing values."""
    for group in _equal_but_for_case(names):
        logger.warning("Labels %s differ in case only and are learned as different labels. If they are the same "
                       "label, write them alike.", ", ".join(map(repr, group)))  # fmt: skip
    for name in names:
        if name.casefold() in MISSING_AS_TEXT and counts.get(name):
            logger.warning("A label is called %r (%d examples) and is learned as a label. If a program wrote it for "
                           "a missing value, remove those rows.", name, counts[name])  # fmt: skip


def _with_positive_label_last(names: Sequence[str], positive_label: str) -> list[str]:
    positive_label = names_by_canonical_form(names).get(canonical_name(positive_label), positive_label)
    if len(names) != 2 or positive_label not in names:
        raise InputError(f"--positive_label {positive_label}: expected one of two labels; found {names}.")
    return [name for name in names if name != positive_label] + [positive_label]
