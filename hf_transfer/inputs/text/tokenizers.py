"""Loads the tokenizer that comes with a model."""

import contextlib
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from hf_transfer.arguments import ModelArguments
from hf_transfer.errors import InputError, logger
from hf_transfer.models import explain_loading_errors

WORD_BOUNDARIES = "▁Ġ# \t\n"  # as tokenizers mark them in their tokens


def load_tokenizer(model: ModelArguments) -> PreTrainedTokenizerBase:
    """Return the tokenizer that comes with the model, with a padding token if it came without one.

    Raises:
        InputError: there is no tokenizer, it has no words, or needs a library that is not installed.
    """
    name = str(model.model_name_or_path)
    with explain_loading_errors(name, "a tokenizer"), _explain_missing_libraries(name):
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
        tokenizer.pad_token = _choose_padding_token(tokenizer, name)
        logger.info("The tokenizer has no padding token: %r pads.", tokenizer.pad_token)
    return tokenizer


def _choose_padding_token(tokenizer: PreTrainedTokenizerBase, name: str) -> str:
    """Return a special token to pad with, preferably one called "pad", and one that texts do not end with."""
    special = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]
    called_pad = [token for token in special if "pad" in token.lower()]
    others = [tokenizer.eos_token, tokenizer.unk_token, tokenizer.bos_token, tokenizer.sep_token]
    usable = [token for token in (*called_pad, *others) if token is not None]
    if not usable:
        raise InputError(
            f"{name}: the tokenizer has no padding token, which batches of several texts need, and no other special "
            'token that could be one. Name one of its tokens in tokenizer_config.json ("pad_token": "...").'
        )
    last_token = tokenizer("a")["input_ids"][-1:]
    return next((token for token in usable if tokenizer.convert_tokens_to_ids(token) not in last_token), usable[0])


@contextlib.contextmanager
def _explain_missing_libraries(name: str) -> Iterator[None]:
    """Context manager: turn the error about a tokenizer's missing library into one that says what to install."""
    try:
        yield
    except Exception as error:
        # If a local folder has no such file, the file is missing and not the library, whatever transformers says.
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
    except ModuleNotFoundError:  # of the package that `library` would be in
        return False
