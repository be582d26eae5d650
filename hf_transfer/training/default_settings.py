"""Settings of training that depend on model and data: learning rate, epochs, the metric of the best checkpoint."""

import math
from collections.abc import Mapping

from datasets import DatasetDict
from transformers import PretrainedConfig, TrainingArguments

from hf_transfer.arguments import Arguments
from hf_transfer.errors import InputError, logger, nearest
from hf_transfer.evaluation.groups import group_summary_metrics
from hf_transfer.evaluation.metric_names import greater_is_better
from hf_transfer.methods.trainable import default_learning_rate


def steps_per_epoch(training: TrainingArguments, examples: int) -> int:
    """Return the number of optimizer steps of one pass over so many training examples, on all processes together."""
    step_size = training.train_batch_size * training.gradient_accumulation_steps * training.world_size
    return max(1, math.ceil(examples / step_size))


def fill_in_training_defaults(arguments: Arguments, config: PretrainedConfig, examples: int) -> None:
    """Set the learning rate and the number of epochs in `arguments` where the user gave none, and log them.

    Args:
        arguments: of the run; changed in place.
        config: of the model.
        examples: number of training examples.
    """
    task, training = arguments.task, arguments.training
    _log_inactive_regularisation(arguments, config)
    steps = steps_per_epoch(training, examples)
    if training.learning_rate is None:
        training.learning_rate = default_learning_rate(arguments.method, config, task.learning_rates)
    if training.num_train_epochs is None:
        training.num_train_epochs = float(max(task.epochs, math.ceil(task.minimum_steps / steps)))
    if training.max_steps <= 0:
        logger.info(
            "%g epoch%s of %d step%s at a learning rate of %.2g (--num_train_epochs, --learning_rate).",
            training.num_train_epochs, "" if training.num_train_epochs == 1 else "s", steps, "" if steps == 1 else "s",
            training.learning_rate,
        )  # fmt: skip


def check_best_metric_name(arguments: Arguments) -> None:
    """Raise an error if no evaluation of the task can give the metric that --metric_for_best_model names.

    This is checked before the data are read.

    Raises:
        InputError: it is none of the task's metrics, whatever the labels and groups are.
    """
    task = arguments.task
    name = (arguments.training.metric_for_best_model or "loss").removeprefix("eval_")
    known = ["loss", *task.target.metrics]
    # The names of the groups are in the data.
    may_be_of_group = any(name.startswith(f"{metric}_") for metric in task.target.metrics)
    if name not in known and not (may_be_of_group and arguments.data.group_column_name):
        raise InputError(f"--metric_for_best_model {name}: evaluation gives {', '.join(known)}.{nearest(name, known)}")


def set_best_metric(arguments: Arguments, metrics: Mapping[str, float], splits: DatasetDict) -> None:
    """Raise an error if evaluation does not give --metric_for_best_model; else set ``greater_is_better`` for it.

    Args:
        arguments: of the run; changed in place.
        metrics: of the test split before training.
        splits: the examples.

    Raises:
        InputError: no evaluation will give that metric.
    """
    task, training = arguments.task, arguments.training
    if training.metric_for_best_model is None:
        return
    name = training.metric_for_best_model.removeprefix("eval_")
    validation = splits.get("validation")
    groups = set(validation["group"]) if validation is not None and "group" in validation.column_names else set()
    known = ["loss", *metrics, *group_summary_metrics(task, dict.fromkeys(sorted(groups), metrics))]
    if name not in known:
        raise InputError(f"--metric_for_best_model {name}: evaluation gives {', '.join(known)}.{nearest(name, known)}")
    is_of_group = name not in ("loss", *metrics)
    training.greater_is_better = greater_is_better(task.target.headline[0] if is_of_group else name)


def _log_inactive_regularisation(arguments: Arguments, config: PretrainedConfig) -> None:
    """Log the settings of dropout and noise that have no effect with ``frozen``, as its trunk is in eval mode."""
    if arguments.method.method != "frozen":
        return
    inactive = list(arguments.task.input.train_mode_effects(config))
    if arguments.training.neftune_noise_alpha:
        inactive.append("NEFTune (--neftune_noise_alpha)")
    if inactive:
        logger.info("--method frozen keeps the trunk in eval mode: no %s.", ", no ".join(inactive))
