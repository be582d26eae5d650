"""Decoded clips as model inputs (`ModelInputs`), and their padding to batches."""

import bisect
import copy
import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from datasets import Dataset as Table
from torch.utils.data import Dataset
from transformers import SequenceFeatureExtractor

from hf_transfer.inputs.audio.augmentation import Augmentation
from hf_transfer.inputs.audio.cache import read_float32, read_int16


class Clips(Dataset):
    """Dataset of the clips of a split as `ModelInputs`; samples are read from disk when they are needed.

    Args:
        table: with the columns ``store``, ``offset``, ``length`` and ``checksum`` of each clip's samples.
        labels: of each clip, as the loss takes them.
        feature_extractor: of the model; the samples have its sampling rate.
        positions: for each clip, the number of frames that the model makes of it.
        padding_changes_outputs: whether clips are to be measured one by one, as padding would change the outcome.
        augmentation: of each clip, drawn anew in each epoch; None for no augmentation.
        min_length: shorter clips are padded with zeros to this number of samples, which the model needs.
        min_samples: for each clip, the samples that its transcript needs; augmentation does not make it shorter.
        seed: of the augmentation.
    """

    length_unit, throughput_name = "seconds", "audio_seconds_per_second"

    def __init__(
        self,
        table: Table,
        labels: Sequence[Any],
        feature_extractor: SequenceFeatureExtractor,
        *,
        positions: list[int],
        min_length: int = 0,
        padding_changes_outputs: bool = False,
        augmentation: Augmentation | None = None,
        min_samples: Sequence[int] = (),
        seed: int = 0,
    ):
        self.stores: list[str] = table["store"][:]
        self.offsets, self.stored_lengths = np.asarray(table["offset"][:]), np.asarray(table["length"][:])
        self.lengths = np.maximum(self.stored_lengths, min_length)
        extractor_hash = hashlib.blake2b(feature_extractor.to_json_string().encode(), digest_size=8).hexdigest()
        self.cache_keys = [f"{checksum} {extractor_hash}" for checksum in table["checksum"][:]]
        self.labels, self.sampling_rate = labels, feature_extractor.sampling_rate
        self.length_per_unit = float(self.sampling_rate)
        self.positions, self.padding_changes_outputs = np.asarray(positions), padding_changes_outputs
        self.augmentation, self.min_samples, self.seed = augmentation, min_samples, seed
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def is_augmented(self) -> bool:
        """Boolean: whether the clips are augmented."""
        return self.augmentation is not None

    def without_augmentation(self) -> "Clips":
        """Return a copy of the dataset whose clips are not augmented."""
        clips = copy.copy(self)
        clips.augmentation = None
        return clips

    def set_epoch(self, epoch: int) -> None:
        """Set the number of the epoch, for which augmentation is drawn."""
        self.epoch = epoch

    def __getitems__(self, indices: list[int]) -> list[dict[str, Any]]:
        return [self._example(i) for i in indices]

    def samples(self, i: int) -> np.ndarray:
        """Return the samples of a clip as the feature extractor is given them, float32 [samples]."""
        return pad_to_length(
            read_float32(self.stores[i], int(self.offsets[i]), int(self.stored_lengths[i])), int(self.lengths[i])
        )

    def stored_samples(self, i: int) -> np.ndarray:
        """Return the samples of a clip as they are stored in the cache, int16 [samples]."""
        return read_int16(self.stores[i], int(self.offsets[i]), int(self.stored_lengths[i]))

    def select(self, rows: list[int]) -> "Clips":
        """Return a copy of the dataset with only the clips of these rows."""
        selected = copy.copy(self)
        for name in ("offsets", "stored_lengths", "lengths", "positions"):
            setattr(selected, name, getattr(self, name)[rows])
        for name in ("stores", "cache_keys", "labels", "min_samples"):
            values = getattr(self, name)
            setattr(selected, name, [values[i] for i in rows] if len(values) else values)
        return selected

    def _example(self, i: int) -> dict[str, Any]:
        samples = self.samples(i)
        if self.augmentation is not None:
            # The seed is of this clip and epoch: resuming, or another number of processes, draws the same.
            generator = np.random.default_rng([self.seed, self.epoch, i])
            samples = self.augmentation(samples, self.sampling_rate, generator, self.min_samples[i])
        return {"input_values": samples, "labels": self.labels[i], "length": len(samples)}


def pad_to_length(samples: np.ndarray, min_length: int) -> np.ndarray:
    """Return a clip [samples] padded with zeros at its end to at least `min_length` samples."""
    return np.pad(samples, (0, max(0, min_length - len(samples))))


class ClipPadding:
    """Callable that makes a padded batch of clips, with an ``attention_mask`` if the model takes one.

    If the feature extractor makes frames of the samples, ``length`` [batch] is the number of frames.

    Args:
        feature_extractor: of the model.
        has_fixed_length: whether the feature extractor makes inputs of one length only.
    """

    def __init__(self, feature_extractor: SequenceFeatureExtractor, *, has_fixed_length: bool = False):
        self.feature_extractor, self.has_fixed_length = feature_extractor, has_fixed_length

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        """Return the examples' ``input_values`` as a padded batch of the model's inputs, a dictionary of tensors."""
        features = self.feature_extractor(
            [example["input_values"] for example in examples],
            sampling_rate=self.feature_extractor.sampling_rate,
            return_tensors="pt",
            **({} if self.has_fixed_length else {"padding": True}),
        )
        batch = dict(features)
        if "input_features" in batch and "attention_mask" in batch:
            batch["length"] = batch["attention_mask"].sum(dim=-1)
            # wav2vec2-BERT may add a frame that is masked in every clip, for which dropout would draw numbers.
            longest = int(batch["length"].max())
            for name in ("input_features", "attention_mask"):
                batch[name] = batch[name][:, :longest]
        return batch


def min_samples_for(frames: int, count_frames: Callable[[int], int]) -> int:
    """Return the smallest number of samples of which the model makes at least `frames` frames.

    Args:
        frames: of the model's output.
        count_frames: from a number of samples to the number of frames.
    """
    high = 1
    while count_frames(high) < frames:
        high *= 2
    return bisect.bisect_left(range(high), frames, key=count_frames)
