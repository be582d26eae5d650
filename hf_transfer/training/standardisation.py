"""Heads trained on standardised inputs, and written back for inputs as they are."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from hf_transfer.training.batching import EvaluationBatches
from hf_transfer.training.feature_cache import to_device


@contextlib.contextmanager
def standardised_input(trainer: Any, head: tuple[str, ...]) -> Iterator[None]:
    """Train the head on inputs of mean 0 and spread 1, inside the block.

    The head's first linear layer is written anew in standardised coordinates, where Adam's one step size suits every
    dimension, and written back at the end: the function is the same at both moments. Mean and spread are buffers of
    that layer meanwhile, so that a checkpoint holds those that its weights were made for.
    """
    linear = _first_linear(trainer, head)
    if linear is None:
        yield
        return
    mean, spread = _moments(trainer, linear)
    with torch.no_grad():
        if linear.bias is not None:
            linear.bias.add_(linear.weight @ mean)
        linear.weight *= spread
    linear.register_buffer("input_mean", mean)
    linear.register_buffer("input_spread", spread)
    hook = linear.register_forward_pre_hook(_standardise)
    try:
        yield
    finally:
        hook.remove()
        mean, spread = linear.get_buffer("input_mean"), linear.get_buffer("input_spread")
        with torch.no_grad():
            linear.weight /= spread
            if linear.bias is not None:
                linear.bias.sub_(linear.weight @ mean)
        del linear.input_mean, linear.input_spread


def _standardise(linear: Any, args: tuple) -> tuple:
    return (args[0] - linear.input_mean) / linear.input_spread, *args[1:]


def _first_linear(trainer: Any, head: tuple[str, ...]) -> nn.Linear | None:
    """The head's linear layer that is called first, if it has a bias to take up the mean."""
    called: list[nn.Linear] = []
    with contextlib.ExitStack() as hooks, torch.inference_mode():
        for name in head:
            for module in trainer.model.get_submodule(name).modules():
                if isinstance(module, nn.Linear):
                    hooks.enter_context(module.register_forward_hook(lambda module, *_: called.append(module)))
        _run(trainer, [0])
    return called[0] if called and called[0].bias is not None else None


def _moments(trainer: Any, linear: nn.Linear) -> tuple[torch.Tensor, torch.Tensor]:
    total = torch.zeros(linear.in_features, dtype=torch.float64, device=linear.weight.device)
    squares, count = total.clone(), 0

    def add(_: nn.Module, args: tuple) -> None:
        nonlocal count
        rows = args[0].detach().double().reshape(-1, linear.in_features)
        total.add_(rows.sum(dim=0))
        squares.add_(rows.square().sum(dim=0))
        count += len(rows)

    trainer.model.eval()
    with linear.register_forward_pre_hook(add), torch.inference_mode():
        for indices in EvaluationBatches(trainer.train_dataset["length"][:], batch_size=256):
            _run(trainer, indices)
    mean = total / count
    spread = (squares / count - mean.square()).clamp(min=0).sqrt()
    # A dimension that never varies stays as it is.
    spread = torch.where(spread > 1e-4, spread, torch.ones_like(spread))
    return mean.float(), spread.float()


def _run(trainer: Any, indices: list[int]) -> None:
    batch = trainer.data_collator(trainer.train_dataset.__getitems__(indices))
    trainer.model(**to_device(trainer.model.device, batch))
