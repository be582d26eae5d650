"""Computing the activations of frozen layers, and caching them on disk for all runs with the same model.

They change neither in training nor from one run to the next. The first run that needs those of an example computes
them, and later runs read them.
"""

import contextlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate import Accelerator
from tqdm.auto import tqdm
from transformers import PreTrainedModel, TrainingArguments

from hf_transfer.data.batches import Collator, to_device
from hf_transfer.errors import logger
from hf_transfer.methods.anatomy import Anatomy, is_inside
from hf_transfer.models import output_tensors
from hf_transfer.training.activations.activation_key import activation_key, example_digests
from hf_transfer.training.activations.activation_store import ActivationStore
from hf_transfer.training.activations.cached_examples import CachedExamples, PaddedActivations
from hf_transfer.training.activations.entry import Entry
from hf_transfer.training.activations.entry_check import EntryCheck, shortest_and_longest
from hf_transfer.training.batching import evaluation_batches, two_short_examples

if TYPE_CHECKING:
    from hf_transfer.inputs.input import ModelInputs


class FeatureCache:
    """Cache of the activations of one model at one place, and the check that training can use them.

    Args:
        model: before training, without adapters around it.
        anatomy: its parts.
        first: index of the first layer that is not cached; None to cache the fixed front only.
        frozen: modules that stay in eval mode during training.
        collator: of the examples.
        accelerator: of all processes, which share the work.

    Attributes:
        entry: runs the model from cached activations.
        cached_collator: makes batches of `CachedExamples`.
        first_token_only: whether only the first position of each example is stored, as the model reads no other.
        counts_positions: whether ``length`` in a batch counts positions, and not what the dataset's lengths count.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        anatomy: Anatomy,
        first: int | None,
        frozen: list[torch.nn.Module],
        collator: Collator,
        accelerator: Accelerator,
    ):
        self.model, self.anatomy, self.collator, self.accelerator = model, anatomy, collator, accelerator
        self.pad = PaddedActivations(model.main_input_name)
        self.cached_collator = Collator(self.pad, collator.labels)
        self.frozen = frozen
        self.entry = Entry(model, anatomy, first)
        self.first_token_only = False
        self.counts_positions = False

    # --- whether the model can be entered -------------------------------------------------------------------------

    def enter(self, inputs: "Mapping[str, ModelInputs]") -> bool:
        """Return whether the model can be run from cached activations; if it cannot, log why.

        This prepares `entry`. For a fixed front alone, the reason is not logged.

        Args:
            inputs: preprocessed examples of each split.
        """
        obstacle = self._obstacle(inputs)
        if not self._on_all_processes(obstacle is None) and obstacle is None:
            obstacle = "another process found that they cannot be"
        if obstacle is not None and self.entry.first is not None:
            logger.info("Activations are not cached: %s.", obstacle)
        return obstacle is None

    def _obstacle(self, inputs: "Mapping[str, ModelInputs]") -> str | None:
        """Return a clause that says why activations cannot be cached, or None if they can."""
        model_type = self.model.config.model_type
        if self._has_new_weights_below():
            return "some of the model's lower layers did not come from the checkpoint"
        if "train" in inputs and inputs["train"].is_augmented:
            return "training examples are augmented anew in each epoch"
        self.model.eval()
        try:
            difference = self._difference(inputs)
        except Exception as error:  # a model that cannot be entered there may raise any error
            return f"a {model_type} cannot be run from a layer on ({' '.join(str(error).split())[:100]})"
        finally:
            self.model.eval()
        return None if difference is None else f"{difference} (a {model_type})"

    def _difference(self, inputs: "Mapping[str, ModelInputs]") -> str | None:
        """Return a clause on how cached activations differ from what a training step computes, or None.

        They are compared on two short training examples, in eval and in train mode, and on the longest example with
        the shortest.
        """
        check = EntryCheck(self)
        train = inputs.get("train", next(iter(inputs.values())))
        short = [(train, i) for i in two_short_examples(train.lengths)]
        collated = check.collated(short)
        self.counts_positions = collated["length"].tolist() != [int(dataset.lengths[i]) for dataset, i in short]
        with self.computing():
            self.entry.find_skipped_modules(self.on_device(collated))
        self.first_token_only = self._reads_first_token_only(check.states(short))
        if self.first_token_only:
            with self.computing():
                self.entry.compute_first_position_only(self.on_device(collated))
        frozen = self.frozen if "train" in inputs else None
        extremes = shortest_and_longest(inputs)
        padded = short if len(short) > 1 else extremes
        difference = check.difference_with_other_padding(padded) or check.difference(short, frozen)
        if difference and self.first_token_only:
            # Dropout on all positions draws other random numbers than on one: try again with all positions.
            self.first_token_only, self.entry.residual_module = False, None
            difference = check.difference_with_other_padding(padded) or check.difference(short, frozen)
        if difference:
            return difference
        # Above a fixed front, the rest of the model is slow and was compared already: compare the activations only.
        return check.difference_when_alone(extremes) if self.entry.first is None else check.difference(extremes)

    def _has_new_weights_below(self) -> bool:
        """Return whether newly initialised weights are below the entry.

        These are trained, and depend on the seed.
        """
        trunk = self.anatomy.trunk
        new_in_trunk = [name for name in self.anatomy.head if name.startswith(f"{trunk}.")]
        if self.entry.first is None:
            return any(name.startswith(f"{self.anatomy.front}") for name in new_in_trunk)
        above = [f"{self.anatomy.layers}.{i}" for i in range(self.entry.first, len(self.entry.layers))]
        return not all(is_inside(name, [f"{trunk}.pooler", *above]) for name in new_in_trunk)

    def _reads_first_token_only(self, states: list[np.ndarray]) -> bool:
        """Return whether the model's outputs depend on the first token's activation only, by their gradient."""
        longest = max(len(state) for state in states)
        if self.entry.first != len(self.entry.layers) or self.entry.first is None or longest < 2:
            return False
        name, batch = self.pad.name, self.batch(states)
        activations = batch[name].clone().requires_grad_(True)
        with self.entry.skipping(), torch.enable_grad():
            outputs = output_tensors(self.model(**{**batch, name: activations.clone()}))
            total = torch.stack([output.float().pow(2).sum() + output.float().sum() for output in outputs]).sum()
            (gradient,) = torch.autograd.grad(total, activations)
        return not bool(gradient[:, 1:].abs().max() > 0)

    # --- computing and storing ------------------------------------------------------------------------------------

    def examples(
        self, inputs: "Mapping[str, ModelInputs]", args: TrainingArguments
    ) -> dict[str, CachedExamples] | None:
        """Return the examples of each split with cached activations as inputs; missing ones are computed first.

        Args:
            inputs: preprocessed examples of each split.
            args: the training arguments.

        Returns:
            The examples of each split; None where a machine's disk has no room.
        """
        store = None
        try:
            store = ActivationStore(self._key(tf32=bool(args.tf32)))
        except OSError as error:
            logger.info("Activations are not cached: %s (%s).", error.strerror or error, error.filename)
        if not self._on_all_processes(store is not None) or store is None:
            return None
        digests = {name: example_digests(dataset) for name, dataset in inputs.items()}
        # First, all processes compute a share. Then one process of each machine computes what its disk still lacks:
        # machines may not share the folder.
        processes = self.accelerator.num_processes
        shares = [(slice(self.accelerator.process_index, None, processes), processes)]
        if processes > 1:
            shares.append((slice(None if self.accelerator.is_local_main_process else 0), 1))
        for share, sharing in shares:
            rows = {name: missing[share] for name, missing in store.missing(digests).items()}
            if not self._on_all_processes(self._compute(store, inputs, digests, rows, args, sharing)):
                return None
        stored = store.find(digests)
        if not self._on_all_processes(stored is not None) or stored is None:
            logger.info("Activations are not cached: some were removed from %s meanwhile.", store.folder)
            return None
        files, found = stored
        return {
            name: CachedExamples(
                files, places, inputs[name].labels, inputs[name].lengths, seconds,
                counts_positions=self.counts_positions,
            )
            for name, (places, seconds) in found.items()
        }  # fmt: skip

    def _key(self, *, tf32: bool) -> str:
        return activation_key(
            self.entry, first_token_only=self.first_token_only, mixed_precision=self.accelerator.mixed_precision,
            tf32=tf32,
        )  # fmt: skip

    def _on_all_processes(self, value: bool) -> bool:
        """Return whether the value is true on all processes, each of which has to call this."""
        return bool(self.accelerator.gather(torch.tensor([value], device=self.accelerator.device)).all())

    def _compute(
        self,
        store: ActivationStore,
        inputs: "Mapping[str, ModelInputs]",
        digests: Mapping[str, np.ndarray],
        rows: Mapping[str, np.ndarray],
        args: TrainingArguments,
        sharing: int,
    ) -> bool:
        """Compute and store the activations of some rows of each split; return False, and log why, on failure."""
        work = [
            (name, split_rows[batch].tolist())
            for name, split_rows in rows.items()
            for batch in evaluation_batches(inputs[name], inputs[name].positions[split_rows], args)
        ]
        if not work:
            return True
        total = sum(int(self._stored_positions(inputs[name])[split_rows].sum()) for name, split_rows in rows.items())
        first_split, first_batch = work[0]
        width = self._captured(inputs[first_split], first_batch[:1])[0].shape[1]
        size, free = total * width * 4, store.free()
        if size > 0.5 * free:
            logger.info("Activations are not cached: they need %.1f GB, and the disk has %.1f GB left.",
                        size / 1e9, free / 1e9)  # fmt: skip
            return False
        if args.should_log:
            logger.info("Activations of the layers that are not trained are computed once and cached: %.1f MB in %s.",
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

    def _stored_positions(self, dataset: "ModelInputs") -> np.ndarray:
        """Return how many positions are stored of each example, as an array [n]."""
        return np.ones_like(dataset.positions) if self.first_token_only else dataset.positions

    def _captured(self, dataset: "ModelInputs", indices: list[int]) -> list[np.ndarray]:
        return self.captured(self.collator(dataset.__getitems__(indices)), dataset.positions[indices].tolist())

    # --- running the model ----------------------------------------------------------------------------------------

    def captured(self, collated: Mapping[str, Any], positions: list[int]) -> list[np.ndarray]:
        """Return the activations of each example of a batch, as arrays [positions, width], without padding.

        Args:
            collated: the batch.
            positions: number of positions of each example.
        """
        batch = self.on_device(collated)
        self.model.eval()
        with self.computing():
            states = self.entry.capture(batch).float().cpu().numpy()
        if self.first_token_only:
            return [rows[:1] for rows in states]
        mask = batch.get("attention_mask")
        if mask is None or mask.shape[1] != states.shape[1]:  # a mask over samples, not over positions
            return [rows[:count] for rows, count in zip(states, positions, strict=True)]
        return [rows[real] for rows, real in zip(states, mask.cpu().numpy() > 0, strict=True)]

    def batch(self, states: list[np.ndarray]) -> dict[str, torch.Tensor]:
        """Return activations, each [positions, width], as a padded batch for the model inside `Entry.skipping`."""
        return self.on_device(self.pad([{"features": rows} for rows in states]))

    def on_device(self, batch: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """Return those entries of a batch that the model takes, as tensors on the model's device."""
        return to_device(self.model.device, batch)

    @contextlib.contextmanager
    def computing(self) -> Iterator[None]:
        """Context manager: compute in the precision of training, without gradients, inside the block."""
        with torch.inference_mode(), self.accelerator.autocast():
            yield
