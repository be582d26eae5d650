"""What pipelines for clips have in common: how inputs are read, and which are heard whole."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hf_transfer.errors import InputError
from hf_transfer.inputs.audio.clip_sources import excerpt_of, source_of
from hf_transfer.inputs.audio.clips import Clips
from hf_transfer.inputs.audio.decoding import Reading, read
from hf_transfer.inputs.audio.models import WHOLE_SECONDS
from hf_transfer.inputs.audio.recordings import mention_decisions
from hf_transfer.inputs.audio.sources import Excerpt, Samples, UnusableAudio

TIMES = ("start", "end", "duration")


class ClipPipeline:
    """Of a `transformers.Pipeline` for clips, which hears what training heard, without FFmpeg."""

    model: Any
    feature_extractor: Any
    rows_at_once = 64
    """Of a table, as `predict` hands them on: they may hold the audio itself."""

    def record(self, reading: Reading, source: Any, batch_size: int) -> dict[str, Any]:
        """What ``predict`` writes of a clip.

        Args:
            reading: of its samples.
            source: what is read; perhaps a part of a recording.
            batch_size: chunks of a long recording at once.

        Raises:
            UnusableAudio: it cannot be read.
        """
        raise NotImplementedError

    def output(self, samples: np.ndarray) -> Any:
        """What is kept of the output for a long recording, int16 [samples]."""
        raise NotImplementedError

    @property
    def whole_seconds(self) -> float:
        """The longest clip that is heard whole, in seconds."""
        return getattr(self.model.config, "whole_seconds", None) or WHOLE_SECONDS

    def reading(self, inputs: Any) -> Reading:
        """The samples of an input as `transformers` takes it."""
        if isinstance(inputs, Reading):
            return inputs
        rate = self.feature_extractor.sampling_rate
        if isinstance(inputs, torch.Tensor):
            inputs = inputs.detach().cpu().numpy()
        if isinstance(inputs, Mapping) and "stride" in inputs:
            raise InputError("stride is not taken: long recordings are heard in chunks, whose margins are left out.")
        return read(Samples(inputs, rate) if isinstance(inputs, np.ndarray) else source_of(inputs, None), rate)

    def outputs_of(self, clips: Clips, predict: Callable[[Clips], Any]) -> np.ndarray:
        """What is kept of the output for each clip [n], as `decide` hears it.

        Args:
            clips: of a split.
            predict: the same of clips that are heard whole, in batches.
        """
        whole = clips.lengths <= self.whole_seconds * clips.sampling_rate
        if whole.all():
            return predict(clips)
        found = np.empty(len(clips), dtype=object)
        rows = np.flatnonzero(whole).tolist()
        if rows:
            found[rows] = predict(clips.select(rows))
        with torch.inference_mode():
            for i in np.flatnonzero(~whole).tolist():
                found[i] = self.output(clips.decoded(i))
        return found

    def decide(self, rows: list[dict[str, Any]], *, batch_size: int) -> list[dict[str, Any]]:
        """For each row what `record` gives, or the ``error`` of its file.

        ``truncated`` is true where the file breaks off, and what is there is heard.

        Args:
            rows: with ``audio``, and for a part of a recording ``start`` and ``end`` or ``duration``, in seconds.
            batch_size: chunks of one recording at once.
        """
        found: list[dict[str, Any]] = []
        decisions = []
        for row in rows:
            name = shown(row["audio"])
            source = excerpt_of(source_of(row["audio"], None), {own: row[own] for own in TIMES if own in row})
            reading = read(source, self.feature_extractor.sampling_rate)
            try:
                record = self.record(reading, source, batch_size)
            except UnusableAudio as error:
                found.append({"error": f"{name} cannot be used: {error}"})
                continue
            decisions.append((name, reading.findings))
            found.append(record | ({"truncated": True} if "truncated" in reading.findings else {}))
        mention_decisions("the inputs", decisions)
        return found


def begins_at(source: Any, reading: Reading) -> float:
    """The second of its recording at which a clip begins."""
    return source.start if isinstance(source, Excerpt) and "cut" not in reading.findings else 0.0


def shown(audio: Any) -> str:
    """An input as messages call it."""
    return str(audio) if isinstance(audio, (str, Path)) else "the audio"
