"""The letters of CTC vocabularies, and transcripts normalised to them."""

import functools
import json
import tempfile
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Set
from pathlib import Path
from typing import Literal

from transformers import PreTrainedTokenizerBase, Wav2Vec2CTCTokenizer

from hf_transfer.targets.transcripts.spelling import (
    APOSTROPHES,
    INVISIBLE,
    LETTER_FORMS,
    Spelling,
    clusters,
    compatible,
    is_silent,
)
from hf_transfer.targets.transcripts.tags import SPECIAL, without_tags

BLANK, UNKNOWN, DELIMITER = "[PAD]", "[UNK]", "|"
# A vocabulary is kept if at most this share of all letters is unknown to it: more is another alphabet.
UNKNOWN_LETTER_SHARE = 0.005
# Or if at most this share of the transcripts has unknown letters: a few odd clips need no new vocabulary.
FOREIGN_TRANSCRIPT_SHARE = 0.1
# In Turkish text more than a third of all i are ı or İ; with a Turkish name now and then the share is lower.
TURKIC_SHARE = 0.1


def letters_of(tokenizer: PreTrainedTokenizerBase, classes: int | None = None) -> set[str]:
    """Return the tokens that a CTC tokenizer can write, without special ones, and a space for a word delimiter.

    Args:
        tokenizer: most have a token for each letter; some have tokens of several characters, such as letters with
            marks.
        classes: number of classes of the model's head: tokens with larger ids cannot be written. By default, tokens
            that were added to the vocabulary cannot.
    """
    known = {token: i for token, i in tokenizer.get_vocab().items() if i < (classes or tokenizer.vocab_size)}
    delimiter = getattr(tokenizer, "word_delimiter_token", None)
    special = {*tokenizer.all_special_tokens, delimiter}
    tokens = {token for token in known if not (token in special or token.isspace() or SPECIAL.fullmatch(token))}
    has_pieces = any(token.startswith("▁") for token in tokens)
    if has_pieces:  # parts of words, as of SentencePiece: each of their letters can be written
        tokens = {letter for token in tokens for letter in token.replace("▁", " ")}
    return tokens | ({" "} if has_pieces or delimiter in known else set())


def normalise(text: str, letters: Set[str] | None, *, fold: bool = True) -> str:
    """Return a transcript without tags, its words written in the letters of a vocabulary where that can be done.

    Words are written as of `Spelling`.

    Words that the vocabulary can spell are not changed, and a normalised text is not changed by another call.

    Args:
        text: a transcript.
        letters: of the vocabulary; None for a new vocabulary of this text, see `new_letters`.
        fold: whether combining marks that the vocabulary lacks are dropped.
    """
    spelling = _spelling(frozenset(new_letters([text]) if letters is None else letters), fold)
    before = None
    while before != text:
        before = text
        words = without_tags(" ".join(text.split()), spelling.spells)[0].split()
        text = " ".join(" ".join(map(spelling, words)).split())
    return text


@functools.lru_cache(maxsize=8)
def _spelling(letters: frozenset[str], fold: bool) -> Spelling:
    return Spelling(letters, fold=fold)


def spells(letters: Set[str], text: str) -> bool:
    """Return whether a vocabulary of `letters` can spell all of `text`."""
    return _spelling(frozenset(letters), True).spells(text)


def unknown_letters(texts: Iterable[str], letters: Set[str]) -> tuple[Counter[str], int]:
    """Return how often letters that a vocabulary lacks occur in normalised texts, and the number of all letters.

    In a vocabulary with tokens of several letters, a word that it cannot spell is counted as a whole, by its length.
    """
    spelling, unknown, total = _spelling(frozenset(letters), True), Counter[str](), 0
    for text in texts:
        total += len(text)
        if spelling.spells(text):
            continue
        unknown[" "] += text.count(" ") if " " not in letters else 0
        for word in text.split():
            foreign = Counter(letter for letter in word if not spelling.spells(letter))
            if foreign and not spelling.spells(word):
                unknown.update(foreign if spelling.single else {word: len(word)})
    return +unknown, total


def listed_letters(counts: Counter[str]) -> str:
    """Return the most frequent of some letters as text, for a message."""
    return " ".join(letter if letter != " " else "(space)" for letter, _ in counts.most_common(10))


def covers(texts: list[str], letters: Set[str]) -> bool:
    """Return whether a vocabulary can spell `texts`, except for a few unknown letters or a few of the texts.

    Letters that would lose an accent count as unknown: a language that writes many of them needs them.
    """
    normalised = [normalise(text, letters, fold=False) for text in texts]
    unknown, total = unknown_letters(normalised, letters)
    few = sum(not spells(letters, text) for text in normalised) <= FOREIGN_TRANSCRIPT_SHARE * len(normalised)
    return few or sum(unknown.values()) <= UNKNOWN_LETTER_SHARE * max(1, total)


def new_letters(texts: Iterable[str]) -> set[str]:
    """Return the letters of a new vocabulary for `texts`: lower case, with marks, without most punctuation.

    Apostrophes are letters of it.

    Digits and spoken symbols (``&``, ``%``) are letters of it. Where the texts write a letter in two ways (é as one
    character or as two), or digits in several scripts, the vocabulary has one of them, and `normalise` converts the
    others.
    """
    words = {word for text in texts for word in without_tags(text, lambda tag: False)[0].split()}
    words = {compatible(word, LETTER_FORMS).replace("I\u0307", "İ") for word in words}
    counts = Counter(letter for word in words for letter in word)
    turkic = counts["ı"] + counts["İ"] > TURKIC_SHARE * sum(counts[letter] for letter in "iıIİ")
    lower = str.maketrans({"I": "ı", "İ": "i"} if turkic else {"ı": "i", "İ": "i"})
    written = Counter(part for word in words for part in clusters(word.translate(lower).lower()))
    letters = Counter[str]()
    for part, count in written.items():
        if part[0] in APOSTROPHES:
            letters["'"] += count
        elif not is_silent(part[0]) and part != "*":
            letters[part] += count
    return _in_one_digit_script(_in_one_form(letters)) | {" "}


def _in_one_form(written: Counter[str]) -> Counter[str]:
    """Return the counts of letters in one Unicode form: as written if each letter has one form, else NFC or NFD.

    NFD is used where NFC would leave two ways to write a letter: as one character, and as a letter and its mark.
    """
    forms = defaultdict(set)
    for part in written:
        forms[unicodedata.normalize("NFC", part)].add(part)
    is_consistent = all(len(of_one) == 1 for of_one in forms.values())
    candidates: tuple[Literal["NFC", "NFD"] | None, ...] = (None,) if is_consistent else ("NFC", "NFD")
    for form in candidates:
        counts = Counter[str]()
        for part, count in written.items():
            for letter in part if form is None else unicodedata.normalize(form, part):
                counts[letter] += count
        parts = [set(unicodedata.normalize("NFD", letter)) for letter in counts]
        if not any(len(of_one) > 1 and of_one <= set(counts) for of_one in parts):
            break
    return counts


def _in_one_digit_script(letters: Counter[str]) -> set[str]:
    """Return the letters, with all digits in the script that most of the digits are written in."""
    zeros: Counter[str] = Counter()
    for letter, count in letters.items():
        if letter.isdecimal():
            zeros[chr(ord(letter) - unicodedata.decimal(letter))] += count
    zero = ord(zeros.most_common(1)[0][0]) if zeros else 0
    return {chr(zero + unicodedata.decimal(c)) if c.isdecimal() else c for c in letters if not INVISIBLE.match(c)}


def build_tokenizer(texts: Iterable[str]) -> Wav2Vec2CTCTokenizer:
    """Return a CTC tokenizer with a token for every letter in normalised `texts`; its padding token is the blank."""
    letters = sorted({letter for text in texts for letter in text} - {" "})
    vocabulary = {token: i for i, token in enumerate([BLANK, UNKNOWN, DELIMITER, *letters])}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "vocab.json"
        file.write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
        return Wav2Vec2CTCTokenizer(
            str(file),
            bos_token=None,
            eos_token=None,
            pad_token=BLANK,
            unk_token=UNKNOWN,
            word_delimiter_token=DELIMITER,
        )
