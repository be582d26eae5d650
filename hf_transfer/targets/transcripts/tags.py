"""Tags in transcripts: [noise], <unk>, {laughter}, (inaudible) are marks of a corpus, and no words that are said."""

import re
from collections import Counter
from collections.abc import Callable, Iterable

from hf_transfer.errors import logger

# What stands in brackets of any kind where nothing is said; tags of several words are made of these.
WORDS = """
noise noises noisy laugh laughs laughing laughed laughter chuckle chuckles chuckling giggle giggles giggling
cough coughs coughing breath breaths breathing breathes breathy inhale inhales inhaling exhale exhales
exhaling sigh sighs sighing gasp gasps gasping sniff sniffs sniffing sniffle sniffles sneeze sneezes sneezing
yawn yawns yawning cry cries crying sob sobs sobbing whistle whistles whistling smack smacks lipsmack click
clicks clicking beep beeps beeping buzz buzzing hum humming static music musical applause applauds applauding
clap claps clapping cheer cheers cheering silence silent sil sp pause pauses inaudible unintelligible
indistinct unclear crosstalk overlap overlapping overlaps background unk unknown spoken vocalized nonvocal
nonverbal hes hesitation hesitates filler lipsmacks swallow swallows swallowing throat tongue lip lips clears
clearing cleared ringing rings phone door slams closes opens footsteps redacted bleep bleeped censored foreign
language speaks speaking speech spn nsn ns lau brth eps pad blank cls sep bos eos non no in the
"""
NO_SPEECH = frozenset(WORDS.split())
# These alone are ordinary words, also in brackets.
COMMON = "in the no phone door language background spoken foreign opens closes throat tongue lip lips speaks speech"
NEED_COMPANY = frozenset(COMMON.split())
BRACKETS = re.compile(
    r"\[\[[^][]*\]\]|\[[^][]*\]|\(\([^()]*\)\)|\([^()]*\)|\{[^{}]*\}|<[^<>\s](?:[^<>]*[^<>\s])?>|<[^<>\s]>"
    r"|\+\+[^+\s]+\+\+|(?<![\w*])\*+(?=[^\s*])[^*]+(?<=[^\s*])\*+(?![\w*])"
    r"|【[^【】]*】|（[^（）]*）|［[^［］]*］|〈[^〈〉]*〉"
)
# No words in any vocabulary, even where it has each of their signs.
SPECIAL = re.compile(r"<(s|/s|unk|pad|blank|eps)>|\[(unk|pad|cls|sep|mask)\]", re.IGNORECASE)
TIME = re.compile(r"\d{1,2}(:\d{2}){1,2}([.,]\d+)?")


def without_tags(text: str, spells: Callable[[str], bool]) -> tuple[str, list[str], list[str]]:
    """A transcript without its tags; those that were removed; and what looks like a tag and stays, as a word.

    Removed are brackets of any kind around words for sounds, times in square ones, and everything in angle brackets
    and between ``++``. In ``[laughter-yes]`` the word is said. What a vocabulary spells, its model writes: it stays.

    Args:
        text: as written.
        spells: whether the vocabulary spells a piece of text as it is.
    """
    removed: list[str] = []
    doubtful: list[str] = []

    def replacement(found: re.Match[str]) -> str:
        tag = found[0]
        inner = tag.strip("[](){}<>+*【】（）［］〈〉").strip().lower()
        words = [word for word in re.split(r"[\W_]+", inner) if word]
        if spells(tag) and not SPECIAL.fullmatch(tag):
            return tag
        if tag[0] in "<+" or (tag[0] == "[" and TIME.fullmatch(inner)) or _no_speech(words):
            removed.append(tag)
            return " "
        if words and words[0] in NO_SPEECH - NEED_COMPANY and "-" in inner:
            removed.append(tag)
            return f" {tag[1:-1].partition('-')[2]} "
        if tag[0] == "*":
            return tag.strip("*")  # an *emphasised* word
        apart = not re.search(r"\w$", text[: found.start()]) and not re.match(r"\w", text[found.end() :])
        if words and len(words) <= 3 and apart:  # in colo(u)r there is no tag
            doubtful.append(tag)
        return tag[0] + BRACKETS.sub(replacement, tag[1:-1]) + tag[-1]  # one inside of others is one too

    before = ""
    while before != text:
        before, text = text, BRACKETS.sub(replacement, text)
        doubtful = doubtful if before == text else []
    return text, removed, doubtful


def _no_speech(words: list[str]) -> bool:
    return bool(words) and NO_SPEECH.issuperset(words) and not NEED_COMPANY.issuperset(words)


def say_tags(name: str, texts: Iterable[str], spells: Callable[[str], bool]) -> None:
    """Say which tags a split's transcripts lose, and which look like some and stay."""
    removed: Counter[str] = Counter()
    doubtful: Counter[str] = Counter()
    for text in texts:
        _, gone, kept = without_tags(text, spells)
        removed.update(gone)
        doubtful.update(kept)
    if removed:
        logger.info("%s: %d tags are removed from the transcripts: %s.", name, removed.total(), _listed(removed))
    if doubtful:
        logger.info(
            "%s: these look like tags and stay as words; remove them where nobody says them: %s.",
            name, _listed(doubtful),
        )  # fmt: skip


def _listed(counts: Counter[str]) -> str:
    shown = [f"{tag} x {count}" for tag, count in counts.most_common(8)]
    return ", ".join(shown) + (f" and {len(counts) - 8} more kinds" if len(counts) > 8 else "")
