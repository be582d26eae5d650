"""Activations below the first trainable layer, computed once and kept on disk.

They do not change in training, nor from one run to the next with the same model, so each example's are computed by
the first run that needs them, and read by all that come later.
"""

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
import transformers
from tqdm.auto import tqdm

from hf_transfer.errors import logger
from hf_transfer.methods import Anatomy
from hf_transfer.training.activation_store import ActivationStore
from hf_transfer.training.batching import evaluation_batches, positions_of, two_lengths
from hf_transfer.training.cached_examples import CachedCollator, CachedExamples
from hf_transfer.training.entry import Entry

# Part of the key: raise it when what is kept changes.
VERSION = 2
# Cached and live outputs that differ by more than rounding mean that this model cannot be entered half-way.
TOLERANCE = 1e-4
# Settings of a model's config that its activations do not depend on.
OF_NO_MATTER = ("id2label", "label2id", "num_labels", "problem_type", "calibration", "text_pairs", "_name_or_path",
                "architectures", "vocab_size")  # fmt: skip


class FeatureCache:
    """The activations of one model at one place, kept for all examples that any run has asked for.

    Args:
        model: the plain model before training.
        anatomy: its parts.
        first: index of the first layer that is not constant; None where only the fixed front is.
        collator: of the examples.
        accelerator: of all processes, which share the work.
    """

    def __init__(
        self, model: Any, anatomy: Anatomy, first: int | None, collator: Callable[..., Any], accelerator: Any
    ):
        self.model, self.anatomy, self.collator, self.accelerator = model, anatomy, collator, accelerator
        self.entry = Entry(model, anatomy, first)
        self.first_token_only = False
        self.counts_positions = False  # whether a batch's ``length`` counts these and not what the dataset counts
        self.cached_collator = CachedCollator(model.main_input_name)

    # --- whether --------------------------------------------------------------------------------------------------

    def enter(self, dataset: Any) -> bool:
        """Find out how the constant part is skipped; False, and a line that says why, where it cannot be."""
        obstacle = self._obstacle(dataset)
        if not self._everywhere(obstacle is None) and obstacle is None:
            obstacle = "another process found that they cannot be"
        if obstacle is not None and self.entry.first is not None:
            logger.info("Activations are not cached: %s.", obstacle)
        return obstacle is None

    def _obstacle(self, dataset: Any) -> str | None:
        config = self.model.config
        if self._new_below():
            return "some of the model's lower layers did not come from the checkpoint"
        if getattr(dataset, "augmentation", None) is not None:
            return "training clips are another way in each epoch (--speed_perturbation and the like)"
        masks = getattr(config, "mask_time_prob", 0.0) > 0 or getattr(config, "mask_feature_prob", 0.0) > 0
        if self.entry.first is not None and masks and getattr(config, "apply_spec_augment", False):
            return "SpecAugment masks other parts of them in each epoch (--mask_time_prob 0 --mask_feature_prob 0)"
        rows = two_lengths(np.asarray(dataset["length"][:]))
        some = dataset.__getitems__(rows)
        self.model.eval()
        try:
            with self._computing():
                collated = self.collator(some)
                self.entry.learn(self._on_device(collated))
                live = [self.model(**self._on_device(self.collator([example])))["logits"][0] for example in some]
            self.counts_positions = collated["length"].tolist() != [dataset["length"][i] for i in rows]
            found = [self._captured(dataset, [i])[0] for i in rows]
            with self.entry.skipping():
                batch = self._batch(found)
                self.first_token_only = self._reads_first_token_only(batch)
                if self.first_token_only:
                    batch = self._batch([states[:1] for states in found])
                with self._computing():
                    cached = self.model(**batch)["logits"]
            largest = max(float(own.abs().max()) for own in live)
            pairs = [
                (row, own) if own.dim() == 1 else (row[: len(states)], own[: len(states)])
                for row, own, states in zip(cached, live, found, strict=True)
            ]
            difference = max(float((row - own).abs().max()) for row, own in pairs)
        except Exception as error:  # whatever a model's forward pass raises says the same: it cannot be entered here
            return f"a {config.model_type} cannot be entered at a layer ({' '.join(str(error).split())[:100]})"
        scale = max(1.0, largest) * (1.0 if self.accelerator.mixed_precision == "no" else 100.0)
        if not difference <= TOLERANCE * scale:
            return f"a {config.model_type} that is entered at a layer gives outputs that differ by {difference:.2g}"
        if self.first_token_only:
            with self._computing():
                self.entry.keep_first_position(self._on_device(collated))
        return None

    def _new_below(self) -> bool:
        """Whether newly initialised weights lie below the entry: they are trained, and others with another seed."""
        trunk, layers = f"{self.anatomy.trunk}.", f"{self.anatomy.layers}."
        above = [f"{trunk}pooler", *(f"{layers}{i}" for i in range(self.entry.first or 0, len(self.entry.layers)))]
        inside = [name for name in self.anatomy.head if name.startswith(trunk)]
        if self.entry.first is None:
            return any(name.startswith(f"{self.anatomy.front}") for name in inside)
        return not all(any(f"{name}.".startswith(f"{own}.") for own in above) for name in inside)

    def _batch(self, states: list[np.ndarray]) -> dict[str, torch.Tensor]:
        examples = [{"features": rows, "labels": 0, "length": len(rows)} for rows in states]
        return self._on_device(self.cached_collator(examples))

    def _on_device(self, batch: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        return to_device(self.model.device, batch)

    @contextlib.contextmanager
    def _computing(self) -> Iterator[None]:
        with torch.inference_mode(), self.accelerator.autocast():
            yield

    def _reads_first_token_only(self, batch: dict[str, torch.Tensor]) -> bool:
        """Whether the outputs depend on the first token's activation alone: then no other need be kept."""
        states = batch[self.cached_collator.name]
        if self.entry.first != len(self.entry.layers) or self.entry.first is None or states.shape[1] < 2:
            return False
        states = states.clone().requires_grad_(True)
        with torch.enable_grad():
            logits = self.model(**{**batch, self.cached_collator.name: states.clone()})["logits"]
            (gradient,) = torch.autograd.grad(logits.float().pow(2).sum() + logits.float().sum(), states)
        return not bool(gradient[:, 1:].abs().max() > 0)

    # --- what is kept ---------------------------------------------------------------------------------------------

    def examples(self, inputs: Mapping[str, Any], args: Any) -> dict[str, CachedExamples] | None:
        """The examples of each split with their activations as input, computed where no run has yet.

        Args:
            inputs: preprocessed examples by split.
            args: the training arguments.

        Returns:
            None where the disk of a machine has no room.
        """
        store = None
        try:
            store = ActivationStore(self._key(bool(args.tf32)))
        except OSError as error:
            logger.info("Activations are not cached: %s (%s).", error.strerror or error, error.filename)
        if not self._everywhere(store is not None) or store is None:
            return None
        digests = {name: _digests(dataset) for name, dataset in inputs.items()}
        # All processes first; then, on machines that do not share the folder, one of each for what the others have.
        processes = self.accelerator.num_processes
        shares = [(slice(self.accelerator.process_index, None, processes), processes)]
        if processes > 1:
            shares.append((slice(None if self.accelerator.is_local_main_process else 0), 1))
        for mine, sharing in shares:
            missing = store.missing(digests)
            own = {name: rows[mine] for name, rows in missing.items()}
            if not self._everywhere(self._compute(store, inputs, digests, own, args, sharing)):
                return None
        found = {}
        there = store.find(digests)
        if not self._everywhere(there is not None) or there is None:
            logger.info("Activations are not cached: some were removed from %s meanwhile.", store.folder)
            return None
        files, kept = there
        for name, dataset in inputs.items():
            places, seconds = kept[name]
            lengths = places[:, 2] if self.counts_positions else np.asarray(dataset["length"][:])
            found[name] = CachedExamples(files, places, dataset["labels"][:], lengths.tolist(), seconds)
        return found

    def _everywhere(self, done: bool) -> bool:
        """Whether all processes say so: they go the same way."""
        return bool(self.accelerator.gather(torch.tensor([done], device=self.accelerator.device)).all())

    def _compute(
        self,
        store: ActivationStore,
        inputs: Mapping[str, Any],
        digests: dict[str, np.ndarray],
        rows: dict[str, np.ndarray],
        args: Any,
        sharing: int,
    ) -> bool:
        work = [(name, indices) for name, own in rows.items() for indices in self._batches(inputs[name], own, args)]
        counts = {name: self._positions(dataset) for name, dataset in inputs.items()}
        total = sum(int(counts[name][own].sum()) for name, own in rows.items())
        if not work:
            return True
        width = self._captured(inputs[work[0][0]], work[0][1][:1])[0].shape[1]
        size, free = total * width * 4, store.free()
        if size > 0.5 * free:
            logger.info("Activations are not cached: %.1f GB, and the disk has %.1f left.", size / 1e9, free / 1e9)
            return False
        if args.should_log:
            logger.info("Activations that training does not change are computed once and kept: %.1f MB in %s.",
                        size / 1e6, store.folder)  # fmt: skip
        try:
            with store.shard(total, width, sharing) as shard:
                for name, indices in tqdm(
                    work, desc="Activations", disable=args.disable_tqdm or not args.should_log, delay=2, leave=False
                ):
                    for i, states in zip(indices, self._captured(inputs[name], indices), strict=True):
                        shard.add(digests[name][i], states)
        except OSError as error:
            logger.info("Activations are not cached: %s (%s).", error.strerror or error, store.folder)
            return False
        return True

    def _batches(self, dataset: Any, rows: np.ndarray, args: Any) -> list[list[int]]:
        return [rows[batch].tolist() for batch in evaluation_batches(dataset, positions_of(dataset)[rows], args)]

    def _positions(self, dataset: Any) -> np.ndarray:
        lengths = positions_of(dataset)
        return np.ones_like(lengths) if self.first_token_only else lengths

    def _captured(self, dataset: Any, indices: list[int]) -> list[np.ndarray]:
        """The activations of examples, each [positions, width]."""
        batch = self._on_device(self.collator(dataset.__getitems__(indices)))
        self.model.eval()
        with self._computing():
            states = self.entry.capture(batch).float().cpu().numpy()
        if self.first_token_only:
            return [rows[:1] for rows in states]
        positions = getattr(dataset, "positions", None)
        if positions is not None:
            return [rows[: positions[i]] for i, rows in zip(indices, states, strict=True)]
        mask = batch["attention_mask"].cpu().numpy() > 0
        return [rows[real] for rows, real in zip(states, mask, strict=True)]

    def _key(self, tf32: bool) -> str:
        """Changes with everything that the activations depend on, but for the examples."""
        kept = {
            k: v for k, v in self.model.config.to_dict().items() if k not in OF_NO_MATTER and not k.startswith("mask_")
        }
        told = (
            VERSION, torch.__version__, transformers.__version__, type(self.model).__name__, self.entry.first,
            self.first_token_only, self.accelerator.mixed_precision, self.model.device.type, tf32,
            getattr(self.collator, "feature_extractor", None), json.dumps(kept, sort_keys=True, default=str),
        )  # fmt: skip
        digest = hashlib.blake2b(repr(told).encode(), digest_size=16)
        for name, tensor in self._constant():
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def _constant(self) -> Iterator[tuple[str, torch.Tensor]]:
        """The weights that make the activations."""
        if self.entry.first is None:
            yield from self.entry.front.state_dict().items()  # type: ignore[union-attr]
            return
        prefixes = [*self.anatomy.head]
        prefixes += [f"{self.anatomy.layers}.{i}" for i in range(self.entry.first, len(self.entry.layers))]
        for name, tensor in self.model.state_dict().items():
            if not any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes):
                yield name, tensor


def _digests(dataset: Any) -> np.ndarray:
    """What tells an example's input from all others, [n]."""
    told = getattr(dataset, "checksums", None)
    if told is None:
        names = [name for name in dataset.column_names if name not in ("labels", "length")]
        rows = dataset.select_columns(names)
        told = (repr(tuple(row)) for start in range(0, len(rows), 1000)
                for row in zip(*rows[start : start + 1000].values(), strict=True))  # fmt: skip
    found = [int.from_bytes(hashlib.blake2b(str(each).encode(), digest_size=8).digest()) for each in told]
    return np.array(found, np.uint64)


def to_device(device: torch.device, batch: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The model's inputs of a batch, on `device`."""
    return {name: value.to(device) for name, value in batch.items() if name not in ("labels", "length")}
