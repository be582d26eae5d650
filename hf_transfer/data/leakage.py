"""Leakage between splits: equal examples, and those of one speaker, patient or camera, on both sides."""

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Sequence

from datasets import DatasetDict

from hf_transfer.data.groups import NAMELESS
from hf_transfer.data.units import UNIT, few_units_caveats, unit_noun
from hf_transfer.errors import InputError, logger

# Of no width, and in no text a sign of its own: soft hyphen, zero-width space, word joiner, byte order mark.
INVISIBLE = dict.fromkeys(map(ord, "\u00ad\u200b\u2060\ufeff"))


def text_identity(*texts: str) -> str:
    """A digest that is the same for texts that differ in case, spacing or Unicode form alone.

    Compatibility caseless matching of the Unicode Standard (section 3.13, D146), without spaces.
    """
    return hashlib.blake2b("\0".join(map(_folded, texts)).encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()


def _folded(text: str) -> str:
    folded = text.lower() if text.isascii() else text.translate(INVISIBLE)
    if not folded.isascii():
        folded = unicodedata.normalize("NFD", folded).casefold()
        folded = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", folded).casefold())
    return "".join(folded.split())


def unknown_units_caveats(splits: Sequence[str], column: str) -> list[str]:
    """In a sentence, that some splits do not say whom their examples are of; none where all do.

    Args:
        splits: names of those without the column.
        column: of --split_by.
    """
    if not splits:
        return []
    have = "split has" if len(splits) == 1 else "splits have"
    told = (
        f"The {' and '.join(splits)} {have} no column {column!r}: whether their {unit_noun(column)} are in training "
        "nobody can tell, and intervals are over examples."
    )
    logger.warning("%s", told)
    return [told]


def shared_units_caveats(splits: DatasetDict, column: str) -> list[str]:
    """What makes the result flatter or narrower than it looks: units in training and test, or a single one of them.

    The values are named on the screen alone.
    """
    if any(UNIT not in splits[name].column_names for name in ("train", "test")):
        return []
    train, test = (Counter(value for value in splits[name][UNIT] if value != NAMELESS) for name in ("train", "test"))
    shared, noun = sorted(train.keys() & test.keys()), unit_noun(column)
    found = []
    if shared:
        shown = ", ".join(shared[:5]) + (", ..." if len(shared) > 5 else "")
        holds = f"the result holds for known {'voices' if noun == 'speakers' else 'ones'}."
        logger.info("%d %s are in train and test (%s): %s", len(shared), noun, shown, holds)
        found.append(f"{len(shared)} {noun} are in train and test: {holds}")
    for name, units in (("training", train), ("test", test)):
        if name == "test" and not shared:
            found += few_units_caveats(splits["test"], column)
        if len(units) == 1 and not shared:
            single = noun.replace("values", "value") if noun.startswith("values") else noun.removesuffix("s")
            found.append(f"All {name} examples are of one {single}: with others the result may be another.")
            logger.info("%s", found[-1])
    return found


def count_overlap(
    splits: DatasetDict, keys: dict[str, list[str]], *, remove: bool
) -> tuple[DatasetDict, dict[str, int], list[str]]:
    """Count the examples that several splits hold, and leave each in one if asked.

    Args:
        splits: with ``train`` and ``test``.
        keys: for each split, what makes two examples the same, an entry an example.
        remove: take out of ``train`` what others hold, and out of ``validation`` what ``test`` holds.

    Returns:
        The splits; how many examples of each held-out split are in training too, and how many were
        ``removed_from_train`` and, where there are such, ``removed_from_validation``; what the test examples among
        them make of the result, in sentences.
    """
    splits, counts_of_validation, caveats = _chosen_on(splits, keys, remove=remove)
    held_out = {key for name in splits if name != "train" for key in keys[name]}
    seen_in_train = set(keys["train"])
    counts = {name: sum(key in seen_in_train for key in keys[name]) for name in splits if name != "train"}
    kept = [i for i, key in enumerate(keys["train"]) if key not in held_out]
    shared = len(keys["train"]) - len(kept)
    if shared:
        found = ", ".join(f"{count} of {len(keys[name])} in {name}" for name, count in counts.items())
        if remove:
            if not kept:
                raise InputError("--deduplicate leaves nothing to train on: every training example is held out too.")
            splits["train"] = splits["train"].select(kept)
            logger.info("Also in training: %s. %d training examples are removed (--deduplicate).", found, shared)
        else:
            logger.info(
                "Also in training: %s. They do not tell how it does on new ones; --deduplicate removes them.", found
            )
            if counts["test"]:
                caveats.append(
                    f"{counts['test']} of {len(keys['test'])} test examples occur in training as well: they do not "
                    "tell how it does on new ones."
                )
    removed = {"removed_from_train": shared if remove else 0, **counts_of_validation}
    return splits, {**counts, **removed}, caveats


def _chosen_on(
    splits: DatasetDict, keys: dict[str, list[str]], *, remove: bool
) -> tuple[DatasetDict, dict[str, int], list[str]]:
    """As `overlap`, of the examples of validation that test holds as well."""
    tested = set(keys["test"])
    kept = [i for i, key in enumerate(keys.get("validation", [])) if key not in tested]
    shared = len(keys.get("validation", [])) - len(kept)
    if not shared:
        return splits, {}, []
    found = f"{shared} of {len(keys['validation'])} validation examples are test examples as well"
    if not remove:
        logger.info("%s: the thresholds and checkpoints that are chosen on them fit the test; --deduplicate removes "
                    "them from validation.", found)  # fmt: skip
        return splits, {}, [f"{found}: what is chosen on them fits the test."]
    if not kept:
        raise InputError("--deduplicate leaves nothing to validate on: every validation example is a test example.")
    logger.info("%s: they are removed from validation (--deduplicate).", found)
    keys["validation"] = [keys["validation"][i] for i in kept]
    return (
        DatasetDict({**splits, "validation": splits["validation"].select(kept)}),
        {"removed_from_validation": shared},
        [],
    )
