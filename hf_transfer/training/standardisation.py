"""Training a head on standardised inputs: mean 0 and standard deviation 1 in each dimension."""

import contextlib
import functools
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from hf_transfer.data.batches import to_device
from hf_transfer.training.batching import evaluation_batches

if TYPE_CHECKING:
    from hf_transfer.training.trainer import TransferTrainer


@contextlib.contextmanager
def standardised_input(trainer: "TransferTrainer", head: tuple[str, ...]) -> Iterator[None]:
    """Context manager: train the head's first linear layer on inputs of mean 0 and standard deviation 1.

    At the start of the block the layer's weights are converted to standardised coordinates, in which Adam's single
    step size suits every dimension and the bias (see `Coordinates`); at the end they are converted back. Neither
    changes what the layer computes. Its ``state_dict`` always holds the weights for the inputs as they are, so that
    a checkpoint is a model like any other. A resumed run restores the coordinates bit for bit from
    `Coordinates.tensors`, which are saved beside it.

    Args:
        trainer: of the model.
        head: names of the head's modules.
    """
    linear = _first_linear_layer(trainer, head)
    if linear is None:
        yield
        return
    coordinates = Coordinates(linear, *_input_mean_and_deviation(trainer, linear))
    trainer.resumable_state.coordinates = coordinates
    with (
        linear.register_forward_pre_hook(coordinates.standardise),
        linear.register_forward_hook(coordinates.scale_bias),
        # PyTorch sets an attribute on this hook, which a bound method does not allow.
        linear.register_state_dict_post_hook(functools.partial(coordinates.on_save)),
        linear.register_load_state_dict_pre_hook(coordinates.on_load),
    ):
        coordinates.enter()
        try:
            yield
        finally:
            coordinates.leave()


class Coordinates:
    """Hooks and weight conversions that let a linear layer train on inputs of mean 0 and standard deviation 1.

    `mean` is subtracted from its inputs, which are then divided by `spread`; its bias is kept divided by
    sqrt(in_features). A step of Adam changes each parameter by the same amount, and so the product of inputs and
    weights by about sqrt(in_features) times as much as the bias. In its own unit the bias learns too slowly: trained
    on 64 texts, 9 of them with the rarer label, a classifier predicted that label for three texts in ten instead of
    one.

    Args:
        linear: a layer with a bias.
        mean: of each dimension of its input, [in_features].
        spread: standard deviation of each dimension of its input, [in_features].
    """

    def __init__(self, linear: nn.Linear, mean: torch.Tensor, spread: torch.Tensor):
        self.linear, self.mean, self.spread = linear, mean, spread
        self.bias_unit = math.sqrt(linear.in_features)
        self.last_tensors: dict[str, torch.Tensor] | None = None

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return by name the weights, mean and spread that a resumed run needs to train in the same coordinates.

        After `leave`, they are what they were before it.
        """
        if self.last_tensors is not None:
            return self.last_tensors
        linear = self.linear
        return {
            "weight": linear.weight.data, "bias_in_units": linear.bias.data, "mean": self.mean, "spread": self.spread
        }  # fmt: skip

    def enter(self) -> None:
        """Convert the layer's weights, in place, to those for standardised inputs."""
        self._set_weights(*self._to_standardised(self.linear.weight.data, self.linear.bias.data))

    def leave(self) -> None:
        """Convert the layer's weights, in place, back to those for the inputs as they are."""
        self.last_tensors = {name: tensor.clone() for name, tensor in self.tensors().items()}
        self._set_weights(*self._from_standardised(self.linear.weight.data, self.linear.bias.data))

    def standardise(self, linear: nn.Module, args: tuple) -> tuple:
        """Return the layer's arguments, the input less `mean` and divided by `spread` (a forward pre-hook)."""
        return (args[0] - self.mean) / self.spread, *args[1:]

    def scale_bias(self, linear: nn.Linear, args: tuple, output: torch.Tensor) -> torch.Tensor:
        """Return the layer's output with the bias multiplied by sqrt(in_features) (a forward hook).

        The layer has added the bias once already.
        """
        return output + (self.bias_unit - 1) * linear.bias

    def on_save(self, linear: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
        """Convert the weights in a ``state_dict`` to those for the inputs as they are (a ``state_dict`` hook)."""
        names = f"{prefix}weight", f"{prefix}bias"
        state.update(zip(names, self._from_standardised(*(state[name] for name in names)), strict=True))

    def on_load(self, linear: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
        """Convert the weights in a ``state_dict`` that is loaded to those for standardised inputs (a hook)."""
        names = f"{prefix}weight", f"{prefix}bias"
        if all(name in state for name in names):
            weight, bias = (state[name].to(self.mean.device) for name in names)
            state.update(zip(names, self._to_standardised(weight, bias), strict=True))

    def _set_weights(self, weight: torch.Tensor, bias: torch.Tensor) -> None:
        self.linear.weight.data.copy_(weight)
        self.linear.bias.data.copy_(bias)

    def _to_standardised(self, weight: torch.Tensor, bias: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return weight * self.spread, (bias + weight @ self.mean) / self.bias_unit

    def _from_standardised(self, weight: torch.Tensor, bias: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        original_weight = weight / self.spread
        return original_weight, bias * self.bias_unit - original_weight @ self.mean


def _first_linear_layer(trainer: "TransferTrainer", head: tuple[str, ...]) -> nn.Linear | None:
    """Return the linear layer of the head that is called first; None without one, or if it has no bias."""
    called: list[nn.Linear] = []
    trainer.model.eval()
    with contextlib.ExitStack() as hooks, torch.inference_mode():
        for name in head:
            for module in trainer.model.get_submodule(name).modules():
                if isinstance(module, nn.Linear):
                    hooks.enter_context(module.register_forward_hook(lambda module, *_: called.append(module)))
        batch = trainer.data_collator(trainer.train_dataset.__getitems__([0]))
        trainer.model(**to_device(trainer.model.device, batch))
    return called[0] if called and called[0].bias is not None else None


def _input_mean_and_deviation(trainer: "TransferTrainer", linear: nn.Linear) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and standard deviation of a layer's inputs over the training examples, [in_features] each.

    Padding is left out. The examples are not augmented; each process computes a share of them.
    """
    device = linear.weight.device
    sums_device = torch.device("cpu") if device.type == "mps" else device  # Apple's GPUs have no float64
    total = torch.zeros(linear.in_features, dtype=torch.float64, device=sums_device)
    squares, count = total.clone(), total.new_zeros(1)
    inputs: list[torch.Tensor] = []
    examples, args, accelerator = trainer.train_dataset.without_augmentation(), trainer.args, trainer.accelerator
    batches = evaluation_batches(
        examples, examples.positions, args, processes=args.world_size, rank=args.process_index
    )
    trainer.model.eval()
    with (
        linear.register_forward_pre_hook(lambda _, args: inputs.append(args[0])),
        torch.inference_mode(),
        accelerator.autocast(),
    ):
        for indices in batches:
            batch = to_device(trainer.model.device, trainer.data_collator(examples.__getitems__(indices)))
            trainer.model(**batch)
            while inputs:
                rows = _without_padding(inputs.pop(), batch, examples.positions[indices]).to(sums_device).double()
                total.add_(rows.sum(dim=0))
                squares.add_(rows.square().sum(dim=0))
                count.add_(len(rows))
    if args.world_size > 1:
        total, squares, count = (accelerator.reduce(each, reduction="sum") for each in (total, squares, count))
    mean = total / count
    deviation = (squares / count - mean.square()).clamp(min=0).sqrt()
    # Dimensions that (almost) never vary are not scaled.
    deviation = torch.where(deviation > 1e-4, deviation, torch.ones_like(deviation))
    return mean.float().to(device), deviation.float().to(device)


def _without_padding(states: torch.Tensor, batch: dict[str, torch.Tensor], positions: np.ndarray) -> torch.Tensor:
    """Return the rows of `states` [batch, ..., width] that are not padding, as [rows, width].

    Padding is known from the attention mask; where the mask is for other positions (a clip's samples), from the
    number of `positions` of each example.
    """
    mask = batch.get("attention_mask")
    if mask is not None and mask.shape == states.shape[:-1]:
        return states[mask > 0]
    if states.dim() == 3 and states.shape[1] == positions.max():
        index = torch.arange(states.shape[1], device=states.device)
        return states[index < torch.from_numpy(positions).to(states.device)[:, None]]
    return states.reshape(-1, states.shape[-1])
