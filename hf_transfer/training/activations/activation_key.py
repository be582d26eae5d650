"""Keys under which activations are stored: of a model with its settings, and of an example's input."""

import hashlib
import json
from typing import TYPE_CHECKING

import numpy as np
import torch
import transformers
from transformers import PretrainedConfig

from hf_transfer.methods.anatomy import is_inside
from hf_transfer.training.activations.entry import Entry

if TYPE_CHECKING:
    from hf_transfer.inputs.input import ModelInputs

# Part of the key: raise it when other activations are stored for the same model.
VERSION = 2
# Settings of a model's config that do not change the activations of its frozen layers in eval mode.
WITHOUT_EFFECT = ("id2label", "label2id", "num_labels", "problem_type", "_name_or_path", "architectures", "vocab_size")


def activation_key(entry: Entry, *, first_token_only: bool, mixed_precision: str, tf32: bool) -> str:
    """Return a hash (hexadecimal text) of everything that cached activations depend on, except the examples.

    Args:
        entry: the place in the model.
        first_token_only: whether only the first position of each example is stored.
        mixed_precision: accelerate's setting: ``no``, ``fp16``, ``bf16``.
        tf32: whether CUDA's matrix products use TensorFloat-32.
    """
    model = entry.model
    parts = (
        VERSION, torch.__version__, transformers.__version__, type(model).__name__, entry.first, first_token_only,
        mixed_precision, model.device.type, tf32,
        json.dumps(_settings_with_effect(model.config), sort_keys=True, default=str),
    )  # fmt: skip
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=16)
    for name, tensor in _tensors_below(entry).items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _settings_with_effect(config: PretrainedConfig) -> dict[str, object]:
    # Settings that the config's class does not know are this package's own notes for prediction.
    known = vars(type(config)())
    return {name: value for name, value in config.to_dict().items() if name in known and name not in WITHOUT_EFFECT}


def _tensors_below(entry: Entry) -> dict[str, torch.Tensor]:
    """Return by name the weights and buffers that compute the activations at an `Entry` of a model."""
    if entry.front is not None and entry.first is None:
        return entry.front.state_dict()
    anatomy = entry.anatomy
    above = [*anatomy.head]
    above += [f"{anatomy.layers}.{i}" for i in range(entry.first or 0, len(entry.layers))]
    return {name: tensor for name, tensor in entry.model.state_dict().items() if not is_inside(name, above)}


def example_digests(dataset: "ModelInputs") -> np.ndarray:
    """Return a hash of each example's input, as an array [n] of uint64."""
    hashes = (hashlib.blake2b(str(key).encode(), digest_size=8) for key in dataset.cache_keys)
    return np.array([int.from_bytes(each.digest()) for each in hashes], np.uint64)
