"""What is trained: every weight, LoRA adapters, the last layers, or every weight from scratch.

The only file that imports peft. A method is told module names and knows nothing of the task.
"""

import contextlib
import copy
import functools
import re
import warnings
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from hf_transfer.arguments import MethodArguments
from hf_transfer.errors import InputError, logger
from hf_transfer.models import output_tensors, trunk_of


def default_learning_rate(arguments: MethodArguments, config: Any, rates: Mapping[str, float]) -> float:
    """The method's peak learning rate for a model: the narrower, the higher, as Adam's best rate goes with 1 / width.

    Yang et al. 2022, https://arxiv.org/abs/2203.03466.

    Args:
        arguments: the method.
        config: of the model.
        rates: of the task, by method, for a width of 768; ``head`` is that of a head alone, for any width.
    """
    if arguments.method == "frozen" and arguments.trainable_layers == 0:
        return rates["head"]
    return float(f"{rates[arguments.method] * 768 / getattr(config, 'hidden_size', 768):.1e}")


@dataclass(frozen=True)
class Anatomy:
    """The parts of a model that methods speak of, as module names.

    Attributes:
        trunk: the base model.
        head: what the task adds: everything beside the trunk, the trunk's pooler, and whatever is newly initialised.
        layers: name of the `ModuleList` of the trunk's layers, or None where layers share weights.
        fixed: names of parameters that the task keeps as they are, whatever the method.
        front: the part of the trunk that is fixed as a whole, if there is one.
        bypassed: linear layers whose weights are read without calling them: see `bypassed_layers`.
    """

    trunk: str
    head: tuple[str, ...]
    layers: str | None
    fixed: frozenset[str]
    front: str | None = None
    bypassed: frozenset[str] = frozenset()

    @classmethod
    def of(cls, model: PreTrainedModel, newly_initialised: list[str]) -> "Anatomy":
        """Read the parts off the model and off what its checkpoint lacked."""
        trunk = trunk_of(model)
        base = model.get_submodule(trunk)
        head = [name for name, module in model.named_children() if name != trunk and _has_parameters(module)]
        head += [f"{trunk}.{name}" for name, _ in base.named_children() if name == "pooler"]
        head = [name for name in head if _has_parameters(model.get_submodule(name))]
        for parameter in newly_initialised:
            module = parameter.rpartition(".")[0]
            if module == trunk:
                continue  # a mask's embedding, say: no module of its own
            if not any(module == name or module.startswith(f"{name}.") for name in head):
                head.append(module)
        fixed = frozenset(name for name, parameter in model.named_parameters() if not parameter.requires_grad)
        fronts = [
            f"{trunk}.{name}"
            for name, module in base.named_children()
            if _has_parameters(module)
            and all(f"{trunk}.{name}.{own}" in fixed for own, _ in module.named_parameters())
        ]
        return cls(trunk, tuple(head), _layer_list(model, trunk), fixed, fronts[0] if len(fronts) == 1 else None)

    def depth(self, model: torch.nn.Module) -> int:
        """How many layers there are to freeze or train one by one."""
        return len(list(model.get_submodule(self.layers).children())) if self.layers else 0

    def last_layers(self, model: torch.nn.Module, count: int) -> list[str]:
        """Names of the last `count` layers."""
        depth = self.depth(model)
        return [f"{self.layers}.{i}" for i in range(depth - count, depth)]


def _has_parameters(module: torch.nn.Module) -> bool:
    return next(module.parameters(), None) is not None


def _layer_list(model: PreTrainedModel, trunk: str) -> str | None:
    depth = getattr(model.config, "num_hidden_layers", None)
    found = [
        (sum(p.numel() for p in module.parameters()), name)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.ModuleList) and len(module) == depth and name.startswith(trunk)
    ]
    return max(found)[1] if found else None  # a convolutional front may have as many layers, but not as large ones


def apply_method(model: PreTrainedModel, anatomy: Anatomy, arguments: MethodArguments, *, revision: str) -> Any:
    """Make trainable what the method trains and nothing else; returns the model, wrapped by peft for LoRA.

    Args:
        model: with float32 weights.
        anatomy: its parts.
        arguments: the method and its settings.
        revision: of the base model on the Hub, which an adapter remembers.
    """
    if arguments.method == "lora":
        return _with_adapters(model, anatomy, arguments, revision)
    if arguments.method == "frozen":
        _train_last_layers(model, anatomy, arguments.trainable_layers)
        return model
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in anatomy.fixed)
    return model


def require_trainable(model: PreTrainedModel, anatomy: Anatomy, arguments: MethodArguments) -> None:
    """Refuse a method that does not fit a model, before anything that takes long.

    Raises:
        InputError: there is nothing to put adapters into, or there are not as many layers as are to be trained.
    """
    if arguments.method == "lora" and not linear_layers(model, anatomy):
        raise InputError(
            f"--method lora: the trunk of a {model.config.model_type} has no linear layers (torch.nn.Linear, "
            "transformers' Conv1D) that adapters could be put into. Use --method full or frozen."
        )
    count = arguments.trainable_layers
    if count and anatomy.layers is None:
        raise InputError(
            f"--trainable_layers {count}: the layers of {model.config.model_type} share their weights and cannot be "
            "trained one by one. Leave it at 0, or use --method full or lora."
        )
    if count > anatomy.depth(model):
        raise InputError(f"--trainable_layers {count}: the model has {anatomy.depth(model)} layers.")


def _train_last_layers(model: PreTrainedModel, anatomy: Anatomy, count: int) -> None:
    model.requires_grad_(False)
    for name in [*anatomy.head, *anatomy.last_layers(model, count)]:
        model.get_submodule(name).requires_grad_(True)


def frozen_modules(model: Any, anatomy: Anatomy, arguments: MethodArguments) -> list[torch.nn.Module]:
    """Modules that stay in eval mode while the method trains: without dropout, and running statistics stand still.

    - ``frozen``: the trunk, but for its last ``trainable_layers`` and modules of the head inside it. SpecAugment is a
      step of the trunk in train mode: there is none.
    - ``lora``: the fixed front, and what has running statistics outside the heads: an adapter does not hold them, and
      could not give the model back if they had moved.
    - ``full`` and ``scratch``: the fixed front, and every other module none of whose parameters are trained.

    Args:
        model: as `apply_method` returns it, or as it was given to that.
        anatomy: of the model without adapters.
        arguments: the method.
    """
    plain = model.get_base_model() if isinstance(model, PeftModel) else model
    modules = dict(plain.named_modules())
    trunk = [name for name in modules if _inside(name, [anatomy.trunk])]
    if arguments.method == "frozen":
        trained = [*anatomy.head, *anatomy.last_layers(plain, arguments.trainable_layers)]
        return [modules[name] for name in trunk if not _inside(name, trained)]
    fixed = [] if anatomy.front is None else [anatomy.front]
    if arguments.method == "lora":
        fixed += [
            name
            for name, module in modules.items()
            if _has_running_statistics(module) and not _inside(name, anatomy.head)
        ]
    else:
        fixed += [name for name, module in modules.items() if _is_fixed(name, module, anatomy.fixed)]
    return [module for name, module in modules.items() if _inside(name, fixed)]


def _inside(name: str, prefixes: Collection[str]) -> bool:
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)


def _is_fixed(name: str, module: torch.nn.Module, fixed: frozenset[str]) -> bool:
    parameters = [f"{name}.{parameter}" for parameter, _ in module.named_parameters()]
    return bool(parameters) and fixed.issuperset(parameters)


def _has_running_statistics(module: torch.nn.Module) -> bool:
    """Whether it has state of its own that is saved with the model and is no parameter, as batch normalisation has."""
    return any(
        buffer is not None and buffer.is_floating_point() and name not in module._non_persistent_buffers_set
        for name, buffer in module._buffers.items()
    )


def _with_adapters(model: PreTrainedModel, anatomy: Anatomy, arguments: MethodArguments, revision: str) -> PeftModel:
    variants: dict[str, dict[str, Any]] = {
        "lora": {},
        "rslora": {"use_rslora": True},  # Kalajdzievski 2023, https://arxiv.org/abs/2312.03732
        "dora": {"use_dora": True},  # Liu et al. 2024, https://arxiv.org/abs/2402.09353
        "pissa": {"init_lora_weights": "pissa"},  # Meng et al. 2024, https://arxiv.org/abs/2404.02948
    }
    if anatomy.bypassed:
        logger.info("The weights of %d linear layers are read past LoRA, as of %s: the others get adapters.",
                    len(anatomy.bypassed), min(anatomy.bypassed))  # fmt: skip
    config = LoraConfig(
        r=arguments.lora_r,
        revision=revision,
        lora_alpha=arguments.lora_alpha,
        lora_dropout=arguments.lora_dropout,
        target_modules=linear_layers(model, anatomy),
        # All heads by name: peft's own choice by task type forgets poolers and projectors.
        modules_to_save=list(anatomy.head),
        **variants[str(arguments.lora_variant)],
    )
    with _without_notes_on_conv1d():
        adapted = get_peft_model(model, config)
    # peft would look the base model up to see whether its vocabulary has grown; embeddings are never trained here.
    adapted.save_pretrained = functools.partial(adapted.save_pretrained, save_embedding_layers=False)
    return adapted


@contextlib.contextmanager
def _without_notes_on_conv1d() -> Iterator[None]:
    """peft sees by itself which weights are stored as [in, out], and says so for each kind of layer."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="fan_in_fan_out is set to")
        yield


def linear_layers(model: PreTrainedModel, anatomy: Anatomy) -> str:
    """A regular expression for the names of all linear layers of the trunk, GPT-2's `Conv1D` too.

    Those of the head and of the fixed front are left out.
    """
    patterns = {
        re.sub(r"\\\.\d+\\\.", r"\.\\d+\.", re.escape(name))
        for name, module in model.named_modules()
        if _takes_adapter(name, module, anatomy)
    }
    return "|".join(sorted(patterns))


def _takes_adapter(name: str, module: torch.nn.Module, anatomy: Anatomy) -> bool:
    return (
        isinstance(module, (torch.nn.Linear, Conv1D))
        and name.startswith(f"{anatomy.trunk}.")
        and not _inside(name, anatomy.head)
        and f"{name}.weight" not in anatomy.fixed
        and name not in anatomy.bypassed
    )


def bypassed_layers(model: PreTrainedModel, anatomy: Anatomy, batch: Mapping[str, torch.Tensor]) -> frozenset[str]:
    """Linear layers whose weights a model reads without calling them, as WavLM's attention: LoRA has no effect there.

    Args:
        model: without adapters.
        anatomy: its parts.
        batch: inputs of the model.
    """
    modules = {name: module for name, module in model.named_modules() if _takes_adapter(name, module, anatomy)}
    called: set[torch.nn.Module] = set()
    model.eval()
    with contextlib.ExitStack() as hooks:
        for module in modules.values():
            hooks.enter_context(module.register_forward_hook(lambda module, *_: called.add(module)))
        with torch.inference_mode():
            model(**batch)
    weights = {name: module.weight for name, module in modules.items() if module not in called}
    if not weights:
        return frozenset()
    with torch.enable_grad():
        total = torch.stack([output.float().sum() for output in output_tensors(model(**batch))]).sum()
        gradients = torch.autograd.grad(total, list(weights.values()), allow_unused=True)
    return frozenset(name for name, gradient in zip(weights, gradients, strict=True) if gradient is not None)


def base_model_of(folder: str, revision: str = "main") -> tuple[str, str]:
    """The base model that an adapter's folder or repository names, and its revision."""
    config = PeftConfig.from_pretrained(folder, revision=revision)
    return str(config.base_model_name_or_path), config.revision or "main"


def load_adapter(model: PreTrainedModel, folder: str, revision: str = "main", *, merge: bool) -> PreTrainedModel:
    """A base model with the adapter of `folder` in it, for prediction; with `merge`, added into its weights."""
    with _without_notes_on_conv1d():
        adapted = PeftModel.from_pretrained(model, folder, revision=revision)
    return adapted.merge_and_unload(safe_merge=True) if merge else adapted.get_base_model()


def merged(model: PeftModel) -> PreTrainedModel:
    """A plain model that computes the same as `model`, which stays as it is."""
    return copy.deepcopy(model).merge_and_unload(safe_merge=True)


def count_parameters(model: torch.nn.Module) -> dict[str, int]:
    """Parameters in all and those that are trained; modules that peft keeps a frozen copy of count once."""
    parameters = {name: p for name, p in model.named_parameters() if ".original_module." not in name}
    return {
        "total": sum(p.numel() for p in parameters.values()),
        "trainable": sum(p.numel() for p in parameters.values() if p.requires_grad),
    }
