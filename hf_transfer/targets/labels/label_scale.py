"""Standardised labels for regression: the head is trained on them, and rewritten for the labels' unit at the end.

The size of Adam's steps does not depend on the loss, so what is learned would depend on the unit of the labels.
Therefore the head learns labels with mean 0 and standard deviation 1. At the end its last layer is rewritten, so that
the shipped model itself returns numbers in the unit of the labels.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from hf_transfer.errors import InputError
from hf_transfer.evaluation.metrics import Array
from hf_transfer.models import unwrap_peft
from hf_transfer.targets.labels.head import output_layer


@dataclass(frozen=True)
class LabelScale:
    """Dataclass of the mean and deviation that turn a model's outputs into numbers in the unit of the labels.

    It is stored in the config of models whose outputs are not in that unit: of checkpoints, and of finished models
    whose last layer has no bias that could hold the mean.
    """

    mean: float = 0.0
    deviation: float = 1.0

    @classmethod
    def of(cls, labels: Sequence[float]) -> "LabelScale":
        """Return the scale of training labels: their mean and standard deviation.

        Raises:
            InputError: they are all the same.
        """
        values = np.asarray(labels, dtype=np.float64)
        if np.ptp(values) == 0:
            raise InputError(
                f"All {len(values)} training labels are {values[0]:g}: there is nothing to learn. Is "
                "--label_column_name the right column?"
            )
        return cls(float(values.mean()), float(values.std()))

    @classmethod
    def read(cls, config: PretrainedConfig) -> "LabelScale":
        """Return the scale that is stored in a model's config, or mean 0 and deviation 1 if it has no scale."""
        return cls(**(getattr(config, "label_scale", None) or {}))

    def write(self, config: PretrainedConfig) -> None:
        """Store the scale in a model's config, unless the model's outputs are in the unit of the labels."""
        remove_label_scale(config)
        if self != LabelScale():
            config.label_scale = {"mean": self.mean, "deviation": self.deviation}

    def in_label_unit(self, outputs: ArrayLike) -> Array:
        """Return a model's outputs [n] in the unit of the labels, in float64."""
        return np.asarray(outputs, dtype=np.float64) * self.deviation + self.mean

    def standardise(self, labels: Sequence[float]) -> list[float]:
        """Return the labels, [n], scaled to mean 0 and standard deviation 1, as the model learns them."""
        return ((np.asarray(labels, dtype=np.float64) - self.mean) / self.deviation).tolist()


def remove_label_scale(config: PretrainedConfig) -> None:
    """Remove from a checkpoint's config the scale that an earlier run has stored there."""
    if hasattr(config, "label_scale"):
        del config.label_scale


def standardise_head(model: PreTrainedModel, scale: LabelScale) -> None:
    """Rewrite the last layer of a trained head for standardised labels; predictions stay the same in their unit.

    Args:
        model: its config has the scale of its present outputs.
        scale: of the labels. For a layer without a bias, the present mean is kept.
    """
    before, layer = LabelScale.read(model.config), number_layer(model)
    if layer.bias is None:
        scale = LabelScale(before.mean, scale.deviation)
    _rescale(layer, before.deviation / scale.deviation, (before.mean - scale.mean) / scale.deviation)
    scale.write(model.config)


@contextmanager
def in_label_unit(model: nn.Module) -> Iterator[None]:
    """Context manager: rescale the last layer, so that outputs are in the labels' unit; undone if the block fails.

    The mean of a layer without a bias stays in the config: see `LabelScale.read`. Where the block raises an error,
    layer and config are restored bit by bit, because a checkpoint holds the model as it was trained.
    """
    scale, layer = LabelScale.read(model.config), number_layer(model)
    trained = [(parameter, parameter.detach().clone()) for parameter in layer.parameters()]
    try:
        _rescale(layer, scale.deviation, scale.mean)
        LabelScale(0.0 if layer.bias is not None else scale.mean).write(model.config)
        yield
    except BaseException:
        for parameter, value in trained:
            parameter.data.copy_(value)
        scale.write(model.config)
        raise


def _rescale(layer: nn.Linear, factor: float, shift: float) -> None:
    """Change a linear layer so that its outputs are multiplied by `factor`, plus `shift` if it has a bias."""
    layer.weight.data.copy_(layer.weight.data.double() * factor)
    if layer.bias is not None:
        layer.bias.data.copy_(layer.bias.data.double() * factor + shift)


def number_layer(model: nn.Module) -> nn.Linear:
    """Return the linear layer outside the trunk that computes the number; if peft keeps a copy, the trained one.

    Raises:
        InputError: there is none.
    """
    base_model = unwrap_peft(model)
    layer = output_layer(base_model, 1)
    if layer is None or layer[0].startswith(f"{base_model.base_model_prefix}."):
        raise InputError(
            f"--problem_type regression: the head of a {base_model.config.model_type} ends in no linear layer "
            "(torch.nn.Linear). Choose another model."
        )
    return layer[1]
