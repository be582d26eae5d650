"""Checks before training that a text model and its tokenizer belong together, and fit the texts."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from accelerate.utils.memory import should_reduce_batch_size
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_transfer.data.batches import model_inputs_of, to_device
from hf_transfer.errors import InputError, logger
from hf_transfer.inputs.text.forward import evaluation_mode
from hf_transfer.inputs.text.tokenized_texts import TokenizedTexts

# Share of unknown tokens above which there is a warning.
MANY_UNKNOWN = 0.1
# So many texts are looked at for unknown tokens.
TEXTS_TO_CHECK = 1000


def require_embedding_of_every_token(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Raise an error if the model has no embedding for some token id of the tokenizer.

    Raises:
        InputError: the largest token id is not a row of the embedding table.
    """
    try:
        table = model.get_input_embeddings()
    except NotImplementedError:
        return
    if not isinstance(getattr(table, "weight", None), torch.Tensor):
        return  # CANINE hashes characters, and has no table of token ids
    rows = table.weight.shape[0]
    token, largest = max(tokenizer.get_vocab().items(), key=lambda item: item[1])
    if largest >= rows:
        raise InputError(
            f"{name}: the tokenizer and the model do not belong together: the token {token!r} has the id {largest}, "
            f"and the model has {rows} embeddings (ids 0 to {rows - 1}). Take the tokenizer that the model was "
            "trained with; or, if tokens were added, give the model rows for them (model.resize_token_embeddings("
            "len(tokenizer)), then save_pretrained of both into one folder)."
        )


def require_known_words(splits: Mapping[str, Dataset], tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Raise an error if the tokenizer knows no word of the texts, and warn if it does not know many of them.

    Args:
        splits: tokenized texts, with their ``length``.
        tokenizer: that made them.
        name: of the model, for messages.

    Raises:
        InputError: every word is unknown, or a text has no tokens.
    """
    for split, tokenized in splits.items():
        empty = np.flatnonzero(np.asarray(tokenized["length"][:]) == 0)
        if len(empty):
            raise InputError(
                f"{name}: its tokenizer makes no tokens of {len(empty)} texts in the {split} split, the first of them "
                f"its example {empty[0] + 1}. Is it a tokenizer for such texts? Otherwise remove these examples."
            )
    first_texts = next(iter(splits.values()))[:TEXTS_TO_CHECK]["input_ids"]
    unknown = tokenizer.unk_token_id
    special = {*tokenizer.all_special_ids} - {unknown}
    words = [token for ids in first_texts for token in ids if token not in special]
    share = words.count(unknown) / max(1, len(words))
    if share == 1 and words:
        raise InputError(
            f"{name}: its tokenizer does not know a single word of the texts. Is the file of its vocabulary missing, "
            "or is it a model for another language?"
        )
    if share > MANY_UNKNOWN:
        logger.warning("%.0f %% of the tokens are unknown to the tokenizer: is this a model for the texts' language?",
                       100 * share)  # fmt: skip


def require_accepted_inputs(
    model: PreTrainedModel,
    pad: Callable[[list[dict[str, Any]]], Mapping[str, Any]],
    texts: TokenizedTexts,
    name: str,
) -> None:
    """Raise an error if a forward pass of the shortest text fails, before anything that takes long.

    Args:
        model: to check.
        pad: collates the model's inputs of examples into those of a batch.
        texts: tokenized.
        name: of the model, for messages.

    Raises:
        InputError: the model does not accept the tokenizer's output.
    """
    shortest = int(np.argmin(texts.lengths))
    batch = pad([model_inputs_of(example) for example in texts.__getitems__([shortest])])
    try:
        with evaluation_mode(model), torch.inference_mode():
            model(**to_device(model.device, batch))
    except Exception as error:
        if should_reduce_batch_size(error):
            raise
        raise InputError(
            f"{name}: the model does not take what its tokenizer makes of a text ({', '.join(batch)}): "
            f"{' '.join(str(error).split())[:200]}. Do config.json, the weights and the tokenizer's files belong "
            "together?"
        ) from error
