"""Clips as a model takes them: samples, augmented, and batches of them."""

import bisect
import copy
import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from datasets import Dataset as Table
from torch.utils.data import Dataset

from hf_transfer.inputs.audio.augmentation import Augmentation
from hf_transfer.inputs.audio.cache import samples_of, stored_samples


class Clips(Dataset):
    """The clips of a split as `ModelInputs`; samples are read from disk when asked for.

    Args:
        table: with the columns ``store``, ``offset``, ``length`` and ``checksum`` of each clip's samples.
        labels: what is learned of each.
        feature_extractor: of the model; its sampling rate is that of the samples.
        positions: for each clip, the frames that the model makes of it.
        padding_changes_outputs: whether clips are to be measured one by one, as padding would change the outcome.
        augmentation: what happens to each clip anew in each epoch; None for nothing.
        shortest: zeros fill up clips of fewer samples, from which the model could make nothing.
        min_samples: for each clip, what its transcript needs to be spelt.
        seed: of the augmentation.
    """

    length_unit, throughput_name = "seconds", "audio_seconds_per_second"

    def __init__(
        self,
        table: Table,
        labels: Sequence[Any],
        feature_extractor: Any,
        *,
        positions: list[int],
        shortest: int = 0,
        padding_changes_outputs: bool = False,
        augmentation: Augmentation | None = None,
        min_samples: Sequence[int] = (),
        seed: int = 0,
    ):
        self.stores: list[str] = table["store"][:]
        self.offsets, self.stored = np.asarray(table["offset"][:]), np.asarray(table["length"][:])
        self.lengths = np.maximum(self.stored, shortest)
        made_by = hashlib.blake2b(feature_extractor.to_json_string().encode(), digest_size=8).hexdigest()
        self.cache_keys = [f"{checksum} {made_by}" for checksum in table["checksum"][:]]
        self.labels, self.sampling_rate = labels, feature_extractor.sampling_rate
        self.length_per_unit = float(self.sampling_rate)
        self.positions, self.padding_changes_outputs = np.asarray(positions), padding_changes_outputs
        self.augmentation, self.min_samples, self.seed = augmentation, min_samples, seed
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def is_augmented(self) -> bool:
        """Whether clips are augmented."""
        return self.augmentation is not None

    def without_augmentation(self) -> "Clips":
        """The clips without augmentation."""
        same = copy.copy(self)
        same.augmentation = None
        return same

    def set_epoch(self, epoch: int) -> None:
        """Augment as in this epoch from now on."""
        self.epoch = epoch

    def __getitems__(self, indices: list[int]) -> list[dict[str, Any]]:
        return [self._example(i) for i in indices]

    def samples(self, i: int) -> np.ndarray:
        """A clip as the model hears it, [samples] in float32."""
        return filled_up(samples_of(self.stores[i], int(self.offsets[i]), int(self.stored[i])), int(self.lengths[i]))

    def decoded(self, i: int) -> np.ndarray:
        """A clip as it is stored, int16 [samples]."""
        return stored_samples(self.stores[i], int(self.offsets[i]), int(self.stored[i]))

    def select(self, rows: list[int]) -> "Clips":
        """The clips of these rows."""
        part = copy.copy(self)
        for name in ("offsets", "stored", "lengths", "positions"):
            setattr(part, name, getattr(self, name)[rows])
        for name in ("stores", "keys", "labels", "min_samples"):
            values = getattr(self, name)
            setattr(part, name, [values[i] for i in rows] if len(values) else values)
        return part

    def _example(self, i: int) -> dict[str, Any]:
        samples = self.samples(i)
        if self.augmentation is not None:
            # Drawn for this clip and epoch alone: resuming, or another number of processes, changes nothing.
            generator = np.random.default_rng([self.seed, self.epoch, i])
            samples = self.augmentation(samples, self.sampling_rate, generator, self.min_samples[i])
        return {"input_values": samples, "labels": self.labels[i], "length": len(samples)}


def filled_up(samples: np.ndarray, shortest: int) -> np.ndarray:
    """A clip [samples] with zeros behind it where it has fewer than `shortest`."""
    return np.pad(samples, (0, max(0, shortest - len(samples))))


class PaddedClips:
    """The model's input of clips as a padded batch, with an ``attention_mask`` where the model takes one.

    Where the feature extractor makes frames of the samples, ``length`` [batch] counts those.

    Args:
        feature_extractor: of the model.
        fixed: whether it makes inputs of one length alone.
    """

    def __init__(self, feature_extractor: Any, *, fixed: bool = False):
        self.feature_extractor, self.fixed = feature_extractor, fixed

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        """See the class."""
        features = self.feature_extractor(
            [example["input_values"] for example in examples],
            sampling_rate=self.feature_extractor.sampling_rate,
            return_tensors="pt",
            **({} if self.fixed else {"padding": True}),
        )
        batch = dict(features)
        if "input_features" in batch and "attention_mask" in batch:
            batch["length"] = batch["attention_mask"].sum(dim=-1)
            # An odd window is padded to a frame that is masked in every clip: dropout would draw numbers for it.
            longest = int(batch["length"].max())
            for name in ("input_features", "attention_mask"):
                batch[name] = batch[name][:, :longest]
        return batch


def samples_for(frames: int, frames_of: Callable[[int], int]) -> int:
    """The least number of samples that gives `frames` frames."""
    high = 1
    while frames_of(high) < frames:
        high *= 2
    return bisect.bisect_left(range(high), frames, key=frames_of)
