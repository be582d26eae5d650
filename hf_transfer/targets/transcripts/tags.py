"""Removes tags from transcripts: [noise], <unk>, {laughter}, (inaudible) are annotations, not spoken words."""

import re
from collections import Counter
from collections.abc import Callable, Iterable

from hf_transfer.errors import logger

# Words of tags; a tag of several words consists of these.
TAG_WORDS = """
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
NO_SPEECH = frozenset(TAG_WORDS.split())
# These alone may be ordinary words in brackets; they make a tag only together with others.
ORDINARY_WORDS = (
    "in the no phone door language background spoken foreign opens closes throat tongue lip lips speaks speech"
)
NEED_COMPANY = frozenset(ORDINARY_WORDS.split())
BRACKETS = re.compile(
    r"\[\[[^][]*\]\]|\[[^][]*\]|\(\([^()]*\)\)|\([^()]*\)|\{[^{}]*\}|<[^<>\s](?:[^<>]*[^<>\s])?>|<[^<>\s]>"
    r"|\+\+[^+\s]+\+\+|(?<![\w*])\*+(?=[^\s*])[^*]+(?<=[^\s*])\*+(?![\w*])"
    r"|【[^【】]*】|（[^（）]*）|［[^［］]*］|〈[^〈〉]*〉"
)
# Special tokens of vocabularies: removed even where the vocabulary has each of their characters.
SPECIAL = re.compile(r"<(s|/s|unk|pad|blank|eps)>|\[(unk|pad|cls|sep|mask)\]", re.IGNORECASE)
TIME = re.compile(r"\d{1,2}(:\d{2}){1,2}([.,]\d+)?")


def without_tags(text: str, spells: Callable[[str], bool]) -> tuple[str, list[str], list[str]]:
    """Return a transcript without its tags, such as [noise], the removed tags, and brackets that look like tags.

    Tags are brackets of any kind around words for sounds, times in square brackets, and everything in angle brackets
    or between ``++``. In ``[laughter-yes]`` the word "yes" is spoken and kept. What the vocabulary can spell is kept,
    because the model can write it.

    Args:
        text: a transcript, not normalised.
        spells: whether the vocabulary can spell a piece of text without changes.

    Returns:
        The transcript without its tags, the tags that were removed, and brackets that look like tags but are kept.
    """
    removed: list[str] = []
    doubtful: list[str] = []

    def replacement(match: re.Match[str]) -> str:
        tag = match[0]
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
        inside_word = re.search(r"\w$", text[: match.start()]) or re.match(r"\w", text[match.end() :])
        if words and len(words) <= 3 and not inside_word:  # in colo(u)r there is no tag
            doubtful.append(tag)
        return tag[0] + BRACKETS.sub(replacement, tag[1:-1]) + tag[-1]  # tags inside brackets

    before = ""
    while before != text:
        before, text = text, BRACKETS.sub(replacement, text)
        doubtful = doubtful if before == text else []
    return text, removed, doubtful


def _no_speech(words: list[str]) -> bool:
    """Return whether the words in brackets describe a sound instead of speech."""
    return bool(words) and NO_SPEECH.issuperset(words) and not NEED_COMPANY.issuperset(words)


def log_tags(name: str, texts: Iterable[str], spells: Callable[[str], bool]) -> None:
    """Log which tags are removed from the transcripts of a split, and which look like tags but are kept.

    Args:
        name: of the split.
        texts: its transcripts, not normalised.
        spells: as of `without_tags`.
    """
    removed: Counter[str] = Counter()
    doubtful: Counter[str] = Counter()
    for text in texts:
        _, removed_here, doubtful_here = without_tags(text, spells)
        removed.update(removed_here)
        doubtful.update(doubtful_here)
    if removed:
        logger.info("%s: %d tags are removed from the transcripts: %s.", name, removed.total(), _listed(removed))
    if doubtful:
        logger.info(
            "%s: these look like tags but are kept as words; remove them from the data if nobody says them: %s.",
            name, _listed(doubtful),
        )  # fmt: skip


def _listed(counts: Counter[str]) -> str:
    shown = [f"{tag} x {count}" for tag, count in counts.most_common(8)]
    return ", ".join(shown) + (f" and {len(counts) - 8} more kinds" if len(counts) > 8 else "")
