"""The pipeline of a fine-tuned speech recogniser."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutomaticSpeechRecognitionPipeline

from hf_transfer.data.audio import UnusableAudio, read_blocks
from hf_transfer.errors import InputError
from hf_transfer.tasks.language_model import LanguageModelDecoder

# Longer files are heard in chunks, of which the margins are thrown away again: there the model lacks context.
CHUNK_SECONDS, MARGIN_SECONDS = 24.0, 3.0
# More chunks at once would take gigabytes in the first convolution of a large model.
CHUNKS_AT_ONCE = 4
# Convolutions need some samples to give a frame at all.
LEAST_SECONDS = 0.1


class SpeechPipeline(AutomaticSpeechRecognitionPipeline):
    """`transformers.AutomaticSpeechRecognitionPipeline` that reads files without FFmpeg, and long ones in chunks.

    As there, a file (or its bytes, or ``{"raw": array, "sampling_rate": rate}``) gives ``{"text"}``, and
    ``return_timestamps="word"`` adds the ``chunks`` with their ``timestamp`` in seconds. Memory does not grow with the
    length of a file.
    """

    def preprocess(
        self, inputs: Any, chunk_length_s: float = CHUNK_SECONDS, stride_length_s: float = MARGIN_SECONDS
    ) -> Iterator[dict[str, Any]]:
        rate = self.feature_extractor.sampling_rate
        if not isinstance(inputs, (str, bytes, Path)):
            yield from super().preprocess(inputs, chunk_length_s, stride_length_s)
            return
        source = inputs if isinstance(inputs, bytes) else Path(inputs)
        size, margin = (round(s * rate / self._align_to) * self._align_to for s in (chunk_length_s, stride_length_s))
        try:
            for samples, left, right in _overlapping(read_blocks(source, rate), size, margin):
                samples = np.pad(samples, (0, max(0, int(LEAST_SECONDS * rate) - len(samples))))
                # As in training: with an attention mask only where the model takes one.
                features = self.feature_extractor(samples, sampling_rate=rate, return_tensors="pt")
                yield {**features, "is_last": right == 0, "stride": (len(samples), left, right)}
        except UnusableAudio as error:
            raise InputError(
                f"{source if isinstance(source, Path) else 'the audio'} cannot be used: {error}"
            ) from error

    def use_language_model(self, file: str) -> None:
        """Decode with a KenLM language model from now on.

        Raises:
            InputError: it cannot be used; the message says what is missing.
        """
        self.decoder, self.type = LanguageModelDecoder(file, self.tokenizer), "ctc_with_lm"

    @property
    def _align_to(self) -> int:
        """Samples for each frame of the output."""
        ratio = getattr(self.model.config, "inputs_to_logits_ratio", None)
        return ratio or 160 * getattr(self.feature_extractor, "stride", 1)

    def decide(self, rows: list[dict[str, Any]], *, batch_size: int) -> list[dict[str, Any]]:
        """For each row the ``text`` heard and the ``words`` with their times, or the ``error`` of its file."""
        found: list[dict[str, Any]] = []
        for row in rows:
            try:
                given = row["audio"] if isinstance(row["audio"], bytes) else str(row["audio"])
                heard = self(given, return_timestamps="word", batch_size=min(batch_size, CHUNKS_AT_ONCE))
            except InputError as error:
                found.append({"error": str(error)})
                continue
            words = [
                {"word": c["text"], "start": c["timestamp"][0], "end": c["timestamp"][1]} for c in heard["chunks"]
            ]
            found.append({"text": " ".join(heard["text"].split()), "words": words})
        return found


def _overlapping(blocks: Iterable[np.ndarray], size: int, margin: int) -> Iterator[tuple[np.ndarray, int, int]]:
    """Chunks of `size` samples that overlap by two margins, each with how much of it is margin, left and right."""
    kept, left = np.zeros(0, dtype=np.float32), 0
    for block in blocks:
        kept = np.concatenate([kept, block])
        while len(kept) > size:
            yield kept[:size], left, margin
            kept, left = kept[size - 2 * margin :], margin
    yield kept, left, 0
