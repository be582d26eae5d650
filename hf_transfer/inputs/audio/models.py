"""The feature extractor of an audio model, and how many frames the model makes of a clip."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from transformers import AutoFeatureExtractor, PreTrainedModel, SequenceFeatureExtractor, Wav2Vec2FeatureExtractor

from hf_transfer.arguments import ModelArguments
from hf_transfer.inputs.audio.clips import min_samples_for
from hf_transfer.inputs.input import Processor
from hf_transfer.models import load_config, output_lengths, quiet, unwrap_peft

# Shorter clips are padded: the convolutions of a model need some samples to make a frame.
MIN_INPUT_SECONDS = 0.1
# Clips up to this length are given to the model whole, and longer ones in chunks. If the model was trained or measured
# on longer clips, the limit is their length, which is kept in the model's config as `whole_seconds`.
DEFAULT_WHOLE_SECONDS = 30.0


def load_feature_extractor(model: ModelArguments, auto_model: Any) -> SequenceFeatureExtractor:
    """Return the feature extractor of a checkpoint, or that of wav2vec2 if the checkpoint comes without one.

    Args:
        model: the checkpoint.
        auto_model: the `transformers.AutoModelFor...` class of the task.
    """
    name = str(model.model_name_or_path)
    with quiet():
        try:
            return AutoFeatureExtractor.from_pretrained(
                name, revision=model.model_revision, trust_remote_code=model.trust_remote_code
            )
        except (OSError, ValueError):
            # Checkpoints from before feature extractors were saved take raw samples at 16 kHz, as wav2vec2 does.
            config = load_config(model, auto_model)
            takes_mask = getattr(config, "feat_extract_norm", "layer") == "layer"
            return Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=takes_mask)


def feature_extractor_of(processor: Processor) -> SequenceFeatureExtractor:
    """Return the feature extractor of a processor, or the processor itself if it is a feature extractor."""
    return getattr(processor, "feature_extractor", processor)


def input_length(extractor: SequenceFeatureExtractor, samples: int) -> int:
    """Return the length of the model's input for a clip: samples, or frames if the feature extractor makes frames."""
    if not hasattr(extractor, "stride"):
        return samples
    # wav2vec2-BERT: windows of 25 ms every 10 ms, of which `stride` make a frame.
    return max(0, 1 + (samples - 400) // 160) // extractor.stride


def fixed_input_seconds(extractor: SequenceFeatureExtractor) -> float | None:
    """Return the seconds that every input is padded to, or None for models that take inputs of any length.

    Whisper takes inputs of 30 seconds, the Audio Spectrogram Transformer a fixed number of frames of 10 ms.
    """
    if hasattr(extractor, "n_samples"):
        return extractor.n_samples / extractor.sampling_rate
    if hasattr(extractor, "num_mel_bins") and hasattr(extractor, "max_length"):
        return extractor.max_length / 100
    return None


def _frames_of_fixed_input(extractor: SequenceFeatureExtractor, model: PreTrainedModel) -> int:
    """Return the number of frames that a model with inputs of one length makes, found by running it on silence."""
    rate = extractor.sampling_rate
    silence = np.zeros(int(MIN_INPUT_SECONDS * rate), np.float32)
    features = extractor(silence, sampling_rate=rate, return_tensors="pt")
    was_training = model.training
    model.eval()
    with torch.inference_mode():
        outputs = model(
            **{name: value.to(model.device) for name, value in features.items()}, output_hidden_states=True
        )
    model.train(was_training)
    return outputs.hidden_states[-1].shape[1]


def frame_counter(extractor: SequenceFeatureExtractor, model: PreTrainedModel) -> Callable[[list[int]], list[int]]:
    """Return a function from the numbers of samples of clips to the numbers of frames that a model makes of them.

    Raises:
        InputError: the number of frames of this kind of model is not known.
    """
    if fixed_input_seconds(extractor) is not None:
        frames = _frames_of_fixed_input(extractor, model)
        return lambda samples: [frames] * len(samples)
    to_frames = output_lengths(model)
    return lambda samples: to_frames(torch.tensor([input_length(extractor, n) for n in samples])).tolist()


def min_input_samples(extractor: SequenceFeatureExtractor, model: PreTrainedModel) -> int:
    """Return the number of samples to which shorter clips are padded, so that a model makes at least one frame."""
    if fixed_input_seconds(extractor) is not None:
        return int(MIN_INPUT_SECONDS * extractor.sampling_rate)
    count_frames = frame_counter(extractor, model)
    samples_of_one_frame = min_samples_for(1, lambda samples: count_frames([samples])[0])
    return max(samples_of_one_frame, int(MIN_INPUT_SECONDS * extractor.sampling_rate))


def samples_per_frame(extractor: SequenceFeatureExtractor, model: PreTrainedModel) -> int:
    """Return the number of samples between the beginnings of two frames of a model's output."""
    config = unwrap_peft(model).config
    ratio = getattr(config, "inputs_to_logits_ratio", None) or 160 * getattr(extractor, "stride", 1)
    has_adapter = getattr(config, "add_adapter", False)
    return ratio * (config.adapter_stride**config.num_adapter_layers if has_adapter else 1)
