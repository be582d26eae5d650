"""Tokenized texts: token ids as inputs of a model."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import PreTrainedTokenizerBase


class TokenizedTexts:
    """Dataset of the tokenized texts of a split (a `ModelInputs`).

    Args:
        table: with the tokenizer's columns and ``length``, in tokens.
        labels: of each text.
        padding_changes_outputs: whether each text has to be computed by itself.
    """

    length_unit, length_per_unit, throughput_name = "tokens", 1.0, None
    is_augmented = False

    def __init__(self, table: Dataset, labels: Sequence[Any], *, padding_changes_outputs: bool):
        self.table, self.labels, self.padding_changes_outputs = table, labels, padding_changes_outputs
        self.lengths = self.positions = np.asarray(table["length"][:])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitems__(self, indices: list[int]) -> list[dict[str, Any]]:
        rows = self.table.__getitems__(indices)
        return [{**row, "labels": self.labels[i]} for i, row in zip(indices, rows, strict=True)]

    @property
    def cache_keys(self) -> Iterator[str]:
        """Iterator over the token ids of each text, written as a string."""
        rows = self.table.remove_columns("length")
        for start in range(0, len(rows), 1000):
            yield from (repr(tuple(row)) for row in zip(*rows[start : start + 1000].values(), strict=True))

    def set_epoch(self, epoch: int) -> None:
        """Do nothing, as texts are the same in each epoch."""

    def without_augmentation(self) -> "TokenizedTexts":
        """Return the dataset itself, as texts are not augmented."""
        return self


def tokenize(
    batch: dict[str, list[Any]], tokenizer: PreTrainedTokenizerBase, max_length: int, strip: int | None
) -> dict[str, list[Any]]:
    """Return the model's inputs for a batch of texts, as lists of token ids and so on, with their ``length``.

    Args:
        batch: of examples.
        tokenizer: of the model.
        max_length: most tokens.
        strip: a token id that is removed from the end of each text, except for the text's first token.
    """
    encoded = dict(tokenizer(batch["text"], batch.get("text_pair"), truncation=True, max_length=max_length))
    if strip is not None:
        ends = [next((i for i in range(len(ids), 1, -1) if ids[i - 1] != strip), 1) for ids in encoded["input_ids"]]
        encoded = {name: [row[:end] for row, end in zip(rows, ends, strict=True)] for name, rows in encoded.items()}
    encoded["length"] = [len(ids) for ids in encoded["input_ids"]]
    return encoded
