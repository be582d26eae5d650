"""Quality of transcripts: word and character error rates, their intervals, the commonest errors, the worst clips."""

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

COMMONEST, WORST = 20, 10
RATES = {"wer": ("word_errors", "words"), "cer": ("letter_errors", "letters")}


def count_errors(references: Sequence[str], hypotheses: Sequence[str]) -> dict[str, Array]:
    """For each clip its ``word_errors``, ``words``, ``letter_errors`` and ``letters``, each [n].

    An empty reference has no words, and each word of its hypothesis is an error.
    """
    words, letters = count_word_errors(references, hypotheses), count_letter_errors(references, hypotheses)
    return {**words, **letters}


def count_word_errors(references: Sequence[str], hypotheses: Sequence[str]) -> dict[str, Array]:
    """For each clip its ``word_errors`` and ``words``, each [n]."""
    errors, words = _edits(references, hypotheses, jiwer.process_words, str.split)
    return {"words": words, "word_errors": errors}


def count_letter_errors(references: Sequence[str], hypotheses: Sequence[str]) -> dict[str, Array]:
    """For each clip its ``letter_errors`` and ``letters``, each [n]."""
    errors, letters = _edits(references, hypotheses, jiwer.process_characters, list)
    return {"letters": letters, "letter_errors": errors}


def _edits(
    references: Sequence[str], hypotheses: Sequence[str], align: Callable[..., Any], units: Callable[[str], list[str]]
) -> tuple[Array, Array]:
    """The edits [n] from each reference to its hypothesis, and the units [n] of the references."""
    errors, sizes = np.zeros(len(references)), np.zeros(len(references))
    for i, (reference, hypothesis) in enumerate(zip(references, hypotheses, strict=True)):
        if not reference.strip():
            errors[i] = len(units(hypothesis))
            continue
        found = align(reference, hypothesis)
        sizes[i] = found.hits + found.substitutions + found.deletions
        errors[i] = found.substitutions + found.deletions + found.insertions
    return errors, sizes


def rates(counts: dict[str, Array], weights: Array | None = None) -> dict[str, Array]:
    """``wer`` and ``cer`` [...] of counts [n], clips weighted by `weights` [..., n]; NaN without a single word."""
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
    """``compute(predictions=[n], references=[n])`` of texts gives ``{name: value}``, as evaluate's own."""

    key = ""
    about = ""
    count: Callable[[Sequence[str], Sequence[str]], dict[str, Array]]

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=self.about,
            citation="",
            inputs_description="predictions, references: list of text.",
            features=datasets.Features(
                {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
            ),
        )

    def _compute(self, predictions: Sequence[str], references: Sequence[str]) -> dict:
        return {self.key: float(_rate(self.count(references, predictions), self.key))}


class WordErrorRate(_ErrorRate):
    key, about = "wer", "Substituted, deleted and inserted words over the words of the references."
    count = staticmethod(count_word_errors)


class CharacterErrorRate(_ErrorRate):
    key, about = "cer", "Substituted, deleted and inserted characters over the characters of the references."
    count = staticmethod(count_letter_errors)


def compute_metrics(references: Sequence[str], hypotheses: Sequence[str]) -> dict[str, float]:
    """``wer``, ``cer``, and the share of clips without a word recognised (``empty_hypotheses``)."""
    found: dict[str, float] = {}
    for metric in (WordErrorRate, CharacterErrorRate):
        found |= metric().compute(predictions=hypotheses, references=references)
    return found | {"empty_hypotheses": float(np.mean([not text.strip() for text in hypotheses]))}


def intervals(
    references: Sequence[str], before: Sequence[str], after: Sequence[str], speakers: Sequence[str] | None, seed: int
) -> dict[str, Any]:
    """95 % bootstrap intervals of the rates after, and of after minus before, paired.

    Whole speakers are resampled, where enough are known: see `resampling_units`.

    Args:
        references: transcripts [n].
        before: hypotheses of the untrained model [n].
        after: hypotheses of the trained model [n].
        speakers: of each clip [n], where they are known.
        seed: of the resampling.
    """
    earlier, later = count_errors(references, before), count_errors(references, after)

    changed = {rate: earlier[errors] != later[errors] for rate, (errors, _) in RATES.items()}
    metrics = paired_metrics(partial(rates, earlier), partial(rates, later))
    resampled = ResampledMetrics(resampling_units(speakers, len(references)), metrics, changed=changed)
    return split_by_kind(bootstrap(resampled, seed=seed))


def commonest_errors(references: Sequence[str], hypotheses: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """The commonest ``substitutions``, ``deletions`` and ``insertions`` of words, with how often each occurs."""
    swapped: Counter[tuple[str, str]] = Counter()
    lost: Counter[str] = Counter()
    added: Counter[str] = Counter()
    for reference, hypothesis in zip(references, hypotheses, strict=True):
        if not reference.strip():
            added.update(hypothesis.split())
            continue
        found = jiwer.process_words(reference, hypothesis)
        said, heard = found.references[0], found.hypotheses[0]
        for part in found.alignments[0]:
            old, new = said[part.ref_start_idx : part.ref_end_idx], heard[part.hyp_start_idx : part.hyp_end_idx]
            if part.type == "substitute":
                swapped.update(zip(old, new, strict=True))
            elif part.type == "delete":
                lost.update(old)
            elif part.type == "insert":
                added.update(new)
    return {
        "substitutions": [
            {"reference": old, "hypothesis": new, "count": n} for (old, new), n in swapped.most_common(COMMONEST)
        ],
        "deletions": [{"reference": word, "count": n} for word, n in lost.most_common(COMMONEST)],
        "insertions": [{"hypothesis": word, "count": n} for word, n in added.most_common(COMMONEST)],
    }


def worst_clips(references: Sequence[str], hypotheses: Sequence[str]) -> list[dict[str, Any]]:
    """The clips with the highest word error rate, by their ``row``; the longer first where it is the same."""
    counts = count_errors(references, hypotheses)
    rate = counts["word_errors"] / np.maximum(1, counts["words"])
    order = np.lexsort((-counts["words"], -rate))[:WORST]
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
