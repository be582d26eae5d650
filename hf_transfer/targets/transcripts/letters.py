"""Transcripts as a CTC vocabulary can spell them."""

import functools
import json
import tempfile
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Set
from pathlib import Path
from typing import Any, Literal

from transformers import Wav2Vec2CTCTokenizer

from hf_transfer.targets.transcripts.spelling import (
    APOSTROPHES,
    INVISIBLE,
    LETTER_FORMS,
    Spelling,
    clusters,
    compatible,
    unspoken,
)
from hf_transfer.targets.transcripts.tags import SPECIAL, without_tags

BLANK, UNKNOWN, DELIMITER = "[PAD]", "[UNK]", "|"
# A transcript may hold a foreign letter now and then; more than this share of them is another alphabet.
UNKNOWN_SHARE = 0.005
# Or so many of the transcripts, whatever their letters are: one odd clip makes no vocabulary.
FOREIGN_SHARE = 0.1
# In Turkish text more than a third of all i are dotless or capital dotted ones; a Turkish name now and then is less.
TURKIC_SHARE = 0.1


def letters_of(tokenizer: Any, classes: int | None = None) -> set[str]:
    """The tokens that a CTC tokenizer can write, without its special ones; a space where it has a word delimiter.

    Args:
        tokenizer: most have one token a letter; some have letters with marks, or sounds, of several characters.
        classes: of the model's head: what has a larger id cannot be written; by default, tokens that were added to
            the vocabulary cannot.
    """
    known = {token: i for token, i in tokenizer.get_vocab().items() if i < (classes or tokenizer.vocab_size)}
    delimiter = getattr(tokenizer, "word_delimiter_token", None)
    special = {*tokenizer.all_special_tokens, delimiter}
    tokens = {token for token in known if not (token in special or token.isspace() or SPECIAL.fullmatch(token))}
    pieces = any(token.startswith("▁") for token in tokens)
    if pieces:  # parts of words: each of their letters can be written
        tokens = {letter for token in tokens for letter in token.replace("▁", " ")}
    return tokens | ({" "} if pieces or delimiter in known else set())


def normalise(text: str, letters: Set[str] | None, *, fold: bool = True) -> str:
    """`text` in the letters of a vocabulary, as far as it goes: without tags, each word as `Spelling` spells it.

    What the vocabulary spells comes through unchanged, and a text that was normalised stays as it is.

    Args:
        text: a transcript.
        letters: of the vocabulary; None for one of this text's own letters, see `new_letters`.
        fold: whether combining marks are dropped where the vocabulary lacks them.
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
    """Whether a vocabulary of `letters` spells all of `text`."""
    return _spelling(frozenset(letters), True).spells(text)


def unknown_letters(texts: Iterable[str], letters: Set[str]) -> tuple[Counter[str], int]:
    """How often letters occur in normalised `texts` that a vocabulary does not know, and the number of all letters.

    A word of known letters that it cannot spell (there are tokens of several) counts as a whole, with its length.
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


def covers(texts: list[str], letters: Set[str]) -> bool:
    """Whether a vocabulary can spell `texts` as they are, but for foreign letters now and then or in a few of them.

    Letters that would lose an accent count as foreign: who writes many of them means them.
    """
    plain = [normalise(text, letters, fold=False) for text in texts]
    unknown, total = unknown_letters(plain, letters)
    few = sum(not spells(letters, text) for text in plain) <= FOREIGN_SHARE * len(plain)
    return few or sum(unknown.values()) <= UNKNOWN_SHARE * max(1, total)


def new_letters(texts: Iterable[str]) -> set[str]:
    """The letters of a new vocabulary for `texts`: lower case, marks as written, no punctuation but apostrophes.

    Digits and symbols in which something is spoken are letters of it. Where a letter is written in two ways (é as one
    character or as two), or digits in several scripts, the vocabulary has one way, and the normaliser knows the other.
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
        elif not unspoken(part[0]) and part != "*":
            letters[part] += count
    return _one_digit_script(_one_form(letters)) | {" "}


def _one_form(written: Counter[str]) -> Counter[str]:
    """Characters of letters with their marks: as written where each has one form, else all in NFC, or in NFD.

    NFC would leave two ways of writing where it leaves marks that are parts of other letters.
    """
    forms = defaultdict(set)
    for part in written:
        forms[unicodedata.normalize("NFC", part)].add(part)
    one_way = all(len(of_one) == 1 for of_one in forms.values())
    either: tuple[Literal["NFC", "NFD"] | None, ...] = (None,) if one_way else ("NFC", "NFD")
    for form in either:
        found = Counter[str]()
        for part, count in written.items():
            for letter in part if form is None else unicodedata.normalize(form, part):
                found[letter] += count
        parts = [set(unicodedata.normalize("NFD", letter)) for letter in found]
        if not any(len(of_one) > 1 and of_one <= set(found) for of_one in parts):
            break
    return found


def _one_digit_script(letters: Counter[str]) -> set[str]:
    """The letters, with all digits in the script that has the most of them."""
    zeros: Counter[str] = Counter()
    for letter, count in letters.items():
        if letter.isdecimal():
            zeros[chr(ord(letter) - unicodedata.decimal(letter))] += count
    zero = ord(zeros.most_common(1)[0][0]) if zeros else 0
    return {chr(zero + unicodedata.decimal(c)) if c.isdecimal() else c for c in letters if not INVISIBLE.match(c)}


def build_tokenizer(texts: Iterable[str]) -> Wav2Vec2CTCTokenizer:
    """A tokenizer of every letter in `texts`, which are normalised already; its padding token is CTC's blank."""
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
