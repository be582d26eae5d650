"""A model that is given the activations of its lower layers, and runs only the layers above them."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from hf_transfer.methods.anatomy import Anatomy

# transformers' method that makes a mask of positions from one of samples.
MASK_OF_POSITIONS = "_get_feature_vector_attention_mask"
# How a module hands on the activations.
Form = Callable[[torch.Tensor], Any]


class Entry:
    """A place in a model behind which everything can be run from activations.

    Inside `skipping` what lies below it has light stand-ins, which hand on what the model was given: a step goes over
    all of a model's modules and weights several times, and those that do nothing would take most of its time.

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
        self.below: dict[nn.Module, Form] = {}
        self.adds_up: nn.Module | None = None
        self._hidden: list[tuple[nn.Module, str, nn.Module, StandIn]] = []
        self.given = torch.empty(0)
        self.mask: torch.Tensor | None = None

    def capture(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """The activations at the entry, [batch, positions, width], and no arithmetic behind it.

        Of the first position alone after `keep_first_position`, where it has found a way.
        """
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
        with contextlib.ExitStack() as hooks:
            hooks.enter_context(hook)
            if self.adds_up is not None:
                hooks.enter_context(self.adds_up.register_forward_pre_hook(_first_position, with_kwargs=True))
            with torch.inference_mode(), contextlib.suppress(_Stop):
                self.model(**batch)
        return found[0].transpose(1, 2) if self.first is None else found[0]

    def learn(self, batch: dict[str, torch.Tensor]) -> None:
        """Note which modules make the activations of a batch, and in what form they hand them on."""
        if self.first is None:
            self.below = {self.front: lambda given: given.transpose(1, 2)}  # type: ignore[dict-item]
            return
        outputs: dict[nn.Module, Any] = {}
        skipped = self.layers[: self.first]
        modules = {*self.trunk.children(), *self.holder.children()} - {self.trunk, self.holder}

        def note(module: nn.Module, _: tuple, output: Any) -> None:
            outputs.setdefault(module, output)

        with contextlib.ExitStack() as hooks:
            for module in (*modules, *skipped):
                hooks.enter_context(module.register_forward_hook(note))
            hidden = self.capture(batch)
        forms = {module: _form(output, hidden) for module, output in outputs.items()}
        self.below = {module: form for module, form in forms.items() if form is not None}

    def keep_first_position(self, batch: dict[str, torch.Tensor]) -> None:
        """Nothing but the first position will be asked for: leave out what the last layer does to each of the others.

        That is all behind its attention. It begins where the attention's output is added to the layer's input, if one
        module does it; where the activations of `batch` would not be what they were, nothing is left out.
        """
        found: list[nn.Module] = []

        def note(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
            shapes = [v.shape for v in (*args, *kwargs.values()) if isinstance(v, torch.Tensor) and v.dim() == 3]
            if len(shapes) > 1 and len(set(shapes)) == 1:
                found.append(module)

        with contextlib.ExitStack() as hooks:
            for module in self.layers[-1].modules():
                hooks.enter_context(module.register_forward_pre_hook(note, with_kwargs=True))
            asked = self.capture(batch)[:, :1]
        if not found:
            return
        self.adds_up = found[0]
        try:
            own = self.capture(batch)
        except Exception:  # whatever a module raises says that it needs them
            own = asked[:0]
        if own.shape != asked.shape or not torch.allclose(own, asked, rtol=1e-5, atol=1e-5):
            self.adds_up = None

    @contextlib.contextmanager
    def skipping(self) -> Iterator[None]:
        """Run the model from given activations on, inside the block."""
        # Of the trunk, and of heads that take the mean over the positions that are real.
        masked = [module for module in (self.trunk, self.model) if hasattr(module, MASK_OF_POSITIONS)]
        hooks = [self.trunk.register_forward_pre_hook(self._take, with_kwargs=True)]
        if self.model.main_input_name == "input_ids":
            hooks.append(self.trunk.register_forward_hook(self._hand_on_last))
        try:
            self._hidden = [
                (parent, name, module, StandIn(module, self.below[module], self))
                for parent in self.model.modules()
                for name, module in parent._modules.items()
                if module in self.below
            ]
            self._hide()
            for module in masked:  # masks are given by position, as the activations are, and not by sample
                setattr(module, MASK_OF_POSITIONS, lambda length, mask, **_: mask)
            yield
        finally:
            self.given, self.mask = torch.empty(0), None
            for hook in hooks:
                hook.remove()
            self._restore()
            self._hidden = []
            for module in masked:
                vars(module).pop(MASK_OF_POSITIONS, None)

    @contextlib.contextmanager
    def whole(self) -> Iterator[None]:
        """Have the model with all of its parts for this block inside `skipping`: to be saved or counted, not run."""
        self._restore()
        try:
            yield
        finally:
            self._hide()

    def _hide(self) -> None:
        for parent, name, _, stand_in in self._hidden:
            parent._modules[name] = stand_in

    def _restore(self) -> None:
        for parent, name, module, _ in self._hidden:
            parent._modules[name] = module

    def _take(self, _: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        inputs = (*args, *kwargs.values())
        self.given = next(v for v in inputs if isinstance(v, torch.Tensor) and v.is_floating_point() and v.dim() == 3)
        self.mask = kwargs.get("attention_mask")

    def _hand_on_last(self, _: nn.Module, args: tuple, output: Any) -> Any:
        """The state of each text's last token at the last position of the batch, where there is padding.

        Decoders find the last token by its id. Given activations they know no ids, and classify the last position.
        """
        mask = self.mask
        if mask is None or mask.dim() != 2 or not isinstance(output[0], torch.Tensor) or bool(mask[:, -1].all()):
            return output
        states = output[0]
        last = states[torch.arange(len(states), device=states.device), mask.sum(dim=1) - 1]
        states = torch.cat([states[:, :-1], last[:, None]], dim=1)
        if isinstance(output, tuple):
            return states, *output[1:]
        output["last_hidden_state"] = states
        return output


class StandIn(nn.Module):
    """In the place of a module that is skipped: it has that one's attributes, and no weights or children of its own.

    Args:
        module: that is skipped.
        form: how it hands on what the model was given.
        entry: that was given it.
    """

    def __init__(self, module: nn.Module, form: Form, entry: "Entry"):
        super().__init__()
        self.__dict__["module"] = module  # not a child
        self.form, self.entry = form, entry

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["module"], name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        # Whatever reaches it: between two modules that are skipped something may be added that is in there already.
        return self.form(self.entry.given)


def _first_position(_: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
    """Inputs [batch, positions, width] with their first position alone."""

    def cut(value: Any) -> Any:
        return value[:, :1] if isinstance(value, torch.Tensor) and value.dim() == 3 else value

    return tuple(map(cut, args)), {name: cut(value) for name, value in kwargs.items()}


def _form(output: Any, hidden: torch.Tensor) -> Form | None:
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
