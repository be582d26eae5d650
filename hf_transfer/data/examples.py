"""Labelled examples: the user's columns under the names ``text``, ``text_pair``, ``label`` and ``group``."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from datasets import ClassLabel, Dataset, DatasetDict, Features, LargeList, List, Value

from hf_transfer.data.groups import group_name
from hf_transfer.data.leakage import UNIT
from hf_transfer.data.splits import require_columns
from hf_transfer.data.tables import READER
from hf_transfer.errors import InputError, logger


def read_examples(
    split: Dataset, name: str, columns: dict[str, str], label_separator: str | None, *, drop: bool
) -> Dataset:
    """A split with the columns ``text``, ``label`` (text, or a list of it) and what else `columns` names.

    Args:
        split: the user's rows.
        name: of the split, for messages.
        columns: the user's column for each of ours.
        label_separator: splits a label cell into several labels.
        drop: leave out rows without text or label, instead of refusing them.

    Raises:
        InputError: a column is absent, or rows lack text or label; the message names the first of them.
    """
    require_columns(split, name, columns)
    for own, column in columns.items():
        if own != "label" and isinstance(split.features[column], (List, LargeList, dict)):
            flag = "split_by" if own == UNIT else f"{own}_column_name"
            raise InputError(f"Column {column!r} of the {name} split holds lists, not text (--{flag}).")
    feature = split.features[columns["label"]]
    several = label_separator is not None or isinstance(feature, (List, LargeList))
    inner = getattr(feature, "feature", feature)
    features = {own: Value("string") for own in columns}
    if several:
        features["label"] = List(Value("string"))
    read = split.map(
        _read_batch,
        batched=True,
        remove_columns=split.column_names,
        features=Features({**features, "problem": Value("string")}),
        fn_kwargs={
            "columns": columns,
            "class_names": list(inner.names) if isinstance(inner, ClassLabel) else None,
            "separator": label_separator,
            "several": several,
            "reader": READER,
        },
    )
    return _without_problems(read, name, drop=drop).remove_columns("problem")


def _without_problems(read: Dataset, name: str, *, drop: bool) -> Dataset:
    """The rows that can be used; the others are refused or, if asked, left out."""
    problems = read["problem"][:]
    rows = [i for i, problem in enumerate(problems) if problem]
    if len(rows) == len(problems) and all(problem.startswith("no label") for problem in problems):
        raise InputError(
            f"The {name} split has no labels at all (the first is {problems[0].removeprefix('no label: ')}). Name "
            f"another split or file: --{name}_split_name, --{name}_file."
        )
    if rows and not drop:
        shown = "; ".join(f"row {i + 1}: {problems[i]}" for i in rows[:5])
        raise InputError(
            f"{len(rows)} of {len(problems)} rows in the {name} split cannot be used ({shown}; rows counted from 1, "
            "without the header). Mend or remove them, or leave them out with --drop_incomplete."
            f"{several_in_a_cell({label for label in read['label'][:] if isinstance(label, str)})}"
        )
    if rows:
        kinds = Counter(problems[i].split(":")[0] for i in rows)
        logger.info("Left out of %s: %s (--drop_incomplete).", name, ", ".join(f"{n} x {k}" for k, n in kinds.items()))
        read = read.select([i for i, problem in enumerate(problems) if not problem])
    if len(read) == 0:
        raise InputError(f"The {name} split has no usable rows left.")
    return read


def _read_batch(
    batch: dict[str, list[Any]],
    columns: dict[str, str],
    class_names: list[str] | None,
    separator: str | None,
    several: bool,
    reader: int,  # part of the cache's fingerprint, as in `load_file`
) -> dict[str, list[Any]]:
    read: dict[str, list[Any]] = {own: [] for own in [*columns, "problem"]}
    for i in range(len(batch[columns["label"]])):
        problem = None
        for own, column in columns.items():
            value = batch[column][i]
            if own == "label":
                label = _label(value, class_names, separator, several)
                if label is None:
                    problem = problem or f"no label: {column} is {value!r}"
                read["label"].append(label if label is not None else ([] if several else ""))
                continue
            if own in ("group", UNIT):
                read[own].append(group_name(value))
                continue
            text = "" if value is None or _is_nan(value) else str(value)
            if is_blank(text):
                problem = problem or f"no text: {column} is {value!r}"
            read[own].append(text)
        read["problem"].append(problem)
    return read


def is_blank(text: str) -> bool:
    """Whether nothing of a text is to be seen: spaces of no width and control characters are not."""
    return all(character.isspace() or not character.isprintable() for character in text)


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _label(value: Any, class_names: list[str] | None, separator: str | None, several: bool) -> Any:
    """The label's name, a list of names where there may be several, or None where there is none."""
    if several:
        parts = value.split(separator) if isinstance(value, str) and separator else value
        if parts is None or _is_nan(parts):
            return None
        parts = parts if isinstance(parts, list) else [parts]
        names = [_label(part.strip() if isinstance(part, str) else part, class_names, None, False) for part in parts]
        return None if None in names and names != [None] else sorted({name for name in names if name is not None})
    if value is None or _is_nan(value):
        return None
    if class_names is not None:
        return class_names[value] if 0 <= value < len(class_names) else None  # the Hub's -1: no label
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip() or None


def label_counts(split: Dataset, names: list[str] | None = None) -> dict[str, int]:
    """How many examples have each label; `names` turns label ids into names."""
    counts: Counter[Any] = Counter()
    for batch in split.select_columns("label").iter(batch_size=1000):
        for label in batch["label"]:
            counts.update(label if isinstance(label, list) else [label])
    return {names[key] if names is not None else key: count for key, count in sorted(counts.items())}


def several_in_a_cell(names: Iterable[str]) -> str:
    """A hint where some labels are made of others, or nothing."""
    known = set(names)
    for name in sorted(known):
        for separator in (";", "|", ","):
            parts = [part.strip() for part in name.split(separator)]
            if len(parts) > 1 and set(parts) <= known:
                return f" Labels such as {name!r} hold others: --label_separator {separator!r} makes them several."
    return ""


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
    found = f"{len(several):,} texts have different labels in different rows"
    logger.warning("%s ('%s' is %s): no model can be right about both. Mend them.", found, shown, told)
    return [f"{found}: no model can be right about both."]


def _named(label: int | tuple[int, ...], names: list[str]) -> str:
    return ", ".join(names[k] for k in (label if isinstance(label, tuple) else (label,))) or "none"


def encode_labels(
    read: Mapping[str, Dataset], counts: Mapping[str, dict[str, int]], names: list[str], *, several: bool
) -> DatasetDict:
    """The splits with label ids, a `ClassLabel` or a list of them, where they had names.

    Args:
        read: the splits, from `read_examples`.
        counts: how often each label occurs in each.
        names: of the labels, by id.
        several: whether an example may have several labels.

    Raises:
        InputError: a split holds a label that is none of `names`, or lists where others hold none.
    """
    for name, own in counts.items():
        unknown = sorted(set(own) - set(names))
        if unknown:
            raise InputError(
                f"The {name} split holds labels that training never saw: {', '.join(map(repr, unknown[:5]))} "
                f"({sum(own[label] for label in unknown)} rows). Training has: "
                f"{', '.join(map(repr, names[:20]))}. Add examples of them to training, or correct the spelling."
                f"{several_in_a_cell([*unknown, *names])}"
            )
    labels = List(ClassLabel(names=names)) if several else ClassLabel(names=names)
    index = {name: i for i, name in enumerate(names)}
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
        return {"label": [[index[name] for name in label] for label in batch["label"]]}
    return {"label": [index[label] for label in batch["label"]]}


def _numeric_first(label: str) -> tuple[int, float, str]:
    """Sort key: numbers by value, then text by letter."""
    try:
        return (0, float(label), label)
    except ValueError:
        return (1, 0.0, label)


def _but_for_case(names: list[str]) -> list[list[str]]:
    """Names that are the same in small letters."""
    by_letters: dict[str, list[str]] = {}
    for name in names:
        by_letters.setdefault(name.casefold(), []).append(name)
    return [alike for alike in by_letters.values() if len(alike) > 1]


def learnable_labels(train: Dataset, counts: dict[str, int], feature: Any, positive_label: str | None) -> list[str]:
    """The labels' names in order, the positive one last.

    Args:
        train: the training split, with label names.
        counts: how often each occurs in it.
        feature: of the user's label column, which may name the labels.
        positive_label: of two labels, the one to be last, if not the last already.

    Raises:
        InputError: nothing can be learned from them, or `positive_label` is none of two.
    """
    inner = getattr(feature, "feature", feature)
    names = list(inner.names) if isinstance(inner, ClassLabel) else sorted(counts, key=_numeric_first)
    several = isinstance(train.features["label"], List)
    for alike in _but_for_case(names):
        logger.warning("Labels %s differ in case alone and are learned as different ones. Mend them if they are one.",
                       ", ".join(map(repr, alike)))  # fmt: skip
    if len(names) < 2 or (len(counts) < 2 and not several):
        found = ", ".join(f"{name!r} x {count}" for name, count in counts.items()) or "none"
        raise InputError(f"The training split holds one label only ({found}); a classifier needs two or more.")
    if len(train) < 2 * len(names) and not several:
        raise InputError(
            f"The training split has {len(train)} examples for {len(names)} labels ({', '.join(names[:5])}, ...); "
            "expected two examples a label at the least. Is --label_column_name the right column?"
        )
    if positive_label is not None:
        if len(names) != 2 or positive_label not in names:
            raise InputError(f"--positive_label {positive_label}: expected one of two labels; found {names}.")
        names = [name for name in names if name != positive_label] + [positive_label]
    if len(names) == 2 and not several:
        logger.info("Labels: %s. F1 and thresholds are about %r (--positive_label).", ", ".join(names), names[1])
        return names
    shown = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
    logger.info("%d labels%s: %s.", len(names), " (a text may have several)" if several else "", shown)
    return names
