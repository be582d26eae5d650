"""What CTC checkpoints come with beside their vocabulary: feature extractor, frames, head."""

from collections.abc import Callable
from typing import Any

import torch
from transformers import (
    AutoFeatureExtractor,
    AutoModelForCTC,
    PreTrainedModel,
    Wav2Vec2FeatureExtractor,
)

from hf_transfer.arguments import ModelArguments
from hf_transfer.errors import InputError, logger
from hf_transfer.inputs.audio.clips import samples_for
from hf_transfer.models import load_config, quiet

# Convolutions need some samples to give a frame at all.
LEAST_SECONDS = 0.1


def load_feature_extractor(model: ModelArguments) -> Any:
    """From a clip's samples to the model's input; that of wav2vec2 where the checkpoint comes without one."""
    name = str(model.model_name_or_path)
    with quiet():
        try:
            return AutoFeatureExtractor.from_pretrained(
                name, revision=model.model_revision, trust_remote_code=model.trust_remote_code
            )
        except (OSError, ValueError):
            # Checkpoints from before feature extractors were saved: raw samples at 16 kHz, as all of the family.
            config = load_config(model, AutoModelForCTC)
            takes_mask = getattr(config, "feat_extract_norm", "layer") == "layer"
            return Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=takes_mask)


def _plain(model: Any) -> Any:
    """The model itself where peft wraps it."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def frames_of(model: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """From lengths of inputs [batch] to lengths of outputs [batch]."""
    plain = _plain(model)
    if not hasattr(plain, "_get_feat_extract_output_lengths"):
        raise InputError(f"A {plain.config.model_type} does not say how many frames a clip gives: choose another.")
    own = plain._get_feat_extract_output_lengths
    return lambda lengths: own(lengths).long()


def input_length(processor: Any, samples: int) -> int:
    """The length of the model's input for a clip: samples, or the frames that the feature extractor makes of them."""
    extractor = processor.feature_extractor
    if not hasattr(extractor, "stride"):
        return samples
    # wav2vec2-BERT: windows of 25 ms every 10 ms, `stride` of them together.
    return max(0, 1 + (samples - 400) // 160) // extractor.stride


def shortest_input(processor: Any, model: Any) -> int:
    """Samples to which shorter clips are filled up everywhere: the model makes a frame of them at least."""
    to_frames = frames_of(model)
    needed = samples_for(1, lambda samples: int(to_frames(torch.tensor([input_length(processor, samples)]))[0]))
    return max(needed, int(LEAST_SECONDS * processor.feature_extractor.sampling_rate))


def samples_per_frame(processor: Any, model: Any) -> int:
    """Samples between the beginnings of two frames of the model's output."""
    config = _plain(model).config
    ratio = getattr(config, "inputs_to_logits_ratio", None) or 160 * getattr(processor.feature_extractor, "stride", 1)
    adapter = getattr(config, "add_adapter", False)
    return ratio * (config.adapter_stride**config.num_adapter_layers if adapter else 1)


def renew_head(model: PreTrainedModel, old: Any, new: Any) -> list[str]:
    """A head for the vocabulary `new`; letters that `old` knew too, in either case, keep their weights."""
    head = getattr(model, "lm_head", None)
    if not isinstance(head, torch.nn.Linear):
        raise InputError(f"A {model.config.model_type} cannot take another vocabulary: --vocabulary keep.")
    fresh = torch.nn.Linear(head.in_features, len(new))
    torch.nn.init.normal_(fresh.weight, std=getattr(model.config, "initializer_range", 0.02))
    torch.nn.init.zeros_(fresh.bias)
    vocabulary = old.get_vocab()
    known: dict[str, int | None] = {token.lower(): i for token, i in vocabulary.items()} | vocabulary
    same = {new.pad_token: old.pad_token, new.unk_token: old.unk_token}
    same |= {new.word_delimiter_token: getattr(old, "word_delimiter_token", None)}
    known |= {token: vocabulary.get(former) for token, former in same.items()}
    before = {token: known.get(token, known.get(token.lower())) for token in new.get_vocab()}
    shared = {new.get_vocab()[token]: i for token, i in before.items() if i is not None and i < head.out_features}
    with torch.no_grad():
        for i, row in shared.items():
            fresh.weight[i], fresh.bias[i] = head.weight[row], head.bias[row]
    model.lm_head, model.config.vocab_size = fresh, len(new)
    logger.info("A new head is made; %d of its %d letters and signs keep their weights.", len(shared), len(new))
    return ["lm_head.bias", "lm_head.weight"]
