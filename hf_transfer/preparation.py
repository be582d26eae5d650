"""Prepares a run: loads and checks data and model before anything slow begins."""

import dataclasses
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict
from transformers import PreTrainedModel, set_seed

from hf_transfer import hub
from hf_transfer.arguments import Arguments, DataArguments, ModelArguments
from hf_transfer.data.batches import to_device
from hf_transfer.data.drawn_splits import complete_splits, cut_to_sizes
from hf_transfer.data.groups import replace_class_labels, select_groups
from hf_transfer.data.leakage import count_overlap, shared_units_caveats, unknown_units_caveats
from hf_transfer.data.loading import hub_commit, load_splits
from hf_transfer.data.source import REPLAYED, add_replay, separate_source
from hf_transfer.data.splits import SPLITS
from hf_transfer.data.tables import show_progress_bars_for
from hf_transfer.data.units import noun_of_resampling_units, unit_column
from hf_transfer.errors import InputError, logger
from hf_transfer.methods.anatomy import Anatomy
from hf_transfer.methods.lora import unreachable_layers
from hf_transfer.methods.trainable import check_method_fits
from hf_transfer.models import pin_to_commit
from hf_transfer.reporting.output_folder import OutputFolder
from hf_transfer.reporting.report import describe_lengths
from hf_transfer.tasks.task import Task
from hf_transfer.training.cost import Meter
from hf_transfer.training.default_settings import check_best_metric_name, fill_in_training_defaults
from hf_transfer.training.fit import PreparedData
from hf_transfer.training.resuming import describe_run


@dataclass(frozen=True)
class PreparedRun(PreparedData):
    """Dataclass of the data, the untrained model and the facts of a run, once everything has been checked.

    Attributes:
        facts: the report's ``data``.
        model: the pretrained model, before a training method is applied.
        anatomy: the parts of the model.
        newly_initialised: names of the parameters that the checkpoint does not hold.
        description: what a run has to share with a checkpoint to resume from it; from `describe_run`.
        model_arguments: the model with the commit that was loaded.
        commits: for model and dataset, if they are on the Hub: the requested revision, and its commit today.
    """

    facts: dict[str, Any]
    model: PreTrainedModel
    anatomy: Anatomy
    newly_initialised: list[str]
    description: Mapping[str, Any]
    model_arguments: ModelArguments
    commits: Mapping[str, Any]


def prepare_run(
    arguments: Arguments, dataset: DatasetDict | Dataset | None, output: OutputFolder, meter: Meter
) -> PreparedRun:
    """Load data and model, check all that can be checked before slow work begins, and return a `PreparedRun`.

    Args:
        arguments: of the run; default training arguments are filled in.
        dataset: splits in memory, instead of files or a Hub dataset.
        output: where the result will be written.
        meter: for the seconds of each stage.

    Raises:
        InputError: the data, the model or the arguments cannot be used.
    """
    task, training = arguments.task, arguments.training
    if training.should_save:
        output.prepare()
    if training.push_to_hub:
        hub.require_repository(arguments)
    check_best_metric_name(arguments)
    task.input.require_settings(arguments.model)
    with meter.stage("data"):
        splits, facts = prepare_splits(task, arguments, dataset)
    with meter.stage("model"):
        set_seed(training.seed)
        model_arguments, commit = pin_to_commit(arguments.model)
        commits = _commits(arguments, commit, facts.pop("commit"))
        processor = task.load_processor(model_arguments, splits)
        pretrained = arguments.method.method != "scratch"
        model, newly_initialised = task.load_model(model_arguments, splits, processor, pretrained=pretrained)
        if newly_initialised:
            logger.info("Newly initialised: %s.", ", ".join(newly_initialised))
        anatomy = Anatomy.of(model, newly_initialised)
        check_method_fits(model, anatomy, arguments.method)
        if training.should_save:
            # In model sizes: the weights, and checkpoints with the optimizer's two moments. An adapter is small.
            model_sizes = 0.5 if arguments.method.leaves_adapter else 4
            output.require_space(int(model_sizes * sum(p.numel() * p.element_size() for p in model.parameters())))
    with meter.stage("preprocessing"):
        counts = {name: len(split) for name, split in splits.items()}
        splits, inputs = task.model_inputs(splits, processor, model, training.seed)
        for name, split in splits.items():
            if counts[name] > len(split):
                facts["left_out"].setdefault(name, {})["does not fit the model"] = counts[name] - len(split)
        facts |= {**_example_counts(splits), **task.facts(splits), "lengths": describe_lengths(inputs)}
        fill_in_training_defaults(arguments, model.config, len(inputs["train"]))
        if arguments.method.method == "lora":
            example = task.collator(processor)(
                inputs["train"].without_augmentation().__getitems__([int(inputs["train"].lengths.argmin())])
            )
            unreachable = unreachable_layers(model, anatomy, to_device(model.device, example))
            anatomy = dataclasses.replace(anatomy, unreachable=unreachable)
    description = describe_run(arguments, splits, inputs, model, newly_initialised)
    return PreparedRun(
        arguments, processor, splits, inputs, facts, model, anatomy, newly_initialised, description, model_arguments,
        commits,
    )  # fmt: skip


def _commits(arguments: Arguments, model: str | None, dataset: str | None) -> dict[str, dict[str, str | None]]:
    """Return the requested revision and today's commit of model and dataset, of those that are on the Hub."""
    revisions = {"model": arguments.model.model_revision, "dataset": arguments.data.dataset_revision}
    commits = {"model": model, "dataset": dataset}
    return {
        name: {"revision": revisions[name], "commit": commit} for name, commit in commits.items() if commit is not None
    }


def prepare_splits(
    task: Task, arguments: Arguments, dataset: DatasetDict | Dataset | None
) -> tuple[DatasetDict, dict[str, Any]]:
    """Load, check and complete the splits of a run, and return them and facts about them.

    Args:
        task: what is learned.
        arguments: of the run.
        dataset: splits in memory, instead of files or a Hub dataset.

    Returns:
        The splits (train, test, and perhaps validation and source), and facts about them for the report.

    Raises:
        InputError: the data cannot be used.
    """
    data, seed = arguments.data, arguments.training.seed
    split_seed = seed if data.split_seed is None else data.split_seed
    rows = _splits_in_memory(dataset, data) if dataset is not None else load_splits(data)
    commit = hub_commit(rows["train"]) if dataset is None and data.dataset_name else None
    is_unit_column_given = data.split_by is not None
    columns = rows["train"].column_names
    data = dataclasses.replace(data, split_by=unit_column(data, columns, task.unit_column(columns)))
    rows = select_groups(replace_class_labels(rows, data), data)
    show_progress_bars_for(sum(len(split) for split in rows.values()))
    without_units = [
        name for name, split in rows.items() if is_unit_column_given and data.split_by not in split.column_names
    ]
    splits, left_out, chosen_columns = task.read(rows, data, arguments.model)
    strata = {name: task.target.strata(split) for name, split in splits.items()}
    evaluates = str(arguments.training.eval_strategy) not in ("no", "IntervalStrategy.NO")
    if data.validation_size is None and not (task.target.uses_validation_split or evaluates):
        data = dataclasses.replace(data, validation_size=0)  # it would not be used
    identities = {name: task.identities(split) for name, split in splits.items()}
    splits, drawn = complete_splits(splits, strata, identities, data, split_seed, asked=is_unit_column_given)
    splits, source_pool = separate_source(splits, data, split_seed, task.identities, asked=is_unit_column_given)
    splits = cut_to_sizes(
        splits, {name: task.target.strata(split) for name, split in splits.items()}, data, seed, split_seed
    )
    splits = add_replay(splits, source_pool, data, seed, task.identities)
    identities = {name: task.identities(split) for name, split in splits.items()}
    splits, also_in_training, caveats = count_overlap(splits, identities, remove=data.deduplicate)
    caveats += unknown_units_caveats(without_units, str(data.split_by))
    caveats += shared_units_caveats(splits, str(data.split_by)) + task.check(splits)
    if "validation" not in splits and evaluates:
        raise InputError("--eval_strategy needs a validation split: raise --validation_size, or leave it at `no`.")
    source = data.dataset_name or Path(data.train_file or "memory").name
    return splits, {
        "source": source,
        "commit": commit,
        "columns": chosen_columns,
        "left_out": {name: {reason: n for reason, n in counts.items() if n} for name, counts in left_out.items()},
        "made": drawn,
        "also_in_training": also_in_training,
        "intervals_over": noun_of_resampling_units(splits["test"], data.split_by),
        "caveats": caveats,
    }


def _example_counts(splits: DatasetDict) -> dict[str, Any]:
    """Return the numbers of examples of each split and of each group, and of replayed source examples."""
    group_counts = {name: Counter(split["group"]) for name, split in splits.items() if "group" in split.column_names}
    train = splits["train"]
    return {
        "examples": {name: len(split) for name, split in splits.items()},
        "replayed": sum(train[REPLAYED]) if REPLAYED in train.column_names else 0,
        **({"group_counts": {name: dict(counts) for name, counts in group_counts.items()}} if group_counts else {}),
    }


def _splits_in_memory(dataset: Any, data: DataArguments) -> DatasetDict:
    """Return the splits of a dataset given in Python; a `Dataset` is the training split."""
    named = ("dataset_name", "train_file", "validation_file", "test_file", "source_file")
    files = [name for name in named if getattr(data, name)]
    if files:
        raise InputError(f"dataset and {files[0]} are both given: expected one source of data.")
    if not isinstance(dataset, (Dataset, Mapping)):
        raise InputError(f"dataset is a {type(dataset).__name__}: expected a Dataset, or a DatasetDict of splits.")
    splits = {"train": dataset} if isinstance(dataset, Dataset) else dict(dataset)
    if "train" not in splits:
        raise InputError(f"dataset has the splits {', '.join(splits)}; expected one named train.")
    return DatasetDict({name: splits[name] for name in SPLITS if name in splits})
