"""Dataset and padding of examples whose input is a cached activation."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset


class CachedExamples(Dataset):
    """Dataset of examples whose input is a cached activation, read from memory-mapped files.

    It can take the place of `ModelInputs`.

    Args:
        files: each [positions, width] in float32.
        places: the number of each example's file, its first row in that file, and its number of rows, [n, 3].
        labels: of each example.
        lengths: of each example in the original dataset; training batches are made from these.
        seconds: that it took to compute all these activations.
        counts_positions: whether a batch's ``length`` is the number of positions, and not the original length.
    """

    def __init__(
        self,
        files: list[np.ndarray],
        places: np.ndarray,
        labels: Sequence[Any],
        lengths: np.ndarray,
        seconds: float,
        *,
        counts_positions: bool,
    ):
        self.files, self.places, self.labels, self.lengths = files, places, labels, lengths
        self.seconds = seconds
        self.positions = places[:, 2]
        self.padding_changes_outputs = self.is_augmented = False
        self.lengths_in_batches = self.positions if counts_positions else lengths

    def __len__(self) -> int:
        return len(self.labels)

    def set_epoch(self, epoch: int) -> None:
        """Accept the number of an epoch and change nothing, as activations are the same in each epoch."""

    def without_augmentation(self) -> "CachedExamples":
        """Return this dataset itself, as cached activations are not augmented."""
        return self

    def __getitems__(self, indices: list[int]) -> list[dict[str, Any]]:
        return [
            {"features": self._features(i), "labels": self.labels[i], "length": self.lengths_in_batches[i]}
            for i in indices
        ]

    def _features(self, i: int) -> np.ndarray:
        file, start, count = self.places[i]
        return self.files[file][start : start + count]


class PaddedActivations:
    """Collator that pads activations to a batch [batch, positions, width], with its ``attention_mask``.

    Args:
        main_input: name of the model's input.
    """

    def __init__(self, main_input: str):
        self.is_text = main_input == "input_ids"
        self.name = "inputs_embeds" if self.is_text else main_input

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        longest = max(len(example["features"]) for example in examples)
        states = np.zeros((len(examples), longest, examples[0]["features"].shape[1]), dtype=np.float32)
        mask: np.ndarray = np.zeros((len(examples), longest), dtype=np.int64 if self.is_text else np.bool_)
        for i, example in enumerate(examples):
            states[i, : len(example["features"])] = example["features"]
            mask[i, : len(example["features"])] = 1
        return {
            self.name: torch.from_numpy(states),
            "attention_mask": torch.from_numpy(mask),
        }
