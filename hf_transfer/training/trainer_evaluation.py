"""The part of the trainer that computes outputs, and measures them."""

import time
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from torch.utils.data import DataLoader
from transformers import Trainer
from transformers.trainer_utils import EvalLoopOutput, EvalPrediction

from hf_transfer.data.batches import model_inputs_of
from hf_transfer.errors import logger
from hf_transfer.training.checkpoints import Progress
from hf_transfer.training.loss import Loss, Readout, mean_loss


class EvaluatingTrainer(Trainer):
    """A Trainer that keeps of each example what its target reads out, whatever its size is.

    Attributes:
        loss: what is minimised.
        readout: what is kept of each example.
        stop: what knows of the signals that have come: see `interruption`. Passes over examples end early by it.
        in_pass: whether examples are being passed over.
        progress: what checkpoints have to know.
    """

    loss: Loss
    readout: Readout
    stop: Any
    in_pass: bool
    progress: Progress

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
