"""Activations below the first trainable layer, computed once and kept on disk.

Under `frozen` they do not change, so training reads them instead of running the layers that make them.
"""

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from hf_transfer.errors import logger
from hf_transfer.training.batching import EvaluationBatches

# Cached and live outputs that differ by more than rounding mean that this model cannot be entered half-way.
TOLERANCE = 1e-4


class CachedExamples(Dataset):
    """Examples whose input is the cached activation, memory-mapped.

    Args:
        features: [tokens of all examples, hidden size] in float32.
        offsets: where each example begins, [n + 1].
        labels: of each example.
        lengths: of each example, as it was.
    """

    def __init__(self, features: np.ndarray, offsets: np.ndarray, labels: list[Any], lengths: list[int]):
        self.features, self.offsets, self.labels, self.lengths = features, offsets, labels, lengths

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, key: str) -> Any:
        return {"length": self.lengths, "labels": self.labels}[key]

    def __getitems__(self, indices: list[int]) -> list[dict[str, Any]]:
        return [
            {
                "features": self.features[self.offsets[i] : self.offsets[i + 1]],
                "labels": self.labels[i],
                "length": self.lengths[i],
            }
            for i in indices
        ]


def collate_cached(examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """A padded batch: ``inputs_embeds`` [batch, tokens, hidden size], ``attention_mask``, ``labels``, ``length``."""
    longest = max(len(example["features"]) for example in examples)
    embeds = np.zeros((len(examples), longest, examples[0]["features"].shape[1]), dtype=np.float32)
    mask = np.zeros((len(examples), longest), dtype=np.int64)
    for i, example in enumerate(examples):
        embeds[i, : len(example["features"])] = example["features"]
        mask[i, : len(example["features"])] = 1
    return {
        "inputs_embeds": torch.from_numpy(embeds),
        "attention_mask": torch.from_numpy(mask),
        "labels": torch.tensor([example["labels"] for example in examples]),
        "length": torch.tensor([example["length"] for example in examples]),
    }


class _Given(nn.Module):
    """Stands in for the frozen modules: hands on the activations that the model was given as its embeddings."""

    def forward(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        for value in (kwargs.get("inputs_embeds"), *args, *kwargs.values()):
            if isinstance(value, torch.Tensor) and value.is_floating_point() and value.dim() == 3:
                return value
        raise ValueError("no activations were given")


class _Unchanged(nn.Module):
    """Stands in for all layers where none is trained and the model cannot do without one."""

    def forward(self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, None]:
        return hidden_states, None


class FeatureCache:
    """A model entered at its first trainable layer.

    Args:
        model: with its frozen part in front.
        layers: name of the `ModuleList` of layers.
        trainable_layers: how many of the last are trained.
        trunk: name of the base model.
        folder: where the activations are kept; removed at the end.
    """

    def __init__(self, model: Any, layers: str, trainable_layers: int, trunk: str, folder: Path):
        self.model, self.layers, self.trunk, self.folder = model, layers, trunk, folder
        self.layer_list = model.get_submodule(layers)
        self.first = len(self.layer_list) - trainable_layers
        self.first_token_only = False
        self.below: list[str] = []
        self.kept = list(self.layer_list)[self.first :]

    def enter(self, dataset: Any, collator: Callable[..., Any]) -> bool:
        """Find out how the frozen part is skipped; False where this model does not allow it."""
        order = np.argsort(dataset["length"][:], kind="stable")
        batch = to_device(self.model.device, collator(dataset.__getitems__([*order[:4], *order[-4:]])))
        if "input_ids" not in batch:
            logger.info("Activations are not cached: that is for texts.")
            return False
        mask = batch["attention_mask"]
        self.model.eval()
        with torch.inference_mode():
            live = self.model(**batch)["logits"]
        hidden = self._capture(batch, note_below=True)
        try:
            with self.skipping():
                self.first_token_only = self._reads_first_token_only(hidden, mask)
                if self.first_token_only:
                    hidden, mask = hidden[:, :1], mask[:, :1]
                with torch.inference_mode():
                    cached = self.model(inputs_embeds=hidden, attention_mask=mask)["logits"]
            difference = float((cached - live).abs().max())
        except Exception:  # whatever a model's forward pass raises says the same: it cannot be entered here
            difference = float("inf")
        if not difference <= TOLERANCE:
            logger.info("Activations are not cached: a %s cannot be entered at a layer.", self.model.config.model_type)
            return False
        return True

    def compute(
        self, dataset: Any, collator: Callable[..., Any], batch_size: int, name: str, *, main: bool, show: bool
    ) -> CachedExamples | None:
        """The activations of every example of `dataset`; None where the disk has no room.

        Args:
            dataset: preprocessed examples.
            collator: of the dataset.
            batch_size: examples at once.
            name: of the dataset.
            main: whether this process computes them, or reads what the main process has computed.
            show: whether to show a progress bar.
        """
        lengths = np.asarray(dataset["length"][:])
        offsets = np.concatenate([[0], np.cumsum(np.ones_like(lengths) if self.first_token_only else lengths)])
        shape = (int(offsets[-1]), self.model.config.hidden_size)
        file = self.folder / f"{name}.npy"
        if main:
            self.folder.mkdir(parents=True, exist_ok=True)
            size, free = shape[0] * shape[1] * 4, shutil.disk_usage(self.folder).free
            if size > 0.8 * free:
                logger.info("Activations are not cached: %.1f GB, and the disk has %.1f.", size / 1e9, free / 1e9)
                return None
            logger.info("Activations of %s below the first trained layer are cached: %.1f MB.", name, size / 1e6)
            self._fill(file, shape, offsets, dataset, collator, batch_size, show)
        elif not file.exists():
            return None
        return CachedExamples(np.load(file, mmap_mode="r"), offsets, dataset["labels"][:], lengths.tolist())

    def _fill(
        self,
        file: Path,
        shape: tuple[int, int],
        offsets: np.ndarray,
        dataset: Any,
        collator: Callable[..., Any],
        batch_size: int,
        show: bool,
    ) -> None:
        features = np.lib.format.open_memmap(file, mode="w+", dtype=np.float32, shape=shape)
        batches = EvaluationBatches(dataset["length"][:], batch_size=batch_size).batches
        self.model.eval()
        for indices in tqdm(batches, desc="Activations", disable=not show, delay=2, leave=False):
            batch = to_device(self.model.device, collator(dataset.__getitems__(indices)))
            states, mask = self._capture(batch).float().cpu().numpy(), batch["attention_mask"].cpu().numpy() > 0
            for i, rows, real in zip(indices, states, mask, strict=True):
                features[offsets[i] : offsets[i + 1]] = rows[:1] if self.first_token_only else rows[real]
        features.flush()

    @contextlib.contextmanager
    def skipping(self) -> Iterator[None]:
        """Run the model from given activations on, inside the block."""
        trunk = self.model.get_submodule(self.trunk)
        parent, _, name = self.layers.rpartition(".")
        swaps: list[tuple[Any, str, nn.Module]] = [(trunk, below, _Given()) for below in self.below]
        swaps.append((self.model.get_submodule(parent), name, nn.ModuleList(self.kept)))
        before = [(owner, attribute, getattr(owner, attribute)) for owner, attribute, _ in swaps]
        for owner, attribute, module in swaps:
            setattr(owner, attribute, module)
        try:
            yield
        finally:
            for owner, attribute, module in before:
                setattr(owner, attribute, module)

    # --- entering ---------------------------------------------------------------------------------------------

    def _capture(self, batch: dict[str, torch.Tensor], *, note_below: bool = False) -> torch.Tensor:
        """What goes into the first trainable layer, or the head where there is none, [batch, tokens, hidden size]."""
        caught: list[torch.Tensor] = []
        below: list[str] = []

        def before_layer(_: nn.Module, args: tuple, kwargs: dict) -> None:
            caught.append(args[0] if args else kwargs["hidden_states"])
            raise _Stop

        def after_layer(_: nn.Module, args: tuple, output: Any) -> None:
            caught.append(output[0] if isinstance(output, tuple) else output)
            self.kept = [_Unchanged()] if isinstance(output, tuple) else []
            raise _Stop

        if self.first == len(self.layer_list):
            hooks = [self.layer_list[-1].register_forward_hook(after_layer)]
        else:
            hooks = [self.layer_list[self.first].register_forward_pre_hook(before_layer, with_kwargs=True)]
        if note_below:
            for name, child in self.model.get_submodule(self.trunk).named_children():
                if not self.layers.startswith(f"{self.trunk}.{name}"):
                    hooks.append(child.register_forward_hook(_noting(below, name)))
        try:
            with torch.inference_mode(), contextlib.suppress(_Stop):
                self.model(**batch)
        finally:
            for hook in hooks:
                hook.remove()
        if note_below:
            self.below = below
        return caught[0]

    def _reads_first_token_only(self, hidden: torch.Tensor, mask: torch.Tensor) -> bool:
        """Whether the outputs depend on the first token's activation alone: then no other need be kept."""
        if self.first < len(self.layer_list) or hidden.shape[1] < 2:
            return False
        states = hidden.clone().detach().requires_grad_(True)
        with torch.enable_grad():
            logits = self.model(inputs_embeds=states, attention_mask=mask)["logits"]
            (gradient,) = torch.autograd.grad(logits.float().pow(2).sum() + logits.float().sum(), states)
        return not bool(gradient[:, 1:].abs().max() > 0)


def _noting(below: list[str], name: str) -> Callable[..., None]:
    """A hook that notes the name of a module that makes activations [batch, tokens, hidden size]."""

    def hook(_: nn.Module, args: tuple, output: Any) -> None:
        if isinstance(output, torch.Tensor) and output.dim() == 3:
            below.append(name)

    return hook


class _Stop(Exception):
    """Ends a forward pass where the rest of it is not needed."""


def to_device(device: torch.device, batch: Any) -> dict[str, torch.Tensor]:
    """The model's inputs of a batch, on `device`."""
    return {name: value.to(device) for name, value in batch.items() if name not in ("labels", "length")}
