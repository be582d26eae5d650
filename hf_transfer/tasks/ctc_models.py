"""What CTC checkpoints come with: feature extractor, vocabulary, head."""

from collections.abc import Callable
from typing import Any

import torch
from transformers import (
    AutoFeatureExtractor,
    AutoModelForCTC,
    AutoTokenizer,
    PreTrainedModel,
    Wav2Vec2FeatureExtractor,
)
from transformers.utils.hub import cached_file

from hf_transfer.arguments import ModelArguments
from hf_transfer.errors import InputError, logger
from hf_transfer.models import explained, load_config, quiet

# Where tokenizers lie; a checkpoint with none of them has no vocabulary.
VOCABULARY_FILES = ("vocab.json", "tokenizer.json", "tokenizer_config.json")


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


def load_vocabulary(model: ModelArguments) -> Any:
    """The vocabulary that comes with a checkpoint; None where there is none.

    Raises:
        InputError: the checkpoint cannot be reached.
    """
    name, revision = str(model.model_name_or_path), model.model_revision
    with explained(name, "the vocabulary"):
        there = any(
            cached_file(name, file, revision=revision, _raise_exceptions_for_missing_entries=False)
            for file in VOCABULARY_FILES
        )
    if not there:
        return None
    with quiet():
        try:
            tokenizer = AutoTokenizer.from_pretrained(
                name, revision=revision, trust_remote_code=model.trust_remote_code
            )
        except (OSError, ValueError, TypeError, KeyError):
            return None
    # Otherwise it would lower what it decodes; transcripts are fitted to the vocabulary's own case.
    tokenizer.do_lower_case = False
    return tokenizer


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


def renew_head(model: PreTrainedModel, old: Any, new: Any) -> list[str]:
    """A head for the vocabulary `new`; letters that `old` knew too, in either case, keep their weights."""
    head = getattr(model, "lm_head", None)
    if not isinstance(head, torch.nn.Linear):
        raise InputError(f"A {model.config.model_type} cannot take another vocabulary: --vocabulary keep.")
    fresh = torch.nn.Linear(head.in_features, len(new))
    torch.nn.init.normal_(fresh.weight, std=getattr(model.config, "initializer_range", 0.02))
    torch.nn.init.zeros_(fresh.bias)
    known = {token.lower(): i for token, i in old.get_vocab().items()}
    known |= {new.pad_token.lower(): old.pad_token_id, new.unk_token.lower(): old.unk_token_id}
    if getattr(old, "word_delimiter_token", None):
        known[new.word_delimiter_token.lower()] = old.word_delimiter_token_id
    shared = {i: known[token.lower()] for token, i in new.get_vocab().items() if known.get(token.lower()) is not None}
    with torch.no_grad():
        for i, before in shared.items():
            fresh.weight[i], fresh.bias[i] = head.weight[before], head.bias[before]
    model.lm_head, model.config.vocab_size = fresh, len(new)
    logger.info("A new head is made; %d of its %d letters and signs keep their weights.", len(shared), len(new))
    return ["lm_head.bias", "lm_head.weight"]
