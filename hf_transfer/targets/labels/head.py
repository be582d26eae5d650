"""The classification head of a checkpoint: kept for the same labels, in their order, or made anew."""

import re
from typing import Any

import torch
from transformers import PreTrainedModel

from hf_transfer.errors import InputError, logger
from hf_transfer.models import unwrap_peft


def renew_unlike_head(model: PreTrainedModel, old: Any, id2label: dict[int, str], new: list[str]) -> list[str]:
    """Bring a checkpoint's classification head into the order of the data's labels, or make it anew for other labels.

    Args:
        model: loaded with a head for `id2label`.
        old: the checkpoint's config.
        id2label: the data's labels.
        new: parameters that did not come from the checkpoint.

    Returns:
        The names of the parameters that were made anew here.
    """
    trunk = f"{model.base_model_prefix}."
    if any(not key.startswith(trunk) for key in new):
        if type(model).__name__ in (old.architectures or ()) and old.num_labels != len(id2label):
            logger.info(
                "The checkpoint's head has %d labels, the data %d: a new head is made.", old.num_labels, len(id2label)
            )
        return []
    before = [str(old.id2label[i]) for i in sorted(old.id2label)]
    after = [id2label[i] for i in sorted(id2label)]
    order = _order_of(before, after)
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
        logger.info(
            "The checkpoint's classification head is kept, its rows in the order of your labels: %s (there: %s).",
            ", ".join(after), ", ".join(before),
        )  # fmt: skip
        return []
    if all(re.fullmatch(r"label_\d+", label.lower()) for label in before):
        pairs = ", ".join(f"{there} is {here}" for there, here in zip(before, after, strict=True))
        logger.info(
            "The checkpoint's classification head is kept. It does not name its labels: they are taken in order (%s).",
            pairs,
        )  # fmt: skip
        return []
    logger.info("The checkpoint's head knows %s; yours are %s: a new head is made.", before, after)
    torch.nn.init.normal_(output.weight, std=getattr(model.config, "initializer_range", 0.02))
    if output.bias is not None:
        torch.nn.init.zeros_(output.bias)
    return [f"{name}.{parameter}" for parameter, _ in output.named_parameters()]


def _order_of(before: list[str], after: list[str]) -> list[int] | None:
    """For each label of `after` its place in `before`, case and spaces aside where that tells them apart; or None."""
    for spelled in (str, lambda label: " ".join(label.split()).casefold()):
        there, here = [spelled(label) for label in before], [spelled(label) for label in after]
        if len(set(there)) == len(there) and set(there) == set(here) and len(there) == len(here):
            return [there.index(label) for label in here]
    return None


def output_layer(model: Any, outputs: int) -> tuple[str, torch.nn.Linear] | None:
    """The linear layer that makes the logits, with its name: the last with so many outputs, beside the trunk first.

    Layers below it in a head of several (RoBERTa's, T5's) do not depend on what the labels are. Where peft keeps a
    copy, it is the one that is trained.
    """
    whole = unwrap_peft(model)
    made = [
        (name, module)
        for name, module in whole.named_modules()
        if isinstance(module, torch.nn.Linear) and module.out_features == outputs and "original_module" not in name
    ]
    beside = [(name, module) for name, module in made if not name.startswith(f"{whole.base_model_prefix}.")]
    return next(reversed(beside or made), None)
