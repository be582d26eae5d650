"""Sequence packing on the CPU: layers compute the real positions of a batch in one row, without padding.

Operations on single positions (matrix products) process the row as one long example; attention processes a few groups
of examples of similar length, padded.
"""

import collections
import contextlib
import functools
import inspect
import math
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

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
from hf_transfer.training.batching import cut_by_length
from hf_transfer.training.equivalence import rounding_tolerance, same_random_numbers, train_mode, without_dropout

if TYPE_CHECKING:
    from hf_transfer.training.trainer import TransferTrainer

# The name under which the attention function is registered in transformers.
ATTENTION = "packed"
# More groups have less padding, but each group costs some small operations in every layer.
GROUPS = 4
# Trying it takes as long as two or three steps, and each step becomes a tenth shorter.
STEPS_WORTH_TRYING = 30


class Packing:
    """The places of the real positions of a padded batch; layers get it instead of their attention mask.

    Args:
        mask: [batch, 1, positions, positions], True where a position attends to another.
        counts: number of real positions of each example, [batch]; padding is on the right.
    """

    def __init__(self, mask: torch.Tensor, counts: np.ndarray):
        order = np.argsort(counts, kind="stable")
        self.shape = torch.Size((len(counts), mask.shape[-1]))
        # Examples are packed from short to long. Rows of the real positions in the flattened batch:
        self.rows = _real_rows(order, counts[order], mask.shape[-1])
        self.groups: list[_Group] = []
        # For attention, the padded groups are stacked. Their number of rows, and the rows of the real positions:
        self.group_rows_total = 0
        rows_in_groups = []
        for members in cut_by_length(order, counts[order], min(GROUPS, len(order))):
            if not len(members):
                continue
            shape = torch.Size((len(members), int(counts[members[-1]])))
            real = _real_rows(np.arange(len(members)), counts[members], shape[1])
            rows_in_groups.append(self.group_rows_total + real)
            rows = slice(self.group_rows_total, self.group_rows_total + shape.numel())
            self.groups.append(_Group(shape, rows, mask[torch.from_numpy(members), :, : shape[1], : shape[1]]))
            self.group_rows_total = rows.stop
        self.rows_in_groups = torch.cat(rows_in_groups)

    def pack(self, states: torch.Tensor) -> torch.Tensor:
        """Turn [batch or 1, positions, width] into [1, real positions, width]."""
        return _Gather.apply(states.expand(*self.shape, -1).flatten(0, 1), self.rows)[None]

    def unpack(self, states: torch.Tensor) -> torch.Tensor:
        """Turn [1, real positions, width] into [batch, positions, width], with 0 as padding."""
        return _Scatter.apply(states[0], self.rows, self.shape.numel()).unflatten(0, self.shape)

    def attend(
        self,
        attention: Callable[..., tuple[torch.Tensor, None]],
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
    ) -> torch.Tensor:
        """Compute attention within each example, group by group.

        Args:
            attention: as ``attention(query, key, value, mask)``, on tensors of [group, heads, positions, size].
            query: [1, heads, real positions, size], as `key` and `value`.
            key: see `query`.
            value: see `query`.

        Returns:
            [1, real positions, heads, size].
        """
        stacked = [
            _Scatter.apply(states.transpose(1, 2).flatten(2)[0], self.rows_in_groups, self.group_rows_total).unflatten(
                1, (states.shape[1], -1)
            )
            for states in (query, key, value)
        ]
        outputs = []
        for group in self.groups:
            of_group = [states[group.rows].unflatten(0, group.shape).transpose(1, 2) for states in stacked]
            outputs.append(attention(*of_group, group.mask)[0].flatten(0, 1).flatten(1))
        return _Gather.apply(torch.cat(outputs), self.rows_in_groups).unflatten(1, (query.shape[1], -1))[None]


@dataclass(frozen=True)
class _Group:
    """Examples of similar length, padded to [examples, positions].

    Attributes:
        shape: [examples, positions].
        rows: of the group among the rows of all groups.
        mask: [examples, 1, positions, positions].
    """

    shape: torch.Size
    rows: slice
    mask: torch.Tensor


def _real_rows(examples: np.ndarray, counts: np.ndarray, longest: int) -> torch.Tensor:
    """The rows of the real positions in a batch that is padded to `longest` and flattened, in the examples' order."""
    rows = [i * longest + np.arange(count) for i, count in zip(examples.tolist(), counts.tolist(), strict=True)]
    return torch.from_numpy(np.concatenate(rows))


class _Gather(torch.autograd.Function):
    """Select rows of a matrix, each at most once, so that the backward pass copies gradients and adds none up."""

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
    """The inverse of `_Gather`: put rows into a matrix of `height` rows that are 0 elsewhere."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, rows: torch.Tensor, height: int) -> torch.Tensor:
        ctx.save_for_backward(rows)
        return x.new_zeros(height, *x.shape[1:]).index_copy_(0, rows, x)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (rows,) = ctx.saved_tensors
        return gradient.index_select(0, rows), None, None


@contextlib.contextmanager
def packed(trainer: "TransferTrainer", anatomy: Anatomy) -> Iterator[bool]:
    """Let the layers of the trainer's model compute no padding inside the block, if training steps stay the same.

    This is done on the CPU only, and in runs long enough to win back the time that trying it takes: on an accelerator,
    reading the length of each example would make it wait.

    Args:
        trainer: with the model as it will be trained.
        anatomy: the model's parts.

    Yields:
        Whether the layers compute no padding.
    """
    model = unwrap_peft(trainer.model)
    if (
        trainer.model.device.type != "cpu"
        or _steps_asked_for(trainer) < STEPS_WORTH_TRYING
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


def _steps_asked_for(trainer: "TransferTrainer") -> int:
    """Return how many steps the trainer takes in the whole run."""
    args = trainer.args
    if args.max_steps > 0:
        return args.max_steps
    examples_per_step = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    return math.ceil(args.num_train_epochs * math.ceil(len(trainer.train_dataset) / examples_per_step))


def attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | Packing | None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Compute transformers' ``sdpa`` attention, also of packed positions, within each example.

    Args:
        module: the attention layer.
        query: [batch, heads, positions, size], as `key` and `value`.
        key: see `query`.
        value: see `query`.
        attention_mask: [batch, 1 or heads, positions, positions], True or 0 where a position is attended to; or the
            `Packing` of packed positions.
        **kwargs: further arguments of transformers' attention functions.
    """
    if isinstance(attention_mask, Packing):
        return attention_mask.attend(functools.partial(attention, module, **kwargs), query, key, value), None
    return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)


AttentionInterface.register(ATTENTION, attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)


@contextlib.contextmanager
def _packing(layers: list[nn.Module]) -> Iterator[Collection[tuple[torch.Tensor, Packing | None]]]:
    """Pack the inputs and unpack the outputs of `layers` inside the block.

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
    """Wrap a layer's ``forward`` so that its inputs are packed, where its mask shows padding."""
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
    """Whether training steps without dropout give the same gradients with packed layers, on two padded batches."""
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
    """The rows of two batches of examples: the shortest with the longest, and the shortest with medium ones."""
    order = np.argsort(positions, kind="stable")
    count = len(order)
    return [
        np.unique(order[places]).tolist() for places in ([0, 1 % count, -2 % count, -1], [0, count // 3, count // 2])
    ]


def _loss_and_gradients(trainer: "TransferTrainer", rows: list[int]) -> list[torch.Tensor]:
    """The loss of a batch and the gradients of all trained parameters, without dropout; the run does not change."""
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
    """The largest difference between two lists of tensors, as a share of the largest value in `b`."""
    scale = max(float(each.abs().max()) for each in b)
    return max(float((x - y).abs().max()) for x, y in zip(a, b, strict=True)) / max(scale, 1e-30)
