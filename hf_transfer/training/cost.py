"""What a run costs: seconds by stage, examples and tokens a second, the share of the arithmetic that is used."""

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from hf_transfer.arguments import MethodArguments
from hf_transfer.methods import Anatomy, count_parameters


class Meter:
    """Seconds by stage of the run."""

    def __init__(self) -> None:
        self.started = time.perf_counter()
        self.stages: dict[str, float] = {}

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the time of the block as `name`."""
        started = time.perf_counter()
        yield
        self.stages[name] = self.stages.get(name, 0.0) + time.perf_counter() - started

    def seconds(self) -> dict[str, float]:
        """Rounded, with the ``total`` so far."""
        return {
            **{k: round(v, 2) for k, v in self.stages.items()},
            "total": round(time.perf_counter() - self.started, 2),
        }


def training_cost(
    trainer: Any, anatomy: Anatomy, method: MethodArguments, seconds: float, *, cached: bool
) -> dict[str, Any]:
    """Throughput of the training just done.

    ``flops_utilisation`` is the arithmetic of the real tokens over what one large matrix product reaches on the same
    device: 2 FLOPs a weight and token forward, as much for the gradient of the activations, as much for the gradient
    of the weights, each where the method needs it; attention's own products and the embedding look-up are left out.
    It is null where activations were cached, as most of the work was not done, and for models with convolutions, whose
    arithmetic that formula does not count.
    """
    state, dataset = trainer.state, trainer.train_dataset
    # What the model's layers see: tokens, or the frames that are made of a clip's samples.
    lengths = np.asarray(getattr(dataset, "positions", None) or dataset["length"][:])
    done_now = (state.global_step - trainer._initial_global_step) / max(1, state.global_step)
    epochs = (state.epoch or 0.0) * done_now  # a resumed run has done the rest before
    examples, tokens = epochs * len(lengths), epochs * float(lengths.sum())
    convolves = any(isinstance(module, torch.nn.Conv1d) for module in trainer.model.modules())
    flops = None if cached or convolves else tokens * _flops_a_token(trainer.model, anatomy, method)
    return {
        "seconds": round(seconds, 2),
        "steps": state.global_step,
        "samples_per_second": round(examples / seconds, 2),
        "real_tokens_per_second": round(tokens / seconds, 1),
        "flops_utilisation": None if flops is None else round(flops / seconds / _matmul_rate(trainer.model.device), 4),
        "cached_activations": cached,
        "peak_memory_bytes": _peak_memory(),
    }


def _flops_a_token(model: torch.nn.Module, anatomy: Anatomy, method: MethodArguments) -> float:
    linear = sum(
        module.weight.numel()
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and ".original_module" not in name and "lora_" not in name
    )
    trainable = count_parameters(model)["trainable"]
    if method.method in ("full", "scratch"):
        return 6.0 * linear
    if method.method == "lora":
        return 4.0 * linear + 6.0 * trainable
    return 2.0 * linear + 4.0 * trainable


def _matmul_rate(device: torch.device, size: int = 1024) -> float:
    """FLOPs a second of a large float32 matrix product here."""
    a = torch.randn(size, size, device=device)
    best = float("inf")
    for _ in range(5):
        started = time.perf_counter()
        b = a @ a
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    del b
    return 2.0 * size**3 / best


def _peak_memory() -> int:
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
