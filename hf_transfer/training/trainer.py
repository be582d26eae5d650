"""`transformers.Trainer` with batches and losses that do not depend on how the work is divided."""

import contextlib
import math
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from torch.utils.data import DataLoader
from transformers import EarlyStoppingCallback, ProgressCallback, Trainer, set_seed
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import PrinterCallback
from transformers.trainer_utils import EvalLoopOutput, EvalPrediction

from hf_transfer.data.batches import model_inputs_of
from hf_transfer.errors import logger
from hf_transfer.training.batching import PaddedExamples, TrainingBatches, evaluation_batches
from hf_transfer.training.checkpoints import STAGING, Progress, remove_old, seal, written_beside
from hf_transfer.training.health import Health, require_finite
from hf_transfer.training.loss import Loss, mean_loss
from hf_transfer.training.progress_shown import ProgressLines, QuietProgress


class TransferTrainer(Trainer):
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

    def __init__(
        self, *args: Any, loss: Loss, readout: Callable[..., list[Any]], run: Mapping[str, Any], **kwargs: Any
    ):
        # Trainer asks this argument whether the loss is divided already; compute_loss() below calls it.
        super().__init__(*args, compute_loss_func=loss, **kwargs)
        self.loss, self.readout, self.run = loss, readout, run
        self.staging: Path | None = None
        # A block in which the model has all of its parts, where some are left out of training; it is not run there.
        self.whole_model: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext
        # Trainer puts the whole model into train mode before each step; these stay in eval mode.
        self.frozen: list[torch.nn.Module] = []
        self.first_weights: dict[str, torch.Tensor] | None = None
        # What knows of the signals that have come: see `interruption`. Passes over examples end early by it.
        self.stop: Any = None
        self.in_pass = False
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
            persistent_workers=args.dataloader_persistent_workers and not dataset.varies,
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
            logs = logs | self.loss.watched() | {"loss_at_chance": self.loss.chance}
        super().log(logs, start_time)

    # --- checkpoints ------------------------------------------------------------------------------------------

    def _get_output_dir(self, trial: Any) -> str:
        return str(self.staging or super()._get_output_dir(trial))

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Written by all processes beside the others, then sealed and renamed into place by one."""
        require_finite(self.model, self.args.learning_rate, self.args.output_dir)
        folder = Path(self.args.output_dir)
        if self.args.should_save:
            shutil.rmtree(folder / STAGING, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        self.staging = folder / STAGING
        try:
            with written_beside(folder), self.whole_model():
                super()._save_checkpoint(model, trial)
                staged = self.staging / f"checkpoint-{self.state.global_step}"
                if not self.args.save_only_model:
                    self.progress.save(staged)
                self.accelerator.wait_for_everyone()
                self._know_best(folder)
                if self.args.should_save:
                    self.state.save_to_json(str(staged / TRAINER_STATE_NAME))
                    seal(staged, folder, self.run)
                    # Only now: before, an older one was the last that is whole.
                    remove_old(folder, self.args.save_total_limit, self.state.best_model_checkpoint)
        finally:
            self.staging = None
        self.accelerator.wait_for_everyone()

    def _know_best(self, *folders: Path) -> None:
        """The best checkpoint by its place now, wherever it was written; the search begins anew where it is gone."""
        step = self.state.best_global_step
        if step is None:
            return
        places = [
            *folders,
            *([Path(self.state.best_model_checkpoint).parent] if self.state.best_model_checkpoint else []),
        ]
        best = [place / f"checkpoint-{step}" for place in places]
        there = [checkpoint for checkpoint in best if checkpoint.is_dir()]
        if self.staging is not None and step == self.state.global_step:
            there = best[:1]  # being written
        self.state.best_model_checkpoint = str(there[0]) if there else None
        if not there:
            logger.info("The best checkpoint so far, of step %d, is gone: the best of those to come is kept.", step)
            self.state.best_metric = self.state.best_global_step = None

    def _init_training_state(
        self,
        max_steps: int,
        num_update_steps_per_epoch: int,
        num_train_epochs: int,
        resume_from_checkpoint: str | None = None,
        trial: Any = None,
    ) -> tuple[int, int]:
        done = super()._init_training_state(
            max_steps, num_update_steps_per_epoch, num_train_epochs, resume_from_checkpoint, trial
        )
        if resume_from_checkpoint is not None:
            self.progress.load(Path(resume_from_checkpoint))
            self._know_best(Path(self.args.output_dir), Path(resume_from_checkpoint).parent)
            if self.state.global_step >= max_steps:
                return num_train_epochs, 0  # it was stopped after its last step
            if any(
                isinstance(callback, EarlyStoppingCallback)
                and callback.early_stopping_patience_counter >= callback.early_stopping_patience
                for callback in self.callback_handler.callbacks
            ):
                return num_train_epochs, 0  # it had stopped early already
        return done

    def _run_epoch(self, **kwargs: Any) -> None:
        if not self.control.should_training_stop:  # an evaluation that was due has stopped it early
            super()._run_epoch(**kwargs)

    # --- evaluation -------------------------------------------------------------------------------------------

    def _evaluate(self, trial: Any, ignore_keys_for_eval: Any, skip_scheduler: bool = False) -> dict[str, float]:
        """Evaluate in training; where a signal ends it, the checkpoint knows that the evaluation is still due."""
        self.progress.evaluation_due = True
        metrics = super()._evaluate(trial, ignore_keys_for_eval, skip_scheduler)
        self.progress.evaluation_due = False
        return metrics

    def evaluate_what_is_due(self) -> None:
        """The evaluation that a signal ended, and what follows from it: see `checkpoint_on_signal`."""
        self.control.should_evaluate, self.control.should_log = True, False
        self._maybe_log_save_evaluate(
            self._tr_loss, None, self.model, None, self.state.epoch or 0.0, None, time.time(),
        )  # fmt: skip

    def evaluation_loop(
        self,
        dataloader: DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """What `readout` keeps of every example [n], in the dataset's order, on every process; mean loss over them."""
        args = self.args
        while True:
            try:
                found, terms = self._outputs(dataloader)
            except RuntimeError as error:
                batch_size = args.per_device_eval_batch_size
                if not (args.auto_find_batch_size and should_reduce_batch_size(error)) or batch_size == 1:
                    raise
            else:
                return self._measured(found, terms, metric_key_prefix)
            args.per_device_eval_batch_size = max(1, args.per_device_eval_batch_size // 2)
            logger.info("Out of memory: measured %d at a time (--per_device_eval_batch_size).",
                        args.per_device_eval_batch_size)  # fmt: skip
            clear_device_cache(garbage_collection=True)
            dataloader = self.get_eval_dataloader(dataloader.dataset.dataset)  # type: ignore[attr-defined]

    def _outputs(self, dataloader: DataLoader) -> tuple[list[tuple[int, Any]], torch.Tensor]:
        """What is kept of each of this process's examples, by its index; sums and weights of the loss [2, terms]."""
        batches: Any = dataloader.batch_sampler
        self.callback_handler.eval_dataloader = dataloader
        self.model.eval()
        found: list[tuple[int, Any]] = []
        terms: Any = 0.0
        self.in_pass = True
        for indices, batch in zip(batches, dataloader, strict=True):
            if self.stop is not None and self.stop.signal_number:
                break
            inputs = self._prepare_inputs(batch)
            # In mixed precision only while the model trains: accelerate has wrapped its forward pass then.
            with torch.inference_mode():
                outputs = self.model(**model_inputs_of(inputs))
                terms = terms + torch.stack([self.loss(outputs, inputs), self.loss.weights(inputs)]).cpu().double()
                found += zip(indices, self.readout(outputs, inputs), strict=True)
            self.callback_handler.on_prediction_step(self.args, self.state, self.control)
        self.in_pass = False
        if self.stop is not None:
            self.stop.end_pass()
        return found, terms

    def _measured(self, found: list[tuple[int, Any]], terms: torch.Tensor, metric_key_prefix: str) -> EvalLoopOutput:
        """Of all processes, in the dataset's order."""
        if self.args.world_size > 1:
            found = gather_object(found)
            terms = sum(gather_object([terms]))
        found.sort(key=lambda pair: pair[0])
        predictions = np.empty(len(found), dtype=object)  # each may have a size of its own
        for i, (_, value) in enumerate(found):
            predictions[i] = value
        metrics = {f"{metric_key_prefix}_loss": float(mean_loss(*terms))}
        if self.compute_metrics is not None and metric_key_prefix == "eval":
            computed = self.compute_metrics(EvalPrediction(predictions=predictions, label_ids=None))
            metrics |= {f"{metric_key_prefix}_{name}": value for name, value in computed.items()}
        return EvalLoopOutput(predictions=predictions, label_ids=None, metrics=metrics, num_samples=len(found))


class _EpochDataLoader(DataLoader):
    def set_epoch(self, epoch: int) -> None:
        if isinstance(self.batch_sampler, TrainingBatches):
            self.batch_sampler.set_epoch(epoch)
