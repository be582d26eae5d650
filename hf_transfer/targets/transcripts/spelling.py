"""Writes words in the letters of a vocabulary: Unicode normal forms, case, accents, punctuation, digits."""

import itertools
import re
import unicodedata
from collections.abc import Iterable, Iterator

APOSTROPHES = "'’‘`´ʼʻʹ′＇՚׳"
# The plain form of typographic quotes and hyphens.
PLAIN_FORMS = {**dict.fromkeys("“”„‟«»＂״", '"'), **dict.fromkeys("‐‑", "-")}
# Signs that separate words: they become spaces.
SEPARATORS = "/_\\|⁄"
# Signs that are read aloud, and symbols that are not.
SPOKEN = frozenset("&%‰‱٪؉@#§°*")
SILENT = frozenset("|~¬<>⁄←↑→↓↔⇒⇔™℠")
# Kinds of Unicode compatibility forms that are read like their plain form: ligatures, full-width and final letters.
# Others are not: 5² is not 52, and № is not the word "No".
SAME_WHEN_PLAIN = ("<compat>", "<wide>", "<narrow>", "<font>", "<noBreak>", "<initial>", "<medial>", "<final>",
                   "<isolated>")  # fmt: skip
LETTER_FORMS = SAME_WHEN_PLAIN[1:]
# Variation selectors, and the tatweel, which stretches an Arabic word.
INVISIBLE = re.compile("[\ufe00-\ufe0f\U000e0100-\U000e01efـ]")
# Korean vowels and final consonants, which follow the first consonant of their syllable.
LATER_JAMO = re.compile("[\u1160-\u11ff\ud7b0-\ud7fb]")
TURKIC_LOWER, TURKIC_UPPER = str.maketrans("Iİ", "ıi"), str.maketrans("iı", "İI")


class Spelling:
    """Callable that writes a word in the letters of a vocabulary where the vocabulary has them.

    A word that the vocabulary can spell is not changed. Otherwise each letter with its marks is written in the first
    of its forms that the vocabulary has: as it is, NFC, NFD, NFKC, NFKD, each also in the other case; then with fewer
    combining marks (accents, harakat, niqqud, tone marks, but not vowel signs). Digits become those of the
    vocabulary's script. Punctuation that the vocabulary lacks is dropped (a dash or slash becomes a space); letters,
    digits and spoken symbols (``&``, ``%``, ``€``) that it lacks are kept.

    Args:
        letters: the vocabulary's tokens, and a space.
        fold: whether marks that the vocabulary lacks are dropped, and ß becomes ss.
    """

    def __init__(self, letters: Iterable[str], *, fold: bool = True):
        tokens = sorted((token for token in letters if token), key=len, reverse=True)
        self.known = {token for token in tokens if len(token) == 1}
        self.tokens = re.compile(f"(?:{'|'.join(map(re.escape, tokens))})*", re.DOTALL)
        self.single = all(len(token) == 1 for token in tokens)
        self.fold = fold
        words = {letter for token in tokens if len(token) == 1 or token.isalpha() for letter in token}
        self.turkic = bool(words & set("ıİ"))
        self.upper_only = any(map(str.isupper, words)) and not any(map(str.islower, words))
        self.lower_only = not any(map(str.isupper, words))
        self.apostrophe = next((letter for letter in APOSTROPHES if letter in self.known), "")
        digits = sorted(letter for letter in self.known if letter.isdecimal())
        self.digits = {unicodedata.decimal(digit): digit for digit in reversed(digits)}
        self.composed = self._composed()
        self.cache: dict[str, str] = {}

    def _composed(self) -> dict[str, str]:
        """Return letters that no normal form composes (Bengali ড়, Thai ำ), by their parts.

        Letters whose parts are known are left out.
        """
        parts = {unicodedata.normalize("NFD", compatible(letter)): letter for letter in self.known if letter.isalpha()}
        return {
            part: letter
            for part, letter in parts.items()
            if not self.spells(part) and unicodedata.normalize("NFC", part) != letter
        }

    def spells(self, text: str) -> bool:
        """Return whether the vocabulary can spell `text` without changes."""
        return self.known.issuperset(text) if self.single else self.tokens.fullmatch(text) is not None

    def __call__(self, word: str) -> str:
        """Return a word (without spaces) in the vocabulary's letters, as text of no, one or several words."""
        if word not in self.cache:
            self.cache[word] = word if self.spells(word) else self._respell(word)
        return self.cache[word]

    def _respell(self, word: str) -> str:
        """Return a word that the vocabulary cannot spell, written in its letters where it has them."""
        if not self.single and (form := self._known_form(word)) is not None:
            return form
        word = "".join(c for c in word if c in self.known or not INVISIBLE.match(c))
        if "*" not in self.known:
            word = re.sub(r"(?<![*])[*](?![\w*])", "", word)  # a footnote sign; f*** is a word
        word = self._numbers(word)
        for parts, letter in self.composed.items():
            word = word.replace(parts, letter)
        if "ς" in self.known and "Σ" not in self.known:
            word = re.sub(r"(?<=\w)Σ(?!\w)", "ς", word)
        return "".join(map(self._cluster, clusters(word)))

    def _numbers(self, word: str) -> str:
        """Return a word with its numbers prepared: 1,000 as 1000; 3.5, 10:30 and ½ (1⁄2) as two numbers each."""

        def space_unless_known(match: re.Match[str]) -> str:
            return match[0] if match[0] in self.known else " "

        fractions = set("¼½¾⅐⅑⅒⅓⅔⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞") - self.known
        word = "".join(f" {unicodedata.normalize('NFKC', c)}" if c in fractions else c for c in word)
        thousands = "".join(c for c in ",٬" if c not in self.known)
        word = re.sub(rf"(?<=\d)[{thousands}](?=\d{{3}}(?!\d))", "", word) if thousands else word
        word = re.sub(r"(?<=\d)[.,:⁄٫٬](?=\d)", space_unless_known, word)
        return "".join(self._digit(c) if c.isdecimal() else c for c in word)

    def _digit(self, character: str) -> str:
        if character in self.known:
            return character
        value = unicodedata.decimal(character)
        return self.digits.get(value, compatible(character))

    def _cluster(self, cluster: str) -> str:
        """Return a letter with its marks, or a sign, in the vocabulary's letters where it has them."""
        if (form := self._known_form(cluster)) is not None:
            return form
        if cluster in APOSTROPHES:
            return self.apostrophe
        if cluster in PLAIN_FORMS and PLAIN_FORMS[cluster] in self.known:
            return PLAIN_FORMS[cluster]
        if self.fold and (folded := self._folded(cluster)) is not None:
            return folded
        if len(cluster) > 1 and is_silent(cluster[0]):
            return self._cluster(cluster[0]) + "".join(self._cluster(mark) for mark in cluster[1:])
        if is_silent(cluster):
            return " " if unicodedata.category(cluster) == "Pd" or cluster in SEPARATORS else ""
        if is_symbol(compatible(cluster)):
            return compatible(cluster)
        plain = unicodedata.normalize("NFC", cluster)
        cased = self._upper(plain) if self.upper_only else self._lower(plain) if self.lower_only else plain
        return unicodedata.normalize("NFC", cased)

    def _folded(self, cluster: str) -> str | None:
        """Return a letter without as few of its marks as can be spelt, or ss for ß, or None if it cannot be."""
        parts = unicodedata.normalize("NFD", compatible(cluster))
        for count in range(1, sum(map(is_mark, parts)) + 1):
            marks = [i for i, c in enumerate(parts) if is_mark(c)]
            for dropped in itertools.combinations(reversed(marks), count):
                rest = "".join(c for i, c in enumerate(parts) if i not in dropped)
                if (form := self._known_form(rest)) is not None:
                    return form
        return self._known_form(parts.casefold().replace("ı", "i"))

    def _known_form(self, text: str) -> str | None:
        """Return the first Unicode form and case of `text` that the vocabulary can spell, or None without one."""
        return next((cased for form in forms_of(text) for cased in self._cases(form) if self.spells(cased)), None)

    def _cases(self, text: str) -> Iterator[str]:
        yield text
        yield text.replace("ß", "ẞ")
        yield self._lower(text)
        yield self._upper(text)
        yield self._lower(text).replace("ς", "σ")

    def _lower(self, text: str) -> str:
        return (text.translate(TURKIC_LOWER) if self.turkic else text).lower()

    def _upper(self, text: str) -> str:
        return (text.translate(TURKIC_UPPER) if self.turkic else text).upper()


def clusters(word: str) -> list[str]:
    """Return the parts of a word: letters with their combining marks; a Korean syllable's jamo stay together."""
    parts: list[str] = []
    for character in word:
        joins = unicodedata.category(character)[0] == "M" or LATER_JAMO.match(character)
        if joins and parts:
            parts[-1] += character
        else:
            parts.append(character)
    return parts


def forms_of(text: str) -> list[str]:
    """Return `text` as it is, in NFC and in NFD, and both again with the plain letters of `compatible`."""
    plain = compatible(text)
    composed, decomposed = (unicodedata.normalize(form, text) for form in ("NFC", "NFD"))
    return [text, composed, decomposed, *(unicodedata.normalize(form, plain) for form in ("NFC", "NFD"))]


def compatible(text: str, kinds: tuple[str, ...] = SAME_WHEN_PLAIN) -> str:
    """Return `text` with plain letters, digits and signs instead of compatibility forms that are read like them."""
    return "".join(unicodedata.normalize("NFKC", c) if _read_alike(c, kinds) else c for c in text)


def _read_alike(character: str, kinds: tuple[str, ...]) -> bool:
    """Return whether a character is a compatibility form of one of these kinds, and read like its plain form."""
    kind, _, parts = unicodedata.decomposition(character).partition(" ")
    other = unicodedata.category(character) in ("No", "Nl", "So") or parts.startswith("0020")
    return (kind in kinds or "ﬀ" <= character <= "ﬗ") and not other


def is_mark(character: str) -> bool:
    """Return whether a character is a combining mark that many writers leave out.

    These are accents, Hebrew and Arabic points, Thai and Lao tone marks, nuktas. Vowel signs, virama and kana
    voicing are none.
    """
    combining = unicodedata.combining(character)
    return (
        combining in (1, 7, 107, 122)
        or 10 <= combining <= 36
        or combining >= 200
        or unicodedata.category(character) == "Me"
    )


def is_symbol(text: str) -> bool:
    """Return whether `text` is a sign that is read aloud: ``%``, ``€``, ``½``."""
    if len(text) != 1 or text in SILENT:
        return False
    kind = unicodedata.category(text)
    has_plain_form = kind == "So" and unicodedata.normalize("NFKC", text) != text
    return text in SPOKEN or kind in ("Sc", "Sm", "No", "Nl") or has_plain_form


def is_silent(text: str) -> bool:
    """Return whether `text` is a sign that is not spoken: punctuation, an emoji, a control character."""
    if len(text) != 1 or is_symbol(compatible(text)):
        return False
    kind = unicodedata.category(text)
    return kind[0] in "PS" or kind in ("Cc", "Cf", "Cs")
