"""Layers that compute no padding: the real positions of a batch one after another, attention within each example.

What a layer does to each position by itself (its matrix products) takes all of them as one long example; attention
takes a few groups of examples of similar length, padded.
"""

import collections
import contextlib
import functools
import inspect
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from hf_transfer.errors import logger
from hf_transfer.methods.anatomy import Anatomy
from hf_transfer.models import unwrap_peft
from hf_transfer.training.activations.entry import StandIn
from hf_transfer.training.batching import divided
from hf_transfer.training.trials import same_draws, tolerance, train_mode, without_dropout

ATTENTION = "packed"
# More groups have less padding, and each costs a round of small operations in every layer.
GROUPS = 4


class Packing:
    """Where the real positions of a padded batch are; a layer is given it in place of its attention mask.

    Args:
        mask: [batch, 1, positions, positions], True where a position attends to another.
        counts: of real positions, [batch]; padding is behind them.
    """

    def __init__(self, mask: torch.Tensor, counts: np.ndarray):
        order = np.argsort(counts, kind="stable")
        self.shape = torch.Size((len(counts), mask.shape[-1]))
        self.rows = _real(order, counts[order], mask.shape[-1])
        self.groups: list[_Group] = []
        self.height = 0
        padded = []
        for members in divided(order, counts[order], min(GROUPS, len(order))):
            if not len(members):
                continue
            shape = torch.Size((len(members), int(counts[members[-1]])))
            padded.append(self.height + _real(np.arange(len(members)), counts[members], shape[1]))
            rows = slice(self.height, self.height + shape.numel())
            self.groups.append(_Group(shape, rows, mask[torch.from_numpy(members), :, : shape[1], : shape[1]]))
            self.height = rows.stop
        self.padded = torch.cat(padded)

    def pack(self, states: torch.Tensor) -> torch.Tensor:
        """[batch or 1, positions, width] to [1, real positions, width]."""
        return _Gather.apply(states.expand(*self.shape, -1).flatten(0, 1), self.rows)[None]

    def unpack(self, states: torch.Tensor) -> torch.Tensor:
        """[1, real positions, width] to [batch, positions, width]; padding is 0."""
        return _Scatter.apply(states[0], self.rows, self.shape.numel()).unflatten(0, self.shape)

    def attend(
        self,
        attention: Callable[..., tuple[torch.Tensor, None]],
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
    ) -> torch.Tensor:
        """`attention(query, key, value, mask)` of each group, [1, real positions, heads, size].

        Args:
            attention: transformers' kind; its tensors are [group, heads, positions, size].
            query: [1, heads, real positions, size], as `key` and `value`.
            key: see `query`.
            value: see `query`.
        """
        every = [
            _Scatter.apply(states.transpose(1, 2).flatten(2)[0], self.padded, self.height).unflatten(
                1, (states.shape[1], -1)
            )
            for states in (query, key, value)
        ]
        found = []
        for group in self.groups:
            own = [states[group.rows].unflatten(0, group.shape).transpose(1, 2) for states in every]
            found.append(attention(*own, group.mask)[0].flatten(0, 1).flatten(1))
        return _Gather.apply(torch.cat(found), self.padded).unflatten(1, (query.shape[1], -1))[None]


@dataclass(frozen=True)
class _Group:
    shape: torch.Size
    rows: slice
    mask: torch.Tensor


def _real(examples: np.ndarray, counts: np.ndarray, longest: int) -> torch.Tensor:
    found = [i * longest + np.arange(count) for i, count in zip(examples.tolist(), counts.tolist(), strict=True)]
    return torch.from_numpy(np.concatenate(found))


class _Gather(torch.autograd.Function):
    """Rows of a matrix, none of them twice: gradients are put back, where PyTorch's own have to be added up."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(rows)
        ctx.height = len(x)
        return x.index_select(0, rows)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        (rows,) = ctx.saved_tensors
        return gradient.new_zeros(ctx.height, *gradient.shape[1:]).index_copy_(0, rows, gradient), None


class _Scatter(torch.autograd.Function):
    """The other way round: a matrix of so many rows, 0 where none is put."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, rows: torch.Tensor, height: int) -> torch.Tensor:
        ctx.save_for_backward(rows)
        return x.new_zeros(height, *x.shape[1:]).index_copy_(0, rows, x)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (rows,) = ctx.saved_tensors
        return gradient.index_select(0, rows), None, None


@contextlib.contextmanager
def packed(trainer: Any, anatomy: Anatomy) -> Iterator[bool]:
    """Let the layers of the trainer's model compute no padding inside the block, where they can; says whether.

    On a processor alone: elsewhere, finding out how long each example is would hold up the device.

    Args:
        trainer: as it will train.
        anatomy: of its model without adapters.
    """
    model = unwrap_peft(trainer.model)
    if (
        anatomy.layers is None
        or trainer.args.torch_compile
        or getattr(model.config, "_attn_implementation", None) != "sdpa"
    ):
        yield False
        return
    layers = [layer for layer in model.get_submodule(anatomy.layers) if not isinstance(layer, StandIn)]
    with contextlib.ExitStack() as stack:
        model.set_attn_implementation(ATTENTION)
        stack.callback(model.set_attn_implementation, "sdpa")
        possible = bool(layers) and _same_steps(trainer, layers)
        if possible:
            stack.enter_context(_packing(layers))
        yield possible


def attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | Packing | None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' ``sdpa`` attention, of packed positions too: within each example.

    Args:
        module: the attention layer.
        query: [batch, heads, tokens, size], as `key` and `value`.
        key: see `query`.
        value: see `query`.
        attention_mask: [batch, 1 or heads, tokens, tokens], True or 0 where a token is attended to; or where the
            tokens of each example are, if `query` and the others are packed.
        **kwargs: what transformers hands on.
    """
    if isinstance(attention_mask, Packing):
        return attention_mask.attend(functools.partial(attention, module, **kwargs), query, key, value), None
    return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)


AttentionInterface.register(ATTENTION, attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)


@contextlib.contextmanager
def _packing(layers: list[nn.Module]) -> Iterator[Collection[Any]]:
    """Inside the block, `layers` are packed; what is given grows where they are."""
    # Layers share masks: one for all of them, or one for each kind of attention.
    known: collections.deque[tuple[torch.Tensor, Packing | None]] = collections.deque(maxlen=2)

    def packing_of(mask: torch.Tensor) -> Packing | None:
        for other, packing in known:
            if other is mask:
                return packing
        counts = mask[:, 0].any(dim=1).sum(dim=1).numpy()
        known.append((mask, Packing(mask, counts) if counts.min() < mask.shape[-1] else None))
        return known[-1][1]

    def wrap(layer: nn.Module) -> Callable[..., Any]:
        forward = layer.forward
        signature = inspect.signature(forward)

        def packed_forward(*args: Any, **kwargs: Any) -> Any:
            given = signature.bind(*args, **kwargs)
            mask = given.arguments.get("attention_mask")
            if mask is None or mask.dtype != torch.bool or mask.dim() != 4:
                return forward(*args, **kwargs)
            packing = packing_of(mask)
            if packing is None:
                return forward(*args, **kwargs)
            given.arguments["hidden_states"] = packing.pack(given.arguments["hidden_states"])
            given.arguments["attention_mask"] = packing
            if given.arguments.get("position_embeddings") is not None:
                given.arguments["position_embeddings"] = tuple(
                    packing.pack(each) for each in given.arguments["position_embeddings"]
                )
            found = forward(*given.args, **given.kwargs)
            return packing.unpack(found) if isinstance(found, torch.Tensor) else (packing.unpack(found[0]), *found[1:])

        return packed_forward

    for layer in layers:
        layer.forward = wrap(layer)
    try:
        yield known
    finally:
        for layer in layers:
            del layer.forward


def _same_steps(trainer: Any, layers: list[nn.Module]) -> bool:
    """Whether training steps on uneven examples are the same with packed layers, but for dropout."""
    kind = trainer.model.config.model_type
    limit = tolerance(trainer.model.device, trainer.accelerator.mixed_precision)
    try:
        for rows in _uneven(trainer.train_dataset.positions):
            padded = _gradients(trainer, rows)
            with _packing(layers) as packings:
                own = _gradients(trainer, rows)
            if not any(packing is not None for _, packing in packings):
                return False  # there is no padding, or no mask that tells where it is
            difference = _difference(padded, own)
            if not difference <= limit:
                logger.info("Padding is computed too: without it a %s has gradients %.2g apart.", kind, difference)
                return False
    except Exception as error:  # whatever a layer raises says the same: it cannot take positions in one row
        logger.info("Padding is computed too: a %s cannot do without (%s).", kind, " ".join(str(error).split())[:100])
        return False
    return True


def _uneven(positions: np.ndarray) -> list[list[int]]:
    """Rows of two batches of examples: the shortest and the longest, and some in between."""
    order = np.argsort(positions, kind="stable")
    count = len(order)
    return [
        np.unique(order[places]).tolist() for places in ([0, 1 % count, -2 % count, -1], [0, count // 3, count // 2])
    ]


def _gradients(trainer: Any, rows: list[int]) -> list[torch.Tensor]:
    """The loss of a batch and the gradients of all that is trained, without dropout; nothing of the run changes."""
    model, examples = trainer.model, trainer.train_dataset.without_augmentation()
    batch = trainer._prepare_inputs(trainer.data_collator(examples.__getitems__(rows)))
    watched = list(trainer.loss.counts)
    with train_mode(model, trainer.frozen), without_dropout(model), same_draws(model.device):
        with trainer.accelerator.autocast():
            loss = trainer.compute_loss(model, batch)
        loss.backward()
    found = [loss.detach()[None], *(p.grad for p in model.parameters() if p.grad is not None)]
    model.zero_grad(set_to_none=True)
    trainer.loss.counts[:] = watched
    return found


def _difference(found: list[torch.Tensor], expected: list[torch.Tensor]) -> float:
    """The largest difference of two losses or gradients, as a share of the largest of them all."""
    scale = max(float(each.abs().max()) for each in expected)
    return max(float((a - b).abs().max()) for a, b in zip(found, expected, strict=True)) / max(scale, 1e-30)
