"""The tokenizer that comes with a model."""

import contextlib
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from hf_transfer.arguments import ModelArguments
from hf_transfer.errors import InputError, logger
from hf_transfer.models import explain_loading_errors

WORD_BOUNDARIES = "▁Ġ# \t\n"  # as tokenizers write them


def load_tokenizer(model: ModelArguments) -> Any:
    """The tokenizer that comes with the model.

    Raises:
        InputError: there is none.
    """
    name = str(model.model_name_or_path)
    with explain_loading_errors(name, "a tokenizer"), _libraries_of_tokenizers(name):
        tokenizer = AutoTokenizer.from_pretrained(
            name, revision=model.model_revision, trust_remote_code=model.trust_remote_code
        )
    special = {*tokenizer.all_special_tokens, *tokenizer.all_special_ids}
    words = [token for token in tokenizer.get_vocab() if token not in special and token.strip(WORD_BOUNDARIES)]
    if len(words) < 2:
        raise InputError(
            f"{name}: the tokenizer knows its special tokens and no words. Is tokenizer.json, or the file of its "
            "vocabulary (vocab.txt, spm.model, ...), missing there?"
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = _token_to_pad_with(tokenizer, name)
        logger.info("The tokenizer has no padding token: %r pads.", tokenizer.pad_token)
    return tokenizer


def _token_to_pad_with(tokenizer: Any, name: str) -> str:
    """A special token that pads: one made for it, or one that no text ends with, as far as there is one."""
    named = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]
    made_for_it = [token for token in named if "pad" in token.lower()]
    others = [tokenizer.eos_token, tokenizer.unk_token, tokenizer.bos_token, tokenizer.sep_token]
    usable = [token for token in (*made_for_it, *others) if token is not None]
    if not usable:
        raise InputError(
            f"{name}: the tokenizer has no padding token, which batches of several texts need, and no other special "
            'token that could be one. Name one of its tokens in tokenizer_config.json ("pad_token": "...").'
        )
    end = tokenizer("a")["input_ids"][-1:]
    return next((token for token in usable if tokenizer.convert_tokens_to_ids(token) not in end), usable[0])


@contextlib.contextmanager
def _libraries_of_tokenizers(name: str) -> Iterator[None]:
    """A tokenizer whose file needs a library that is not installed, as one sentence."""
    try:
        yield
    except Exception as error:
        # Without such a file in a local folder it is the file that is missing, whatever transformers proposes.
        without_file = Path(name).is_dir() and not list(Path(name).glob("*.model"))
        if without_file or not re.search(r"sentencepiece|tiktoken|protobuf", str(error), re.IGNORECASE):
            raise
        if not (_is_installed("sentencepiece") and _is_installed("google.protobuf")):
            raise InputError(
                f"{name}: its tokenizer is kept as a SentencePiece model, which sentencepiece and protobuf read: "
                'pip install ".[sentencepiece]" in the folder of this project, or pip install sentencepiece protobuf.'
            ) from error
        if not _is_installed("tiktoken"):
            raise InputError(
                f"{name}: its tokenizer is kept in the format of tiktoken: pip install tiktoken."
            ) from error
        raise


def _is_installed(library: str) -> bool:
    try:
        return importlib.util.find_spec(library) is not None
    except ModuleNotFoundError:  # of a package inside one that is absent
        return False
