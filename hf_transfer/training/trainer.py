"""`transformers.Trainer` with batches and losses that do not depend on how the work is divided."""

import contextlib
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers import EarlyStoppingCallback, ProgressCallback, set_seed
from transformers.trainer_callback import PrinterCallback

from hf_transfer.data.batches import model_inputs_of
from hf_transfer.errors import logger
from hf_transfer.training.batching import PaddedExamples, TrainingBatches, evaluation_batches
from hf_transfer.training.checkpoints import Progress
from hf_transfer.training.health import Health
from hf_transfer.training.loss import Loss, Readout, mean_loss
from hf_transfer.training.progress_shown import ProgressLines, QuietProgress
from hf_transfer.training.trainer_checkpoints import CheckpointingTrainer
from hf_transfer.training.trainer_evaluation import EvaluatingTrainer


class TransferTrainer(CheckpointingTrainer, EvaluatingTrainer):
    """A Trainer whose step is the exact mean over its examples.

    transformers 5 divides the loss of a step by a count that BERT-like classifiers and CTC models ignore, so that
    accumulation and several processes multiply it (transformers#47688). Here each of its terms is divided by the
    weight of the whole step. Datasets are `ModelInputs`, and batches those of `data.batches.Collator`.

    Args:
        loss: what is minimised.
        readout: ``readout(outputs, batch)``: what is kept in evaluation of each example of a batch.
        run: what the run is, for its checkpoints: see `checkpoints.describe_run`.
        *args: as for `transformers.Trainer`, as all that follows.
        **kwargs: see there.
    """

    def __init__(self, *args: Any, loss: Loss, readout: Readout, run: Mapping[str, Any], **kwargs: Any):
        # Trainer asks this argument whether the loss is divided already; compute_loss() below calls it.
        super().__init__(*args, compute_loss_func=loss, **kwargs)
        self.loss, self.readout, self.run = loss, readout, run
        self.staging = None
        self.whole_model = contextlib.nullcontext
        # Trainer puts the whole model into train mode before each step; these stay in eval mode.
        self.frozen: list[torch.nn.Module] = []
        self.first_weights: dict[str, torch.Tensor] | None = None
        self.stop, self.in_pass = None, False
        self.progress = Progress(self)
        self.add_callback(self.progress)
        self.remove_callback(ProgressCallback)
        self.remove_callback(PrinterCallback)
        self.add_callback(ProgressLines if self.args.disable_tqdm else QuietProgress)
        self.health = Health(loss) if self.args.stop_when_sick else None
        if self.health is not None:
            self.add_callback(self.health)
        if self.args.early_stopping_patience is not None:
            self.add_callback(EarlyStoppingCallback(self.args.early_stopping_patience))

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """As of Trainer, which sets the config's special tokens to the tokenizer's: here they stay as they were.

        What is measured before and after, and read back from disk, depends on them: RoBERTa's positions begin behind
        the padding id.
        """
        config = self.model.config.get_text_config()
        before = {name: getattr(config, name, None) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
        try:
            return super().train(*args, **kwargs)
        finally:
            for name, token in before.items():
                setattr(config, name, token)

    # --- batches ----------------------------------------------------------------------------------------------

    def get_train_dataloader(self) -> DataLoader:
        args = self.args
        whole = args.train_batch_size * args.gradient_accumulation_steps
        batches = TrainingBatches(
            self.train_dataset.lengths,
            step_size=(whole if self.first_weights is None else math.prod(self.asked)) * args.world_size,
            accumulation=args.gradient_accumulation_steps,
            processes=args.world_size,
            rank=args.process_index,
            seed=args.seed if args.data_seed is None else args.data_seed,
            group_by_length=args.train_sampling_strategy == "group_by_length",
            on_epoch=self.train_dataset.set_epoch,
        )
        return self._dataloader(self.train_dataset, batches)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        args = self.args
        batches = evaluation_batches(
            dataset, dataset.positions, args, processes=args.world_size, rank=args.process_index
        )
        return self._dataloader(dataset, batches)

    def get_test_dataloader(self, test_dataset: Any) -> DataLoader:
        return self.get_eval_dataloader(test_dataset)

    def _dataloader(self, dataset: Any, batches: Any) -> DataLoader:
        # Not prepared by accelerate: the batches are this process's own already.
        args = self.args
        return _EpochDataLoader(
            PaddedExamples(dataset),
            batch_sampler=batches,
            collate_fn=self.data_collator,
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory and args.device.type == "cuda",
            # Workers that live on would not learn of a new epoch, on which augmentation depends.
            persistent_workers=args.dataloader_persistent_workers and not dataset.is_augmented,
            prefetch_factor=args.dataloader_prefetch_factor,
            multiprocessing_context=args.dataloader_multiprocessing_context if args.dataloader_num_workers else None,
        )

    def _prepare_input(self, data: Any) -> Any:
        """To the device without waiting for it: what is copied from pinned memory comes before what is computed."""
        if isinstance(data, torch.Tensor):
            return data.to(self.args.device, non_blocking=self.args.dataloader_pin_memory)
        return super()._prepare_input(data)

    # --- memory -----------------------------------------------------------------------------------------------

    def _update_auto_batch_size(self, batch_size: int) -> None:
        """A step keeps its examples, in more micro-batches, and training begins anew: --auto_find_batch_size."""
        super()._update_auto_batch_size(batch_size)
        if self.first_weights is None:
            parameters = self.model.named_parameters()
            self.first_weights = {name: p.detach().cpu().clone() for name, p in parameters if p.requires_grad}
            self.asked = self.args.train_batch_size, self.args.gradient_accumulation_steps
        whole, accumulation = math.prod(self.asked), self.args.gradient_accumulation_steps
        self.args.gradient_accumulation_steps = max(self.asked[1], -(-whole // batch_size))
        if self.args.gradient_accumulation_steps > accumulation:
            for name, weight in self.first_weights.items():
                self.model.get_parameter(name).data.copy_(weight)
            self.optimizer = None  # with its moments of the steps that were taken
            set_seed(self.args.seed)
            self.loss.counts.clear()
            logger.info(
                "Out of memory: the %d examples of a step are divided into %d micro-batches, not %d, and training "
                "begins anew (--gradient_accumulation_steps).",
                whole * self.args.world_size, self.args.gradient_accumulation_steps, accumulation,
            )  # fmt: skip

    # --- loss -------------------------------------------------------------------------------------------------

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> torch.Tensor | None:
        """The weights of the loss's terms [terms] in the whole step, over its micro-batches and all processes."""
        if not batch_samples:
            return None
        total = torch.stack([self.loss.weights(batch) for batch in batch_samples]).sum(dim=0)
        # Alone, they stay where the batches are: to copy them to a GPU would wait for the step before.
        if self.args.world_size > 1 and self.args.average_tokens_across_devices:
            total = self.accelerator.gather(total[None].to(device)).sum(dim=0)
        return total

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor | tuple[torch.Tensor, Any]:
        """A micro-batch's share of the step's loss, times the processes that average their gradients."""
        for module in self.frozen:
            module.training = False
        outputs = model(**model_inputs_of(inputs))
        weights = self.loss.weights(inputs) if num_items_in_batch is None else num_items_in_batch
        loss = mean_loss(self.loss(outputs, inputs), weights)
        if num_items_in_batch is not None and self.args.average_tokens_across_devices:
            loss = loss * self.accelerator.num_processes
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            if self.args.world_size > 1:  # all see the same numbers, and stop together where they are bad
                self.loss.counts[:] = [self.accelerator.reduce(own, reduction="sum") for own in self.loss.counts]
            logs = logs | self.loss.pop_figures() | {"loss_at_chance": self.loss.chance_loss}
        super().log(logs, start_time)


class _EpochDataLoader(DataLoader):
    def set_epoch(self, epoch: int) -> None:
        if isinstance(self.batch_sampler, TrainingBatches):
            self.batch_sampler.set_epoch(epoch)
