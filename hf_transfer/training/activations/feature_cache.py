"""Activations below the first trainable layer, computed once and kept on disk.

They do not change in training, nor from one run to the next with the same model, so each example's are computed by
the first run that needs them, and read by all that come later.
"""

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
import transformers
from tqdm.auto import tqdm

from hf_transfer.data.batches import Collator, to_device
from hf_transfer.errors import logger
from hf_transfer.methods.anatomy import Anatomy
from hf_transfer.models import output_tensors
from hf_transfer.training.activations.activation_store import ActivationStore
from hf_transfer.training.activations.cached_examples import CachedExamples, PaddedActivations
from hf_transfer.training.activations.entry import Entry
from hf_transfer.training.activations.entry_check import EntryCheck, extremes
from hf_transfer.training.batching import evaluation_batches, two_lengths

# Part of the key: raise it when what is kept changes.
VERSION = 2
# Settings of a model's config that the activations of its frozen layers, in eval mode, do not depend on.
WITHOUT_EFFECT = ("id2label", "label2id", "num_labels", "problem_type", "_name_or_path", "architectures", "vocab_size")


class FeatureCache:
    """The activations of one model at one place, kept for all examples that any run has asked for.

    Args:
        model: the plain model before training.
        anatomy: its parts.
        first: index of the first layer that is computed live; None where only the fixed front is cached.
        frozen: modules that stay in eval mode in training.
        collator: of the examples.
        accelerator: of all processes, which share the work.
    """

    def __init__(
        self,
        model: Any,
        anatomy: Anatomy,
        first: int | None,
        frozen: list[torch.nn.Module],
        collator: Collator,
        accelerator: Any,
    ):
        self.model, self.anatomy, self.collator, self.accelerator = model, anatomy, collator, accelerator
        self.pad = PaddedActivations(model.main_input_name)
        self.cached_collator = Collator(self.pad, collator.labels)
        self.frozen = frozen
        self.entry = Entry(model, anatomy, first)
        self.first_token_only = False
        self.counts_positions = False  # whether a batch's ``length`` counts these and not what the dataset counts

    # --- whether --------------------------------------------------------------------------------------------------

    def enter(self, inputs: Mapping[str, Any]) -> bool:
        """Find out how the frozen layers are skipped; False, and a line that says why, where it cannot be.

        Args:
            inputs: preprocessed examples by split.
        """
        obstacle = self._obstacle(inputs)
        if not self._everywhere(obstacle is None) and obstacle is None:
            obstacle = "another process found that they cannot be"
        if obstacle is not None and self.entry.first is not None:
            logger.info("Activations are not cached: %s.", obstacle)
        return obstacle is None

    def _obstacle(self, inputs: Mapping[str, Any]) -> str | None:
        kind = self.model.config.model_type
        if self._new_below():
            return "some of the model's lower layers did not come from the checkpoint"
        if "train" in inputs and inputs["train"].is_augmented:
            return "training examples are augmented anew in each epoch"
        self.model.eval()
        try:
            difference = self._difference(inputs)
        except Exception as error:  # whatever a model's forward pass raises says the same: it cannot be entered here
            return f"a {kind} cannot be entered at a layer ({' '.join(str(error).split())[:100]})"
        finally:
            self.model.eval()
        return None if difference is None else f"{difference} (a {kind})"

    def _difference(self, inputs: Mapping[str, Any]) -> str | None:
        """Where activations that are computed once are not what a step computes, in words; None where they are.

        Tried on two of the shorter training examples, in eval and in train mode, and on the longest example of all
        beside the shortest.
        """
        check = EntryCheck(self)
        train = inputs.get("train", next(iter(inputs.values())))
        short = [(train, i) for i in two_lengths(train.lengths)]
        collated = check.collated(short)
        self.counts_positions = collated["length"].tolist() != [int(dataset.lengths[i]) for dataset, i in short]
        with self.computing():
            self.entry.learn(self.on_device(collated))
        self.first_token_only = self._reads_first_token_only(check.states(short))
        if self.first_token_only:
            with self.computing():
                self.entry.keep_first_position(self.on_device(collated))
        frozen = self.frozen if "train" in inputs else None
        ends = extremes(inputs)
        padded = short if len(short) > 1 else ends
        found = check.padding_changes(padded) or check.difference(short, frozen)
        if found and self.first_token_only:  # dropout of all positions draws other numbers than that of one
            self.first_token_only, self.entry.adds_up = False, None
            found = check.padding_changes(padded) or check.difference(short, frozen)
        # What comes behind a fixed front is long to compute, and does not depend on where its input is from.
        return found or (check.neighbours_change(ends) if self.entry.first is None else check.difference(ends))

    def _new_below(self) -> bool:
        """Whether newly initialised weights lie below the entry: they are trained, and others with another seed."""
        trunk, layers = f"{self.anatomy.trunk}.", f"{self.anatomy.layers}."
        above = [f"{trunk}pooler", *(f"{layers}{i}" for i in range(self.entry.first or 0, len(self.entry.layers)))]
        inside = [name for name in self.anatomy.head if name.startswith(trunk)]
        if self.entry.first is None:
            return any(name.startswith(f"{self.anatomy.front}") for name in inside)
        return not all(any(f"{name}.".startswith(f"{own}.") for own in above) for name in inside)

    def batch(self, states: list[np.ndarray]) -> dict[str, torch.Tensor]:
        """Activations, each [positions, width], as inputs of the model that is entered there."""
        return self.on_device(self.pad([{"features": rows} for rows in states]))

    def on_device(self, batch: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """The model's inputs of a batch."""
        return to_device(self.model.device, batch)

    @contextlib.contextmanager
    def computing(self) -> Iterator[None]:
        """In the precision of training, and nothing noted for gradients."""
        with torch.inference_mode(), self.accelerator.autocast():
            yield

    def _reads_first_token_only(self, states: list[np.ndarray]) -> bool:
        """Whether the outputs depend on the first token's activation alone: then no other need be kept."""
        longest = max(len(rows) for rows in states)
        if self.entry.first != len(self.entry.layers) or self.entry.first is None or longest < 2:
            return False
        name, batch = self.pad.name, self.batch(states)
        given = batch[name].clone().requires_grad_(True)
        with self.entry.skipping(), torch.enable_grad():
            outputs = output_tensors(self.model(**{**batch, name: given.clone()}))
            total = torch.stack([output.float().pow(2).sum() + output.float().sum() for output in outputs]).sum()
            (gradient,) = torch.autograd.grad(total, given)
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
            found[name] = CachedExamples(
                files, places, dataset.labels, dataset.lengths, seconds,
                counts_positions=self.counts_positions,
            )  # fmt: skip
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
        return [rows[batch].tolist() for batch in evaluation_batches(dataset, dataset.positions[rows], args)]

    def _positions(self, dataset: Any) -> np.ndarray:
        lengths = dataset.positions
        return np.ones_like(lengths) if self.first_token_only else lengths

    def captured(self, collated: Mapping[str, Any], positions: list[int]) -> list[np.ndarray]:
        """The activations of a batch of examples, each [positions, width].

        Args:
            collated: the batch.
            positions: how many there are of each.
        """
        batch = self.on_device(collated)
        self.model.eval()
        with self.computing():
            states = self.entry.capture(batch).float().cpu().numpy()
        if self.first_token_only:
            return [rows[:1] for rows in states]
        mask = batch.get("attention_mask")
        if mask is None or mask.shape[1] != states.shape[1]:  # it is of what the positions are made from
            return [rows[:count] for rows, count in zip(states, positions, strict=True)]
        return [rows[real] for rows, real in zip(states, mask.cpu().numpy() > 0, strict=True)]

    def _captured(self, dataset: Any, indices: list[int]) -> list[np.ndarray]:
        return self.captured(self.collator(dataset.__getitems__(indices)), dataset.positions[indices].tolist())

    def _key(self, tf32: bool) -> str:
        """Changes with everything that the activations depend on, but for the examples."""
        config = self.model.config
        known = vars(type(config)())  # not what the targets note in it for prediction
        settings = {
            name: value for name, value in config.to_dict().items() if name in known and name not in WITHOUT_EFFECT
        }
        told = (
            VERSION, torch.__version__, transformers.__version__, type(self.model).__name__, self.entry.first,
            self.first_token_only, self.accelerator.mixed_precision, self.model.device.type, tf32,
            json.dumps(settings, sort_keys=True, default=str),
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
    found = [int.from_bytes(hashlib.blake2b(str(key).encode(), digest_size=8).digest()) for key in dataset.cache_keys]
    return np.array(found, np.uint64)
