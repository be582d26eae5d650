"""Sequence packing: the positions of a batch that are not padding, in one row, and attention on them.

Operations on single positions (matrix products) process the row as one long example; attention processes a few groups
of examples of similar length, padded.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from hf_transfer.training.batching import cut_by_length

# The name under which the attention function is registered in transformers.
ATTENTION = "packed"
# More groups have less padding, but each group costs some small operations in every layer.
GROUPS = 4


class Packing:
    """Index of the positions of a batch that are not padding; layers get it instead of their attention mask.

    Args:
        mask: [batch, 1, positions, positions], True where a position attends to another.
        counts: number of positions of each example that are not padding, [batch]; padding is on the right.
    """

    def __init__(self, mask: torch.Tensor, counts: np.ndarray):
        order = np.argsort(counts, kind="stable")
        self.shape = torch.Size((len(counts), mask.shape[-1]))
        # Examples are packed from short to long. Rows in the flattened batch that are not padding:
        self.rows = _real_rows(order, counts[order], mask.shape[-1])
        self.groups: list[_Group] = []
        # For attention, the padded groups are stacked. Their number of rows, and those that are not padding:
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
        """Return states [batch or 1, positions, width] as one row [1, positions that are not padding, width]."""
        return _Gather.apply(states.expand(*self.shape, -1).flatten(0, 1), self.rows)[None]

    def unpack(self, states: torch.Tensor) -> torch.Tensor:
        """Return a packed row [1, positions that are not padding, width] as a batch [batch, positions, width].

        Padding is 0.
        """
        return _Scatter.apply(states[0], self.rows, self.shape.numel()).unflatten(0, self.shape)

    def attend(
        self,
        attention: Callable[..., tuple[torch.Tensor, None]],
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
    ) -> torch.Tensor:
        """Return the attention of packed positions to those of the same example, computed group by group.

        Args:
            attention: as ``attention(query, key, value, mask)``, on tensors of [group, heads, positions, size].
            query: [1, heads, positions that are not padding, size], as `key` and `value`.
            key: see `query`.
            value: see `query`.

        Returns:
            [1, positions that are not padding, heads, size].
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
    """Dataclass of a group of examples of similar length, padded to [examples, positions].

    Attributes:
        shape: [examples, positions].
        rows: of the group among the rows of all groups.
        mask: [examples, 1, positions, positions].
    """

    shape: torch.Size
    rows: slice
    mask: torch.Tensor


def _real_rows(examples: np.ndarray, counts: np.ndarray, longest: int) -> torch.Tensor:
    """Return the rows that are not padding in a batch padded to `longest` and flattened, example by example."""
    rows = [i * longest + np.arange(count) for i, count in zip(examples.tolist(), counts.tolist(), strict=True)]
    return torch.from_numpy(np.concatenate(rows))


class _Gather(torch.autograd.Function):
    """Autograd function that selects rows of a matrix, each at most once.

    The backward pass copies gradients and adds none up.
    """

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
    """Autograd function that puts rows into a matrix of `height` rows that are 0 elsewhere.

    It is the inverse of `_Gather`.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, rows: torch.Tensor, height: int) -> torch.Tensor:
        ctx.save_for_backward(rows)
        return x.new_zeros(height, *x.shape[1:]).index_copy_(0, rows, x)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (rows,) = ctx.saved_tensors
        return gradient.index_select(0, rows), None, None


def attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | Packing | None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Return transformers' ``sdpa`` attention, of packed positions within each example, and None for its weights.

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
