"""The part of the trainer that predicts and evaluates."""

import time
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate.utils import gather_object
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from torch.utils.data import DataLoader
from transformers import Trainer
from transformers.trainer_utils import EvalLoopOutput, EvalPrediction

from hf_transfer.data.batches import model_inputs_of
from hf_transfer.errors import logger
from hf_transfer.training.loss import Loss, Readout, mean_loss
from hf_transfer.training.resumable_state import ResumableState

if TYPE_CHECKING:
    from hf_transfer.training.interruption import StopCallback


class EvaluatingTrainer(Trainer):
    """`transformers.Trainer` whose predictions are what the target's readout keeps of each example, of any size.

    Attributes:
        loss: the training loss.
        readout: what evaluation keeps of each example's outputs.
        stop_callback: knows whether a signal has come, and then ends an evaluation early; None outside of training.
        is_evaluating: whether an evaluation is running.
        resumable_state: notes that an evaluation was interrupted.
    """

    loss: Loss
    readout: Readout
    stop_callback: "StopCallback | None"
    is_evaluating: bool
    resumable_state: ResumableState

    def _evaluate(self, trial: Any, ignore_keys_for_eval: Any, skip_scheduler: bool = False) -> dict[str, float]:
        """Evaluate during training, and return the metrics.

        If a signal interrupts it, the checkpoint notes that the evaluation is due.
        """
        self.resumable_state.evaluation_due = True
        metrics = super()._evaluate(trial, ignore_keys_for_eval, skip_scheduler)
        self.resumable_state.evaluation_due = False
        return metrics

    def evaluate_as_due(self) -> None:
        """Do the evaluation that a signal interrupted before the run was resumed, and save a checkpoint if due."""
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
        """Predict all examples, on every process, and return predictions, metrics and the mean loss.

        The batch size is halved when memory runs out.

        Returns:
            As ``predictions`` [n] what `readout` keeps of each example, in the dataset's order; the mean loss.
        """
        args = self.args
        while True:
            try:
                predictions, loss_terms = self._predict_share(dataloader)
            except RuntimeError as error:
                batch_size = args.per_device_eval_batch_size
                if not (args.auto_find_batch_size and should_reduce_batch_size(error)) or batch_size == 1:
                    raise
            else:
                return self._gathered(predictions, loss_terms, metric_key_prefix)
            args.per_device_eval_batch_size = max(1, args.per_device_eval_batch_size // 2)
            logger.info("Out of memory: evaluation uses batches of %d from now on (--per_device_eval_batch_size).",
                        args.per_device_eval_batch_size)  # fmt: skip
            clear_device_cache(garbage_collection=True)
            dataloader = self.get_eval_dataloader(dataloader.dataset.dataset)  # type: ignore[attr-defined]

    def _predict_share(self, dataloader: DataLoader) -> tuple[list[tuple[int, Any]], torch.Tensor]:
        """Predict the examples of this process, and return the predictions and the terms of the loss.

        Returns:
            Each example's index and what `readout` keeps of it; the sums and the weights of the loss [2, terms].
        """
        batches: Any = dataloader.batch_sampler
        self.callback_handler.eval_dataloader = dataloader
        self.model.eval()
        predictions: list[tuple[int, Any]] = []
        loss_terms: Any = 0.0
        self.is_evaluating = True
        for indices, batch in zip(batches, dataloader, strict=True):
            if self.stop_callback is not None and self.stop_callback.signal_number:
                break
            inputs = self._prepare_inputs(batch)
            # While the model trains in mixed precision, accelerate has wrapped its forward pass in autocast.
            with torch.inference_mode():
                outputs = self.model(**model_inputs_of(inputs))
                sums_and_weights = torch.stack([self.loss(outputs, inputs), self.loss.weights(inputs)])
                loss_terms = loss_terms + sums_and_weights.cpu().double()
                predictions += zip(indices, self.readout(outputs, inputs), strict=True)
            self.callback_handler.on_prediction_step(self.args, self.state, self.control)
        self.is_evaluating = False
        if self.stop_callback is not None:
            self.stop_callback.end_evaluation()
        return predictions, loss_terms

    def _gathered(
        self, predictions: list[tuple[int, Any]], loss_terms: torch.Tensor, metric_key_prefix: str
    ) -> EvalLoopOutput:
        """Return the predictions of all processes in the dataset's order, with the metrics and the mean loss."""
        if self.args.world_size > 1:
            predictions = gather_object(predictions)
            loss_terms = sum(gather_object([loss_terms]))
        predictions.sort(key=lambda pair: pair[0])
        in_order = np.empty(len(predictions), dtype=object)  # of objects, as each may have another size
        for i, (_, value) in enumerate(predictions):
            in_order[i] = value
        metrics = {f"{metric_key_prefix}_loss": float(mean_loss(*loss_terms))}
        if self.compute_metrics is not None and metric_key_prefix == "eval":
            computed = self.compute_metrics(EvalPrediction(predictions=in_order, label_ids=None))
            metrics |= {f"{metric_key_prefix}_{name}": value for name, value in computed.items()}
        return EvalLoopOutput(predictions=in_order, label_ids=None, metrics=metrics, num_samples=len(predictions))
