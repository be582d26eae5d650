"""A model entered above its constant part: given activations, it runs only what comes after them."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from hf_transfer.methods import Anatomy


class Entry:
    """A place in a model behind which everything can be run from activations.

    Modules below it keep their names and weights; inside `skipping` they hand on what the model was given.

    Args:
        model: the plain model, without adapters around it.
        anatomy: its parts.
        first: index of the first layer to be run; None for everything behind the fixed front.
    """

    def __init__(self, model: Any, anatomy: Anatomy, first: int | None):
        self.model, self.first = model, first
        self.trunk = model.get_submodule(anatomy.trunk)
        self.front: nn.Module | None = None if anatomy.front is None else model.get_submodule(anatomy.front)
        self.layers: list[nn.Module] = []
        if first is not None:
            self.layers = list(model.get_submodule(str(anatomy.layers)))
            self.holder = model.get_submodule(str(anatomy.layers).rpartition(".")[0])
        self.below: dict[nn.Module, Callable[[torch.Tensor], Any]] = {}
        self._given: torch.Tensor | None = None

    def capture(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """The activations at the entry, [batch, positions, width], and no arithmetic behind it."""
        found: list[torch.Tensor] = []

        def stop_before(_: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
            found.append(args[0] if args else kwargs["hidden_states"])
            raise _Stop

        def stop_after(_: nn.Module, args: tuple, output: Any) -> None:
            found.append(output[0] if isinstance(output, tuple) else output)
            raise _Stop

        if self.first is None:
            hook = self.front.register_forward_hook(stop_after)  # type: ignore[union-attr]
        elif self.first == len(self.layers):
            hook = self.layers[-1].register_forward_hook(stop_after)
        else:
            hook = self.layers[self.first].register_forward_pre_hook(stop_before, with_kwargs=True)
        try:
            with torch.inference_mode(), contextlib.suppress(_Stop):
                self.model(**batch)
        finally:
            hook.remove()
        return found[0].transpose(1, 2) if self.first is None else found[0]

    def learn(self, batch: dict[str, torch.Tensor]) -> None:
        """Note which modules make the activations of a batch, and in what form they hand them on."""
        if self.first is None:
            self.below = {self.front: lambda given: given.transpose(1, 2)}  # type: ignore[dict-item]
            return
        outputs: dict[nn.Module, Any] = {}
        skipped = self.layers[: self.first]
        modules = {*self.trunk.children(), *self.holder.children()} - {self.trunk, self.holder}
        hooks = [
            module.register_forward_hook(lambda module, _, output: outputs.setdefault(module, output))
            for module in (*modules, *skipped)
        ]
        try:
            hidden = self.capture(batch)
        finally:
            for hook in hooks:
                hook.remove()
        forms = {module: _form(output, hidden) for module, output in outputs.items()}
        self.below = {module: form for module, form in forms.items() if form is not None}

    @contextlib.contextmanager
    def skipping(self) -> Iterator[None]:
        """Run the model from given activations on, inside the block."""
        hook = self.trunk.register_forward_pre_hook(self._take, with_kwargs=True)
        for module, form in self.below.items():
            module.forward = self._stand_in(form)
        # Masks are given by position, as the activations are, and not by sample.
        masked = self.front is not None and hasattr(self.trunk, "_get_feature_vector_attention_mask")
        if masked:
            self.trunk._get_feature_vector_attention_mask = lambda length, mask, **_: mask
        try:
            yield
        finally:
            self._given = None
            hook.remove()
            for module in self.below:
                del module.forward
            if masked:
                del self.trunk._get_feature_vector_attention_mask

    def _take(self, _: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        inputs = (*args, *kwargs.values())
        self._given = next(v for v in inputs if isinstance(v, torch.Tensor) and v.is_floating_point() and v.dim() == 3)

    def _stand_in(self, form: Callable[[Any], Any]) -> Callable[..., Any]:
        # Whatever reaches it: between two modules that are skipped something may be added that is in there already.
        return lambda *args, **kwargs: form(self._given)


def _form(output: Any, hidden: torch.Tensor) -> Callable[[torch.Tensor], Any] | None:
    """How a module hands on what it makes of each position; None where it makes something else."""
    if isinstance(output, tuple):
        several = isinstance(output[0], torch.Tensor) and output[0].shape == hidden.shape
        return (lambda given: (given, given)) if several else None
    if not isinstance(output, torch.Tensor) or output.dim() != 3 or output.shape[0] != hidden.shape[0]:
        return None
    if output.shape[1] == hidden.shape[1]:
        return lambda given: given
    return (lambda given: given.transpose(1, 2)) if output.shape[2] == hidden.shape[1] else None


class _Stop(Exception):
    """Ends a forward pass where the rest of it is not needed."""
