"""Hub datasets and local files to a `DatasetDict` with train, validation and test splits."""

import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
from datasets import Dataset, DatasetDict
from sklearn.model_selection import StratifiedGroupKFold, train_test_split

from hf_transfer.arguments import DataArguments
from hf_transfer.data.audiofolder import SPLIT_NAMES, audiofolder_tables, load_audiofolder
from hf_transfer.data.tables import load_file
from hf_transfer.errors import InputError, logger, short_path

# `source` is what the model knew before, to be measured apart; `replay` more of it, to be mixed into training.
SPLITS = ("train", "validation", "test", "source", "replay")
# More than this says little more about temperature and threshold, and is missed in training.
ENOUGH_TO_VALIDATE = 400
# With fewer speakers, one who is left out is too large a part of what is learned or measured.
ENOUGH_SPEAKERS = 10


def load_splits(data: DataArguments) -> DatasetDict:
    """The splits that the user names, as they are: Hub dataset or local files.

    Returns:
        A `DatasetDict` with the key ``train`` and, where they exist, ``validation`` and ``test``.

    Raises:
        InputError: a file or dataset is missing or cannot be read; the message says where.
    """
    files = {name: getattr(data, f"{name}_file") for name in SPLITS[:4]}
    splits = DatasetDict()
    if data.dataset_name and (tables := audiofolder_tables(Path(data.dataset_name))):
        splits = load_audiofolder(Path(data.dataset_name), tables)
        if list(splits) == ["train"]:
            splits = divided_by_column(splits["train"], str(tables["train"]))
    elif data.dataset_name:
        splits = _load_from_hub(data)
    elif not files["train"]:
        raise InputError("Nothing to train on: expected --train_file FILE or --dataset_name NAME.")
    for name, file in files.items():
        if file:
            splits[name] = load_file(file, column_names=data.column_names, delimiter=data.delimiter)
    if data.train_file:
        # Rows that the column keeps out of training stay out, even where a file was named for their split.
        splits = DatasetDict({**divided_by_column(splits["train"], data.train_file), **splits_beside(splits)})
    if "source" in splits:
        divided = divided_by_column(splits["source"], str(data.source_file))
        if "test" in divided:
            splits["source"], splits["replay"] = divided["test"], divided["train"]
    return splits


def splits_beside(splits: DatasetDict) -> DatasetDict:
    """The splits but training."""
    return DatasetDict({name: split for name, split in splits.items() if name != "train"})


def divided_by_column(table: Dataset, source: str) -> DatasetDict:
    """One table for all splits, told apart by a column ``split``: its rows go where they belong, and that is said."""
    if "split" not in table.column_names:
        return DatasetDict(train=table)
    values = [str(value).strip().lower() for value in table["split"][:]]
    rows = {name: [i for i, value in enumerate(values) if value in usual] for name, usual in SPLIT_NAMES.items()}
    divided_rows = sum(map(len, rows.values()))
    if divided_rows < len(values) / 2 or not rows["train"]:
        return DatasetDict(train=table)  # a column that means something else
    if divided_rows < len(values):
        usual = {word for words in SPLIT_NAMES.values() for word in words}
        number, odd = next((i, value) for i, value in enumerate(values, start=1) if value not in usual)
        raise InputError(
            f"{short_path(source)}: row {number} is of the split {odd!r}; expected one of {', '.join(sorted(usual))} "
            "in the column 'split', which divides the table. Mend the row, or rename the column."
        )
    divided = DatasetDict({name: table.select(indices) for name, indices in rows.items() if indices})
    sizes = ", ".join(f"{len(split)} {name}" for name, split in divided.items())
    logger.info("The column 'split' of %s divides it: %s.", short_path(source), sizes)
    return divided


def _load_from_hub(data: DataArguments) -> DatasetDict:
    name = data.dataset_name
    try:
        loaded = datasets.load_dataset(name, data.dataset_config_name)
    except Exception as error:  # network, missing datasets, files that do not fit together
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        offline = " HF_HUB_OFFLINE is set." if os.environ.get("HF_HUB_OFFLINE") in ("1", "ON", "YES", "TRUE") else ""
        raise InputError(
            f"--dataset_name {name} could not be loaded: {reason}{offline} Expected a dataset on the Hub, reachable "
            "from here, or a local folder of data files; a single local file goes to --train_file."
        ) from error
    splits = DatasetDict()
    for split in SPLITS[:3]:
        wanted = getattr(data, f"{split}_split_name")
        if wanted in loaded:
            splits[split] = loaded[wanted]
        elif split == "train" or wanted != split:
            raise InputError(
                f"--{split}_split_name {wanted}: {name} has no such split; it has {', '.join(map(str, loaded))}."
            )
    return splits


def require_columns(split: Dataset, name: str, columns: Mapping[str, str]) -> None:
    """Refuse a split without one of the user's columns, by our names for them.

    Raises:
        InputError: it is absent.
    """
    for own, column in columns.items():
        if column not in split.column_names:
            raise InputError(
                f"The {name} split has no column {column!r} (--{own}_column_name); it has: "
                f"{', '.join(split.column_names)}."
            )


def find_column(columns: Sequence[str], given: str | None, usual: Sequence[str], flag: str) -> str:
    """The column that the user names, or the first of the `usual` names that there is; and that is said.

    Raises:
        InputError: there is no such column; the message names those that there are.
    """
    if given is not None:
        if given not in columns:
            raise InputError(f"--{flag} {given}: there is no such column. There are: {', '.join(columns)}.")
        return given
    by_name = {name.lower(): name for name in reversed(columns)}
    for name in usual:
        if name in by_name:
            logger.info("Column %r is taken as --%s.", by_name[name], flag)
            return by_name[name]
    message = f"No column is named like a {flag.removesuffix('_column_name')} ({', '.join(usual[:4])}, ...)."
    message += f" There are: {', '.join(repr(name[:40]) for name in columns)}. Name it: --{flag} COLUMN."
    if any(len(name) > 30 or " " in name for name in columns):
        message += " If the file has no header, name its columns in order: --column_names label text."
    raise InputError(message)


def complete_splits(
    splits: DatasetDict, strata: dict[str, list[Any]], data: DataArguments, seed: int
) -> tuple[DatasetDict, dict[str, Any]]:
    """Make the splits that are missing, stratified and seeded; of whole speakers where ten or more are known.

    Args:
        splits: at least ``train``.
        strata: for each split, what each example is stratified by.
        data: shares.
        seed: of the draw.

    Returns:
        The splits with ``test`` and, unless its share is 0, ``validation``; and what was made from what.
    """
    made: dict[str, Any] = {}
    train = splits["train"]
    strata = dict(strata)
    complete = DatasetDict({name: split for name, split in splits.items() if name != "train"})
    for name, share in (("test", data.test_size), ("validation", data.validation_size)):
        if name in splits or share == 0:
            continue
        if share is None:
            share = min(0.1, ENOUGH_TO_VALIDATE / len(train))
        whole = _whole_speakers(train, strata["train"], share, seed)
        keep, taken, evenly = whole or _stratified(strata["train"], share, seed)
        how = "stratified" if evenly else "at random, as some kinds are too rare"
        how = "whole speakers, as new voices are what it is for" if whole else how
        complete[name], train = train.select(taken), train.select(keep)
        strata[name] = [strata["train"][i] for i in taken]
        strata["train"] = [strata["train"][i] for i in keep]
        made[name] = {"from": "train", "share": len(taken) / len(keep + taken), "seed": seed,
                      "whole_speakers": whole is not None}  # fmt: skip
        logger.info(
            "No %s split: %d examples of the training split are kept for it (%s, seed %d; --%s_size).",
            name, len(taken), how, seed, name,
        )  # fmt: skip
    if "test" not in complete:
        raise InputError("There is nothing to measure on: give --test_file, or --test_size above 0.")
    complete["train"] = train
    return DatasetDict({name: complete[name] for name in SPLITS if name in complete}), made


def _whole_speakers(
    train: Dataset, strata: list[Any], share: float, seed: int
) -> tuple[list[int], list[int], bool] | None:
    """As `_stratified`, no speaker on both sides; None with too few speakers, in all or of a kind."""
    speakers, folds = train["speaker"][:] if "speaker" in train.column_names else [], round(1 / share)
    if len(set(speakers)) < ENOUGH_SPEAKERS or folds < 2:
        return None
    evenly = min(Counter(strata).values()) >= folds
    kinds = strata if evenly else [0] * len(strata)
    divided = StratifiedGroupKFold(folds, shuffle=True, random_state=seed).split(strata, kinds, speakers)
    keep, taken = next(divided)
    if any({strata[i] for i in side} != set(strata) for side in (keep, taken)):
        return None  # one kind of examples would not be learned, or not measured
    return keep.tolist(), taken.tolist(), evenly


def cut_to_sizes(
    splits: DatasetDict, strata: dict[str, list[Any]], data: DataArguments, seed: int, split_seed: int
) -> DatasetDict:
    """The splits with no more examples than --max_train_samples (by `seed`) and --max_eval_samples, stratified."""
    limits = dict.fromkeys(SPLITS, data.max_eval_samples) | {"train": data.max_train_samples, "replay": None}
    cut = DatasetDict(splits)
    for name, split in splits.items():
        limit = limits[name]
        if limit is not None and limit < len(split):
            _, taken, _ = _stratified(strata[name], limit, seed if name == "train" else split_seed)
            cut[name] = split.select(taken)
    return cut


def _stratified(strata: list[Any], share: float, seed: int) -> tuple[list[int], list[int], bool]:
    """Indices to keep and indices taken, each in their first order; and whether every stratum is on both sides."""
    count = len(strata)
    wanted = share if isinstance(share, int) else max(1, math.ceil(count * share))
    if wanted >= count:
        raise InputError(f"{count} examples are too few to take {wanted} of them for another split.")
    counts = Counter(strata)
    # Strata of one example cannot be on both sides: they go together, wherever they fall.
    keys = [key if counts[key] > 1 else "\0rare" for key in strata]
    pooled = Counter(keys)
    if pooled["\0rare"] == 1:  # a single one goes with the commonest
        keys = [counts.most_common(1)[0][0] if key == "\0rare" else key for key in keys]
    pooled = Counter(keys)
    fits = min(pooled.values()) > 1 and len(pooled) <= wanted and len(pooled) <= count - wanted
    keep, taken = train_test_split(
        range(count), test_size=wanted, stratify=keys if fits else None, random_state=seed, shuffle=True
    )
    return sorted(keep), sorted(taken), fits


def overlap(
    splits: DatasetDict, keys: dict[str, list[str]], *, remove: bool
) -> tuple[DatasetDict, dict[str, int], list[str]]:
    """Count the examples of training that validation or test hold as well, and take them out if asked.

    Args:
        splits: with ``train``.
        keys: for each split, what makes two examples the same, an entry an example.
        remove: take them out of ``train``.

    Returns:
        The splits; how many examples of each held-out split are in training too, and how many were
        ``removed_from_train``; what the test examples among them make of the result, in a sentence or none.
    """
    caveats = []
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
    return splits, {**counts, "removed_from_train": shared if remove else 0}, caveats
