"""The most tokens that a text model and its tokenizer can take."""

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from hf_transfer.inputs.text.forward import evaluation_mode, token_ids_of_length

# Used if neither the model nor its tokenizer has a limit.
DEFAULT_MAX_LENGTH = 512
# Limits from here on mean that there is none: transformers gives such tokenizers the limit 1e30.
NO_LIMIT = 10**9
# Lengths of the inputs with which positions are searched for; the shorter ones if the model does not take the longer.
# T5's buckets of distances are one position wide at first: its table is smaller than these lengths.
LENGTHS_TO_TRY = ((33, 40), (8, 11), (4, 5))

# A table of a model: the address of its storage, and its size along the dimension that is indexed.
_Table = tuple[int, int]


def max_input_length(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Return the most tokens that both the model and its tokenizer take, or None if neither has a limit."""
    return smallest_limit(tokenizer.model_max_length, max_positions(model, tokenizer))


def smallest_limit(*limits: int | None) -> int | None:
    """Return the smallest of some limits in tokens, or None without a limit.

    None and transformers' "no limit" do not count.
    """
    return min((limit for limit in limits if limit is not None and 0 < limit < NO_LIMIT), default=None)


def max_positions(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Return the most tokens that the model has positions for, or None if there is no limit.

    The model is run on inputs of a few lengths. A parameter or buffer is a table of positions if the last index that
    is looked up in it grows by one with every token; its size is the limit. Without such a table, the config's limit
    is returned.
    """
    for lengths in LENGTHS_TO_TRY:
        try:
            lookups = [_last_lookups(model, token_ids_of_length(tokenizer, length)) for length in lengths]
        except Exception:  # the model may not take inputs of these lengths, whatever it raises then
            continue
        limits = _limits_of_position_tables(lengths, lookups)
        if limits:
            return min(limits)
        break
    return max_positions_in_config(model.config)


def _limits_of_position_tables(lengths: Sequence[int], lookups: Sequence[Mapping[_Table, int]]) -> list[int]:
    """Return for each of a model's tables of positions the most tokens that it has rows for, as a list.

    Args:
        lengths: of the inputs.
        lookups: for each input, the last index that was looked up in each table.
    """
    limits = []
    for table, last in lookups[0].items():
        expected = [last + length - lengths[0] for length in lengths]
        if [of_input.get(table) for of_input in lookups] == expected:
            _, size = table
            offset = last - (lengths[0] - 1)  # the index of the first token: RoBERTa's is 2
            limits.append(size - offset)
    return limits


def max_positions_in_config(config: PretrainedConfig) -> int | None:
    """Return the most tokens that a model's config allows, or None if it names no limit."""
    config = config.get_text_config()
    for name in ("max_position_embeddings", "max_sequence_length", "max_seq_len"):
        with contextlib.suppress(NotImplementedError):  # XLNet's config raises it
            limit = getattr(config, name, None)
            if isinstance(limit, int) and limit > 0:
                return limit
    return None


class _LookupRecorder(TorchDispatchMode):
    """`TorchDispatchMode` that records the last index that is looked up in each tensor of a model.

    Args:
        model: whose parameters, buffers and other tensors are watched.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        attributes = (
            value for module in model.modules() for value in vars(module).values() if isinstance(value, torch.Tensor)
        )
        self.parameters = {_address(tensor) for tensor in model.parameters()}
        self.tables = self.parameters | {_address(tensor) for tensor in (*model.buffers(), *attributes)}
        self.last: dict[_Table, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        operation = func.overloadpacket
        if operation is torch.ops.aten.embedding:
            self._record(args[0], 0, args[1])
        elif operation is torch.ops.aten.index:
            for dim, indices in enumerate(args[1]):
                self._record(args[0], dim, indices)
        elif operation in (torch.ops.aten.index_select, torch.ops.aten.gather):
            self._record(args[0], args[1], args[2])
        elif operation is torch.ops.aten.slice and len(args) > 3 and _address(args[0]) in self.parameters:
            # Perceiver slices its positions. Slices of buffers do not count: MiniMax slices a buffer for a block of
            # positions.
            self._record(args[0], args[1], args[3] - 1)
        return output

    def _record(self, table: torch.Tensor, dim: int, indices: torch.Tensor | int | None) -> None:
        address = _address(table)
        if address not in self.tables or indices is None:
            return
        if isinstance(indices, torch.Tensor):
            if indices.dtype == torch.bool or not indices.numel():
                return
            indices = int(indices.max())
        key = address, table.shape[dim]
        self.last[key] = max(self.last.get(key, indices), indices)


def _address(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _last_lookups(model: PreTrainedModel, token_ids: torch.Tensor) -> dict[_Table, int]:
    """Return by table the last index that a forward pass of token ids looks up in each of the model's tables."""
    with evaluation_mode(model), torch.no_grad(), _LookupRecorder(model) as recorder:
        model(input_ids=token_ids.to(model.device))
    return recorder.last
