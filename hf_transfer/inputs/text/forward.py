"""Forward passes that try out a text model: evaluation mode, and inputs of a given length."""

import contextlib
from collections.abc import Iterator

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase


@contextlib.contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Context manager: put a model into evaluation mode, and afterwards back into the mode that it was in."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def token_ids_of_length(tokenizer: PreTrainedTokenizerBase, length: int) -> torch.Tensor:
    """Return the token ids of a made-up text of `length` tokens, [1, length].

    Two words of the vocabulary alternate between the special tokens that the tokenizer puts around a text.
    """
    special = set(tokenizer.all_special_ids)
    words = sorted(set(tokenizer.get_vocab().values()) - special)[:2]
    ids = tokenizer("a")["input_ids"]
    inner = [i for i, token in enumerate(ids) if token not in special] or [len(ids)]
    before, after = ids[: inner[0]], ids[inner[-1] + 1 :]
    count = length - len(before) - len(after)
    return torch.tensor([[*before, *(words * count)[:count], *after]])
