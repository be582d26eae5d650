"""Mean and standard deviation of the training labels: trained on standardised labels, shipped in the labels' unit.

Adam's steps have a size of their own: what is learned would depend on the unit of the labels. So the head learns
standardised ones, with their mean at 0 and a standard deviation of 1, and its last layer is written for the unit of
the labels at the end: the model that is shipped gives such numbers by itself.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from hf_transfer.errors import InputError
from hf_transfer.evaluation.metrics import Array
from hf_transfer.models import unwrap_peft
from hf_transfer.targets.labels.head import output_layer


@dataclass(frozen=True)
class LabelScale:
    """From a model's outputs to numbers in the unit of the labels: times `deviation`, plus `mean`.

    It is kept in the config of a model whose outputs are not in that unit: of a checkpoint, and of a finished model
    whose last layer has no bias that could take up the mean.
    """

    mean: float = 0.0
    deviation: float = 1.0

    @classmethod
    def of(cls, labels: Sequence[float]) -> "LabelScale":
        """That of training labels.

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
    def read(cls, config: Any) -> "LabelScale":
        """That of a model's outputs, by its config."""
        return cls(**(getattr(config, "label_scale", None) or {}))

    def write(self, config: Any) -> None:
        """Keep it in a model's config; nothing where the outputs are in the unit of the labels."""
        forget(config)
        if self != LabelScale():
            config.label_scale = {"mean": self.mean, "deviation": self.deviation}

    def in_unit(self, outputs: Any) -> Array:
        """Outputs of a model as numbers in the unit of the labels, [n] in float64."""
        return np.asarray(outputs, dtype=np.float64) * self.deviation + self.mean

    def standardised(self, labels: Sequence[float]) -> list[float]:
        """Labels as the model's outputs are to be."""
        return ((np.asarray(labels, dtype=np.float64) - self.mean) / self.deviation).tolist()


def forget(config: Any) -> None:
    """Remove the scale that a checkpoint's config brings along."""
    if hasattr(config, "label_scale"):
        del config.label_scale


def standardise_head(model: Any, scale: LabelScale) -> None:
    """Write the last layer of a trained head for standardised labels; the function is the same in their unit.

    Args:
        model: whose config says in which unit its outputs are.
        scale: of the labels; of a layer without a bias the mean stays what it was.
    """
    before, layer = LabelScale.read(model.config), number_layer(model)
    if layer.bias is None:
        scale = LabelScale(before.mean, scale.deviation)
    _rescale(layer, before.deviation / scale.deviation, (before.mean - scale.mean) / scale.deviation)
    scale.write(model.config)


@contextmanager
def in_label_unit(model: Any) -> Iterator[None]:
    """Write the last layer for the unit of the labels, so that the model's outputs are in it, and leave it so.

    Of a layer without a bias all but the mean, which stays in the config: `LabelScale.read`. Where the block ends with
    an exception all is as it was, to the bit: a checkpoint is of the model as it was trained.
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
    """Its outputs times `factor`, and plus `shift` where it has a bias."""
    layer.weight.data.copy_(layer.weight.data.double() * factor)
    if layer.bias is not None:
        layer.bias.data.copy_(layer.bias.data.double() * factor + shift)


def number_layer(model: Any) -> nn.Linear:
    """The linear layer that makes the number, outside the trunk; that which is trained, where peft keeps a copy.

    Raises:
        InputError: there is none.
    """
    whole = unwrap_peft(model)
    layer = output_layer(model, 1)
    if layer is None or layer[0].startswith(f"{whole.base_model_prefix}."):
        raise InputError(
            f"--problem_type regression: the head of a {whole.config.model_type} ends in no linear layer "
            "(torch.nn.Linear). Choose another model."
        )
    return layer[1]
