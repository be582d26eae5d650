"""The pipeline of a fine-tuned speech recogniser."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutomaticSpeechRecognitionPipeline

from hf_transfer.errors import InputError, logger
from hf_transfer.inputs.audio.clip_sources import excerpt_of, source_of
from hf_transfer.inputs.audio.clips import Clips, filled_up
from hf_transfer.inputs.audio.decoding import Reading, as_floats, read
from hf_transfer.inputs.audio.recordings import mention_decisions
from hf_transfer.inputs.audio.sources import Excerpt, Samples, UnusableAudio
from hf_transfer.targets.transcripts.ctc_models import frames_of, input_length, samples_per_frame, shortest_input
from hf_transfer.targets.transcripts.language_model import LanguageModelDecoder

# Clips up to this length, and up to the longest that the model was trained or measured on (`whole_seconds` in its
# config), are heard whole; longer ones in chunks of that length, of which the margins are thrown away again: there the
# model lacks context.
WHOLE_SECONDS, MARGIN_SECONDS = 30.0, 3.0
# More chunks at once would take gigabytes in the first convolution of a large model.
CHUNKS_AT_ONCE = 4
TIMES = ("start", "end", "duration")


class SpeechPipeline(AutomaticSpeechRecognitionPipeline):
    """`transformers.AutomaticSpeechRecognitionPipeline` that hears what training heard, without FFmpeg.

    As there, a file (or its bytes, or ``{"array", "sampling_rate"}``) gives ``{"text"}``, and
    ``return_timestamps="word"`` adds the ``chunks`` with their ``timestamp`` in seconds. Samples are what training and
    evaluation make of the same file; long files are heard in chunks, and memory does not grow with their length. Of a
    file that breaks off, what is there is heard, and that is said (training leaves it out unless --leave_out says
    otherwise: its transcript is of the whole).
    """

    rows_at_once = 64
    """Of a table, as `predict` hands them on: they may hold the audio itself."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.shortest = shortest_input(self, self.model)

    def preprocess(
        self, inputs: Any, chunk_length_s: float | None = None, stride_length_s: float = MARGIN_SECONDS
    ) -> Iterator[dict[str, Any]]:
        rate, per_frame = self.feature_extractor.sampling_rate, self._align_to
        seconds = self.whole_seconds if chunk_length_s is None else chunk_length_s or math.inf
        whole = int(min(seconds * rate, 2**60))
        size = max(whole // per_frame, 3) * per_frame
        margin = min(round(stride_length_s * rate / per_frame), (size // per_frame - 1) // 2) * per_frame
        try:
            reading = inputs if isinstance(inputs, Reading) else self._reading(inputs)
            for samples, left, right, is_last in divided(map(as_floats, reading.blocks), whole, size, margin):
                if is_last and "truncated" in reading.findings and not isinstance(inputs, Reading):  # `decide` says it
                    logger.info("%s breaks off: what is there is heard.", _shown(inputs))
                heard = filled_up(samples, self.shortest)
                # As in training: with an attention mask only where the model takes one.
                features = self.feature_extractor(heard, sampling_rate=rate, return_tensors="pt")
                yield {**features, "is_last": is_last, "stride": (len(heard), left, right)}
        except UnusableAudio as error:
            if isinstance(inputs, Reading):
                raise  # `decide` knows its name
            raise InputError(f"{_shown(inputs)} cannot be used: {error}") from error

    def _reading(self, inputs: Any) -> Reading:
        """The samples of an input as `transformers` takes it."""
        rate = self.feature_extractor.sampling_rate
        if isinstance(inputs, torch.Tensor):
            inputs = inputs.detach().cpu().numpy()
        if isinstance(inputs, Mapping) and "stride" in inputs:
            raise InputError("stride is not taken: long recordings are heard in chunks, whose margins are left out.")
        return read(Samples(inputs, rate) if isinstance(inputs, np.ndarray) else source_of(inputs, None), rate)

    def _forward(self, model_inputs: dict[str, Any], **_: Any) -> dict[str, Any]:
        """The likeliest token of each frame, or the logits for a language model; and which of them are kept."""
        given, is_last = model_inputs.pop("stride"), model_inputs.pop("is_last")
        logits = self.model(**model_inputs).logits
        kept = self._kept(given) if isinstance(given, tuple) else [self._kept(one) for one in given]
        found = {"logits": logits} if self.type == "ctc_with_lm" else {"tokens": logits.argmax(dim=-1)}
        return {"is_last": is_last, **found, "stride": kept}

    def _kept(self, stride: tuple[int, int, int]) -> tuple[int, int, int]:
        """Frames of a chunk up to its right margin, and those of its left one, which are to be left out."""
        samples, left, right = stride
        per_frame = self._align_to
        frames = int(frames_of(self.model)(torch.tensor([input_length(self, samples)]))[0])
        stop = (samples - right) // per_frame if right else frames
        return stop, (left + per_frame // 2) // per_frame, 0

    @property
    def whole_seconds(self) -> float:
        """The longest clip that is heard whole, in seconds."""
        return max(WHOLE_SECONDS, getattr(self.model.config, "whole_seconds", None) or 0.0)

    @property
    def _align_to(self) -> int:
        """Samples for each frame of the output."""
        return samples_per_frame(self, self.model)

    def use_language_model(self, file: str) -> None:
        """Decode with a KenLM language model from now on.

        Raises:
            InputError: it cannot be used; the message says what is missing.
        """
        self.decoder, self.type = LanguageModelDecoder(file, self.tokenizer), "ctc_with_lm"

    def texts_of(self, clips: Clips, predict: Callable[[Clips], Any]) -> np.ndarray:
        """The text heard in each clip [n], as `decide` hears it.

        Args:
            clips: of a split.
            predict: the texts of clips that are heard whole, in batches.
        """
        whole = clips.lengths <= self.whole_seconds * clips.sampling_rate
        if whole.all():
            return predict(clips)
        texts = np.empty(len(clips), dtype=object)
        rows = np.flatnonzero(whole).tolist()
        if rows:
            texts[rows] = predict(clips.select(rows))
        with torch.inference_mode():
            for i in np.flatnonzero(~whole).tolist():
                heard = self(Reading(iter([clips.decoded(i)])), batch_size=CHUNKS_AT_ONCE)
                texts[i] = " ".join(heard["text"].split())
        return texts

    def decide(self, rows: list[dict[str, Any]], *, batch_size: int) -> list[dict[str, Any]]:
        """For each row the ``text`` heard and the ``words`` with their times, or the ``error`` of its file.

        ``truncated`` is true where the file breaks off, and the text is of what is there.

        Args:
            rows: with ``audio``, and for a part of a recording ``start`` and ``end`` or ``duration``, in seconds.
                Times of words count from the beginning of the recording.
            batch_size: chunks of one recording at once, up to four.
        """
        found: list[dict[str, Any]] = []
        decisions = []
        for row in rows:
            name = _shown(row["audio"])
            source = excerpt_of(source_of(row["audio"], None), {own: row[own] for own in TIMES if own in row})
            reading = read(source, self.feature_extractor.sampling_rate)
            try:
                heard = self(reading, return_timestamps="word", batch_size=min(batch_size, CHUNKS_AT_ONCE))
            except UnusableAudio as error:
                found.append({"error": f"{name} cannot be used: {error}"})
                continue
            decisions.append((name, reading.findings))
            begin = source.start if isinstance(source, Excerpt) and "cut" not in reading.findings else 0.0
            words = []
            for chunk in heard["chunks"]:
                start, end = (round(begin + float(second), 3) for second in chunk["timestamp"])
                words.append({"word": chunk["text"], "start": start, "end": end})
            truncated = {"truncated": True} if "truncated" in reading.findings else {}
            found.append({"text": " ".join(heard["text"].split()), "words": words, **truncated})
        mention_decisions("the inputs", decisions)
        return found


def _shown(audio: Any) -> str:
    """An input as messages call it."""
    return str(audio) if isinstance(audio, (str, Path)) else "the audio"


def divided(
    blocks: Iterable[np.ndarray], whole: int, size: int, margin: int
) -> Iterator[tuple[np.ndarray, int, int, bool]]:
    """A clip, or its overlapping chunks of `size` samples, each with its left and right margin and whether it is last.

    The last chunk reaches back as far as makes it as long as the others: padding changes the outputs of some models.

    Args:
        blocks: the samples, one block after another.
        whole: up to so many samples a clip is not divided.
        size: of a chunk, at most `whole`.
        margin: of each chunk where another one follows or precedes; what is between them is heard once.
    """
    # From the beginning of the chunk before on, which the last one may need.
    kept, waiting, there = np.zeros(0, dtype=np.float32), [], 0
    following, first = 0, True
    for block in blocks:
        waiting.append(block)
        there += len(block)
        while there > (whole if first else following + size):
            kept, waiting = np.concatenate([kept, *waiting]), []
            yield kept[following : following + size], 0 if first else margin, margin, False
            kept, following, first = kept[following:], size - 2 * margin, False
            there = len(kept)
    kept = np.concatenate([kept, *waiting])
    if first:
        yield kept, 0, 0, True
    else:
        yield kept[-size:], following + margin - (len(kept) - size), 0, True
