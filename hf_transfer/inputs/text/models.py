"""A text classifier and its tokenizer checked against each other: embedding rows, padding, most tokens of an input."""

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from accelerate.utils.memory import should_reduce_batch_size
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from hf_transfer.data.batches import model_inputs_of, to_device
from hf_transfer.errors import InputError, logger

# Where neither the model nor its tokenizer has a limit.
DEFAULT_LENGTH = 512
NO_LIMIT = 10**9  # transformers gives tokenizers without a limit one of 1e30
MANY_UNKNOWN = 0.1  # a share of the tokens
# Of the largest output: more than rounding, less than what a convolution or a Fourier transform makes of padding.
PADDING_TOLERANCE = 1e-3
SHORT = 8  # tokens of an input that the model is tried on
# Lengths at which a model is asked for its positions; the shorter ones where it does not take the others. Long enough
# for buckets of distances (T5), which are one position wide at first, to be fewer than positions.
PROBED = ((33, 40), (8, 11), (4, 5))


def require_rows_for_tokens(model: Any, tokenizer: Any, name: str) -> None:
    """Refuse a tokenizer that has ids for which the model has no embedding.

    Raises:
        InputError: the largest token id is no row of the embedding table.
    """
    try:
        table = model.get_input_embeddings()
    except NotImplementedError:
        return
    if not isinstance(getattr(table, "weight", None), torch.Tensor):
        return  # characters that are hashed, as in CANINE, have no table of ids
    rows = table.weight.shape[0]
    token, largest = max(tokenizer.get_vocab().items(), key=lambda item: item[1])
    if largest >= rows:
        raise InputError(
            f"{name}: the tokenizer and the model do not belong together: the token {token!r} has the id {largest}, "
            f"and the model has {rows} embeddings (ids 0 to {rows - 1}). Take the tokenizer that the model was "
            "trained with; or, where tokens were added, give the model rows for them (model.resize_token_embeddings("
            "len(tokenizer)), then save_pretrained of both into one folder)."
        )


def require_known_words(inputs: Any, tokenizer: Any, name: str) -> None:
    """Refuse a tokenizer that knows nothing of what texts consist of; say where it knows little of the first texts.

    Args:
        inputs: tokenized texts by split, with their ``length``.
        tokenizer: that made them.
        name: of the model.

    Raises:
        InputError: every word is unknown, or nothing is left of a text.
    """
    for split, tokenized in inputs.items():
        empty = np.flatnonzero(np.asarray(tokenized["length"][:]) == 0)
        if len(empty):
            raise InputError(
                f"{name}: its tokenizer makes no tokens of {len(empty)} texts in the {split} split, the first of them "
                f"its example {empty[0] + 1}. Does it fit the texts?"
            )
    rows = next(iter(inputs.values()))[:1000]["input_ids"]
    unknown, special = tokenizer.unk_token_id, {*tokenizer.all_special_ids} - {tokenizer.unk_token_id}
    words = [token for ids in rows for token in ids if token not in special]
    share = words.count(unknown) / max(1, len(words))
    if share == 1 and words:
        raise InputError(
            f"{name}: its tokenizer does not know a single word of the texts. Is the file of its vocabulary missing, "
            "or is it a model for another language?"
        )
    if share > MANY_UNKNOWN:
        logger.warning("%.0f %% of the tokens are unknown to the tokenizer: is this a model for the texts' language?",
                       100 * share)  # fmt: skip


def require_inputs_that_fit(model: Any, pad: Callable[..., Any], inputs: Any, name: str) -> None:
    """Try the model on the shortest text, before anything that takes long.

    Raises:
        InputError: the model does not take what its tokenizer makes.
    """
    shortest = int(np.argmin(inputs.lengths))
    batch = pad([model_inputs_of(example) for example in inputs.__getitems__([shortest])])
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            model(**to_device(model.device, batch))
    except Exception as error:
        if should_reduce_batch_size(error):
            raise
        raise InputError(
            f"{name}: the model does not take what its tokenizer makes of a text ({', '.join(batch)}): "
            f"{' '.join(str(error).split())[:200]}. Do config.json, the weights and the tokenizer's files belong "
            "together?"
        ) from error
    finally:
        model.train(training)


# --- padding ----------------------------------------------------------------------------------------------------


def usable_padding(config: Any, tokenizer: Any, *, pretrained: bool) -> dict[str, int]:
    """Settings of a model's config: the tokenizer's padding id, where the checkpoint's cannot be kept.

    It cannot where it is none, or no row of the embedding table. Elsewhere it may be more than what pads: RoBERTa's
    position ids begin behind it.
    """
    known, rows = config.pad_token_id, getattr(config.get_text_config(), "vocab_size", None)
    kept = pretrained and known is not None and known >= 0 and (rows is None or known < rows)
    return {} if kept else {"pad_token_id": tokenizer.pad_token_id}


def settle_padding(model: Any, tokenizer: Any) -> bool:
    """Let model and tokenizer agree on what padding is, so that a text's outputs do not depend on its neighbours.

    A decoder that classifies reads the rightmost token that is not ``config.pad_token_id``: that is made the id that
    the tokenizer pads with, in nested configs too. Padding is put on the side where it changes nothing: position
    embeddings begin with the text then. Where there is none, ``config.padding_changes_outputs`` is set.

    Returns:
        Whether the model finds what it reads by the padding id.
    """
    config = model.config.get_text_config()
    by_id = _pools_by_padding_id(model, tokenizer)
    if by_id:
        before = config.pad_token_id
        for table in model.modules():
            if isinstance(table, nn.Embedding) and before is not None and table.padding_idx == before:
                table.padding_idx = tokenizer.pad_token_id  # that row is not trained
        model.config.pad_token_id = config.pad_token_id = tokenizer.pad_token_id
        model.config.use_cache = config.use_cache = False  # keys and values of a pass are not asked for again
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
    tokenizer.init_kwargs["padding_side"] = tokenizer.padding_side  # only what is named there is saved
    model.config.padding_changes_outputs = side is None
    return by_id


def _padding_changes_outputs(model: Any, tokenizer: Any, side: str) -> bool:
    """Whether a text gives other outputs (by more than rounding) with padding on that side of it."""
    row = _tokens(tokenizer, SHORT)
    padding = (0, SHORT) if side == "right" else (SHORT, 0)
    padded = nn.functional.pad(row, padding, value=tokenizer.pad_token_id)
    mask = nn.functional.pad(torch.ones_like(row), padding)
    try:
        alone, beside = _logits(model, row, torch.ones_like(row)), _logits(model, padded, mask)
    except Exception:  # whatever a forward pass raises is said where the texts themselves are tried
        return False
    return not torch.allclose(alone, beside, rtol=0, atol=PADDING_TOLERANCE * float(alone.abs().max()))


def _logits(model: Any, row: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            return model(input_ids=row.to(model.device), attention_mask=mask.to(model.device))["logits"].float()
    finally:
        model.train(training)


def _pools_by_padding_id(model: Any, tokenizer: Any) -> bool:
    """Whether the position that a classifier reads is found by ``config.pad_token_id``: asked of the model itself.

    A token that counts as padding is not read, so the outputs for a text change when its last token does.
    """
    config = model.config.get_text_config()
    asked = config.pad_token_id
    row = _tokens(tokenizer, SHORT)
    found = []
    try:
        for padding in (-1, int(row[0, -1])):
            config.pad_token_id = padding
            found.append(_logits(model, row, torch.ones_like(row)))
    except Exception:  # whatever a forward pass raises is said where the texts themselves are tried
        return False
    finally:
        config.pad_token_id = asked
    return not torch.equal(*found)


# --- positions --------------------------------------------------------------------------------------------------


def longest_input(model: Any, tokenizer: Any) -> int | None:
    """The longest input in tokens that both the model and its tokenizer take; None where neither has a limit."""
    return least_limit(tokenizer.model_max_length, most_tokens(model, tokenizer))


def least_limit(*limits: int | None) -> int | None:
    """The least of some limits in tokens, of which None and transformers' "no limit" are none."""
    return min((limit for limit in limits if limit is not None and 0 < limit < NO_LIMIT), default=None)


def most_tokens(model: Any, tokenizer: Any) -> int | None:
    """The most tokens that the model has positions for; None where it has no such limit.

    It is run on inputs of a few lengths: a parameter or buffer in which the place that is looked up moves by one with
    every token is a table of positions, and its size the limit. Where there is none, the config's word is taken.
    """
    for lengths in PROBED:
        try:
            looked_up = [_places(model, _tokens(tokenizer, length)) for length in lengths]
        except Exception:  # longer than the model takes, perhaps: whatever a forward pass raises then
            continue
        limits = [
            size - (place - (lengths[0] - 1))
            for (table, size), place in looked_up[0].items()
            if all(
                places.get((table, size)) == place + length - lengths[0]
                for places, length in zip(looked_up, lengths, strict=True)
            )
        ]
        if limits:
            return min(limits)
        break
    return named_positions(model.config)


def named_positions(config: Any) -> int | None:
    """The most tokens by a model's config; None where it names no such limit."""
    config = config.get_text_config()
    for name in ("max_position_embeddings", "max_sequence_length", "max_seq_len"):
        with contextlib.suppress(NotImplementedError):  # XLNet's config raises it
            claimed = getattr(config, name, None)
            if isinstance(claimed, int) and claimed > 0:
                return claimed
    return None


class _Lookups(TorchDispatchMode):
    """Notes the last place that is looked up in each tensor of a model.

    Args:
        model: whose parameters, buffers and other tensors they are.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        held = (value for part in model.modules() for value in vars(part).values() if isinstance(value, torch.Tensor))
        self.parameters = {_address(tensor) for tensor in model.parameters()}
        self.tables = self.parameters | {_address(tensor) for tensor in (*model.buffers(), *held)}
        self.places: dict[tuple[int, int], int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        operation = func.overloadpacket
        if operation is torch.ops.aten.embedding:
            self._note(args[0], 0, args[1])
        elif operation is torch.ops.aten.index:
            for dim, indices in enumerate(args[1]):
                self._note(args[0], dim, indices)
        elif operation in (torch.ops.aten.index_select, torch.ops.aten.gather):
            self._note(args[0], args[1], args[2])
        elif operation is torch.ops.aten.slice and len(args) > 3 and _address(args[0]) in self.parameters:
            # As Perceiver's positions; buffers that are cut may be those of a block of positions (MiniMax).
            self._note(args[0], args[1], args[3] - 1)
        return output

    def _note(self, table: torch.Tensor, dim: int, indices: Any) -> None:
        address = _address(table)
        if address not in self.tables or indices is None:
            return
        if isinstance(indices, torch.Tensor):
            if indices.dtype == torch.bool or not indices.numel():
                return
            indices = int(indices.max())
        key = address, table.shape[dim]
        self.places[key] = max(self.places.get(key, indices), indices)


def _address(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _places(model: Any, row: torch.Tensor) -> dict[tuple[int, int], int]:
    """The last place that is looked up in each of the model's tables, by their address and size, for an input."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad(), _Lookups(model) as lookups:
            model(input_ids=row.to(model.device))
    finally:
        model.train(training)
    return lookups.places


def _tokens(tokenizer: Any, length: int) -> torch.Tensor:
    """Two words over and over, with what the tokenizer puts before and behind a text: token ids, [1, length]."""
    special = set(tokenizer.all_special_ids)
    words = sorted(set(tokenizer.get_vocab().values()) - special)[:2]
    ids = tokenizer("a")["input_ids"]
    inner = [i for i, token in enumerate(ids) if token not in special] or [len(ids)]
    before, behind = ids[: inner[0]], ids[inner[-1] + 1 :]
    room = length - len(before) - len(behind)
    return torch.tensor([[*before, *(words * room)[:room], *behind]])
