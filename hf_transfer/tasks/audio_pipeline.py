"""The pipeline of a fine-tuned audio classifier."""

from typing import Any

import numpy as np
import torch
from transformers import AudioClassificationPipeline

from hf_transfer.errors import InputError, logger
from hf_transfer.inputs.audio.chunks import divided
from hf_transfer.inputs.audio.clips import filled_up
from hf_transfer.inputs.audio.decoding import Reading, as_floats
from hf_transfer.inputs.audio.models import shortest_input
from hf_transfer.inputs.audio.pipeline import ClipPipeline, shown
from hf_transfer.inputs.audio.sources import UnusableAudio
from hf_transfer.targets.labels.pipeline_mixin import LabelPipelineMixin


class DecidingAudioClassificationPipeline(LabelPipelineMixin, ClipPipeline, AudioClassificationPipeline):
    """`transformers.AudioClassificationPipeline` that hears what training heard, and decides as it was measured.

    As there, a file (or its bytes, or ``{"array", "sampling_rate"}``) gives ``[{"label", "score"}]`` for the five
    likeliest labels (``top_k=None``: all): with calibrated scores, what is decided for first. Where the label is a
    number, it is the ``score``. Recordings longer than `whole_seconds` are heard in windows of that length, each half
    a window after the one before, and the means of their logits decide.
    """

    said_windows = False

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.shortest = shortest_input(self.feature_extractor, self.model)

    def __call__(self, inputs: Any, **kwargs: Any) -> Any:
        """As of transformers' pipeline; clips are heard one by one: windows are a batch already."""
        return super().__call__(inputs, **{**kwargs, "batch_size": 1})

    def preprocess(self, inputs: Any) -> dict[str, Any]:
        """The windows of a clip as a batch."""
        rate = self.feature_extractor.sampling_rate
        size = int(self.whole_seconds * rate)
        try:
            reading = self.reading(inputs)
            windows = [window for window, *_ in divided(map(as_floats, reading.blocks), size, size, size // 4)]
        except UnusableAudio as error:
            if isinstance(inputs, Reading):
                raise  # `decide` knows its name
            raise InputError(f"{shown(inputs)} cannot be used: {error}") from error
        if len(windows) > 1 and not self.said_windows:
            self.said_windows = True
            logger.info("Recordings of more than %g s are heard in windows of that length, one every %g s; the mean "
                        "of their logits decides.", self.whole_seconds, self.whole_seconds / 2)  # fmt: skip
        heard = [filled_up(window, self.shortest) for window in windows]
        return dict(self.feature_extractor(heard, sampling_rate=rate, return_tensors="pt"))

    def _forward(self, model_inputs: dict[str, Any]) -> dict[str, Any]:
        rows = len(next(iter(model_inputs.values())))
        one_by_one = [{name: value[i : i + 1] for name, value in model_inputs.items()} for i in range(rows)]
        logits = torch.cat([self.model(**window).logits for window in one_by_one])
        return {"logits": logits.float().mean(dim=0, keepdim=True)}

    def postprocess(self, model_outputs: Any, top_k: int | None = 5, function_to_apply: Any = None) -> Any:
        """See the class."""
        if function_to_apply is not None:
            return super().postprocess(model_outputs, top_k, function_to_apply)
        found = self.label_scores(model_outputs["logits"])
        if self.predicts_number:
            return found
        decided_for = self.predicted_labels(found)
        return (decided_for + [one for one in found if one not in decided_for])[:top_k]

    def output(self, samples: np.ndarray) -> np.ndarray:
        """The logits of a long recording, int16 [samples]."""
        inputs = self.preprocess(Reading(iter([samples])))
        return self.forward(inputs)["logits"][0].cpu().numpy()

    def record(self, reading: Reading, source: Any, batch_size: int) -> dict[str, Any]:
        """``label``, ``score`` and ``scores``; or ``prediction``, a number."""
        (record,) = self.prediction_records([self(reading, top_k=None)])
        return record
