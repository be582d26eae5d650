"""Transcripts as a CTC vocabulary can spell them."""

import json
import re
import tempfile
import unicodedata
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from transformers import Wav2Vec2CTCTokenizer

APOSTROPHES = "’‘`´ʼ′＇"
BLANK, UNKNOWN, DELIMITER = "[PAD]", "[UNK]", "|"
# A transcript may hold a foreign letter now and then; more than this share of them is another alphabet.
UNKNOWN_SHARE = 0.005


def letters_of(tokenizer: Any) -> set[str]:
    """The characters that a CTC tokenizer can write, without its special tokens; a space for its word delimiter."""
    special = {
        *tokenizer.all_special_tokens,
        getattr(tokenizer, "word_delimiter_token", None),
        "<pad>",
        "<unk>",
        "<s>",
    }
    words = [token.replace("▁", " ") for token in tokenizer.get_vocab() if token not in special]
    return {letter for word in words for letter in word if not word.startswith(("[", "<"))} | {" "}


def normalise(text: str, letters: set[str] | None, *, fold: bool = True) -> str:
    """`text` in the letters of a vocabulary, as far as it goes.

    Compatibility forms are unified (NFKC) and typographic apostrophes made plain; the case becomes that of the
    vocabulary, where it has one only; accents are dropped from letters that it knows without; punctuation that it does
    not know is dropped (a hyphen or slash becomes a space). What remains unknown, digits among it, stays as it is.

    Args:
        text: a transcript.
        letters: of the vocabulary; None for one that is still to be made: lower case, no punctuation but apostrophes.
        fold: whether accents are dropped.
    """
    text = unicodedata.normalize("NFKC", re.sub("([¼-¾⅐-⅞])", r" \1", text))
    # 1,000 is one number; 3.5, 10:30 and ½ (1⁄2) would become 35, 1030 and 12.
    text = re.sub(r"(?<=\d)[.,:⁄](?=\d)", " ", re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text))
    text = re.sub(f"[{APOSTROPHES}]", "'", text)
    if letters is None or not any(letter.isupper() for letter in letters):
        text = text.lower()
    elif not any(letter.islower() for letter in letters):
        text = text.upper()
    return " ".join("".join(_spelt(character, letters, fold) for character in text).split())


def _spelt(character: str, letters: set[str] | None, fold: bool) -> str:
    if character.isspace() or character in (letters or "'"):
        return character
    kind = unicodedata.category(character)
    if kind[0] in "PSC":
        return " " if kind == "Pd" or character in "/_" else ""
    if letters is not None and fold:
        plain = "".join(c for c in unicodedata.normalize("NFKD", character) if not unicodedata.combining(c))
        if plain and set(plain) <= letters:
            return plain
    return character


def unknown_letters(texts: Iterable[str], letters: set[str]) -> tuple[Counter[str], int]:
    """How often letters occur in normalised `texts` that a vocabulary does not know, and the number of all letters."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(text)
    return Counter({c: n for c, n in counts.items() if c not in letters}), sum(counts.values())


def covers(texts: list[str], letters: set[str]) -> bool:
    """Whether a vocabulary can spell `texts` as they are, foreign letters now and then left out.

    Letters that would lose an accent count as foreign: who writes many of them means them.
    """
    unknown, total = unknown_letters((normalise(text, letters, fold=False) for text in texts), letters)
    return sum(unknown.values()) <= UNKNOWN_SHARE * max(1, total)


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
