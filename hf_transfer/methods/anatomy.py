"""The parts of a model, as module names: trunk, head, layers, fixed front."""

from collections.abc import Collection
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from hf_transfer.models import trunk_name


@dataclass(frozen=True)
class Anatomy:
    """Dataclass of the names of a model's parts that the training methods treat differently.

    Attributes:
        trunk: the base model.
        head: what the task adds: all modules beside the trunk, the trunk's pooler, and all newly initialised modules.
        layers: the `ModuleList` of the trunk's layers; None where layers share their weights.
        fixed: names of parameters that the task never trains, whatever the method.
        front: the child of the trunk that is fixed as a whole, as wav2vec2's feature encoder; None without one.
        unreachable: linear layers that adapters cannot change, see `lora.unreachable_layers`.
    """

    trunk: str
    head: tuple[str, ...]
    layers: str | None
    fixed: frozenset[str]
    front: str | None = None
    unreachable: frozenset[str] = frozenset()

    @classmethod
    def of(cls, model: PreTrainedModel, newly_initialised: list[str]) -> "Anatomy":
        """Return the `Anatomy` of a model: the names of its trunk, head, layers and fixed front.

        Args:
            model: without adapters, its fixed parameters with ``requires_grad`` off.
            newly_initialised: names of the parameters that did not come from the checkpoint.
        """
        trunk = trunk_name(model)
        base_model = model.get_submodule(trunk)
        fixed = frozenset(name for name, parameter in model.named_parameters() if not parameter.requires_grad)
        fronts = [
            f"{trunk}.{name}"
            for name, module in base_model.named_children()
            if _has_parameters(module)
            and all(f"{trunk}.{name}.{parameter}" in fixed for parameter, _ in module.named_parameters())
        ]
        return cls(
            trunk,
            head=tuple(_head_names(model, trunk, newly_initialised)),
            layers=_layer_list_name(model, trunk),
            fixed=fixed,
            front=fronts[0] if len(fronts) == 1 else None,
        )

    def depth(self, model: torch.nn.Module) -> int:
        """Return how many layers can be frozen or trained one by one; 0 where they share their weights."""
        return len(list(model.get_submodule(self.layers).children())) if self.layers else 0

    def last_layers(self, model: torch.nn.Module, count: int) -> list[str]:
        """Return the module names of the model's last `count` layers."""
        depth = self.depth(model)
        return [f"{self.layers}.{i}" for i in range(depth - count, depth)]


def is_inside(name: str, modules: Collection[str]) -> bool:
    """Return whether `name` is one of the named modules, or a module or parameter inside one of them."""
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def _head_names(model: PreTrainedModel, trunk: str, newly_initialised: list[str]) -> list[str]:
    names = [name for name, _ in model.named_children() if name != trunk]
    names += [f"{trunk}.{name}" for name, _ in model.get_submodule(trunk).named_children() if name == "pooler"]
    head = [name for name in names if _has_parameters(model.get_submodule(name))]
    for parameter in newly_initialised:
        module = parameter.rpartition(".")[0]
        # A parameter of the trunk itself, as the embedding of masked frames, has no module of its own to train.
        if module != trunk and not is_inside(module, head):
            head.append(module)
    return head


def _has_parameters(module: torch.nn.Module) -> bool:
    return next(module.parameters(), None) is not None


def _layer_list_name(model: PreTrainedModel, trunk: str) -> str | None:
    """Return the name of the `ModuleList` of the trunk's layers, or None without one.

    It is the largest with as many entries as the config says that there are layers.
    """
    depth = getattr(model.config, "num_hidden_layers", None)
    candidates = [
        (sum(parameter.numel() for parameter in module.parameters()), name)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.ModuleList) and len(module) == depth and name.startswith(trunk)
    ]
    # A convolutional front may have as many layers, but smaller ones.
    return max(candidates)[1] if candidates else None
