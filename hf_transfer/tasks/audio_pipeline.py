"""The pipeline of a fine-tuned audio classifier."""

from typing import Any

import numpy as np
import torch
from transformers import AudioClassificationPipeline

from hf_transfer.errors import InputError, logger
from hf_transfer.inputs.audio.chunks import split_into_chunks
from hf_transfer.inputs.audio.clips import pad_to_length
from hf_transfer.inputs.audio.decoding import DecodedStream, to_float32
from hf_transfer.inputs.audio.models import min_input_samples
from hf_transfer.inputs.audio.pipeline import ClipPipeline, input_name
from hf_transfer.inputs.audio.sources import Source, UnusableAudio
from hf_transfer.targets.labels.pipeline_mixin import LabelPipelineMixin


class CalibratedAudioClassificationPipeline(LabelPipelineMixin, ClipPipeline, AudioClassificationPipeline):
    """`transformers.AudioClassificationPipeline` with decoding as in training, and calibrated decisions.

    As there, a file (or its bytes, or ``{"array", "sampling_rate"}``) gives ``[{"label", "score"}]`` for the five most
    probable labels (``top_k=None``: all). Here scores are calibrated, and the predicted labels come first. If the
    target is a number, it is the ``score``. Recordings longer than `whole_seconds` are split into windows of that
    length, one every half length, and the mean of their logits decides.
    """

    has_logged_windows = False

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.min_length = min_input_samples(self.feature_extractor, self.model)

    def __call__(self, inputs: Any, **kwargs: Any) -> Any:
        """Classify one or several clips, and return labels with scores for each.

        Clips are classified one at a time: the windows of a clip are a batch already.
        """
        return super().__call__(inputs, **{**kwargs, "batch_size": 1})

    def preprocess(self, inputs: Any) -> dict[str, Any]:
        """Return the windows of a clip as a batch of model inputs, tensors by name."""
        rate = self.feature_extractor.sampling_rate
        size = int(self.whole_seconds * rate)
        try:
            blocks = map(to_float32, self.open_input(inputs).blocks)
            windows = [window for window, *_ in split_into_chunks(blocks, size, size, size // 4)]
        except UnusableAudio as error:
            if isinstance(inputs, DecodedStream):
                raise  # `decide` adds the name of the input
            raise InputError(f"{input_name(inputs)} cannot be used: {error}") from error
        if len(windows) > 1 and not self.has_logged_windows:
            self.has_logged_windows = True
            logger.info("Recordings of more than %g s are split into windows of that length, one every %g s; the mean "
                        "of their logits decides.", self.whole_seconds, self.whole_seconds / 2)  # fmt: skip
        padded = [pad_to_length(window, self.min_length) for window in windows]
        return dict(self.feature_extractor(padded, sampling_rate=rate, return_tensors="pt"))

    def _forward(self, model_inputs: dict[str, Any]) -> dict[str, Any]:
        count = len(next(iter(model_inputs.values())))
        # One window at a time bounds memory.
        windows = [{name: value[i : i + 1] for name, value in model_inputs.items()} for i in range(count)]
        logits = torch.cat([self.model(**window).logits for window in windows])
        return {"logits": logits.float().mean(dim=0, keepdim=True)}

    def postprocess(self, model_outputs: Any, top_k: int | None = 5, function_to_apply: Any = None) -> Any:
        """Return the labels of a clip with their scores: the predicted ones, then the most probable others."""
        if function_to_apply is not None:
            return super().postprocess(model_outputs, top_k, function_to_apply)
        scores = self.label_scores(model_outputs["logits"])
        if self.predicts_number:
            return scores
        predicted = self.predicted_labels(scores)
        return (predicted + [score for score in scores if score not in predicted])[:top_k]

    def output(self, samples: np.ndarray) -> np.ndarray:
        """Return the logits [labels] of a long recording, int16 [samples]."""
        inputs = self.preprocess(DecodedStream(iter([samples])))
        return self.forward(inputs)["logits"][0].cpu().numpy()

    def record(self, stream: DecodedStream, source: Source, batch_size: int) -> dict[str, Any]:
        """Return the record of a clip's prediction: ``label``, ``score`` and ``scores``, or ``prediction``.

        ``prediction`` is a number.
        """
        (record,) = self.prediction_records([self(stream, top_k=None)])
        return record
