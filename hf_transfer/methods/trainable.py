"""Which weights each method trains, and which modules stay in eval mode meanwhile."""

from collections.abc import Mapping

import torch
from transformers import PretrainedConfig, PreTrainedModel

from hf_transfer.arguments import MethodArguments
from hf_transfer.errors import InputError
from hf_transfer.methods.anatomy import Anatomy, is_inside
from hf_transfer.methods.lora import adaptable_layers, add_adapters
from hf_transfer.models import unwrap_peft


def default_learning_rate(arguments: MethodArguments, config: PretrainedConfig, rates: Mapping[str, float]) -> float:
    """Return the default peak learning rate of a method: the narrower the model, the higher.

    Adam's best learning rate is proportional to 1 / width: Yang et al. 2022, https://arxiv.org/abs/2203.03466.

    Args:
        arguments: the method.
        config: the model's config.
        rates: the task's learning rate for each method, for a model of width 768; the one named ``head``, for
            training the head alone, does not depend on the width.
    """
    if arguments.method == "frozen" and arguments.trainable_layers == 0:
        return rates["head"]
    return float(f"{rates[arguments.method] * 768 / getattr(config, 'hidden_size', 768):.1e}")


def check_method_fits(model: PreTrainedModel, anatomy: Anatomy, arguments: MethodArguments) -> None:
    """Raise an error if the model lacks the layers that the training method adapts or trains.

    Raises:
        InputError: there are no linear layers to adapt, or fewer layers than are to be trained.
    """
    if arguments.method == "lora" and not adaptable_layers(model, anatomy):
        raise InputError(
            f"--method lora: the trunk of a {model.config.model_type} has no linear layers (torch.nn.Linear, "
            "transformers' Conv1D) that LoRA could adapt. Use --method full or frozen."
        )
    count = arguments.trainable_layers
    if count and anatomy.layers is None:
        raise InputError(
            f"--trainable_layers {count}: the layers of {model.config.model_type} share their weights and cannot be "
            "trained one by one. Leave it at 0, or use --method full or lora."
        )
    if count > anatomy.depth(model):
        raise InputError(f"--trainable_layers {count}: the model has {anatomy.depth(model)} layers.")


def apply_method(
    model: PreTrainedModel, anatomy: Anatomy, arguments: MethodArguments, *, revision: str
) -> torch.nn.Module:
    """Set ``requires_grad`` of every parameter as the training method needs it, and return the model.

    Args:
        model: with float32 weights.
        anatomy: its parts.
        arguments: the method and its settings.
        revision: the base model's revision on the Hub, which is saved in an adapter's config.

    Returns:
        The same model; for ``lora``, wrapped in a `peft.PeftModel`.
    """
    if arguments.method == "lora":
        return add_adapters(model, anatomy, arguments, revision)
    if arguments.method == "frozen":
        model.requires_grad_(False)
        for name in _trained_modules(model, anatomy, arguments):
            model.get_submodule(name).requires_grad_(True)
        return model
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in anatomy.fixed)
    return model


def frozen_modules(model: torch.nn.Module, anatomy: Anatomy, arguments: MethodArguments) -> list[torch.nn.Module]:
    """Return the modules that stay in eval mode in training: no dropout, running statistics do not change.

    - ``frozen``: the trunk, except its last ``trainable_layers`` and modules of the head inside it. There is no
      SpecAugment, as the trunk applies it in train mode only.
    - ``lora``: the fixed front, and modules with running statistics outside the head: an adapter does not save these
      statistics, so the trained model could not be restored if they had changed.
    - ``full`` and ``scratch``: the fixed front, and every other module without a trained parameter.

    Args:
        model: before or after `apply_method`.
        anatomy: the model's parts, found before adapters were added.
        arguments: the method.
    """
    base_model = unwrap_peft(model)
    modules = dict(base_model.named_modules())
    if arguments.method == "frozen":
        trained = _trained_modules(base_model, anatomy, arguments)
        return [
            module
            for name, module in modules.items()
            if is_inside(name, [anatomy.trunk]) and not is_inside(name, trained)
        ]
    frozen = [] if anatomy.front is None else [anatomy.front]
    if arguments.method == "lora":
        frozen += [
            name
            for name, module in modules.items()
            if _has_running_statistics(module) and not is_inside(name, anatomy.head)
        ]
    else:
        frozen += [name for name, module in modules.items() if _is_fixed(name, module, anatomy.fixed)]
    return [module for name, module in modules.items() if is_inside(name, frozen)]


def _trained_modules(model: torch.nn.Module, anatomy: Anatomy, arguments: MethodArguments) -> list[str]:
    """Return the names of the modules that the method ``frozen`` trains: the head and the last layers."""
    return [*anatomy.head, *anatomy.last_layers(model, arguments.trainable_layers)]


def _is_fixed(name: str, module: torch.nn.Module, fixed: frozenset[str]) -> bool:
    parameters = [f"{name}.{parameter}" for parameter, _ in module.named_parameters()]
    return bool(parameters) and fixed.issuperset(parameters)


def _has_running_statistics(module: torch.nn.Module) -> bool:
    """Return whether a module has float buffers of its own that are saved, as batch normalisation has."""
    return any(
        buffer is not None and buffer.is_floating_point() and name not in module._non_persistent_buffers_set
        for name, buffer in module._buffers.items()
    )


def count_parameters(model: torch.nn.Module) -> dict[str, int]:
    """Return the numbers of ``total`` and ``trainable`` parameters of a model, as a dictionary.

    The frozen copies that peft keeps of fully trained modules are not counted.
    """
    parameters = {name: parameter for name, parameter in model.named_parameters() if ".original_module." not in name}
    return {
        "total": sum(parameter.numel() for parameter in parameters.values()),
        "trainable": sum(parameter.numel() for parameter in parameters.values() if parameter.requires_grad),
    }
