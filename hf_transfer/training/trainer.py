"""`transformers.Trainer` whose steps do not depend on the division into micro-batches and processes."""

import contextlib
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader, Sampler
from transformers import EarlyStoppingCallback, PreTrainedModel, ProgressCallback, set_seed
from transformers.trainer_callback import PrinterCallback
from transformers.trainer_utils import TrainOutput

from hf_transfer.data.batches import model_inputs_of
from hf_transfer.errors import logger
from hf_transfer.training.batching import PaddedExamples, TrainingBatches, evaluation_batches
from hf_transfer.training.health import Health
from hf_transfer.training.loss import Loss, Readout, mean_loss
from hf_transfer.training.progress_display import ProgressLines, QuietProgress
from hf_transfer.training.resumable_state import ResumableState
from hf_transfer.training.trainer_checkpoints import CheckpointingTrainer
from hf_transfer.training.trainer_evaluation import EvaluatingTrainer

if TYPE_CHECKING:
    from hf_transfer.inputs.input import ModelInputs


class TransferTrainer(CheckpointingTrainer, EvaluatingTrainer):
    """`transformers.Trainer` whose optimizer step is the exact mean over the step's examples.

    transformers 5 divides the loss of a step by a count of items that BERT-like classifiers and CTC models ignore, so
    that gradient accumulation and several processes multiply the loss (transformers#47688). Here each term of the loss
    is divided by its weight in the whole step. Datasets are `ModelInputs`; batches are made by a
    `data.batches.Collator`.

    Args:
        *args: those of `transformers.Trainer`, as are `kwargs`.
        loss: the training loss.
        readout: what evaluation keeps of each example's outputs.
        run: description of the run for its checkpoints, from `resuming.describe_run`.
        **kwargs: see `args`.

    Attributes:
        frozen_modules: modules that stay in eval mode during training.
        first_weights: the trained weights before training, by name; None unless --auto_find_batch_size has reduced
            the batch size.
        requested_batch_size: the batch size and accumulation steps before that reduction.
    """

    def __init__(self, *args: Any, loss: Loss, readout: Readout, run: Mapping[str, Any], **kwargs: Any):
        # Trainer only checks whether this argument is None (the loss is averaged here); `compute_loss` calls the loss.
        super().__init__(*args, compute_loss_func=loss, **kwargs)
        self.loss, self.readout, self.run = loss, readout, run
        self.staging = None
        self.with_all_modules = contextlib.nullcontext
        self.frozen_modules: list[torch.nn.Module] = []
        self.first_weights: dict[str, torch.Tensor] | None = None
        self.stop_callback, self.is_evaluating = None, False
        self.resumable_state = ResumableState(self)
        self.add_callback(self.resumable_state)
        self.remove_callback(ProgressCallback)
        self.remove_callback(PrinterCallback)
        self.add_callback(ProgressLines if self.args.disable_tqdm else QuietProgress)
        self.health = Health(loss) if self.args.stop_when_sick else None
        if self.health is not None:
            self.add_callback(self.health)
        if self.args.early_stopping_patience is not None:
            self.add_callback(EarlyStoppingCallback(self.args.early_stopping_patience))

    def train(self, *args: Any, **kwargs: Any) -> TrainOutput:
        """Train as `Trainer.train` does and return its output, but keep the special tokens of the model's config.

        Trainer sets these to the tokenizer's. Outputs depend on them (RoBERTa's position ids start behind the padding
        id), and have to be the same before training, after it, and when the model is loaded again.
        """
        config = self.model.config.get_text_config()
        before = {name: getattr(config, name, None) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
        try:
            return super().train(*args, **kwargs)
        finally:
            for name, token in before.items():
                setattr(config, name, token)

    def floating_point_ops(self, inputs: Any) -> int:
        """Return 0 instead of Trainer's number of FLOPs, whose computation takes time in each step.

        `training.cost` counts FLOPs.
        """
        return 0

    # --- batches ----------------------------------------------------------------------------------------------

    def get_train_dataloader(self) -> DataLoader:
        args = self.args
        step_size = args.train_batch_size * args.gradient_accumulation_steps
        if self.first_weights is not None:
            step_size = math.prod(self.requested_batch_size)
        batches = TrainingBatches(
            self.train_dataset.lengths,
            step_size=step_size * args.world_size,
            accumulation=args.gradient_accumulation_steps,
            processes=args.world_size,
            rank=args.process_index,
            seed=args.seed if args.data_seed is None else args.data_seed,
            group_by_length=args.train_sampling_strategy == "group_by_length",
            on_epoch=self.train_dataset.set_epoch,
        )
        return self._dataloader(self.train_dataset, batches)

    def get_eval_dataloader(self, eval_dataset: "ModelInputs | None" = None) -> DataLoader:
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        args = self.args
        batches = evaluation_batches(
            dataset, dataset.positions, args, processes=args.world_size, rank=args.process_index
        )
        return self._dataloader(dataset, batches)

    def get_test_dataloader(self, test_dataset: "ModelInputs") -> DataLoader:
        return self.get_eval_dataloader(test_dataset)

    def _dataloader(self, dataset: "ModelInputs", batches: Sampler[list[int]]) -> DataLoader:
        # accelerate does not prepare it: the batches are those of this process already.
        args = self.args
        return _EpochDataLoader(
            PaddedExamples(dataset),
            batch_sampler=batches,
            collate_fn=self.data_collator,
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory and args.device.type == "cuda",
            # Persistent workers would not get to know the new epoch, on which augmentation depends.
            persistent_workers=args.dataloader_persistent_workers and not dataset.is_augmented,
            prefetch_factor=args.dataloader_prefetch_factor,
            multiprocessing_context=args.dataloader_multiprocessing_context if args.dataloader_num_workers else None,
        )

    def _prepare_input(self, data: Any) -> Any:
        """Return a batch, or a part of it, copied to the device without waiting for the copy.

        Copies from pinned memory are queued before the computation.
        """
        if isinstance(data, torch.Tensor):
            return data.to(self.args.device, non_blocking=self.args.dataloader_pin_memory)
        return super()._prepare_input(data)

    # --- memory -----------------------------------------------------------------------------------------------

    def _update_auto_batch_size(self, batch_size: int) -> None:
        """Divide each step into more micro-batches after memory has run out, and reset the model to start again.

        Trainer (--auto_find_batch_size) would make the step smaller; here it keeps its examples.
        """
        super()._update_auto_batch_size(batch_size)
        if self.first_weights is None:
            parameters = self.model.named_parameters()
            self.first_weights = {name: p.detach().cpu().clone() for name, p in parameters if p.requires_grad}
            self.requested_batch_size = self.args.train_batch_size, self.args.gradient_accumulation_steps
        examples, accumulation = math.prod(self.requested_batch_size), self.args.gradient_accumulation_steps
        self.args.gradient_accumulation_steps = max(self.requested_batch_size[1], -(-examples // batch_size))
        if self.args.gradient_accumulation_steps > accumulation:
            for name, weight in self.first_weights.items():
                self.model.get_parameter(name).data.copy_(weight)
            self.optimizer = None  # it holds moments of the steps that were taken
            set_seed(self.args.seed)
            self.loss.counts.clear()
            logger.info(
                "Out of memory: the %d examples of a step are divided into %d micro-batches instead of %d, and "
                "training restarts (--gradient_accumulation_steps).",
                examples * self.args.world_size, self.args.gradient_accumulation_steps, accumulation,
            )  # fmt: skip

    # --- loss -------------------------------------------------------------------------------------------------

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> torch.Tensor | None:
        """Return each loss term's weight in the whole step, over micro-batches and processes, [terms], or None.

        It is None without batches.
        """
        if not batch_samples:
            return None
        total = torch.stack([self.loss.weights(batch) for batch in batch_samples]).sum(dim=0)
        # In a single process they stay on the CPU: to copy them to a GPU would wait for the step before.
        if self.args.world_size > 1 and self.args.average_tokens_across_devices:
            total = self.accelerator.gather(total[None].to(device)).sum(dim=0)
        return total

    def compute_loss(
        self,
        model: PreTrainedModel,
        inputs: Mapping[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | None = None,
    ) -> Any:
        """Return a micro-batch's share of the step's loss, times the number of processes, which average gradients.

        With `return_outputs`, return the model's outputs too.
        """
        # Trainer puts the whole model into train mode before each step.
        for module in self.frozen_modules:
            module.training = False
        outputs = model(**model_inputs_of(inputs))
        weights = self.loss.weights(inputs) if num_items_in_batch is None else num_items_in_batch
        loss = mean_loss(self.loss(outputs, inputs), weights)
        if num_items_in_batch is not None and self.args.average_tokens_across_devices:
            loss = loss * self.accelerator.num_processes
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            if self.args.world_size > 1:  # so that the health checks stop all processes together
                self.loss.counts[:] = [self.accelerator.reduce(each, reduction="sum") for each in self.loss.counts]
            logs = logs | self.loss.pop_figures() | {"loss_at_chance": self.loss.chance_loss}
        super().log(logs, start_time)


class _EpochDataLoader(DataLoader):
    def set_epoch(self, epoch: int) -> None:
        if isinstance(self.batch_sampler, TrainingBatches):
            self.batch_sampler.set_epoch(epoch)
