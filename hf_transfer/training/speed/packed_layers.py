"""Layers of a model on packed positions: the forward passes are replaced, and the training steps compared.

See `packing`. This is done on the CPU only.
"""

import collections
import contextlib
import inspect
import math
from collections.abc import Callable, Collection, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from hf_transfer.errors import logger
from hf_transfer.methods.anatomy import Anatomy
from hf_transfer.models import unwrap_peft
from hf_transfer.training.activations.entry import StandIn
from hf_transfer.training.default_settings import steps_per_epoch
from hf_transfer.training.equivalence import rounding_tolerance, same_random_numbers, train_mode, without_dropout
from hf_transfer.training.speed.packing import ATTENTION, Packing

if TYPE_CHECKING:
    from hf_transfer.training.trainer import TransferTrainer

# To try packing takes about as long as it saves in ten steps.
STEPS_WORTH_TRYING = 10


@contextlib.contextmanager
def packed(trainer: "TransferTrainer", anatomy: Anatomy) -> Iterator[bool]:
    """Context manager: make a model's layers skip padding if gradients stay the same; yield whether they skip it.

    This is done on the CPU only: on an accelerator, reading the length of each example would make it wait. It is not
    tried in runs that are too short to win back the time that trying takes.

    Args:
        trainer: with the model as it will be trained.
        anatomy: the model's parts.

    Yields:
        Whether the layers compute no padding.
    """
    model = unwrap_peft(trainer.model)
    if (
        trainer.model.device.type != "cpu"
        or _number_of_steps(trainer) < STEPS_WORTH_TRYING
        or anatomy.layers is None
        or trainer.args.torch_compile
        or getattr(model.config, "_attn_implementation", None) != "sdpa"
    ):
        yield False
        return
    layers = [layer for layer in model.get_submodule(anatomy.layers) if not isinstance(layer, StandIn)]
    with contextlib.ExitStack() as stack:
        model.set_attn_implementation(ATTENTION)
        stack.callback(model.set_attn_implementation, "sdpa")
        is_possible = bool(layers) and _steps_are_equal(trainer, layers)
        if is_possible:
            stack.enter_context(_packing(layers))
        yield is_possible


def _number_of_steps(trainer: "TransferTrainer") -> int:
    """Return the number of optimizer steps of the whole run."""
    args = trainer.args
    if args.max_steps > 0:
        return args.max_steps
    return math.ceil(args.num_train_epochs * steps_per_epoch(args, len(trainer.train_dataset)))


@contextlib.contextmanager
def _packing(layers: list[nn.Module]) -> Iterator[Collection[tuple[torch.Tensor, Packing | None]]]:
    """Context manager: make `layers` skip padding: their inputs are packed, and their outputs unpacked.

    Yields:
        The last attention masks and their packings (None where a batch has no padding), which are added as layers run.
    """
    # Layers share masks: one for all layers, or one for each kind of attention.
    known: collections.deque[tuple[torch.Tensor, Packing | None]] = collections.deque(maxlen=2)

    def packing_of(mask: torch.Tensor) -> Packing | None:
        for known_mask, packing in known:
            if known_mask is mask:
                return packing
        counts = mask[:, 0].any(dim=1).sum(dim=1).numpy()
        known.append((mask, Packing(mask, counts) if counts.min() < mask.shape[-1] else None))
        return known[-1][1]

    for layer in layers:
        layer.forward = _packed_forward(layer, packing_of)
    try:
        yield known
    finally:
        for layer in layers:
            del layer.forward


def _packed_forward(layer: nn.Module, packing_of: Callable[[torch.Tensor], Packing | None]) -> Callable[..., Any]:
    """Return a replacement of a layer's ``forward`` that packs the inputs where their mask shows padding."""
    forward = layer.forward
    signature = inspect.signature(forward)

    def packed_forward(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        mask = bound.arguments.get("attention_mask")
        if mask is None or mask.dtype != torch.bool or mask.dim() != 4:
            return forward(*args, **kwargs)
        packing = packing_of(mask)
        if packing is None:
            return forward(*args, **kwargs)
        bound.arguments["hidden_states"] = packing.pack(bound.arguments["hidden_states"])
        bound.arguments["attention_mask"] = packing
        if bound.arguments.get("position_embeddings") is not None:
            bound.arguments["position_embeddings"] = tuple(
                packing.pack(each) for each in bound.arguments["position_embeddings"]
            )
        output = forward(*bound.args, **bound.kwargs)
        if isinstance(output, torch.Tensor):
            return packing.unpack(output)
        return packing.unpack(output[0]), *output[1:]

    return packed_forward


def _steps_are_equal(trainer: "TransferTrainer", layers: list[nn.Module]) -> bool:
    """Return whether packed layers give the same gradients as padded ones, on two batches without dropout."""
    model_type = trainer.model.config.model_type
    limit = rounding_tolerance(trainer.model.device, trainer.accelerator.mixed_precision)
    try:
        for rows in _padded_batches(trainer.train_dataset.positions):
            padded = _loss_and_gradients(trainer, rows)
            with _packing(layers) as packings:
                packed_ones = _loss_and_gradients(trainer, rows)
            if not any(packing is not None for _, packing in packings):
                return False  # there is no padding, or no mask that shows it
            difference = _largest_difference(padded, packed_ones)
            if not difference <= limit:
                logger.info("Layers compute padding too: without it, the gradients of a %s differ by %.2g.",
                            model_type, difference)  # fmt: skip
                return False
    except Exception as error:  # a layer that cannot process packed positions may raise any error
        logger.info("Layers compute padding too: those of a %s cannot do without it (%s).",
                    model_type, " ".join(str(error).split())[:100])  # fmt: skip
        return False
    return True


def _padded_batches(positions: np.ndarray) -> list[list[int]]:
    """Return the rows of two batches: the shortest examples with the longest, and with medium ones."""
    order = np.argsort(positions, kind="stable")
    count = len(order)
    return [
        np.unique(order[places]).tolist() for places in ([0, 1 % count, -2 % count, -1], [0, count // 3, count // 2])
    ]


def _loss_and_gradients(trainer: "TransferTrainer", rows: list[int]) -> list[torch.Tensor]:
    """Return a batch's loss and the gradients of all trained parameters, without dropout, as a list of tensors.

    The run does not change.
    """
    model, examples = trainer.model, trainer.train_dataset.without_augmentation()
    batch = trainer._prepare_inputs(trainer.data_collator(examples.__getitems__(rows)))
    counts = list(trainer.loss.counts)
    with train_mode(model, trainer.frozen_modules), without_dropout(model), same_random_numbers(model.device):
        with trainer.accelerator.autocast():
            loss = trainer.compute_loss(model, batch)
        loss.backward()
    results = [loss.detach()[None], *(p.grad for p in model.parameters() if p.grad is not None)]
    model.zero_grad(set_to_none=True)
    trainer.loss.counts[:] = counts
    return results


def _largest_difference(a: list[torch.Tensor], b: list[torch.Tensor]) -> float:
    """Return the largest difference between two lists of tensors, as a share of the largest value in `b`."""
    scale = max(float(each.abs().max()) for each in b)
    return max(float((x - y).abs().max()) for x, y in zip(a, b, strict=True)) / max(scale, 1e-30)
