"""A new CTC head for another vocabulary, with the old head's weights for the letters that both share."""

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_transfer.errors import InputError, logger


def replace_head(model: PreTrainedModel, old: PreTrainedTokenizerBase, new: PreTrainedTokenizerBase) -> list[str]:
    """Replace a model's CTC head by one for another vocabulary, and return the names of the new parameters.

    Letters that both vocabularies have, in either case, keep their weights, as do blank, unknown token and space.

    Args:
        model: with an ``lm_head``; changed in place.
        old: the tokenizer of its head.
        new: the tokenizer of the new head.

    Returns:
        The names of the new parameters.

    Raises:
        InputError: the model has no linear head.
    """
    head = getattr(model, "lm_head", None)
    if not isinstance(head, torch.nn.Linear):
        raise InputError(f"A {model.config.model_type} model cannot take another vocabulary: use --vocabulary keep.")
    new_head = torch.nn.Linear(head.in_features, len(new))
    torch.nn.init.normal_(new_head.weight, std=getattr(model.config, "initializer_range", 0.02))
    torch.nn.init.zeros_(new_head.bias)
    shared = {i: row for i, row in _shared_ids(old, new).items() if row < head.out_features}
    with torch.no_grad():
        for i, row in shared.items():
            new_head.weight[i], new_head.bias[i] = head.weight[row], head.bias[row]
    model.lm_head, model.config.vocab_size = new_head, len(new)
    logger.info("A new head is made; %d of its %d letters and signs keep their weights.", len(shared), len(new))
    return ["lm_head.bias", "lm_head.weight"]


def _shared_ids(old: PreTrainedTokenizerBase, new: PreTrainedTokenizerBase) -> dict[int, int]:
    """Return the id in the old vocabulary of each token that the new one has, too, by its id in the new one."""
    vocabulary = old.get_vocab()
    old_ids: dict[str, int | None] = {token.lower(): i for token, i in vocabulary.items()} | vocabulary
    special = {
        new.pad_token: old.pad_token,
        new.unk_token: old.unk_token,
        new.word_delimiter_token: getattr(old, "word_delimiter_token", None),
    }
    old_ids |= {token: vocabulary.get(former) for token, former in special.items()}
    pairs = {i: old_ids.get(token, old_ids.get(token.lower())) for token, i in new.get_vocab().items()}
    return {i: former for i, former in pairs.items() if former is not None}
