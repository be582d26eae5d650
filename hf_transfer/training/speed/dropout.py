"""Dropout on a processor, where PyTorch's own costs a tenth of the training of a small encoder."""

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from hf_transfer.training.speed.packing import Packing

ATTENTION = "quick_dropout"


class QuickDropout(nn.Dropout):
    """`torch.nn.Dropout` with 16 random bits an element instead of a double: the share is exact to 1 / 65,536.

    On an accelerator it is PyTorch's own.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Zero a share `p` of the elements in training, and scale the others to keep the mean."""
        return dropout(x, self.p) if self.training else x


def dropout(x: torch.Tensor, p: float) -> torch.Tensor:
    """`torch.nn.functional.dropout` of a tensor in training; the random numbers are PyTorch's."""
    limit = round(p * 65536)
    if x.device.type != "cpu" or limit in (0, 65536):
        return nn.functional.dropout(x, p, training=True)
    bits = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
    # Whole numbers, so that this is 0 below the limit and 1 from it on; comparing and converting takes twice as long.
    keep = bits[: x.numel()].view(x.shape).to(torch.float32).sub_(limit - 32769).clamp_(0, 1)
    return x * keep.mul_(65536 / (65536 - limit)).to(x.dtype)


def attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | Packing | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' ``sdpa`` attention with the dropout above; without dropout it is that one.

    Args:
        module: the attention layer.
        query: [batch, heads, tokens, size], as `key` and `value`.
        key: see `query`.
        value: see `query`.
        attention_mask: [batch, 1 or heads, tokens, tokens], True or 0 where a token is attended to; or where the
            tokens of each example are, if `query` and the others are packed.
        scaling: of the products.
        **kwargs: ``dropout``, and what transformers hands on.
    """
    if isinstance(attention_mask, Packing):
        own = functools.partial(attention, module, scaling=scaling, **kwargs)
        return attention_mask.attend(own, query, key, value), None
    share = kwargs.pop("dropout", 0.0)
    grouped = key.shape[1] != query.shape[1]
    causal = attention_mask is None and (kwargs.get("is_causal") or getattr(module, "is_causal", False))
    if not share or query.device.type != "cpu" or grouped or causal:
        return sdpa_attention_forward(module, query, key, value, attention_mask, share, scaling, **kwargs)
    weights = (query * (query.shape[-1] ** -0.5 if scaling is None else scaling)) @ key.transpose(2, 3)
    if attention_mask is not None:
        if attention_mask.dtype == torch.bool:
            weights = weights.masked_fill(~attention_mask, torch.finfo(weights.dtype).min)
        else:
            weights = weights + attention_mask
    return (dropout(weights.softmax(dim=-1), share) @ value).transpose(1, 2).contiguous(), None


AttentionInterface.register(ATTENTION, attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)


@contextlib.contextmanager
def quick_dropout(model: Any) -> Iterator[None]:
    """Train `model` with this dropout inside the block."""
    modules = [module for module in model.modules() if type(module) is nn.Dropout]
    attends = getattr(model.config, "_attn_implementation", None) == "sdpa"
    for module in modules:
        module.__class__ = QuickDropout
    if attends:
        model.set_attn_implementation(ATTENTION)
    try:
        yield
    finally:
        for module in modules:
            module.__class__ = nn.Dropout
        if attends:
            model.set_attn_implementation("sdpa")
