"""Entering a model above its frozen layers: those are skipped, and the model is given their activations instead."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from hf_transfer.methods.anatomy import Anatomy

# transformers' method that turns an attention mask over samples into one over frames.
FRAMES_MASK_METHOD = "_get_feature_vector_attention_mask"
# Turns the given activations into the form in which a skipped module returns them.
OutputForm = Callable[[torch.Tensor], Any]


class Entry:
    """Place in a model, above frozen layers, from which the rest of the model can be run on given activations.

    Inside `skipping`, the modules below it are replaced by stand-ins without weights, which return the given
    activations. (A training step iterates over all modules and weights of a model several times; for modules that do
    nothing, that would take most of the step's time.)

    Args:
        model: without adapters around it.
        anatomy: its parts.
        first: index of the first layer that is run; None to skip only the fixed front.

    Attributes:
        skipped: the modules that are replaced, each with the form of its output.
        residual_module: a module of the last layer from which on only the first position is computed; None for all.
        activations: what the model was given in the current forward pass, [batch, positions, width].
    """

    def __init__(self, model: PreTrainedModel, anatomy: Anatomy, first: int | None):
        self.model, self.anatomy, self.first = model, anatomy, first
        self.trunk = model.get_submodule(anatomy.trunk)
        self.front: nn.Module | None = None if anatomy.front is None else model.get_submodule(anatomy.front)
        self.layers: list[nn.Module] = []
        if first is not None:
            self.layers = list(model.get_submodule(str(anatomy.layers)))
            self.parent_of_layers = model.get_submodule(str(anatomy.layers).rpartition(".")[0])
        self.skipped: dict[nn.Module, OutputForm] = {}
        self.residual_module: nn.Module | None = None
        self.activations = torch.empty(0)
        self._mask: torch.Tensor | None = None
        self._replacements: list[tuple[nn.Module, str, nn.Module, StandIn]] = []

    def capture(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Run the model on a batch up to the entry, and return the activations there, [batch, positions, width].

        After `compute_first_position_only` there may be the first position only.
        """
        captured: list[torch.Tensor] = []

        def stop_before(_: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
            captured.append(args[0] if args else kwargs["hidden_states"])
            raise _Stop

        def stop_after(_: nn.Module, args: tuple, output: Any) -> None:
            captured.append(output[0] if isinstance(output, tuple) else output)
            raise _Stop

        if self.first is None:
            hook = self.front.register_forward_hook(stop_after)  # type: ignore[union-attr]
        elif self.first == len(self.layers):
            hook = self.layers[-1].register_forward_hook(stop_after)
        else:
            hook = self.layers[self.first].register_forward_pre_hook(stop_before, with_kwargs=True)
        with contextlib.ExitStack() as hooks:
            hooks.enter_context(hook)
            if self.residual_module is not None:
                hooks.enter_context(
                    self.residual_module.register_forward_pre_hook(_keep_first_position, with_kwargs=True)
                )
            with torch.inference_mode(), contextlib.suppress(_Stop):
                self.model(**batch)
        return captured[0].transpose(1, 2) if self.first is None else captured[0]

    def find_skipped_modules(self, batch: dict[str, torch.Tensor]) -> None:
        """Set `skipped` to the modules below the entry, and the form of their outputs, by running a batch."""
        if self.first is None:
            self.skipped = {self.front: lambda activations: activations.transpose(1, 2)}  # type: ignore[dict-item]
            return
        outputs: dict[nn.Module, Any] = {}
        layers_below = self.layers[: self.first]
        children = {*self.trunk.children(), *self.parent_of_layers.children()} - {self.trunk, self.parent_of_layers}

        def note_output(module: nn.Module, _: tuple, output: Any) -> None:
            outputs.setdefault(module, output)

        with contextlib.ExitStack() as hooks:
            for module in (*children, *layers_below):
                hooks.enter_context(module.register_forward_hook(note_output))
            activations = self.capture(batch)
        forms = {module: _output_form(output, activations) for module, output in outputs.items()}
        self.skipped = {module: form for module, form in forms.items() if form is not None}

    def compute_first_position_only(self, batch: dict[str, torch.Tensor]) -> None:
        """Make the last layer compute only the first position of each example, if it can, as tried on `batch`.

        It does so from the module that adds attention's residual on. All positions are computed where the layer has no
        such module, or where the activations of `batch` would change.
        """
        candidates: list[nn.Module] = []

        def note_module(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
            shapes = [v.shape for v in (*args, *kwargs.values()) if isinstance(v, torch.Tensor) and v.dim() == 3]
            if len(shapes) > 1 and len(set(shapes)) == 1:
                candidates.append(module)

        with contextlib.ExitStack() as hooks:
            for module in self.layers[-1].modules():
                hooks.enter_context(module.register_forward_pre_hook(note_module, with_kwargs=True))
            expected = self.capture(batch)[:, :1]
        if not candidates:
            return
        self.residual_module = candidates[0]
        try:
            captured = self.capture(batch)
        except Exception:  # of any type: the module needs the other positions
            captured = expected[:0]
        if captured.shape != expected.shape or not torch.allclose(captured, expected, rtol=1e-5, atol=1e-5):
            self.residual_module = None

    @contextlib.contextmanager
    def skipping(self) -> Iterator[None]:
        """Context manager: run the model on given activations, without the modules that compute them.

        They are given as ``inputs_embeds`` of a text model, or as the main input of another.
        """
        # The trunk has this method, and so have heads that average over positions without padding.
        with_mask_method = [module for module in (self.trunk, self.model) if hasattr(module, FRAMES_MASK_METHOD)]
        hooks = [self.trunk.register_forward_pre_hook(self._note_inputs, with_kwargs=True)]
        if self.model.main_input_name == "input_ids":
            hooks.append(self.trunk.register_forward_hook(self._move_last_token))
        try:
            self._replacements = [
                (parent, name, module, StandIn(module, self.skipped[module], self))
                for parent in self.model.modules()
                for name, module in parent._modules.items()
                if module in self.skipped
            ]
            self._replace_modules()
            for module in with_mask_method:  # the given mask is over positions already, as the activations are
                setattr(module, FRAMES_MASK_METHOD, lambda length, mask, **_: mask)
            yield
        finally:
            self.activations, self._mask = torch.empty(0), None
            for hook in hooks:
                hook.remove()
            self._restore_modules()
            self._replacements = []
            for module in with_mask_method:
                vars(module).pop(FRAMES_MASK_METHOD, None)

    @contextlib.contextmanager
    def with_all_modules(self) -> Iterator[None]:
        """Context manager: put the skipped modules back, to save the model or count its parameters.

        It is used inside `skipping`.
        """
        self._restore_modules()
        try:
            yield
        finally:
            self._replace_modules()

    def _replace_modules(self) -> None:
        for parent, name, _, stand_in in self._replacements:
            parent._modules[name] = stand_in

    def _restore_modules(self) -> None:
        for parent, name, module, _ in self._replacements:
            parent._modules[name] = module

    def _note_inputs(self, _: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        """Store the activations and the mask that the trunk is called with (a forward pre-hook)."""
        inputs = (*args, *kwargs.values())
        self.activations = next(
            v for v in inputs if isinstance(v, torch.Tensor) and v.is_floating_point() and v.dim() == 3
        )
        self._mask = kwargs.get("attention_mask")

    def _move_last_token(self, _: nn.Module, args: tuple, output: Any) -> Any:
        """Return the trunk's output with each text's last token at the batch's last position (a forward hook).

        Decoders find the last token by the padding id. Given activations they see no ids, and classify the last
        position, which may be padding.
        """
        mask = self._mask
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
    """Module that takes the place of a skipped one: it returns given activations, without weights or children.

    It has the attributes of the skipped module.

    Args:
        module: that is skipped.
        form: of the module's output.
        entry: that is given the activations.
    """

    def __init__(self, module: nn.Module, form: OutputForm, entry: Entry):
        super().__init__()
        self.__dict__["module"] = module  # not registered as a child
        self.form, self.entry = form, entry

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["module"], name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        # The inputs are ignored: what the model adds between two skipped modules is part of the activations already.
        return self.form(self.entry.activations)


def _keep_first_position(_: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
    """Return a module's inputs [batch, positions, width] cut to their first position (a forward pre-hook)."""

    def cut(value: Any) -> Any:
        return value[:, :1] if isinstance(value, torch.Tensor) and value.dim() == 3 else value

    return tuple(map(cut, args)), {name: cut(value) for name, value in kwargs.items()}


def _output_form(output: Any, activations: torch.Tensor) -> OutputForm | None:
    """Return a function that gives activations the form of a module's `output`, or None for unsuitable outputs.

    Suitable ones hold one state for each position.
    """
    if isinstance(output, tuple):
        first_is_states = isinstance(output[0], torch.Tensor) and output[0].shape == activations.shape
        return (lambda given: (given, given)) if first_is_states else None
    if not isinstance(output, torch.Tensor) or output.dim() != 3 or output.shape[0] != activations.shape[0]:
        return None
    if output.shape[1] == activations.shape[1]:
        return lambda given: given
    return (lambda given: given.transpose(1, 2)) if output.shape[2] == activations.shape[1] else None


class _Stop(Exception):
    """Exception: ends a forward pass once the activations are captured and the rest of it is not needed."""
