"""Padding of texts: its token id and side, and whether it changes the model's outputs."""

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from hf_transfer.errors import logger
from hf_transfer.inputs.text.forward import evaluation_mode, token_ids_of_length

# Largest change of outputs, relative to the largest output, that counts as rounding. Padding changes the outputs of
# convolutions and Fourier transforms more.
PADDING_TOLERANCE = 1e-3
# Tokens of the text that a model is tried with.
TEXT_LENGTH = 8


def padding_config_settings(
    config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase, *, pretrained: bool
) -> dict[str, int]:
    """Return the tokenizer's padding id as a setting of the model's config, or an empty dictionary.

    It is empty if the checkpoint's own padding id can be kept.

    It cannot be kept if it is None or not a row of the embedding table. Otherwise it stays, as it may be needed for
    more than padding: RoBERTa's position ids begin after it.
    """
    known, rows = config.pad_token_id, getattr(config.get_text_config(), "vocab_size", None)
    can_be_kept = pretrained and known is not None and known >= 0 and (rows is None or known < rows)
    return {} if can_be_kept else {"pad_token_id": tokenizer.pad_token_id}


def align_padding(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Make model and tokenizer agree on padding, so that a text's outputs do not depend on the texts beside it.

    A decoder that classifies reads the rightmost token that is not ``config.pad_token_id``: it gets the tokenizer's
    padding id, in nested configs too. The padding side is one on which padding does not change the outputs; if there
    is none, ``config.padding_changes_outputs`` is set.

    Returns:
        Whether the model finds the token that it reads by the padding id.
    """
    config = model.config.get_text_config()
    finds_token_by_id = _finds_token_by_padding_id(model, tokenizer)
    if finds_token_by_id:
        _set_padding_id(model, tokenizer.pad_token_id)
        model.config.use_cache = config.use_cache = False  # keys and values of a forward pass are not used again
        sides = ["right"]
    else:
        if model.config.pad_token_id is None:
            model.config.pad_token_id = tokenizer.pad_token_id
        sides = [tokenizer.padding_side, "left" if tokenizer.padding_side == "right" else "right"]
    side = next((side for side in sides if not _padding_changes_outputs(model, tokenizer, side)), None)
    if side is None:
        logger.info("Padding changes the outputs of a %s: each text is measured and predicted alone.",
                    model.config.model_type)  # fmt: skip
    elif side != tokenizer.padding_side:
        logger.info("Texts are padded on the %s, where that does not change their outputs (the tokenizer: on the %s).",
                    side, tokenizer.padding_side)  # fmt: skip
    tokenizer.padding_side = side or sides[0]
    tokenizer.init_kwargs["padding_side"] = tokenizer.padding_side  # save_pretrained saves only these
    model.config.padding_changes_outputs = side is None
    return finds_token_by_id


def _set_padding_id(model: PreTrainedModel, padding_id: int) -> None:
    config = model.config.get_text_config()
    before = config.pad_token_id
    for module in model.modules():
        if isinstance(module, nn.Embedding) and before is not None and module.padding_idx == before:
            module.padding_idx = padding_id  # this row of the table gets no gradient
    model.config.pad_token_id = config.pad_token_id = padding_id


def _padding_changes_outputs(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, side: str) -> bool:
    """Return whether padding on one side of a text changes its outputs by more than rounding."""
    token_ids = token_ids_of_length(tokenizer, TEXT_LENGTH)
    padding = (0, TEXT_LENGTH) if side == "right" else (TEXT_LENGTH, 0)
    padded = nn.functional.pad(token_ids, padding, value=tokenizer.pad_token_id)
    padded_mask = nn.functional.pad(torch.ones_like(token_ids), padding)
    try:
        without = _logits(model, token_ids, torch.ones_like(token_ids))
        with_padding = _logits(model, padded, padded_mask)
    except Exception:  # reported when the texts themselves are tried: `require_accepted_inputs`
        return False
    return not torch.allclose(without, with_padding, rtol=0, atol=PADDING_TOLERANCE * float(without.abs().max()))


def _logits(model: PreTrainedModel, token_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    with evaluation_mode(model), torch.inference_mode():
        outputs = model(input_ids=token_ids.to(model.device), attention_mask=attention_mask.to(model.device))
        return outputs["logits"].float()


def _finds_token_by_padding_id(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether a classifier finds the token that it reads by ``config.pad_token_id``.

    This is found out with forward passes.

    Such a classifier gives other outputs if the last token of a text counts as padding.
    """
    config = model.config.get_text_config()
    original = config.pad_token_id
    token_ids = token_ids_of_length(tokenizer, TEXT_LENGTH)
    outputs = []
    try:
        for padding_id in (-1, int(token_ids[0, -1])):
            config.pad_token_id = padding_id
            outputs.append(_logits(model, token_ids, torch.ones_like(token_ids)))
    except Exception:  # reported when the texts themselves are tried: `require_accepted_inputs`
        return False
    finally:
        config.pad_token_id = original
    return not torch.equal(*outputs)
