"""Heads trained on standardised inputs, and written for inputs as they are."""

import contextlib
import functools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

from hf_transfer.data.batches import to_device
from hf_transfer.training.batching import evaluation_batches


@contextlib.contextmanager
def standardised_input(trainer: Any, head: tuple[str, ...]) -> Iterator[None]:
    """Train the head on inputs of mean 0 and spread 1, inside the block.

    The head's first linear layer is written anew in standardised coordinates, where Adam's one step size suits every
    dimension and the bias (see `Coordinates`), and written back at the end: the function is the same at both moments.
    Its ``state_dict`` is that of inputs as they are all along, so that a checkpoint is a model like any other; a run
    that goes on takes the coordinates from `Coordinates` beside it, to the last bit.
    """
    linear = _first_linear(trainer, head)
    if linear is None:
        yield
        return
    coordinates = Coordinates(linear, *_moments(trainer, linear))
    trainer.progress.coordinates = coordinates
    with (
        linear.register_forward_pre_hook(coordinates.standardise),
        linear.register_forward_hook(coordinates.widen_bias),
        linear.register_state_dict_post_hook(functools.partial(coordinates.on_save)),  # marked: a method cannot be
        linear.register_load_state_dict_pre_hook(coordinates.on_load),
    ):
        coordinates.enter()
        try:
            yield
        finally:
            coordinates.leave()


class Coordinates:
    """Of a linear layer's input: less `mean`, over `spread`; and of its bias, in units of ``sqrt(in_features)``.

    A step of Adam moves each parameter by as much, and so the product of inputs and weights by about sqrt(in_features)
    times as much as the bias. Where the inputs have no mean that could stand in for it, a bias in its own unit stays
    behind: trained on 64 texts with 9 of the rarer label, the classifier found that in three of ten instead of one.

    Args:
        linear: with a bias.
        mean: of each dimension of its input, [in_features].
        spread: see `mean`.
    """

    def __init__(self, linear: nn.Linear, mean: torch.Tensor, spread: torch.Tensor):
        self.linear, self.mean, self.spread = linear, mean, spread
        self.bias_unit = math.sqrt(linear.in_features)
        self.left: dict[str, torch.Tensor] | None = None

    def tensors(self) -> dict[str, torch.Tensor]:
        """All that a run needs to go on in them; once they are left, as they were then."""
        if self.left is not None:
            return self.left
        linear = self.linear
        return {
            "weight": linear.weight.data, "bias_in_units": linear.bias.data, "mean": self.mean, "spread": self.spread
        }  # fmt: skip

    def enter(self) -> None:
        """Write the layer's weights for the standardised input."""
        self._write(*self._inside(self.linear.weight.data, self.linear.bias.data))

    def leave(self) -> None:
        """Write them for the input as it is."""
        self.left = {name: tensor.clone() for name, tensor in self.tensors().items()}
        self._write(*self._outside(self.linear.weight.data, self.linear.bias.data))

    def standardise(self, linear: nn.Module, args: tuple) -> tuple:
        """Hook before the layer's forward pass."""
        return (args[0] - self.mean) / self.spread, *args[1:]

    def widen_bias(self, linear: nn.Linear, args: tuple, output: torch.Tensor) -> torch.Tensor:
        """Hook behind the layer's forward pass, which has added the bias once."""
        return output + (self.bias_unit - 1) * linear.bias

    def on_save(self, linear: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
        """Hook behind ``state_dict``."""
        names = f"{prefix}weight", f"{prefix}bias"
        state.update(zip(names, self._outside(*(state[name] for name in names)), strict=True))

    def on_load(self, linear: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
        """Hook before ``load_state_dict``."""
        names = f"{prefix}weight", f"{prefix}bias"
        if all(name in state for name in names):
            weight, bias = (state[name].to(self.mean.device) for name in names)
            state.update(zip(names, self._inside(weight, bias), strict=True))

    def _write(self, weight: torch.Tensor, bias: torch.Tensor) -> None:
        self.linear.weight.data.copy_(weight)
        self.linear.bias.data.copy_(bias)

    def _inside(self, weight: torch.Tensor, bias: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return weight * self.spread, (bias + weight @ self.mean) / self.bias_unit

    def _outside(self, weight: torch.Tensor, bias: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        plain = weight / self.spread
        return plain, bias * self.bias_unit - plain @ self.mean


def _first_linear(trainer: Any, head: tuple[str, ...]) -> nn.Linear | None:
    """The head's linear layer that is called first, if it has a bias to take up the mean."""
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


def _moments(trainer: Any, linear: nn.Linear) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and spread of what the layer is given of the training examples, padding left out, each [in_features].

    Of the examples as they are, without augmentation; every process computes a share of them.
    """
    device = linear.weight.device
    exact = torch.device("cpu") if device.type == "mps" else device  # Apple's GPUs have no float64
    total = torch.zeros(linear.in_features, dtype=torch.float64, device=exact)
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
                rows = _real(inputs.pop(), batch, examples.positions[indices]).to(exact).double()
                total.add_(rows.sum(dim=0))
                squares.add_(rows.square().sum(dim=0))
                count.add_(len(rows))
    if args.world_size > 1:
        total, squares, count = (accelerator.reduce(each, reduction="sum") for each in (total, squares, count))
    mean = total / count
    spread = (squares / count - mean.square()).clamp(min=0).sqrt()
    # A dimension that never varies stays as it is.
    spread = torch.where(spread > 1e-4, spread, torch.ones_like(spread))
    return mean.float().to(device), spread.float().to(device)


def _real(states: torch.Tensor, batch: dict[str, torch.Tensor], positions: np.ndarray) -> torch.Tensor:
    """The rows of `states` [batch, ..., width] that are not padding, [rows, width].

    Padding is known from the attention mask; where that is of other positions (the samples of a clip), from how many
    there are of each example.
    """
    mask = batch.get("attention_mask")
    if mask is not None and mask.shape == states.shape[:-1]:
        return states[mask > 0]
    if states.dim() == 3 and states.shape[1] == positions.max():
        places = torch.arange(states.shape[1], device=states.device)
        return states[places < torch.from_numpy(positions).to(states.device)[:, None]]
    return states.reshape(-1, states.shape[-1])
