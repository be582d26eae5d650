"""Hub datasets and local files to a `DatasetDict` with train, validation and test splits."""

import json
import math
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
from datasets import Dataset, DatasetDict, Features, List, Value, concatenate_datasets
from sklearn.model_selection import train_test_split

from hf_transfer.arguments import DataArguments
from hf_transfer.data.tables import SUFFIXES, read_rows
from hf_transfer.errors import Failure, InputError, logger, nearest

SPLITS = ("train", "validation", "test", "source")
# What the column or the folder of a split is called.
SPLIT_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev", "development"),
    "test": ("test", "testing", "eval", "evaluation"),
}
# More than this says little more about temperature and threshold, and is missed in training.
ENOUGH_TO_VALIDATE = 400


def load_splits(data: DataArguments) -> DatasetDict:
    """The splits that the user names, as they are: Hub dataset or local files.

    Returns:
        A `DatasetDict` with the key ``train`` and, where they exist, ``validation`` and ``test``.

    Raises:
        InputError: a file or dataset is missing or cannot be read; the message says where.
    """
    files = {name: getattr(data, f"{name}_file") for name in SPLITS}
    splits = DatasetDict()
    if data.dataset_name and (tables := audiofolder_tables(Path(data.dataset_name))):
        splits = load_audiofolder(Path(data.dataset_name), tables)
    elif data.dataset_name:
        splits = _load_from_hub(data)
    elif not files["train"]:
        raise InputError("Nothing to train on: expected --train_file FILE or --dataset_name NAME.")
    for name, file in files.items():
        if file:
            splits[name] = load_file(file, column_names=data.column_names, delimiter=data.delimiter)
    if data.train_file and not data.test_file:
        splits = divided_by_column(splits, data.train_file)
    return splits


def divided_by_column(splits: DatasetDict, source: str) -> DatasetDict:
    """One table for all splits, told apart by a column ``split``: its rows go where they belong, and that is said."""
    table = splits["train"]
    if "split" not in table.column_names:
        return splits
    values = [str(value).strip().lower() for value in table["split"][:]]
    rows = {name: [i for i, value in enumerate(values) if value in usual] for name, usual in SPLIT_NAMES.items()}
    if sum(map(len, rows.values())) != len(values) or not rows["train"] or not rows["test"]:
        return splits  # a column that means something else
    divided = DatasetDict({name: table.select(indices) for name, indices in rows.items() if indices})
    shown = ", ".join(f"{len(split)} {name}" for name, split in divided.items())
    logger.info("The column 'split' of %s divides it: %s.", source, shown)
    return DatasetDict({**splits, **divided})


def audiofolder_tables(folder: Path) -> dict[str, Path]:
    """The ``metadata`` tables of a local audiofolder: one, or one in each split's folder; none elsewhere.

    The format is that of https://huggingface.co/docs/datasets/audio_dataset#audiofolder.
    """
    places = {"train": folder}
    if folder.is_dir() and not any(_metadata_in(folder)):
        places = {
            name: child
            for name, usual in SPLIT_NAMES.items()
            for child in sorted(folder.iterdir())
            if child.is_dir() and child.name.lower() in usual
        }
    return {name: table for name, place in places.items() for table in list(_metadata_in(place))[:1]}


def _metadata_in(folder: Path) -> Iterator[Path]:
    return (file for suffix in SUFFIXES if (file := folder / f"metadata{suffix}").is_file())


def load_audiofolder(folder: Path, tables: dict[str, Path]) -> DatasetDict:
    """The rows of an audiofolder's tables, with ``file_name`` as a whole path.

    Raises:
        InputError: a table has no such column, or names a file outside the folder.
    """
    if "train" not in tables:
        raise InputError(
            f"{folder}: an audiofolder without training data: expected metadata.csv, or train/metadata.csv."
        )
    splits = DatasetDict()
    for name, table in tables.items():
        rows = load_file(str(table))
        if "file_name" not in rows.column_names:
            raise InputError(
                f"{table}: an audiofolder's table needs a column file_name; it has {', '.join(rows.column_names)}."
            )
        home = table.parent.resolve()
        whole = []
        for number, file in enumerate(rows["file_name"][:], start=1):
            path = (home / str(file)).resolve()
            if not path.is_relative_to(home):
                raise InputError(f"{table}: row {number} names {file}, which is outside the folder {table.parent}.")
            whole.append(str(path))
        splits[name] = rows.remove_columns("file_name").add_column("file_name", whole)
    return divided_by_column(splits, str(tables["train"])) if list(splits) == ["train"] else splits


def load_file(file: str, *, column_names: Sequence[str] | None = None, delimiter: str | None = None) -> Dataset:
    """A local table as a memory-mapped `Dataset`; read again only when the file has changed."""
    path = Path(file).resolve()
    if path.suffix.lower() == ".parquet":
        next(read_rows(file))  # what is no Parquet file is refused with the reader's message
        return Dataset.from_parquet(str(path))
    status = path.stat() if path.is_file() else None
    features = _json_features(file) if path.suffix.lower() in (".json", ".jsonl") else None
    try:
        return Dataset.from_generator(
            _rows,
            features=features,
            gen_kwargs={
                "file": str(file),
                # Tuples: `datasets` takes lists among the generator's arguments for shards and hands on a part.
                "column_names": None if column_names is None else tuple(column_names),
                "delimiter": delimiter,
                "columns": tuple((name, isinstance(kind, List)) for name, kind in (features or {}).items()),
                # Part of the cache's fingerprint: an edited file is read anew.
                "changed": (status.st_mtime_ns, status.st_size) if status else None,
            },
        )
    except datasets.exceptions.DatasetGenerationError as error:
        # `datasets` wraps what the reader raised; the reader's own message is the one that helps.
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, (InputError, OSError)):
            cause = cause.__cause__ or cause.__context__
        if isinstance(cause, InputError):
            raise cause from None
        raise Failure(f"{file} could not be converted: {cause or error}.") from error


def _json_features(file: str) -> Features:
    """Columns of a JSON file: lists of text where any row has a list, text otherwise; rows may lack some."""
    lists: dict[str, bool] = {}
    for row in read_rows(file):
        for name, value in row.items():
            lists[name] = lists.get(name, False) or isinstance(value, list)
    return Features({name: List(Value("string")) if many else Value("string") for name, many in lists.items()})


def _as_text(value: Any) -> str | None:
    """A JSON value as the text that names it: 1.0 is the label "1", as in a table; what is absent stays so."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _rows(
    file: str,
    column_names: Sequence[str] | None,
    delimiter: str | None,
    columns: tuple[tuple[str, bool], ...],
    changed: Any,
) -> Iterator[dict[str, Any]]:
    for row in read_rows(file, column_names=column_names, delimiter=delimiter):
        if not columns:
            yield row
            continue
        uniform: dict[str, Any] = {}
        for name, is_list in columns:
            value = row.get(name)
            if is_list and value is not None:
                uniform[name] = [_as_text(item) for item in (value if isinstance(value, list) else [value])]
            else:
                uniform[name] = _as_text(value)
        yield uniform


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
    """Make the splits that are missing, stratified and seeded, and cut them to the asked sizes.

    Args:
        splits: at least ``train``.
        strata: for each split, what each example is stratified by.
        data: shares and limits.
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
        keep, taken = _stratified(strata["train"], share, seed)
        complete[name], train = train.select(taken), train.select(keep)
        strata[name] = [strata["train"][i] for i in taken]
        strata["train"] = [strata["train"][i] for i in keep]
        made[name] = {"from": "train", "share": len(taken) / len(keep + taken), "seed": seed}
        logger.info(
            "No %s split: %d examples of the training split are kept for it (stratified, seed %d; --%s_size).",
            name, len(taken), seed, name,
        )  # fmt: skip
    if "test" not in complete:
        raise InputError("There is nothing to measure on: give --test_file, or --test_size above 0.")
    complete["train"] = train
    limits = dict.fromkeys(SPLITS, data.max_eval_samples) | {"train": data.max_train_samples}
    for name, limit in limits.items():
        if limit is not None and name in complete and limit < len(complete[name]):
            _, taken = _stratified(strata[name], limit, seed)
            complete[name] = complete[name].select(taken)
    return DatasetDict({name: complete[name] for name in SPLITS if name in complete}), made


def _stratified(strata: list[Any], share: float, seed: int) -> tuple[list[int], list[int]]:
    """Indices to keep and indices taken, each in their first order."""
    count = len(strata)
    wanted = share if isinstance(share, int) else max(1, math.ceil(count * share))
    if wanted >= count:
        raise InputError(f"{count} examples are too few to take {wanted} of them for another split.")
    counts = Counter(strata)
    # Strata of one example cannot be on both sides: they go together, wherever they fall.
    keys = [key if counts[key] > 1 else "\0rare" for key in strata]
    pooled = Counter(keys)
    fits = min(pooled.values()) > 1 and len(pooled) <= wanted and len(pooled) <= count - wanted
    keep, taken = train_test_split(
        range(count), test_size=wanted, stratify=keys if fits else None, random_state=seed, shuffle=True
    )
    return sorted(keep), sorted(taken)


def separate_source(splits: DatasetDict, data: DataArguments, seed: int) -> tuple[DatasetDict, int]:
    """Set apart the examples of what the model knew before, and mix some of them into training if asked.

    Test examples of --source_group become the split ``source``; training examples of it are trained on only as far
    as --replay says. A --source_file is split in two halves where it has to serve both.

    Args:
        splits: with ``train`` and ``test``; with ``source`` where there is a --source_file.
        data: the source and how much of it is replayed.
        seed: of the draw.

    Returns:
        The splits, and how many source examples are in ``train``.

    Raises:
        InputError: there is no such group, nothing but it, or too little of it to replay.
    """
    pool = None
    if data.target_group is not None:
        splits = _only_groups(splits, data)
    if data.source_group is not None:
        rows = {name: _rows_of_group(splits[name], data.source_group) for name in ("train", "test")}
        for name, (others, source) in rows.items():
            if not source or not others:
                found = ", ".join(sorted(set(splits[name]["group"])))
                raise InputError(
                    f"--source_group {data.source_group}: the {name} split has {len(source)} examples of it and "
                    f"{len(others)} others; expected both. Its groups: {found}."
                )
        pool = splits["train"].select(rows["train"][1])
        splits["source"] = splits["test"].select(rows["test"][1])
        splits["test"] = splits["test"].select(rows["test"][0])
        splits["train"] = splits["train"].select(rows["train"][0])
        logger.info(
            "Source group %r: %d test examples measure it apart; %d training examples wait for --replay.",
            data.source_group, len(splits["source"]), len(pool),
        )  # fmt: skip
    elif data.replay:
        halves = splits["source"].train_test_split(test_size=0.5, seed=seed)
        splits["source"], pool = halves["test"], halves["train"]
        logger.info("Half of --source_file is replayed from, the other half (%d) measures.", len(splits["source"]))
    if not data.replay or pool is None:
        return splits, 0
    wanted = round(data.replay * len(splits["train"]))
    if not 0 < wanted <= len(pool):
        raise InputError(
            f"--replay {data.replay:g} of {len(splits['train'])} training examples are {wanted}; there are "
            f"{len(pool)} source examples to take them from."
        )
    taken = pool.shuffle(seed=seed).select(range(wanted))
    splits["train"] = concatenate_datasets([splits["train"], taken.cast(splits["train"].features)])
    logger.info("%d source examples are mixed into training (--replay).", wanted)
    return splits, wanted


def _only_groups(splits: DatasetDict, data: DataArguments) -> DatasetDict:
    """The splits with the target and source groups alone."""
    wanted = {*(data.target_group or ()), data.source_group}
    there = {group for name in ("train", "test") for group in splits[name]["group"]}
    for group in data.target_group or ():
        if group not in there:
            shown = ", ".join(sorted(there))
            raise InputError(
                f"--target_group {group}: there is no such group. There are: {shown}.{nearest(group, there)}"
            )
    return DatasetDict(
        {
            name: split
            if name == "source"
            else split.select([i for i, group in enumerate(split["group"][:]) if group in wanted])
            for name, split in splits.items()
        }
    )


def _rows_of_group(split: Dataset, group: str) -> tuple[list[int], list[int]]:
    """Indices of the rows outside a group, and of those in it."""
    groups = split["group"][:]
    return [i for i, own in enumerate(groups) if own != group], [i for i, own in enumerate(groups) if own == group]


def overlap(splits: DatasetDict, keys: dict[str, list[int]], *, remove: bool) -> tuple[DatasetDict, dict[str, int]]:
    """Count the examples of training that validation or test hold as well, and take them out if asked.

    Args:
        splits: with ``train``.
        keys: for each split, what makes two examples the same, an entry an example.
        remove: take them out of ``train``.
    """
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
            logger.info("Also in training: %s. Measured quality is flattered; --deduplicate removes them.", found)
    return splits, {**counts, "removed_from_train": shared if remove else 0}
