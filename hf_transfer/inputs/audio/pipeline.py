"""What the pipelines for clips share: how inputs are decoded, and how long recordings are handled."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, SequenceFeatureExtractor

from hf_transfer.errors import InputError
from hf_transfer.inputs.audio.clip_sources import source_of
from hf_transfer.inputs.audio.clips import Clips
from hf_transfer.inputs.audio.decoding import DecodedStream, decode_stream
from hf_transfer.inputs.audio.excerpts import excerpt_of
from hf_transfer.inputs.audio.findings import log_decoding_notes
from hf_transfer.inputs.audio.models import DEFAULT_WHOLE_SECONDS
from hf_transfer.inputs.audio.sources import Excerpt, Samples, Source, UnusableAudio

TIME_KEYS = ("start", "end", "duration")


class ClipPipeline:
    """Mixin of the `transformers.Pipeline` classes for clips: inputs are decoded as in training, without FFmpeg."""

    model: PreTrainedModel
    feature_extractor: SequenceFeatureExtractor
    rows_per_chunk = 64
    """Rows that `predict` passes to `decide` together; few, as they may hold the audio itself."""

    def record(self, stream: DecodedStream, source: Source, batch_size: int) -> dict[str, Any]:
        """Return the record that ``predict`` writes for a clip, a dictionary.

        Args:
            stream: its samples.
            source: what is decoded; perhaps an excerpt of a recording.
            batch_size: number of chunks of a long recording in a batch.

        Raises:
            UnusableAudio: it cannot be decoded.
        """
        raise NotImplementedError

    def output(self, samples: np.ndarray) -> Any:
        """Return the model's output for a long recording, int16 [samples], in the form that metrics take."""
        raise NotImplementedError

    @property
    def whole_seconds(self) -> float:
        """Number of seconds of the longest clip that the model is given whole; longer ones are split."""
        return getattr(self.model.config, "whole_seconds", None) or DEFAULT_WHOLE_SECONDS

    def open_input(self, inputs: Any) -> DecodedStream:
        """Return an input, in one of the forms that pipelines of `transformers` take, as a `DecodedStream`.

        Raises:
            InputError: the input has a ``stride``.
        """
        if isinstance(inputs, DecodedStream):
            return inputs
        rate = self.feature_extractor.sampling_rate
        if isinstance(inputs, torch.Tensor):
            inputs = inputs.detach().cpu().numpy()
        if isinstance(inputs, Mapping) and "stride" in inputs:
            raise InputError(
                "The input has a stride, which this pipeline does not take: it splits long recordings into "
                "overlapping chunks itself. Leave stride out."
            )
        source = Samples(inputs, rate) if isinstance(inputs, np.ndarray) else source_of(inputs, None)
        return decode_stream(source, rate)

    def outputs_of(self, clips: Clips, predict: Callable[[Clips], Any]) -> np.ndarray:
        """Return the model's output for each clip, [n]; long recordings are split into chunks.

        Args:
            clips: of a split.
            predict: returns the outputs of clips that the model is given whole, computed in batches.
        """
        is_whole = clips.lengths <= self.whole_seconds * clips.sampling_rate
        if is_whole.all():
            return predict(clips)
        outputs = np.empty(len(clips), dtype=object)
        whole_rows = np.flatnonzero(is_whole).tolist()
        if whole_rows:
            outputs[whole_rows] = predict(clips.select(whole_rows))
        with torch.inference_mode():
            for i in np.flatnonzero(~is_whole).tolist():
                outputs[i] = self.output(clips.stored_samples(i))
        return outputs

    def predict_records(self, rows: list[dict[str, Any]], *, batch_size: int) -> list[dict[str, Any]]:
        """Return the record of the prediction for each row, or a record with an ``error`` of its file.

        ``truncated`` is true for a file that is truncated; the part that is there is used.

        Args:
            rows: with ``audio``, and for an excerpt of a recording ``start`` and ``end`` or ``duration``, in seconds.
            batch_size: number of chunks of one recording in a batch.
        """
        records: list[dict[str, Any]] = []
        findings = []
        for row in rows:
            name = input_name(row["audio"])
            source = excerpt_of(source_of(row["audio"], None), {key: row[key] for key in TIME_KEYS if key in row})
            stream = decode_stream(source, self.feature_extractor.sampling_rate)
            try:
                record = self.record(stream, source, batch_size)
            except UnusableAudio as error:
                records.append({"error": f"{name} cannot be used: {error}"})
                continue
            findings.append((name, stream.findings))
            records.append(record | ({"truncated": True} if "truncated" in stream.findings else {}))
        log_decoding_notes("the inputs", findings)
        return records


def start_seconds(source: Source, stream: DecodedStream) -> float:
    """Return the second of its recording at which a clip begins, 0 if it is a whole file."""
    return source.start if isinstance(source, Excerpt) and "cut" not in stream.findings else 0.0


def input_name(audio: object) -> str:
    """Return the name of an input for messages: its path, or ``the audio``."""
    return str(audio) if isinstance(audio, (str, Path)) else "the audio"
