"""The pipeline of a fine-tuned speech recogniser."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from transformers import AutomaticSpeechRecognitionPipeline

from hf_transfer.errors import InputError, logger
from hf_transfer.inputs.audio.chunks import divided
from hf_transfer.inputs.audio.clips import filled_up
from hf_transfer.inputs.audio.decoding import Reading, as_floats
from hf_transfer.inputs.audio.models import input_length, samples_per_frame, shortest_input
from hf_transfer.inputs.audio.pipeline import ClipPipeline, begins_at, shown
from hf_transfer.inputs.audio.sources import UnusableAudio
from hf_transfer.models import output_lengths
from hf_transfer.targets.transcripts.language_model import LanguageModelDecoder

# Clips longer than `whole_seconds` are heard in chunks, of which the margins are thrown away again: there the model
# lacks context.
MARGIN_SECONDS = 3.0
# More chunks at once would take gigabytes in the first convolution of a large model.
CHUNKS_AT_ONCE = 4


class SpeechPipeline(ClipPipeline, AutomaticSpeechRecognitionPipeline):
    """`transformers.AutomaticSpeechRecognitionPipeline` that hears what training heard, without FFmpeg.

    As there, a file (or its bytes, or ``{"array", "sampling_rate"}``) gives ``{"text"}``, and
    ``return_timestamps="word"`` adds the ``chunks`` with their ``timestamp`` in seconds. Samples are what training and
    evaluation make of the same file; long files are heard in chunks, and memory does not grow with their length. Of a
    file that breaks off, what is there is heard, and that is said (training leaves it out unless --leave_out says
    otherwise: its transcript is of the whole).
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.shortest = shortest_input(self.feature_extractor, self.model)

    def preprocess(
        self, inputs: Any, chunk_length_s: float | None = None, stride_length_s: float = MARGIN_SECONDS
    ) -> Iterator[dict[str, Any]]:
        rate, per_frame = self.feature_extractor.sampling_rate, self._align_to
        seconds = self.whole_seconds if chunk_length_s is None else chunk_length_s or math.inf
        whole = int(min(seconds * rate, 2**60))
        size = max(whole // per_frame, 3) * per_frame
        margin = min(round(stride_length_s * rate / per_frame), (size // per_frame - 1) // 2) * per_frame
        try:
            reading = self.reading(inputs)
            for samples, left, right, is_last in divided(map(as_floats, reading.blocks), whole, size, margin):
                if is_last and "truncated" in reading.findings and not isinstance(inputs, Reading):  # `decide` says it
                    logger.info("%s breaks off: what is there is heard.", shown(inputs))
                heard = filled_up(samples, self.shortest)
                # As in training: with an attention mask only where the model takes one.
                features = self.feature_extractor(heard, sampling_rate=rate, return_tensors="pt")
                yield {**features, "is_last": is_last, "stride": (len(heard), left, right)}
        except UnusableAudio as error:
            if isinstance(inputs, Reading):
                raise  # `decide` knows its name
            raise InputError(f"{shown(inputs)} cannot be used: {error}") from error

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
        frames = int(output_lengths(self.model)(torch.tensor([input_length(self.feature_extractor, samples)]))[0])
        stop = (samples - right) // per_frame if right else frames
        return stop, (left + per_frame // 2) // per_frame, 0

    @property
    def _align_to(self) -> int:
        """Samples for each frame of the output."""
        return samples_per_frame(self.feature_extractor, self.model)

    def use_language_model(self, file: str) -> None:
        """Decode with a KenLM language model from now on.

        Raises:
            InputError: it cannot be used; the message says what is missing.
        """
        self.decoder, self.type = LanguageModelDecoder(file, self.tokenizer), "ctc_with_lm"

    def output(self, samples: np.ndarray) -> str:
        """The text that is heard in a long recording, int16 [samples]."""
        heard = self(Reading(iter([samples])), batch_size=CHUNKS_AT_ONCE)
        return " ".join(heard["text"].split())

    def record(self, reading: Reading, source: Any, batch_size: int) -> dict[str, Any]:
        """The ``text`` heard and the ``words`` with their times, which count from the beginning of the recording."""
        heard = self(reading, return_timestamps="word", batch_size=min(batch_size, CHUNKS_AT_ONCE))
        begin, words = begins_at(source, reading), []
        for chunk in heard["chunks"]:
            start, end = (round(begin + float(second), 3) for second in chunk["timestamp"])
            words.append({"word": chunk["text"], "start": start, "end": end})
        return {"text": " ".join(heard["text"].split()), "words": words}
