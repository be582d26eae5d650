"""Leakage between splits: examples, speakers, patients or cameras that are in both training and test."""

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Sequence

from datasets import DatasetDict

from hf_transfer.data.groups import NAMELESS
from hf_transfer.data.units import UNIT, few_units_caveats, unit_noun
from hf_transfer.errors import InputError, logger

# Zero-width characters that change no text: soft hyphen, zero-width space, word joiner, byte order mark.
INVISIBLE = dict.fromkeys(map(ord, "\u00ad\u200b\u2060\ufeff"))


def text_identity(*texts: str) -> str:
    """Return a digest of texts that does not depend on their case, spaces and Unicode normalisation form.

    It compares texts by the compatibility caseless matching of the Unicode Standard (section 3.13, D146), without
    spaces.
    """
    joined = "\0".join(map(_casefolded, texts))
    return hashlib.blake2b(joined.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()


def _casefolded(text: str) -> str:
    folded = text.lower() if text.isascii() else text.translate(INVISIBLE)
    if not folded.isascii():
        folded = unicodedata.normalize("NFD", folded).casefold()
        folded = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", folded).casefold())
    return "".join(folded.split())


def unknown_units_caveats(splits: Sequence[str], column: str) -> list[str]:
    """Return and log a sentence if splits lack the column of units (speakers, ...); else return an empty list.

    Args:
        splits: names of the splits without the column.
        column: of --split_by.
    """
    if not splits:
        return []
    have = "split has" if len(splits) == 1 else "splits have"
    sentence = (
        f"The {' and '.join(splits)} {have} no column {column!r}: it is unknown whether their {unit_noun(column)} are "
        "in training too, and intervals are over examples."
    )
    logger.warning("%s", sentence)
    return [sentence]


def shared_units_caveats(splits: DatasetDict, column: str) -> list[str]:
    """Return and log sentences about units (speakers, ...) in both training and test, and splits of a single unit.

    Both make results look better or more certain than they are. The log names the units; the sentences, which are
    published, do not.

    Args:
        splits: with ``train`` and ``test``.
        column: of --split_by.
    """
    if any(UNIT not in splits[name].column_names for name in ("train", "test")):
        return []
    train, test = (Counter(value for value in splits[name][UNIT] if value != NAMELESS) for name in ("train", "test"))
    shared, noun = sorted(train.keys() & test.keys()), unit_noun(column)
    caveats = []
    if shared:
        names = ", ".join(shared[:5]) + (", ..." if len(shared) > 5 else "")
        holds = f"the result holds for known {'voices' if noun == 'speakers' else 'ones'}."
        logger.info("%d %s are in train and test (%s): %s", len(shared), noun, names, holds)
        caveats.append(f"{len(shared)} {noun} are in train and test: {holds}")
    for name, units in (("training", train), ("test", test)):
        if name == "test" and not shared:
            caveats += few_units_caveats(splits["test"], column)
        if len(units) == 1 and not shared:
            single = noun.replace("values", "value") if noun.startswith("values") else noun.removesuffix("s")
            caveats.append(f"All {name} examples are of one {single}: with others the result may be another.")
            logger.info("%s", caveats[-1])
    return caveats


def count_overlap(
    splits: DatasetDict, keys: dict[str, list[str]], *, remove: bool
) -> tuple[DatasetDict, dict[str, int], list[str]]:
    """Count the examples that are in several splits, and return the splits, the counts and sentences on them.

    If asked, they are removed from training and validation.

    Args:
        splits: with ``train`` and ``test``.
        keys: for each split a key for each example; examples with the same key are equal.
        remove: remove examples of other splits from ``train``, and those of ``test`` from ``validation``.

    Returns:
        The splits; how many examples of each held-out split are in training too, and how many were
        ``removed_from_train`` and, if any, ``removed_from_validation``; and sentences for the report about test
        examples that stay in training or validation.

    Raises:
        InputError: no example would be left to train on, or to validate on.
    """
    splits, validation_counts, caveats = _count_overlap_of_validation(splits, keys, remove=remove)
    held_out = {key for name in splits if name != "train" for key in keys[name]}
    train_keys = set(keys["train"])
    counts = {name: sum(key in train_keys for key in keys[name]) for name in splits if name != "train"}
    remaining = [i for i, key in enumerate(keys["train"]) if key not in held_out]
    shared = len(keys["train"]) - len(remaining)
    if shared:
        summary = ", ".join(f"{count} of {len(keys[name])} in {name}" for name, count in counts.items())
        if remove:
            if not remaining:
                raise InputError(
                    "--deduplicate leaves nothing to train on: every training example is in a held-out split too. "
                    "Give other training data, or leave --deduplicate out."
                )
            splits["train"] = splits["train"].select(remaining)
            logger.info("Also in training: %s. %d training examples are removed (--deduplicate).", summary, shared)
        else:
            logger.info(
                "Also in training: %s. They do not show how the model does on new examples; --deduplicate removes "
                "them.", summary,
            )  # fmt: skip
            if counts["test"]:
                caveats.append(
                    f"{counts['test']} of {len(keys['test'])} test examples occur in training as well: they do not "
                    "show how the model does on new examples."
                )
    removed = {"removed_from_train": shared if remove else 0, **validation_counts}
    return splits, {**counts, **removed}, caveats


def _count_overlap_of_validation(
    splits: DatasetDict, keys: dict[str, list[str]], *, remove: bool
) -> tuple[DatasetDict, dict[str, int], list[str]]:
    """Count the validation examples that are in test too, and remove them if asked; return as `count_overlap` does.

    With `remove`, `keys` change.
    """
    test_keys = set(keys["test"])
    remaining = [i for i, key in enumerate(keys.get("validation", [])) if key not in test_keys]
    shared = len(keys.get("validation", [])) - len(remaining)
    if not shared:
        return splits, {}, []
    summary = f"{shared} of {len(keys['validation'])} validation examples are test examples as well"
    if not remove:
        logger.info("%s: thresholds and checkpoints are chosen on them, so results may be too good; --deduplicate "
                    "removes them from validation.", summary)  # fmt: skip
        return splits, {}, [f"{summary}: thresholds and checkpoints are chosen on them, so results may be too good."]
    if not remaining:
        raise InputError(
            "--deduplicate leaves nothing to validate on: every validation example is a test example. Give other "
            "validation data, or leave --deduplicate out."
        )
    logger.info("%s: they are removed from validation (--deduplicate).", summary)
    keys["validation"] = [keys["validation"][i] for i in remaining]
    return (
        DatasetDict({**splits, "validation": splits["validation"].select(remaining)}),
        {"removed_from_validation": shared},
        [],
    )
