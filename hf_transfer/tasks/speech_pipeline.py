"""The pipeline of a fine-tuned speech recogniser."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from transformers import AutomaticSpeechRecognitionPipeline

from hf_transfer.errors import InputError, logger
from hf_transfer.inputs.audio.chunks import split_into_chunks
from hf_transfer.inputs.audio.clips import pad_to_length
from hf_transfer.inputs.audio.decoding import DecodedStream, to_float32
from hf_transfer.inputs.audio.models import input_length, min_input_samples, samples_per_frame
from hf_transfer.inputs.audio.pipeline import ClipPipeline, input_name, start_seconds
from hf_transfer.inputs.audio.sources import Source, UnusableAudio
from hf_transfer.models import output_lengths
from hf_transfer.targets.transcripts.language_model import LanguageModelDecoder

# Overlap of the chunks of long recordings at each side. The output there is discarded, as the model lacks context.
MARGIN_SECONDS = 3.0
# More chunks in a batch would take gigabytes in the first convolution of a large model.
MAX_CHUNKS_PER_BATCH = 4


class SpeechPipeline(ClipPipeline, AutomaticSpeechRecognitionPipeline):
    """`transformers.AutomaticSpeechRecognitionPipeline` with decoding as in training, without FFmpeg.

    As there, a file (or its bytes, or ``{"array", "sampling_rate"}``) gives ``{"text"}``, and
    ``return_timestamps="word"`` adds the ``chunks`` with their ``timestamp`` in seconds. A file has the same samples
    as in training and evaluation. Files longer than `whole_seconds` are split into chunks, so that memory does not
    grow with their length. Of a truncated file the part that is there is transcribed, and that is logged (training
    leaves it out unless --leave_out says otherwise, as its transcript is of the whole).
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.min_length = min_input_samples(self.feature_extractor, self.model)

    def preprocess(
        self, inputs: Any, chunk_length_s: float | None = None, stride_length_s: float = MARGIN_SECONDS
    ) -> Iterator[dict[str, Any]]:
        """Yield the model inputs of a clip, or of each of its chunks, tensors by name.

        Args:
            inputs: a file, bytes or samples, as pipelines of `transformers` take them.
            chunk_length_s: clips of more seconds are split; 0 for no limit, None for `whole_seconds`.
            stride_length_s: overlap of the chunks at each side, in seconds.
        """
        rate, per_frame = self.feature_extractor.sampling_rate, self._align_to
        seconds = self.whole_seconds if chunk_length_s is None else chunk_length_s or math.inf
        max_unsplit = int(min(seconds * rate, 2**60))
        size = max(max_unsplit // per_frame, 3) * per_frame
        margin = min(round(stride_length_s * rate / per_frame), (size // per_frame - 1) // 2) * per_frame
        try:
            stream = self.open_input(inputs)
            blocks = map(to_float32, stream.blocks)
            for samples, left, right, is_last in split_into_chunks(blocks, max_unsplit, size, margin):
                # For a stream, `decide` logs it with the name of the input.
                if is_last and "truncated" in stream.findings and not isinstance(inputs, DecodedStream):
                    logger.info("%s is truncated: the part that is there is used.", input_name(inputs))
                padded = pad_to_length(samples, self.min_length)
                # As in training: with an attention mask only if the model takes one.
                features = self.feature_extractor(padded, sampling_rate=rate, return_tensors="pt")
                yield {**features, "is_last": is_last, "stride": (len(padded), left, right)}
        except UnusableAudio as error:
            if isinstance(inputs, DecodedStream):
                raise  # `decide` adds the name of the input
            raise InputError(f"{input_name(inputs)} cannot be used: {error}") from error

    def _forward(self, model_inputs: dict[str, Any], **_: Any) -> dict[str, Any]:
        """Return the most probable token of each frame, or logits for a language model, with strides in frames."""
        strides, is_last = model_inputs.pop("stride"), model_inputs.pop("is_last")
        logits = self.model(**model_inputs).logits
        if isinstance(strides, tuple):
            frame_strides: Any = self._stride_in_frames(strides)
        else:
            frame_strides = [self._stride_in_frames(stride) for stride in strides]
        outputs = {"logits": logits} if self.type == "ctc_with_lm" else {"tokens": logits.argmax(dim=-1)}
        return {"is_last": is_last, **outputs, "stride": frame_strides}

    def _stride_in_frames(self, stride: tuple[int, int, int]) -> tuple[int, int, int]:
        """Return the numbers of frames of a chunk without its right margin and of its left margin, and 0.

        Args:
            stride: samples of the chunk, of its left margin and of its right margin.
        """
        samples, left, right = stride
        per_frame = self._align_to
        frames = int(output_lengths(self.model)(torch.tensor([input_length(self.feature_extractor, samples)]))[0])
        stop = (samples - right) // per_frame if right else frames
        return stop, (left + per_frame // 2) // per_frame, 0

    @property
    def _align_to(self) -> int:
        """Number of samples of each frame of the output; the name is that of transformers' pipeline."""
        return samples_per_frame(self.feature_extractor, self.model)

    def use_language_model(self, file: str) -> None:
        """Load a KenLM language model from a file, and decode with it from now on.

        Args:
            file: the language model, in ARPA format.

        Raises:
            InputError: the language model cannot be used, or a package that it needs is not installed.
        """
        self.decoder, self.type = LanguageModelDecoder(file, self.tokenizer), "ctc_with_lm"

    def output(self, samples: np.ndarray) -> str:
        """Return the transcript of a long recording, int16 [samples]."""
        result = self(DecodedStream(iter([samples])), batch_size=MAX_CHUNKS_PER_BATCH)
        return " ".join(result["text"].split())

    def record(self, stream: DecodedStream, source: Source, batch_size: int) -> dict[str, Any]:
        """Return the record of a clip's prediction: ``text``, and ``words`` with their times in seconds.

        Times are those in the recording of which the clip is an excerpt.
        """
        result = self(stream, return_timestamps="word", batch_size=min(batch_size, MAX_CHUNKS_PER_BATCH))
        offset, words = start_seconds(source, stream), []
        for chunk in result["chunks"]:
            start, end = (round(offset + float(second), 3) for second in chunk["timestamp"])
            words.append({"word": chunk["text"], "start": start, "end": end})
        return {"text": " ".join(result["text"].split()), "words": words}
