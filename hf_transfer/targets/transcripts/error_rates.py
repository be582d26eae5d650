"""Metrics of transcripts: word and character error rates, their intervals, frequent errors, the worst clips."""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import datasets
import evaluate
import jiwer
import numpy as np

from hf_transfer.data.units import resampling_units
from hf_transfer.evaluation.bootstrap import ResampledMetrics, bootstrap, paired_metrics, split_by_kind
from hf_transfer.evaluation.metrics import Array, MetricInMemory

# How many errors of each kind, and how many clips, a report lists.
MAX_ERRORS, MAX_CLIPS = 20, 10
# The counts that each rate divides.
RATES = {"wer": ("word_errors", "words"), "cer": ("letter_errors", "letters")}


def count_errors(references: Sequence[str], hypotheses: Sequence[str]) -> dict[str, Array]:
    """Return numbers of ``word_errors``, ``words``, ``letter_errors`` and ``letters`` of each clip, each [n].

    Where a reference is empty, each word of its hypothesis is an error.
    """
    words, letters = count_word_errors(references, hypotheses), count_letter_errors(references, hypotheses)
    return {**words, **letters}


def count_word_errors(references: Sequence[str], hypotheses: Sequence[str]) -> dict[str, Array]:
    """Return the numbers of ``word_errors`` of each clip, and of ``words`` in its reference, each [n]."""
    errors, words = _edits(references, hypotheses, jiwer.process_words, str.split)
    return {"words": words, "word_errors": errors}


def count_letter_errors(references: Sequence[str], hypotheses: Sequence[str]) -> dict[str, Array]:
    """Return the numbers of ``letter_errors`` of each clip, and of ``letters`` in its reference, each [n]."""
    errors, letters = _edits(references, hypotheses, jiwer.process_characters, list)
    return {"letters": letters, "letter_errors": errors}


def _edits(
    references: Sequence[str], hypotheses: Sequence[str], align: Callable[..., Any], units: Callable[[str], list[str]]
) -> tuple[Array, Array]:
    """Return the number of edits from each reference to its hypothesis [n], and of units in each reference [n].

    Units are words or letters.
    """
    errors, sizes = np.zeros(len(references)), np.zeros(len(references))
    for i, (reference, hypothesis) in enumerate(zip(references, hypotheses, strict=True)):
        if not reference.strip():
            errors[i] = len(units(hypothesis))
            continue
        alignment = align(reference, hypothesis)
        sizes[i] = alignment.hits + alignment.substitutions + alignment.deletions
        errors[i] = alignment.substitutions + alignment.deletions + alignment.insertions
    return errors, sizes


def rates(counts: dict[str, Array], weights: Array | None = None) -> dict[str, Array]:
    """Return ``wer`` and ``cer`` [...] from the counts of clips [n]; NaN where the references have no words.

    Args:
        counts: from `count_errors`.
        weights: of the clips [..., n], as of a bootstrap; by default each counts once.
    """
    return {name: _rate(counts, name, weights) for name in RATES}


def _rate(counts: dict[str, Array], name: str, weights: Array | None = None) -> Array:
    errors, size = RATES[name]
    wrong, total = (
        (counts[errors].sum(), counts[size].sum())
        if weights is None
        else (weights @ counts[errors], weights @ counts[size])
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(total > 0, wrong / total, np.nan)


class _ErrorRate(MetricInMemory):
    """Metric (`evaluate.Metric`) of errors: ``compute(predictions=[n], references=[n])`` returns ``{name: value}``."""

    key = ""
    description = ""
    count: Callable[[Sequence[str], Sequence[str]], dict[str, Array]]

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=self.description,
            citation="",
            inputs_description="predictions, references: list of text.",
            features=datasets.Features(
                {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
            ),
        )

    def _compute(self, predictions: Sequence[str], references: Sequence[str]) -> dict:
        return {self.key: float(_rate(self.count(references, predictions), self.key))}


class WordErrorRate(_ErrorRate):
    key, description = "wer", "Substituted, deleted and inserted words over the words of the references."
    count = staticmethod(count_word_errors)


class CharacterErrorRate(_ErrorRate):
    key, description = "cer", "Substituted, deleted and inserted characters over the characters of the references."
    count = staticmethod(count_letter_errors)


def compute_metrics(references: Sequence[str], hypotheses: Sequence[str]) -> dict[str, float]:
    """Return ``wer``, ``cer``, and ``empty_hypotheses``, the share of clips in which no word was recognised."""
    metrics: dict[str, float] = {}
    for metric in (WordErrorRate, CharacterErrorRate):
        metrics |= metric().compute(predictions=hypotheses, references=references)
    return metrics | {"empty_hypotheses": float(np.mean([not text.strip() for text in hypotheses]))}


def intervals(
    references: Sequence[str], before: Sequence[str], after: Sequence[str], speakers: Sequence[str] | None, seed: int
) -> dict[str, Any]:
    """Return 95 % bootstrap intervals of the error rates after training, and of after minus before, paired.

    Whole speakers are resampled, where enough are known: see `resampling_units`.

    Args:
        references: transcripts [n].
        before: hypotheses of the untrained model [n].
        after: hypotheses of the trained model [n].
        speakers: of the clips [n]; None where they are not known.
        seed: of the bootstrap.
    """
    earlier, later = count_errors(references, before), count_errors(references, after)

    changed = {rate: earlier[errors] != later[errors] for rate, (errors, _) in RATES.items()}
    metrics = paired_metrics(partial(rates, earlier), partial(rates, later))
    resampled = ResampledMetrics(resampling_units(speakers, len(references)), metrics, changed=changed)
    return split_by_kind(bootstrap(resampled, seed=seed))


def most_frequent_errors(references: Sequence[str], hypotheses: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """Return the most frequent ``substitutions``, ``deletions`` and ``insertions`` of words, with their ``count``."""
    substituted: Counter[tuple[str, str]] = Counter()
    deleted: Counter[str] = Counter()
    inserted: Counter[str] = Counter()
    for reference, hypothesis in zip(references, hypotheses, strict=True):
        if not reference.strip():
            inserted.update(hypothesis.split())
            continue
        alignment = jiwer.process_words(reference, hypothesis)
        reference_words, hypothesis_words = alignment.references[0], alignment.hypotheses[0]
        for part in alignment.alignments[0]:
            old = reference_words[part.ref_start_idx : part.ref_end_idx]
            new = hypothesis_words[part.hyp_start_idx : part.hyp_end_idx]
            if part.type == "substitute":
                substituted.update(zip(old, new, strict=True))
            elif part.type == "delete":
                deleted.update(old)
            elif part.type == "insert":
                inserted.update(new)
    return {
        "substitutions": [
            {"reference": old, "hypothesis": new, "count": n} for (old, new), n in substituted.most_common(MAX_ERRORS)
        ],
        "deletions": [{"reference": word, "count": n} for word, n in deleted.most_common(MAX_ERRORS)],
        "insertions": [{"hypothesis": word, "count": n} for word, n in inserted.most_common(MAX_ERRORS)],
    }


def worst_clips(references: Sequence[str], hypotheses: Sequence[str]) -> list[dict[str, Any]]:
    """Return records of the clips with the highest word error rates and their ``row``; of equals, the longer first."""
    counts = count_errors(references, hypotheses)
    rate = counts["word_errors"] / np.maximum(1, counts["words"])
    order = np.lexsort((-counts["words"], -rate))[:MAX_CLIPS]
    return [
        {
            "row": int(i),
            "reference": references[i],
            "hypothesis": hypotheses[i],
            "wer": float(rate[i]),
        }
        for i in order
        if rate[i] > 0
    ]
