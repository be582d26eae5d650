"""What a run costs: seconds by stage, examples and tokens a second, the share of the arithmetic that is used."""

import contextlib
import functools
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import nnls
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from hf_transfer.errors import logger

# Attention is counted as separate products, which take memory by the square of the length.
LONGEST_COUNTED = 2048


class Meter:
    """Seconds by stage of the run; peak memory counts from here on.

    Args:
        device: that it works on.
    """

    def __init__(self, device: torch.device):
        _forget_peak_memory(device)
        self.started = time.perf_counter()
        self.stages: dict[str, float] = {}
        self.running: tuple[str, float, float] | None = None

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the time of the block as `name`."""
        before = self.stages.get(name, 0.0)
        self.running = name, before, time.perf_counter()
        try:
            yield
        finally:
            self._note()
            self.running = None

    def add(self, name: str, seconds: float) -> None:
        """Count seconds of an earlier process that was stopped as the stage `name`."""
        self.stages[name] = self.stages.get(name, 0.0) + seconds
        self.started -= seconds

    def _note(self) -> None:
        if self.running is not None:
            name, before, started = self.running
            self.stages[name] = before + time.perf_counter() - started

    def seconds(self) -> dict[str, float]:
        """Rounded, the stage that is running among them, with the ``total`` so far."""
        self._note()
        return {
            **{k: round(v, 2) for k, v in self.stages.items()},
            "total": round(time.perf_counter() - self.started, 2),
        }


def training_cost(trainer: Any, examples: Any, *, cached: Any, packed: bool) -> dict[str, Any]:
    """Throughput of the training just done, in what the model was given: tokens, or frames.

    ``flops_utilisation`` is the arithmetic of the real tokens over what one large matrix product reaches on the same
    device and in the same precision. It is counted, forward and backward, as the method does it: what is frozen has no
    gradients, what is cached is not computed. Padding, dropout and recomputation are no use and are not counted. It is
    null where the model reads a single position of each example, as nothing is left that lengths could be told from.

    Args:
        trainer: still as it trained.
        examples: that it trained on, before anything of them was cached.
        cached: the activations that it trained from, if they were cached.
        packed: whether the layers computed no padding.
    """
    state, seconds, lengths = trainer.state, trainer.progress.seconds(), examples.positions
    batches = trainer.get_train_dataloader().batch_sampler
    epochs = state.epoch or 0.0
    left = trainer.train_dataset.positions
    memory = _peak_memory(trainer.args.device)
    flops = None if left.max() == 1 else _flops_an_epoch(trainer, left)
    accelerator = trainer.accelerator
    rate = _matmul_rate(trainer.model.device, accelerator.mixed_precision) * accelerator.num_processes
    given = epochs * float(examples.lengths.sum()) / examples.length_per_unit / seconds
    return {
        "seconds": round(seconds, 2),
        "head_seconds": round(trainer.progress.head_seconds, 2),
        "activations_seconds": round(cached.seconds if cached else 0.0, 2),
        "steps": state.global_step,
        "kept_step": state.best_global_step if trainer.args.load_best_model_at_end else None,
        "samples_per_second": round(epochs * len(lengths) / seconds, 2),
        "real_tokens_per_second": round(epochs * float(lengths.sum()) / seconds, 1),
        **({} if examples.throughput_name is None else {examples.throughput_name: round(given, 2)}),
        "padding": 0.0 if packed or left.max() == 1 else round(batches.padding(), 4),
        "flops": None if flops is None else epochs * flops,
        "flops_utilisation": None if flops is None else round(epochs * flops / seconds / rate, 4),
        "cached_activations": cached is not None,
        "peak_memory_bytes": memory,
    }


def _flops_an_epoch(trainer: Any, lengths: np.ndarray) -> float | None:
    """Counted for three examples by themselves; arithmetic is a parabola of the length (attention).

    None of its three parts is negative: a fit that may be takes the rounding of convolutions for curvature. What does
    not grow with the length is left out: LoRA adds its update into the weights once a step. None where the model
    cannot be counted: a figure is not worth a trained model.
    """
    short = np.flatnonzero(lengths <= max(LONGEST_COUNTED, lengths.min()))
    some = short[_apart(lengths[short])].tolist()
    try:
        counted = {int(lengths[i]): _flops_of(trainer, [i]) for i in some}
        if len(counted) == 1:  # what a second one costs more
            return float(_flops_of(trainer, some * 2) - next(iter(counted.values()))) * len(lengths)
    except (RuntimeError, NotImplementedError) as error:
        trainer.model.zero_grad(set_to_none=True)
        logger.info("The arithmetic is not counted: %s", " ".join(str(error).split())[:200])
        return None
    own, flops = np.array(list(counted)), np.array(list(counted.values()), dtype=float)
    longest = own.max()
    powers = np.arange(min(len(own), 3))
    parts, _ = nnls((own[:, None] / longest) ** powers, flops)
    return float((((lengths[:, None] / longest) ** powers[1:]) @ parts[1:]).sum())


def _apart(lengths: np.ndarray) -> list[int]:
    """Rows of the shortest, of one that is longer by a third of what the longest is, and of one in between.

    Where convolutions round the length, examples that are nearer to each other would not tell what others cost.
    """
    found, rows = np.unique(lengths, return_index=True)
    third = max(int(np.searchsorted(found, found[0] + (found[-1] - found[0]) / 3)), min(2, len(found) - 1))
    middle = min(int(np.searchsorted(found, (found[0] + found[third]) / 2)), max(third - 1, 0))
    return rows[np.unique([0, middle, third])].tolist()


def _flops_of(trainer: Any, rows: list[int]) -> int:
    """FLOPs of a batch of examples as they are, forward and backward; nothing of the model changes."""
    model, examples = (
        trainer.model,
        trainer.train_dataset.without_augmentation(),
    )  # augmentation makes them longer or shorter
    inputs = trainer._prepare_inputs(trainer.data_collator(examples.__getitems__(rows)))
    model.eval()
    # Fused attention is not counted; as separate products it is.
    with _CountedFlops() as counted, sdpa_kernel(SDPBackend.MATH), torch.enable_grad():
        trainer.compute_loss(model, inputs).backward()
    model.zero_grad(set_to_none=True)
    return counted.flops


class _CountedFlops(TorchDispatchMode):
    """FLOPs of all that is computed inside, by torch's formulas of its operators.

    As torch's `FlopCounterMode`, but as a sum only: to follow which module computes what takes longer than all else.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        formula = flop_registry.get(func._overloadpacket)
        self.flops += formula(*args, **kwargs, out_val=output) if formula else 0
        return output


@functools.cache
def _matmul_rate(device: torch.device, precision: str) -> float:
    """FLOPs a second of a large matrix product here: the best of a few, or of what a quarter of a second allows."""
    if precision != "no" and device.type == "cpu":  # one without bf16 arithmetic is slower at it than in float32
        return max(_rate(device, precision), _matmul_rate(device, "no"))
    return _rate(device, precision)


def _rate(device: torch.device, precision: str) -> float:
    size = 8192 if device.type == "cuda" else 1024
    kinds = {"fp16": torch.float16, "bf16": torch.bfloat16}
    a = torch.randn(size, size, device=device, dtype=kinds.get(precision, torch.float32))
    best, until = float("inf"), time.perf_counter() + 0.25
    for _ in range(5):
        started = time.perf_counter()
        if started > until:
            break
        a @ a
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    return 2.0 * size**3 / best


def _forget_peak_memory(device: torch.device) -> None:
    """Let the next run in this process have a peak of its own, where the system can: see proc(5), clear_refs."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:
        import resource
    except ImportError:  # on Windows; accelerate has brought psutil
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # bytes there, kilobytes elsewhere
