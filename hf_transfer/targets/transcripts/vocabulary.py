"""The vocabulary of a CTC checkpoint: its tokenizer, checked against the classes of the model's head."""

import importlib.util
from dataclasses import dataclass
from typing import Any

from transformers import AutoModelForCTC, AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils.hub import cached_file

from hf_transfer.arguments import ModelArguments
from hf_transfer.errors import InputError, logger
from hf_transfer.models import explain_loading_errors, load_config, quiet
from hf_transfer.targets.transcripts.languages import Language, language_of, languages_that_spell
from hf_transfer.targets.transcripts.letters import (
    letters_of,
    listed_letters,
    normalise,
    spells,
    unknown_letters,
)
from hf_transfer.targets.transcripts.tags import SPECIAL

# Files of tokenizers; a checkpoint with none of them has no vocabulary.
VOCABULARY_FILES = ("vocab.json", "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "spiece.model")
# How checkpoints name CTC's blank and the space between words, where the tokenizer's settings name no token for it.
BLANKS, SPACES = ("[PAD]", "<pad>", "<blank>", "[blank]", "<blk>"), (" ", "|", "<space>", "[space]")
# Letters that are encoded and decoded together, to check that a tokenizer returns the text that it was given.
ROUND_TRIP_LETTERS = 40


@dataclass(frozen=True)
class Vocabulary:
    """Dataclass of the vocabulary of a CTC checkpoint: its tokenizer, its letters, and what is wrong with it.

    Attributes:
        tokenizer: of the checkpoint.
        letters: those that the classes of its head can write, see `letters_of`.
        fault: a clause that says why it cannot be used for transcripts, or None.
        language: of a multilingual checkpoint.
    """

    tokenizer: PreTrainedTokenizerBase
    letters: set[str]
    fault: str | None
    language: Language | None


def read_vocabulary(
    model: ModelArguments, target_lang: str | None = None, *, required: bool = True, log_repairs: bool = False
) -> Vocabulary | None:
    """Return the vocabulary of a CTC checkpoint, checked against its head, or None if it has no vocabulary.

    Args:
        model: the checkpoint.
        target_lang: language of a multilingual checkpoint, see `language_of`.
        required: whether files that cannot be read are an error; if not, None is returned for them.
        log_repairs: whether settings of the tokenizer that had to be corrected are logged.

    Raises:
        InputError: the checkpoint cannot be reached, its files cannot be read, or there is no such language.
    """
    language = language_of(model, target_lang)
    config = load_config(model, AutoModelForCTC)
    classes = language.classes if language and language.adapter else config.vocab_size
    if not _has_tokenizer_files(model):
        return None
    try:
        tokenizer = _load_tokenizer(model, language)
    except InputError:
        if required:
            raise
        return None
    settings = _corrected_settings(tokenizer, classes, config.pad_token_id)
    if settings:
        tokenizer = _load_tokenizer(model, language, **settings)
        if log_repairs:
            logger.info("The tokenizer's settings name tokens that the model has no class for; used instead: %s.",
                        ", ".join(f"{token!r} as {name}" for name, token in settings.items()))  # fmt: skip
    fault = find_fault(tokenizer, classes)
    letters = set() if fault else letters_of(tokenizer, classes)
    if (
        log_repairs
        and not fault
        and config.pad_token_id != tokenizer.pad_token_id
        and not (language and language.adapter)
    ):
        logger.info(
            "CTC's blank is class %s in config.json and class %d (%r) in the tokenizer; the tokenizer's is used.",
            config.pad_token_id, tokenizer.pad_token_id, tokenizer.pad_token,
        )  # fmt: skip
    return Vocabulary(tokenizer, letters, fault, language)


def _load_tokenizer(model: ModelArguments, language: Language | None, **settings: str) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a CTC checkpoint, set for transcripts; raise an error if it cannot be read.

    Args:
        model: the checkpoint.
        language: the one whose vocabulary is loaded, of a multilingual checkpoint.
        **settings: of the tokenizer, in place of its own.

    Raises:
        InputError: the tokenizer cannot be read.
    """
    name, revision = str(model.model_name_or_path), model.model_revision
    if language is not None:
        settings |= {"target_lang": language.configured or language.name}
    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(
                name, revision=revision, trust_remote_code=model.trust_remote_code, **settings
            )
    except Exception as error:  # damaged and unknown files raise errors of any kind
        reason = " ".join(str(error).split())[:300]
        raise InputError(
            f"{name}: the files of its vocabulary cannot be read ({type(error).__name__}: {reason}). {_remedy(reason)}"
        ) from error
    if language is not None:
        if tokenizer.target_lang != language.name:
            tokenizer.set_target_lang(language.name)
        # Without the other languages, whose weights are not saved with the model.
        tokenizer.vocab = {language.name: tokenizer.encoder}
    delimiter = tokenizer.special_tokens_map.get("word_delimiter_token")
    if delimiter and hasattr(tokenizer, "replace_word_delimiter_char"):
        # transformers 5.23 reads the setting as a special token, but splits words at its default delimiter.
        tokenizer._word_delimiter_token = str(delimiter)
    # It would lower-case what it decodes; transcripts have the case of the vocabulary.
    tokenizer.do_lower_case = False
    tokenizer.verbose = False  # it would warn of vocabularies without a word delimiter
    return tokenizer


def _has_tokenizer_files(model: ModelArguments) -> bool:
    """Return whether a checkpoint has files of a tokenizer; raise an error if it cannot be reached."""
    name = str(model.model_name_or_path)
    with explain_loading_errors(name, "the vocabulary"):
        return any(
            cached_file(name, file, revision=model.model_revision, _raise_exceptions_for_missing_entries=False)
            for file in VOCABULARY_FILES
        )


def _remedy(reason: str) -> str:
    """Return a sentence that says what to do about a tokenizer that cannot be loaded for this reason."""
    for library in ("sentencepiece", "tiktoken"):
        if library in reason.lower() and importlib.util.find_spec(library) is None:
            install = '"hf-transfer-learning[sentencepiece]"' if library == "sentencepiece" else library
            return f"It needs {library}, which is not installed: pip install {install}"
    return "Repair them, or build a vocabulary from your transcripts: --vocabulary new."


def _corrected_settings(tokenizer: Any, classes: int, blank: int | None) -> dict[str, str]:
    """Return tokenizer settings that name a blank and a word delimiter among the head's classes.

    They are returned only where the tokenizer's own settings do not.
    """
    tokens = {token: i for token, i in tokenizer.get_vocab().items() if i < min(classes, tokenizer.vocab_size)}
    named = [token for token, i in tokens.items() if i == blank and SPECIAL.fullmatch(token)]
    wanted = {}
    if tokenizer.pad_token not in tokens:
        wanted["pad_token"] = [*named, *BLANKS]
    if hasattr(tokenizer, "replace_word_delimiter_char") and tokenizer.word_delimiter_token not in tokens:
        wanted["word_delimiter_token"] = [*SPACES]
    return {
        setting: next(token for token in candidates if token in tokens)
        for setting, candidates in wanted.items()
        if not tokens.keys().isdisjoint(candidates)
    }


def find_fault(tokenizer: PreTrainedTokenizerBase, classes: int) -> str | None:
    """Return a clause that says why a tokenizer cannot write transcripts, or None if it can.

    Args:
        tokenizer: of a checkpoint.
        classes: number of classes of its head.
    """
    if getattr(tokenizer, "do_phonemize", None) is not None:
        return f"writes phones instead of letters ({type(tokenizer).__name__})"
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id >= classes:
        return (
            f"has no class for CTC's blank among the {classes} of the head (the padding token {tokenizer.pad_token!r})"
        )
    letters = letters_of(tokenizer, classes)
    if not letters - {" "}:
        return "has special tokens only, and no letters"
    blank, tokens = tokenizer.pad_token_id, sorted(letters - {" "})
    for start in range(0, len(tokens), ROUND_TRIP_LETTERS):
        text = (" " if " " in letters else "").join(tokens[start : start + ROUND_TRIP_LETTERS])
        try:
            ids = tokenizer(text, add_special_tokens=False).input_ids
            decoded = " ".join(tokenizer.decode([i for each in ids for i in (each, each, blank)]).split())
        except Exception as error:  # tokenizers of any library may raise any error
            return f"cannot spell {text[:20]!r} ({type(error).__name__}: {' '.join(str(error).split())[:150]})"
        if decoded != text or any(i >= classes for i in ids):
            return f"does not read back what it spells: {text[:20]!r} becomes {decoded[:20]!r}"
    return None


def require_usable(vocabulary: Vocabulary | None, model: ModelArguments, flag: str = "") -> Vocabulary:
    """Return `vocabulary`, or raise an error if transcripts cannot be written in it.

    Args:
        vocabulary: of the checkpoint.
        model: the checkpoint.
        flag: beginning of the error message.

    Raises:
        InputError: there is no vocabulary, or it has a fault.
    """
    name = model.model_name_or_path
    if vocabulary is None:
        raise InputError(f"{flag}{name} comes without a vocabulary. Train with --vocabulary new, which builds one.")
    if vocabulary.fault:
        raise InputError(
            f"{flag}the tokenizer of {name} {vocabulary.fault}. Train with --vocabulary new, which builds one of the "
            "letters of your transcripts."
        )
    return vocabulary


def log_why_new(
    vocabulary: Vocabulary, texts: list[str], letters: set[str], languages: dict[str, dict[str, int]]
) -> None:
    """Log why a checkpoint's vocabulary is not kept, and which of its languages have all letters of the texts.

    Args:
        vocabulary: of the checkpoint.
        texts: transcripts, not normalised.
        letters: of the new vocabulary that is built from them.
        languages: vocabularies of a multilingual checkpoint.
    """
    if vocabulary.fault:
        logger.info("The checkpoint's tokenizer %s.", vocabulary.fault)
    else:
        known = vocabulary.letters
        foreign = [text for text in texts if not spells(known, normalise(text, known, fold=False))]
        unknown, _ = unknown_letters((normalise(text, known, fold=False) for text in foreign), known)
        logger.info(
            "%d of %d training transcripts cannot be spelt in the checkpoint's vocabulary (%s), for example %r. "
            "(--vocabulary keep leaves them out.)", len(foreign), len(texts), listed_letters(unknown), foreign[0][:60],
        )  # fmt: skip
    current = vocabulary.language.name if vocabulary.language else None
    others = [name for name in languages_that_spell(letters, languages) if name != current]
    if others:
        shown = ", ".join(others[:10]) + (", ..." if len(others) > 10 else "")
        logger.info("These languages of the checkpoint have all letters: %s. --target_lang %s takes the vocabulary "
                    "and weights of that one.", shown, others[0])  # fmt: skip
