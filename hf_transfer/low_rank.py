"""A linear layer with a low-rank update, at the cost of the layer alone."""

from typing import Any

import torch


class LowRankLinear(torch.autograd.Function):
    """``x (W + s B A)^T + bias``, with gradients for `x`, `A` and `B` and none for `W`.

    As two products beside the layer's own, the update is small arithmetic over all of `x` and of the output: memory is
    read and written several times more. Added into the weights first, the forward pass is one product; the sum is not
    kept. The gradient of `x` is one product more; the update's part of it, and the gradients of `A` and `B`, are
    products with a short side.
    """

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: Any, a: torch.Tensor, b: torch.Tensor, scaling: float
    ) -> torch.Tensor:
        """`x` [..., in], `weight` [out, in], `bias` [out] or None, `a` [r, in], `b` [out, r] to [..., out]."""
        added = torch.addmm(weight, b, a, alpha=scaling)
        ctx.save_for_backward(x, weight, a, b)
        ctx.scaling = scaling
        # Into memory of its own: SpecAugment writes into it, which autograd forbids in views that a function returns.
        output = x.new_empty(*x.shape[:-1], weight.shape[0])
        rows, flat = x.reshape(-1, weight.shape[1]), output.view(-1, weight.shape[0])
        if bias is None:
            torch.mm(rows, added.T, out=flat)
        else:
            torch.addmm(bias, rows, added.T, out=flat)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        x, weight, a, b = ctx.saved_tensors
        of_output, rows = gradients[0].reshape(-1, weight.shape[0]), x.reshape(-1, weight.shape[1])
        of_inner = of_output @ b
        of_x = None
        if ctx.needs_input_grad[0]:
            of_x = (of_output @ weight).addmm_(of_inner, a, alpha=ctx.scaling).reshape(x.shape)
        of_a = ctx.scaling * of_inner.T @ rows
        of_b = ctx.scaling * of_output.T @ (rows @ a.T)
        return of_x, None, None, of_a, of_b, None
