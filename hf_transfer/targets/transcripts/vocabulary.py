"""The vocabulary that comes with a CTC checkpoint, checked against the classes of its head."""

import importlib.util
from dataclasses import dataclass
from typing import Any

import torch
from datasets import DatasetDict
from transformers import AutoModelForCTC, AutoTokenizer, PreTrainedModel
from transformers.utils.hub import cached_file

from hf_transfer.arguments import ModelArguments
from hf_transfer.errors import InputError, logger
from hf_transfer.models import explain_loading_errors, load_config, quiet
from hf_transfer.targets.transcripts.languages import Language, language_of, languages_that_spell
from hf_transfer.targets.transcripts.letters import letters_of, normalise, spells, unknown_letters
from hf_transfer.targets.transcripts.tags import SPECIAL

# Where tokenizers lie; a checkpoint with none of them has no vocabulary.
VOCABULARY_FILES = ("vocab.json", "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "spiece.model")
# How checkpoints name CTC's blank and the space between words, where the tokenizer's settings do not say it.
BLANKS, SPACES = ("[PAD]", "<pad>", "<blank>", "[blank]", "<blk>"), (" ", "|", "<space>", "[space]")
# Letters that are spelt and read back together, to see that a tokenizer gives back what it is given.
TOGETHER = 40


@dataclass(frozen=True)
class Vocabulary:
    """What a checkpoint can write.

    Attributes:
        tokenizer: of the checkpoint.
        letters: that the classes of its head write, see `letters_of`.
        fault: why it cannot be used for transcripts, in a clause; None where it can.
        language: of a multilingual checkpoint.
    """

    tokenizer: Any
    letters: set[str]
    fault: str | None
    language: Language | None


def read_vocabulary(
    model: ModelArguments, target_lang: str | None = None, *, needed: bool = True, say: bool = False
) -> Vocabulary | None:
    """The vocabulary that comes with a checkpoint, and whether its head can write it; None where there is none.

    Args:
        model: the checkpoint.
        target_lang: of a multilingual one, see `language_of`.
        needed: whether files that cannot be read are an error, or as good as none.
        say: what was mended in it.

    Raises:
        InputError: the checkpoint cannot be reached, its files cannot be read, or there is no such language.
    """
    language = language_of(model, target_lang)
    config = load_config(model, AutoModelForCTC)
    classes = language.classes if language and language.adapter else config.vocab_size
    try:
        tokenizer = load_vocabulary(model, language=language)
    except InputError:
        if needed:
            raise
        tokenizer = None
    if tokenizer is None:
        return None
    settings = _mended(tokenizer, classes, config.pad_token_id)
    if settings:
        tokenizer = load_vocabulary(model, language=language, **settings)
        if say:
            logger.info("The tokenizer's settings name tokens that the model has no class for; taken instead: %s.",
                        ", ".join(f"{token!r} as {name}" for name, token in settings.items()))  # fmt: skip
    fault = fault_of(tokenizer, classes)
    letters = set() if fault else letters_of(tokenizer, classes)
    if say and not fault and config.pad_token_id != tokenizer.pad_token_id and not (language and language.adapter):
        logger.info(
            "CTC's blank is class %s by config.json and class %d (%r) by the tokenizer, which is believed.",
            config.pad_token_id, tokenizer.pad_token_id, tokenizer.pad_token,
        )  # fmt: skip
    return Vocabulary(tokenizer, letters, fault, language)


def load_vocabulary(model: ModelArguments, *, language: Language | None = None, **settings: str) -> Any:
    """The tokenizer that comes with a checkpoint; None where there is none.

    Args:
        model: the checkpoint.
        language: whose vocabulary is taken, of a multilingual checkpoint.
        **settings: of the tokenizer, instead of its own.

    Raises:
        InputError: the checkpoint cannot be reached, or its tokenizer cannot be read.
    """
    name, revision = str(model.model_name_or_path), model.model_revision
    with explain_loading_errors(name, "the vocabulary"):
        there = any(
            cached_file(name, file, revision=revision, _raise_exceptions_for_missing_entries=False)
            for file in VOCABULARY_FILES
        )
    if not there:
        return None
    if language is not None:
        settings |= {"target_lang": language.configured or language.name}
    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(
                name, revision=revision, trust_remote_code=model.trust_remote_code, **settings
            )
    except Exception as error:  # damaged files and foreign ones fail in every way that there is
        reason = " ".join(str(error).split())[:300]
        raise InputError(
            f"{name}: the files of its vocabulary cannot be read ({type(error).__name__}: {reason}). {_remedy(reason)}"
        ) from error
    if language is not None:
        if tokenizer.target_lang != language.name:
            tokenizer.set_target_lang(language.name)
        tokenizer.vocab = {language.name: tokenizer.encoder}  # the others' weights are not shipped with it
    delimiter = tokenizer.special_tokens_map.get("word_delimiter_token")
    if delimiter and hasattr(tokenizer, "replace_word_delimiter_char"):
        # transformers 5.23 keeps it as a special token, and splits words at its default all the same.
        tokenizer._word_delimiter_token = str(delimiter)
    # Otherwise it would lower what it decodes; transcripts are fitted to the vocabulary's own case.
    tokenizer.do_lower_case = False
    tokenizer.verbose = False  # it would complain of a word delimiter that phones do not have
    return tokenizer


def _remedy(reason: str) -> str:
    for library in ("sentencepiece", "tiktoken"):
        if library in reason.lower() and importlib.util.find_spec(library) is None:
            install = '"hf-transfer-learning[sentencepiece]"' if library == "sentencepiece" else library
            return f"It needs {library}, which is not installed: pip install {install}"
    return "Mend them, or build a vocabulary from your transcripts: --vocabulary new."


def _mended(tokenizer: Any, classes: int, blank: int | None) -> dict[str, str]:
    """Settings under which a tokenizer's blank and word delimiter are classes of the head, where others are."""
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


def fault_of(tokenizer: Any, classes: int) -> str | None:
    """Why transcripts cannot be spelt in a tokenizer's tokens, or not be read back; None where they can.

    Args:
        tokenizer: of a checkpoint.
        classes: of its head.
    """
    if getattr(tokenizer, "do_phonemize", None) is not None:
        return f"writes phones and no letters ({type(tokenizer).__name__})"
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id >= classes:
        return (
            f"has no class for CTC's blank among the {classes} of the head (the padding token {tokenizer.pad_token!r})"
        )
    letters = letters_of(tokenizer, classes)
    if not letters - {" "}:
        return "knows its special tokens and no letters"
    blank, tokens = tokenizer.pad_token_id, sorted(letters - {" "})
    for start in range(0, len(tokens), TOGETHER):
        text = (" " if " " in letters else "").join(tokens[start : start + TOGETHER])
        try:
            ids = tokenizer(text, add_special_tokens=False).input_ids
            heard = " ".join(tokenizer.decode([i for each in ids for i in (each, each, blank)]).split())
        except Exception as error:  # a tokenizer of any library
            return f"cannot spell {text[:20]!r} ({type(error).__name__}: {' '.join(str(error).split())[:150]})"
        if heard != text or any(i >= classes for i in ids):
            return f"does not read back what it spells: {text[:20]!r} becomes {heard[:20]!r}"
    return None


def usable(vocabulary: Vocabulary | None, model: ModelArguments, flag: str = "") -> Vocabulary:
    """`vocabulary`, where there is one that transcripts can be spelt in.

    Raises:
        InputError: there is none; `flag` begins the message.
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


def say_why_new(vocabulary: Vocabulary, texts: list[str], letters: set[str], languages: dict[str, Any]) -> None:
    """Why a checkpoint's vocabulary is not kept, and which of its languages has these letters.

    Args:
        vocabulary: of the checkpoint.
        texts: transcripts as written.
        letters: of the vocabulary that is built from them.
        languages: vocabularies of a multilingual checkpoint.
    """
    if vocabulary.fault:
        logger.info("The checkpoint's tokenizer %s.", vocabulary.fault)
    else:
        known = vocabulary.letters
        foreign = [text for text in texts if not spells(known, normalise(text, known, fold=False))]
        unknown, _ = unknown_letters((normalise(text, known, fold=False) for text in foreign), known)
        shown = " ".join(letter if letter != " " else "(space)" for letter, _ in unknown.most_common(10))
        logger.info(
            "%d of %d training transcripts cannot be spelt in the checkpoint's vocabulary (%s), as %r (--vocabulary "
            "keep leaves them out).", len(foreign), len(texts), shown, foreign[0][:60],
        )  # fmt: skip
    own = vocabulary.language.name if vocabulary.language else None
    others = [name for name in languages_that_spell(letters, languages) if name != own]
    if others:
        shown = ", ".join(others[:10]) + (", ..." if len(others) > 10 else "")
        logger.info("Of the checkpoint's languages, %s can be spelt so: --target_lang %s takes that one's vocabulary "
                    "and weights.", shown, others[0])  # fmt: skip


def respell(splits: DatasetDict, letters: set[str]) -> DatasetDict:
    """The splits with each ``text`` in the letters of the vocabulary that the model has in the end.

    Says which letters of the measured splits it lacks: each is an error, whatever is heard.
    """
    found = DatasetDict()
    for name, split in splits.items():
        texts = [normalise(text, letters) for text in split["text"][:]]
        changed = texts != split["text"][:]
        found[name] = split.remove_columns("text").add_column("text", texts) if changed else split
        unknown, _ = unknown_letters(texts, letters)
        if unknown and name != "train":
            count = sum(not spells(letters, text) for text in texts)
            logger.info(
                "%d of %d %s transcripts hold what the vocabulary lacks (%s): that counts as an error, whatever is "
                "heard.", count, len(texts), name, " ".join(letter for letter, _ in unknown.most_common(10)),
            )  # fmt: skip
    return found


def label_ids(tokenizer: Any, texts: list[str], classes: int) -> list[list[int]]:
    """Token ids of each transcript; what the head has no class for is the unknown token, or left out.

    torch's CTC loss reads beyond its input where a label is not below the number of classes.
    """
    unknown = [i for i in (tokenizer.unk_token_id,) if i is not None and i < classes]
    found = []
    for text in texts:
        ids = tokenizer(text).input_ids
        found.append([i for each in ids for i in ([each] if each is not None and each < classes else unknown)])
    return found


def renew_head(model: PreTrainedModel, old: Any, new: Any) -> list[str]:
    """A head for the vocabulary `new`; letters that `old` knew too, in either case, keep their weights."""
    head = getattr(model, "lm_head", None)
    if not isinstance(head, torch.nn.Linear):
        raise InputError(f"A {model.config.model_type} cannot take another vocabulary: --vocabulary keep.")
    fresh = torch.nn.Linear(head.in_features, len(new))
    torch.nn.init.normal_(fresh.weight, std=getattr(model.config, "initializer_range", 0.02))
    torch.nn.init.zeros_(fresh.bias)
    vocabulary = old.get_vocab()
    known: dict[str, int | None] = {token.lower(): i for token, i in vocabulary.items()} | vocabulary
    same = {new.pad_token: old.pad_token, new.unk_token: old.unk_token}
    same |= {new.word_delimiter_token: getattr(old, "word_delimiter_token", None)}
    known |= {token: vocabulary.get(former) for token, former in same.items()}
    before = {token: known.get(token, known.get(token.lower())) for token in new.get_vocab()}
    shared = {new.get_vocab()[token]: i for token, i in before.items() if i is not None and i < head.out_features}
    with torch.no_grad():
        for i, row in shared.items():
            fresh.weight[i], fresh.bias[i] = head.weight[row], head.bias[row]
    model.lm_head, model.config.vocab_size = fresh, len(new)
    logger.info("A new head is made; %d of its %d letters and signs keep their weights.", len(shared), len(new))
    return ["lm_head.bias", "lm_head.weight"]
