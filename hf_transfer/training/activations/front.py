"""Running the fixed front of a model, such as wav2vec2's feature encoder, on each example without padding."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from hf_transfer.methods.anatomy import Anatomy


class MaskedCollator:
    """Collator that adds to another's batches an ``attention_mask`` [batch, positions] made from ``length``.

    Args:
        collator: whose batches have no mask.
        main_input: name of the model's input, [batch, positions].
    """

    def __init__(self, collator: Callable[[list[dict[str, Any]]], dict[str, Any]], main_input: str):
        self.collator, self.main_input = collator, main_input

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        batch = dict(self.collator(examples))
        positions = torch.arange(batch[self.main_input].shape[1])
        batch["attention_mask"] = (positions < batch["length"][:, None]).long()
        return batch


@contextlib.contextmanager
def front_without_padding(model: PreTrainedModel, anatomy: Anatomy) -> Iterator[None]:
    """Context manager: run a model's fixed front (such as a feature encoder) on each example without padding.

    An ``attention_mask`` has to give the lengths; without one, the front runs as outside the block.

    wav2vec2 with ``feat_extract_norm="group"`` normalises over time, so that the zeros that pad a clip change its
    output. Its layers take an attention mask as those of other models do, so that with this block no clip's output
    depends on the other clips in the batch.

    Args:
        model: without adapters around it.
        anatomy: its parts, with a front.
    """
    front = model.get_submodule(str(anatomy.front))
    forward = front.forward
    lengths: list[int] = []

    def note_lengths(_: torch.nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        mask = kwargs.get("attention_mask")
        lengths[:] = [] if mask is None else mask.sum(dim=-1).tolist()

    def forward_one_by_one(inputs: torch.Tensor) -> torch.Tensor:
        if len(set(lengths)) < 2:
            return forward(inputs)
        outputs = [forward(row[None, :length])[0].T for row, length in zip(inputs, lengths, strict=True)]
        return pad_sequence(outputs, batch_first=True).transpose(1, 2)

    hook = model.get_submodule(anatomy.trunk).register_forward_pre_hook(note_lengths, with_kwargs=True)
    front.forward = forward_one_by_one
    try:
        yield
    finally:
        del front.forward
        hook.remove()
