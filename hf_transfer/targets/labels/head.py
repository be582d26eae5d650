"""The classification head of a checkpoint: kept for the same labels, in the order of the data, or initialised anew."""

import re

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from hf_transfer.errors import InputError, logger
from hf_transfer.models import unwrap_peft


def match_head_to_labels(
    model: PreTrainedModel, checkpoint_config: PretrainedConfig, id2label: dict[int, str], new: list[str]
) -> list[str]:
    """Reorder a checkpoint's head for the data's labels, or initialise it anew; return the new parameters' names.

    Args:
        model: loaded with a head for `id2label`.
        checkpoint_config: the config as the checkpoint has it.
        id2label: the data's labels.
        new: names of the parameters that did not come from the checkpoint.

    Returns:
        The names of the parameters that were initialised here.

    Raises:
        InputError: the head has to be changed, and it has no linear output layer.
    """
    trunk = f"{model.base_model_prefix}."
    if any(not name.startswith(trunk) for name in new):
        has_same_class = type(model).__name__ in (checkpoint_config.architectures or ())
        if has_same_class and checkpoint_config.num_labels != len(id2label):
            logger.info("The checkpoint's head has %d labels, the data %d: a new head is made.",
                        checkpoint_config.num_labels, len(id2label))  # fmt: skip
        return []
    before = [str(checkpoint_config.id2label[i]) for i in sorted(checkpoint_config.id2label)]
    after = [id2label[i] for i in sorted(id2label)]
    order = _label_order(before, after)
    if order == list(range(len(after))):
        logger.info("The checkpoint's classification head is kept: %s.", ", ".join(before))
        return []
    layer = output_layer(model, len(after))
    if layer is None:
        raise InputError(
            f"The head of a {model.config.model_type} ends in no linear layer (torch.nn.Linear) with an output for "
            "each label. Choose another model."
        )
    name, output = layer
    if order is not None:
        with torch.no_grad():
            for parameter in output.parameters():
                parameter.copy_(parameter[order].clone())
        logger.info("The checkpoint's classification head is kept, its rows in the order of your labels: %s (in the "
                    "checkpoint: %s).", ", ".join(after), ", ".join(before))  # fmt: skip
        return []
    if all(re.fullmatch(r"label_\d+", label.lower()) for label in before):
        pairs = ", ".join(f"{unnamed} is {label}" for unnamed, label in zip(before, after, strict=True))
        logger.info("The checkpoint's classification head is kept. It does not name its labels: they are taken in "
                    "order (%s).", pairs)  # fmt: skip
        return []
    logger.info("The labels of the checkpoint's head are %s, those of the data %s: a new head is made.", before, after)
    torch.nn.init.normal_(output.weight, std=getattr(model.config, "initializer_range", 0.02))
    if output.bias is not None:
        torch.nn.init.zeros_(output.bias)
    return [f"{name}.{parameter}" for parameter, _ in output.named_parameters()]


def _label_order(before: list[str], after: list[str]) -> list[int] | None:
    """Return for each label of `after` its index in `before`, or None if the labels are not the same.

    Case and white space are ignored where the labels differ in more than these.
    """
    for normalise in (str, lambda label: " ".join(label.split()).casefold()):
        old, new = [normalise(label) for label in before], [normalise(label) for label in after]
        if len(set(old)) == len(old) and set(old) == set(new) and len(old) == len(new):
            return [old.index(label) for label in new]
    return None


def output_layer(model: nn.Module, num_outputs: int) -> tuple[str, nn.Linear] | None:
    """Return the name of the linear layer that computes the logits, and the layer; None without such a layer.

    It is the last linear layer with so many outputs outside the trunk, or else inside. Other layers of a head of
    several layers (RoBERTa's, T5's) do not depend on the labels. Where peft keeps a copy, it is the trained layer.
    """
    base_model = unwrap_peft(model)
    layers = [
        (name, module)
        for name, module in base_model.named_modules()
        if isinstance(module, nn.Linear) and module.out_features == num_outputs and "original_module" not in name
    ]
    outside_trunk = [
        (name, module) for name, module in layers if not name.startswith(f"{base_model.base_model_prefix}.")
    ]
    return next(reversed(outside_trunk or layers), None)
