"""What audio checkpoints come with: the feature extractor, and how many frames they make of a clip."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from transformers import AutoFeatureExtractor, Wav2Vec2FeatureExtractor

from hf_transfer.arguments import ModelArguments
from hf_transfer.inputs.audio.clips import samples_for
from hf_transfer.models import load_config, output_lengths, quiet, unwrap_peft

# Convolutions need some samples to give a frame at all.
LEAST_SECONDS = 0.1
# Clips up to this length, and up to the longest that the model was trained or measured on (`whole_seconds` in its
# config), are heard whole.
WHOLE_SECONDS = 30.0


def load_feature_extractor(model: ModelArguments, auto_model: Any) -> Any:
    """From a clip's samples to the model's input; that of wav2vec2 where the checkpoint comes without one.

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
            # Checkpoints from before feature extractors were saved: raw samples at 16 kHz, as all of the family.
            config = load_config(model, auto_model)
            takes_mask = getattr(config, "feat_extract_norm", "layer") == "layer"
            return Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=takes_mask)


def feature_extractor_of(processor: Any) -> Any:
    """The feature extractor of a processor that has others beside it, or that is one."""
    return getattr(processor, "feature_extractor", processor)


def input_length(extractor: Any, samples: int) -> int:
    """The length of the model's input for a clip: samples, or the frames that the feature extractor makes of them."""
    if not hasattr(extractor, "stride"):
        return samples
    # wav2vec2-BERT: windows of 25 ms every 10 ms, `stride` of them together.
    return max(0, 1 + (samples - 400) // 160) // extractor.stride


def fixed_seconds(extractor: Any) -> float | None:
    """The length of every input, in seconds, where the model takes one length alone: shorter clips are filled up.

    None for the other models. Whisper hears 30 seconds, the Audio Spectrogram Transformer frames of 10 ms.
    """
    if hasattr(extractor, "n_samples"):
        return extractor.n_samples / extractor.sampling_rate
    if hasattr(extractor, "num_mel_bins") and hasattr(extractor, "max_length"):
        return extractor.max_length / 100
    return None


def fixed_positions(extractor: Any, model: Any) -> int:
    """How many positions such a model makes of every input: it is run on silence."""
    rate = extractor.sampling_rate
    features = extractor(np.zeros(int(LEAST_SECONDS * rate), np.float32), sampling_rate=rate, return_tensors="pt")
    training = model.training
    model.eval()
    with torch.inference_mode():
        outputs = model(
            **{name: value.to(model.device) for name, value in features.items()}, output_hidden_states=True
        )
    model.train(training)
    return outputs.hidden_states[-1].shape[1]


def frames_of(extractor: Any, model: Any) -> Callable[[list[int]], list[int]]:
    """From the samples of clips to how many positions the model makes of each.

    Raises:
        InputError: the model does not say it.
    """
    if fixed_seconds(extractor) is not None:
        positions = fixed_positions(extractor, model)
        return lambda samples: [positions] * len(samples)
    to_frames = output_lengths(model)
    return lambda samples: to_frames(torch.tensor([input_length(extractor, n) for n in samples])).tolist()


def shortest_input(extractor: Any, model: Any) -> int:
    """Samples to which shorter clips are filled up everywhere: the model makes a frame of them at least."""
    if fixed_seconds(extractor) is not None:
        return int(LEAST_SECONDS * extractor.sampling_rate)
    frames = frames_of(extractor, model)
    needed = samples_for(1, lambda samples: frames([samples])[0])
    return max(needed, int(LEAST_SECONDS * extractor.sampling_rate))


def samples_per_frame(extractor: Any, model: Any) -> int:
    """Samples between the beginnings of two frames of the model's output."""
    config = unwrap_peft(model).config
    ratio = getattr(config, "inputs_to_logits_ratio", None) or 160 * getattr(extractor, "stride", 1)
    adapter = getattr(config, "add_adapter", False)
    return ratio * (config.adapter_stride**config.num_adapter_layers if adapter else 1)
