"""Words as the letters of a vocabulary spell them: Unicode's normal forms, case, accents, punctuation, digits."""

import itertools
import re
import unicodedata
from collections.abc import Iterable, Iterator

APOSTROPHES = "'’‘`´ʼʻʹ′＇՚׳"
# Typographic quotes and hyphens have a plain form that a vocabulary may hold.
PLAIN = {**dict.fromkeys("“”„‟«»＂״", '"'), **dict.fromkeys("‐‑", "-")}
SPACES = "/_\\|⁄"
SPOKEN = frozenset("&%‰‱٪؉@#§°*")
SILENT = frozenset("|~¬<>⁄←↑→↓↔⇒⇔™℠")
# Compatibility forms of which the plain one is read in the same way: a ligature, a full-width or a final letter.
# 5² is not 52, and № is no word "No".
SAME_WHEN_PLAIN = ("<compat>", "<wide>", "<narrow>", "<font>", "<noBreak>", "<initial>", "<medial>", "<final>",
                   "<isolated>")  # fmt: skip
LETTER_FORMS = SAME_WHEN_PLAIN[1:]
# Variation selectors, and the tatweel, which stretches an Arabic word.
INVISIBLE = re.compile("[\ufe00-\ufe0f\U000e0100-\U000e01efـ]")
# Korean vowels and final consonants, which follow the first consonant of their syllable.
LATER_JAMO = re.compile("[\u1160-\u11ff\ud7b0-\ud7fb]")
TURKIC_LOWER, TURKIC_UPPER = str.maketrans("Iİ", "ıi"), str.maketrans("iı", "İI")


class Spelling:
    """``spelling(word)`` in the letters of a vocabulary, as far as it goes.

    What the vocabulary spells comes through unchanged. Otherwise each letter with its marks is written in the first of
    its forms that the vocabulary has: as it is, NFC, NFD, NFKC, NFKD, each in the other case too; then with fewer
    combining marks (accents, harakat, niqqud, tone marks; no vowel signs). Digits become those of the vocabulary's
    script. Punctuation that it lacks is dropped (a dash or slash is a space); letters, digits and symbols in which
    something is spoken (``&``, ``%``, ``€``) that it lacks stay.

    Args:
        letters: the vocabulary's tokens, and a space.
        fold: whether marks are dropped, and ß becomes ss, where the vocabulary lacks them.
    """

    def __init__(self, letters: Iterable[str], *, fold: bool = True):
        tokens = sorted((token for token in letters if token), key=len, reverse=True)
        self.known = {token for token in tokens if len(token) == 1}
        self.whole = re.compile(f"(?:{'|'.join(map(re.escape, tokens))})*", re.DOTALL)
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
        self.words: dict[str, str] = {}

    def _composed(self) -> dict[str, str]:
        """Letters that no normal form composes (Bengali ড়, Thai ำ), by their parts, where these are not known."""
        parts = {unicodedata.normalize("NFD", compatible(letter)): letter for letter in self.known if letter.isalpha()}
        return {
            part: letter
            for part, letter in parts.items()
            if not self.spells(part) and unicodedata.normalize("NFC", part) != letter
        }

    def spells(self, text: str) -> bool:
        """Whether `text` is spelt by the vocabulary as it is."""
        return self.known.issuperset(text) if self.single else self.whole.fullmatch(text) is not None

    def __call__(self, word: str) -> str:
        """A word, without spaces in it; more than one, or none, may be the answer."""
        if word not in self.words:
            self.words[word] = word if self.spells(word) else self._respelt(word)
        return self.words[word]

    def _respelt(self, word: str) -> str:
        if not self.single and (cased := self._spelt(word)) is not None:
            return cased
        word = "".join(c for c in word if c in self.known or not INVISIBLE.match(c))
        if "*" not in self.known:
            word = re.sub(r"(?<![*])[*](?![\w*])", "", word)  # a footnote; f*** is a word
        word = self._numbers(word)
        for parts, letter in self.composed.items():
            word = word.replace(parts, letter)
        if "ς" in self.known and "Σ" not in self.known:
            word = re.sub(r"(?<=\w)Σ(?!\w)", "ς", word)
        return "".join(map(self._cluster, clusters(word)))

    def _numbers(self, word: str) -> str:
        """1,000 is one number; 3.5, 10:30 and ½ (1⁄2) would become 35, 1030 and 12."""

        def apart(found: re.Match[str]) -> str:
            return found[0] if found[0] in self.known else " "

        fractions = set("¼½¾⅐⅑⅒⅓⅔⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞") - self.known
        word = "".join(f" {unicodedata.normalize('NFKC', c)}" if c in fractions else c for c in word)
        thousands = "".join(c for c in ",٬" if c not in self.known)
        word = re.sub(rf"(?<=\d)[{thousands}](?=\d{{3}}(?!\d))", "", word) if thousands else word
        word = re.sub(r"(?<=\d)[.,:⁄٫٬](?=\d)", apart, word)
        return "".join(self._digit(c) if c.isdecimal() else c for c in word)

    def _digit(self, character: str) -> str:
        if character in self.known:
            return character
        value = unicodedata.decimal(character)
        return self.digits.get(value, compatible(character))

    def _cluster(self, cluster: str) -> str:
        """A letter and its marks, or a sign, in the vocabulary's letters where it has them."""
        if (spelt := self._spelt(cluster)) is not None:
            return spelt
        if cluster in APOSTROPHES:
            return self.apostrophe
        if cluster in PLAIN and PLAIN[cluster] in self.known:
            return PLAIN[cluster]
        if self.fold and (folded := self._folded(cluster)) is not None:
            return folded
        if len(cluster) > 1 and unspoken(cluster[0]):
            return self._cluster(cluster[0]) + "".join(self._cluster(mark) for mark in cluster[1:])
        if unspoken(cluster):
            return " " if unicodedata.category(cluster) == "Pd" or cluster in SPACES else ""
        if is_symbol(compatible(cluster)):
            return compatible(cluster)
        plain = unicodedata.normalize("NFC", cluster)
        cased = self._upper(plain) if self.upper_only else self._lower(plain) if self.lower_only else plain
        return unicodedata.normalize("NFC", cased)

    def _folded(self, cluster: str) -> str | None:
        """Without the fewest marks that make it spelt, or with ss for ß."""
        parts = unicodedata.normalize("NFD", compatible(cluster))
        for count in range(1, sum(map(is_mark, parts)) + 1):
            marks = [i for i, c in enumerate(parts) if is_mark(c)]
            for dropped in itertools.combinations(reversed(marks), count):
                rest = "".join(c for i, c in enumerate(parts) if i not in dropped)
                if (spelt := self._spelt(rest)) is not None:
                    return spelt
        return self._spelt(parts.casefold().replace("ı", "i"))

    def _spelt(self, text: str) -> str | None:
        """The first form and case of `text` that the vocabulary spells."""
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
    """`word` in letters with their combining marks; the jamo of a Korean syllable stay together."""
    found: list[str] = []
    for character in word:
        joins = unicodedata.category(character)[0] == "M" or LATER_JAMO.match(character)
        if joins and found:
            found[-1] += character
        else:
            found.append(character)
    return found


def forms_of(text: str) -> list[str]:
    """`text` as it is, in NFC and NFD, and the same two of its plain letters (NFKC and NFKD of those alone)."""
    plain = compatible(text)
    composed, decomposed = (unicodedata.normalize(form, text) for form in ("NFC", "NFD"))
    return [text, composed, decomposed, *(unicodedata.normalize(form, plain) for form in ("NFC", "NFD"))]


def compatible(text: str, kinds: tuple[str, ...] = SAME_WHEN_PLAIN) -> str:
    """`text` with the plain letters, digits and signs of those compatibility forms that are read in the same way."""
    return "".join(unicodedata.normalize("NFKC", c) if _read_alike(c, kinds) else c for c in text)


def _read_alike(character: str, kinds: tuple[str, ...]) -> bool:
    kind, _, parts = unicodedata.decomposition(character).partition(" ")
    other = unicodedata.category(character) in ("No", "Nl", "So") or parts.startswith("0020")
    return (kind in kinds or "ﬀ" <= character <= "ﬗ") and not other


def is_mark(character: str) -> bool:
    """Whether it is a mark without which the letter is still the same one to many readers.

    Accents, Hebrew and Arabic points, Thai and Lao tone marks, nuktas; no vowel signs, no virama, no kana voicing.
    """
    place = unicodedata.combining(character)
    return place in (1, 7, 107, 122) or 10 <= place <= 36 or place >= 200 or unicodedata.category(character) == "Me"


def is_symbol(text: str) -> bool:
    """Whether `text` is a sign in which something is spoken."""
    if len(text) != 1 or text in SILENT:
        return False
    kind = unicodedata.category(text)
    drawn = kind == "So" and unicodedata.normalize("NFKC", text) != text
    return text in SPOKEN or kind in ("Sc", "Sm", "No", "Nl") or drawn


def unspoken(text: str) -> bool:
    """Whether `text` is a sign that is dropped where a vocabulary lacks it: punctuation, an emoji, a control code."""
    if len(text) != 1 or is_symbol(compatible(text)):
        return False
    kind = unicodedata.category(text)
    return kind[0] in "PS" or kind in ("Cc", "Cf", "Cs")
