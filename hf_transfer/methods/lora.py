"""LoRA adapters through peft: adding, loading and merging them. The only file that imports peft."""

import contextlib
import copy
import functools
import re
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from hf_transfer.arguments import MethodArguments
from hf_transfer.errors import logger
from hf_transfer.methods.anatomy import Anatomy, is_inside
from hf_transfer.models import output_tensors

# Settings of `peft.LoraConfig` for each --lora_variant.
VARIANTS: dict[str, dict[str, Any]] = {
    "lora": {},
    "rslora": {"use_rslora": True},  # Kalajdzievski 2023, https://arxiv.org/abs/2312.03732
    "dora": {"use_dora": True},  # Liu et al. 2024, https://arxiv.org/abs/2402.09353
    "pissa": {"init_lora_weights": "pissa"},  # Meng et al. 2024, https://arxiv.org/abs/2404.02948
}


def add_adapters(model: PreTrainedModel, anatomy: Anatomy, arguments: MethodArguments, revision: str) -> PeftModel:
    """Return the model wrapped so that adapters on the trunk's linear layers, and the whole head, are trained.

    Args:
        model: the base model.
        anatomy: its parts.
        arguments: rank, scale, dropout and variant of the adapters.
        revision: the base model's revision on the Hub, which is saved in the adapter's config.
    """
    if anatomy.unreachable:
        logger.info("%d linear layers get no adapter, as the model reads their weights without calling them: %s, ...",
                    len(anatomy.unreachable), min(anatomy.unreachable))  # fmt: skip
    config = LoraConfig(
        r=arguments.lora_r,
        revision=revision,
        lora_alpha=arguments.lora_alpha,
        lora_dropout=arguments.lora_dropout,
        target_modules=adaptable_layers(model, anatomy),
        # All modules of the head by name: peft's own choice by task type forgets poolers and projectors.
        modules_to_save=list(anatomy.head),
        **VARIANTS[str(arguments.lora_variant)],
    )
    with _without_conv1d_warnings():
        adapted = get_peft_model(model, config)
    # peft would look up the base model on the Hub to see whether its vocabulary has grown. Embeddings are not trained.
    adapted.save_pretrained = functools.partial(adapted.save_pretrained, save_embedding_layers=False)
    return adapted


@contextlib.contextmanager
def _without_conv1d_warnings() -> Iterator[None]:
    """Context manager: silence peft's warning that it sets ``fan_in_fan_out`` for `Conv1D` layers by itself."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="fan_in_fan_out is set to")
        yield


def adaptable_layers(model: PreTrainedModel, anatomy: Anatomy) -> str:
    """Return a regular expression for the names of the linear layers that LoRA adapts; empty if there are none.

    These are the `torch.nn.Linear` and `Conv1D` (GPT-2) layers of the trunk, except those of the head, of the fixed
    front, and the unreachable ones.
    """
    patterns = {
        re.sub(r"\\\.\d+\\\.", r"\.\\d+\.", re.escape(name))
        for name, module in model.named_modules()
        if _is_adaptable(name, module, anatomy)
    }
    return "|".join(sorted(patterns))


def _is_adaptable(name: str, module: torch.nn.Module, anatomy: Anatomy) -> bool:
    return (
        isinstance(module, (torch.nn.Linear, Conv1D))
        and name.startswith(f"{anatomy.trunk}.")
        and not is_inside(name, anatomy.head)
        and f"{name}.weight" not in anatomy.fixed
        and name not in anatomy.unreachable
    )


def unreachable_layers(model: PreTrainedModel, anatomy: Anatomy, batch: Mapping[str, torch.Tensor]) -> frozenset[str]:
    """Return the names of linear layers on which adapters have no effect, as in WavLM's attention.

    The model reads the weights of these layers directly and never calls the layers, so an adapter in their forward
    pass has no effect.

    Args:
        model: without adapters.
        anatomy: its parts.
        batch: inputs of the model.
    """
    linear = {name: module for name, module in model.named_modules() if _is_adaptable(name, module, anatomy)}
    called: set[torch.nn.Module] = set()
    model.eval()
    with contextlib.ExitStack() as hooks:
        for module in linear.values():
            hooks.enter_context(module.register_forward_hook(lambda module, *_: called.add(module)))
        with torch.inference_mode():
            model(**batch)
    weights = {name: module.weight for name, module in linear.items() if module not in called}
    if not weights:
        return frozenset()
    # Layers that are not called and have no gradient either are not used for such inputs at all.
    with torch.enable_grad():
        total = torch.stack([output.float().sum() for output in output_tensors(model(**batch))]).sum()
        gradients = torch.autograd.grad(total, list(weights.values()), allow_unused=True)
    return frozenset(name for name, gradient in zip(weights, gradients, strict=True) if gradient is not None)


def base_model_of(adapter: str, revision: str = "main") -> tuple[str, str]:
    """Return the name and the revision of the base model of an adapter (a folder or a Hub repository)."""
    config = PeftConfig.from_pretrained(adapter, revision=revision)
    return str(config.base_model_name_or_path), config.revision or "main"


def load_adapter(model: PreTrainedModel, adapter: str, revision: str = "main", *, merge: bool) -> PreTrainedModel:
    """Load an adapter into its base model, and return that model for prediction.

    Args:
        model: the base model.
        adapter: a folder, or a repository on the Hub.
        revision: of the adapter's repository.
        merge: add the adapter's update to the base model's weights, which makes prediction faster.
    """
    with _without_conv1d_warnings():
        adapted = PeftModel.from_pretrained(model, adapter, revision=revision)
    return adapted.merge_and_unload(safe_merge=True) if merge else adapted.get_base_model()


def merged_copy(model: PeftModel) -> PreTrainedModel:
    """Return a copy of a `PeftModel` with its adapters merged into plain weights; `model` itself does not change."""
    return copy.deepcopy(model).merge_and_unload(safe_merge=True)
