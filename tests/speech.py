"""Tiny speech models built from configs, and clips of tones: each letter has its own pitch."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

RATE = 16_000
CONV = {"conv_dim": (16, 16, 16), "conv_kernel": (10, 8, 4), "conv_stride": (5, 8, 4), "num_feat_extract_layers": 3}
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
         "vocab_size": 32, "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2, "hidden_dropout": 0.0,
         "attention_dropout": 0.0, "activation_dropout": 0.0, "feat_proj_dropout": 0.0, "final_dropout": 0.0,
         "layerdrop": 0.1, "mask_time_prob": 0.0, "pad_token_id": 0, **CONV}  # fmt: skip
LAYER = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "wav2vec2-layer": ("Wav2Vec2Config", {**SMALL, **LAYER}),
    "wav2vec2-group": ("Wav2Vec2Config", {**SMALL, "feat_extract_norm": "group"}),
    "mms": ("Wav2Vec2Config", {**SMALL, **LAYER, "adapter_attn_dim": 8}),
    "hubert": ("HubertConfig", {**SMALL, **LAYER}),
    "wavlm": ("WavLMConfig", {**SMALL, **LAYER}),
    "wav2vec2-bert": ("Wav2Vec2BertConfig", {
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "vocab_size": 32,
        "feature_projection_input_dim": 160, "layerdrop": 0.1, "mask_time_prob": 0.0, "pad_token_id": 0,
        "hidden_dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0, "feat_proj_dropout": 0.0,
        "final_dropout": 0.0, "conformer_conv_dropout": 0.0, "conv_depthwise_kernel_size": 7,
    }),
    # With batch normalisation in every layer.
    "wav2vec2-conformer": ("Wav2Vec2ConformerConfig", {
        **SMALL, **LAYER, "conformer_conv_dropout": 0.0, "conv_depthwise_kernel_size": 7,
        "position_embeddings_type": "rotary",
    }),
}  # fmt: skip
# Families that differ in their layers: the group norm of one is in its fixed encoder, and HuBERT's are wav2vec2's.
DISTINCT = [name for name in FAMILIES if name not in ("wav2vec2-group", "hubert")]
UPPER = ["<pad>", "<s>", "</s>", "<unk>", "|", *"ETAONIHSRDLUMWCFGYPBVK'XJQZ"]
# Of one input length, for classifiers alone.
FIXED: dict[str, tuple[str, dict[str, Any], str, dict[str, Any]]] = {
    "ast": ("ASTConfig", {
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
        "num_mel_bins": 32, "max_length": 100,
    }, "ASTFeatureExtractor", {"num_mel_bins": 32, "max_length": 100}),
    "whisper": ("WhisperConfig", {
        "d_model": 32, "encoder_layers": 2, "decoder_layers": 1, "encoder_attention_heads": 4,
        "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "max_source_positions": 50,
        "vocab_size": 32, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1,
    }, "WhisperFeatureExtractor", {"chunk_length": 1}),
}  # fmt: skip
WORDS = ["ON", "OFF", "LIGHT", "STOP", "GO", "LEFT", "RIGHT", "UP"]


def build_speech_model(folder: Path, family: str, *, vocabulary: bool = True, **changes: Any) -> Path:
    """Write a tiny CTC model, with a vocabulary of upper-case letters unless it is to be a pretrained-only one."""
    import torch
    import transformers

    name, settings = FAMILIES[family]
    torch.manual_seed(0)
    config = getattr(transformers, name)(**{**settings, **changes})
    model_class = transformers.AutoModelForCTC if vocabulary else transformers.AutoModel
    model_class.from_config(config).save_pretrained(folder)
    if family == "wav2vec2-bert":
        extractor = transformers.SeamlessM4TFeatureExtractor()
    else:
        takes_mask = settings.get("feat_extract_norm") == "layer"
        extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=takes_mask)
    if not vocabulary:
        extractor.save_pretrained(folder)
        return folder
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(UPPER)}))
    tokenizer = transformers.Wav2Vec2CTCTokenizer(str(folder / "vocab.json"))
    kind = transformers.Wav2Vec2BertProcessor if family == "wav2vec2-bert" else transformers.Wav2Vec2Processor
    kind(feature_extractor=extractor, tokenizer=tokenizer).save_pretrained(folder)
    return folder


def build_audio_encoder(folder: Path, family: str, **changes: Any) -> Path:
    """Write a tiny pretrained encoder of audio without a head."""
    import torch
    import transformers

    if family in FAMILIES:
        return build_speech_model(folder, family, vocabulary=False, **changes)
    name, settings, extractor, of_extractor = FIXED[family]
    torch.manual_seed(0)
    config = getattr(transformers, name)(**{**settings, **changes})
    transformers.AutoModel.from_config(config).save_pretrained(folder)
    getattr(transformers, extractor)(**of_extractor).save_pretrained(folder)
    return folder


def tones(text: str, *, seconds: float = 0.08, rate: int = RATE, shift: float = 1.0) -> np.ndarray:
    """The letters of `text` one after another, each a tone of its own; silence between words."""
    time = np.arange(int(seconds * rate)) / rate
    letters = [
        np.zeros_like(time) if c == " " else 0.3 * np.sin(2 * np.pi * shift * (300 + 90 * (ord(c) % 32)) * time)
        for c in text
    ]
    return np.concatenate([np.zeros_like(time), *letters, np.zeros_like(time)]).astype(np.float32)


def write_clips(
    folder: Path, count: int = 24, *, suffix: str = ".wav", shift: float = 1.0, **columns: str
) -> list[dict]:
    """Clips of one to four words in `folder`/clips; the rows of their table."""
    (folder / "clips").mkdir(parents=True, exist_ok=True)
    source = np.random.default_rng(int(1000 * shift))
    rows = []
    for i in range(count):
        text = " ".join(source.choice(WORDS, size=1 + i % 4))
        name = f"clips/{'-'.join(columns.values()) or 'clip'}{i}{suffix}"
        noise = source.normal(scale=0.003, size=len(tones(text))).astype(np.float32)
        soundfile.write(folder / name, tones(text, shift=shift) + noise, RATE)
        rows.append({"file_name": name, "transcription": text, "speaker": f"s{i % 3}", **columns})
    return rows


def build_ctc_model(folder: Path, tokens: list[str], *, classes: int | None = None, **settings: str) -> Path:
    """Write a tiny wav2vec2 whose vocab.json holds `tokens` and whose head has as many classes, or `classes`.

    Args:
        folder: to write.
        tokens: by id.
        classes: of the head.
        **settings: of tokenizer_config.json.
    """
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.Wav2Vec2Config(**{**FAMILIES["wav2vec2-layer"][1], "vocab_size": classes or len(tokens)})
    transformers.Wav2Vec2ForCTC(config).save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor(return_attention_mask=True).save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}, ensure_ascii=False))
    told = {"tokenizer_class": "Wav2Vec2CTCTokenizer", **settings}
    (folder / "tokenizer_config.json").write_text(json.dumps(told))
    return folder


MMS = {"eng": [*UPPER[:5], *"abcdefghijklmnopqrstuvwxyz'-"], "ibo": [*UPPER[:5], *"abcdefghijklmnoprstuvwyzịọụṅ"]}


def build_mms(folder: Path, **settings: str) -> Path:
    """Write a tiny MMS checkpoint: English in the main weights, adapters and vocabularies of English and Igbo."""
    import torch
    import transformers
    from safetensors.torch import save_file

    build_ctc_model(folder, MMS["eng"], target_lang="eng", **settings)
    (folder / "vocab.json").write_text(
        json.dumps({name: {t: i for i, t in enumerate(tokens)} for name, tokens in MMS.items()}, ensure_ascii=False)
    )
    config = transformers.Wav2Vec2Config(**{**FAMILIES["mms"][1], "vocab_size": len(MMS["eng"])})
    model = transformers.Wav2Vec2ForCTC(config)
    for name in ("ibo", "eng"):
        model.lm_head = torch.nn.Linear(config.hidden_size, len(MMS[name]))
        for parameter in model._get_adapters().values():
            torch.nn.init.normal_(parameter, std=0.3)
        weights = {key: value.detach().clone() for key, value in model._get_adapters().items()}
        save_file(weights, folder / f"adapter.{name}.safetensors", {"format": "pt"})
    model.save_pretrained(folder)
    return folder


def weights_of(folder: Path) -> dict[str, Any]:
    """All weights of a CTC model."""
    import torch
    import transformers

    model = transformers.AutoModelForCTC.from_pretrained(folder, dtype=torch.float32)
    return {name: value.clone() for name, value in model.state_dict().items()}


def moved(base: Path, output: Path) -> tuple[set[str], set[str]]:
    """Names of weights that differ from the base model's, and of all."""
    import torch

    before, after = weights_of(base), weights_of(output)
    return {name for name in after if not torch.equal(before[name], after[name])}, set(after)


def in_encoder(name: str) -> bool:
    """Whether a weight is of the feature encoder."""
    return ".feature_extractor." in name


def unused(family: str, names: set[str]) -> set[str]:
    """Weights that nothing reads in training without masks: masks' own, counters, rotary frequencies."""
    parts = ["masked_spec_embed", "num_batches_tracked"]
    if family == "wav2vec2-conformer":  # rotary positions, and a convolution for others that is never called
        parts += ["inv_freq", "pos_conv_embed"]
    return {name for name in names if any(part in name for part in parts)}
