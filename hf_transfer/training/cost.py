"""Cost of a run: seconds of each stage, throughput, FLOPs and their share of the hardware's rate, peak memory."""

import contextlib
import functools
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.optimize import nnls
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from hf_transfer.errors import logger

if TYPE_CHECKING:
    from hf_transfer.inputs.input import ModelInputs
    from hf_transfer.training.activations.cached_examples import CachedExamples
    from hf_transfer.training.batching import TrainingBatches
    from hf_transfer.training.trainer import TransferTrainer

# The longest example whose FLOPs are counted: counting computes attention without fusion, which needs memory that
# grows with the square of the length.
LONGEST_COUNTED = 2048


class Meter:
    """Stopwatch for the stages of a run; making one also resets the recorded peak memory.

    Args:
        device: that the run uses.
    """

    def __init__(self, device: torch.device):
        _reset_peak_memory(device)
        self.started = time.perf_counter()
        self.stages: dict[str, float] = {}
        self.running: tuple[str, float, float] | None = None

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Context manager: add the seconds that the block takes to the stage `name`."""
        before = self.stages.get(name, 0.0)
        self.running = name, before, time.perf_counter()
        try:
            yield
        finally:
            self._update_running()
            self.running = None

    def add(self, name: str, seconds: float) -> None:
        """Add to the stage `name` the seconds of an earlier process, which the run was resumed from."""
        self.stages[name] = self.stages.get(name, 0.0) + seconds
        self.started -= seconds

    def _update_running(self) -> None:
        if self.running is not None:
            name, before, started = self.running
            self.stages[name] = before + time.perf_counter() - started

    def seconds(self) -> dict[str, float]:
        """Return by name the rounded seconds of each stage so far, the current one included, and the ``total``."""
        self._update_running()
        return {
            **{name: round(seconds, 2) for name, seconds in self.stages.items()},
            "total": round(time.perf_counter() - self.started, 2),
        }


def training_cost(
    trainer: "TransferTrainer", examples: "ModelInputs", *, cached: "CachedExamples | None", packed: bool
) -> dict[str, Any]:
    """Return throughput, seconds, FLOPs and peak memory of the training that has just ended, for the report.

    ``flops_utilisation`` is the FLOPs per second, without those of padding, divided by the rate of one large
    matrix product on the same device in the same precision. FLOPs are counted, forward and backward, as the method
    computes them: frozen layers have no gradients, cached activations are not computed. Padding, dropout and
    recomputation do no useful work and are not counted. It is None where the model reads a single position of each
    example, as the length of the examples then has no effect.

    Args:
        trainer: as it has trained.
        examples: the training examples before their activations were cached.
        cached: the cached activations that it trained from, if any.
        packed: whether the layers computed no padding.
    """
    state, seconds, positions = trainer.state, trainer.resumable_state.seconds(), examples.positions
    batches: TrainingBatches = trainer.get_train_dataloader().batch_sampler  # type: ignore[assignment]
    epochs = state.epoch or 0.0
    trained_positions = trainer.train_dataset.positions
    reads_one_position = trained_positions.max() == 1
    memory = _peak_memory(trainer.args.device)
    flops = None if reads_one_position else _flops_an_epoch(trainer, trained_positions)
    accelerator = trainer.accelerator
    peak_rate = _matmul_rate(trainer.model.device, accelerator.mixed_precision) * accelerator.num_processes
    units_per_second = epochs * float(examples.lengths.sum()) / examples.length_per_unit / seconds
    return {
        "seconds": round(seconds, 2),
        "head_seconds": round(trainer.resumable_state.head_seconds, 2),
        "activations_seconds": round(cached.seconds if cached else 0.0, 2),
        "steps": state.global_step,
        "kept_step": state.best_global_step if trainer.args.load_best_model_at_end else None,
        "samples_per_second": round(epochs * len(positions) / seconds, 2),
        "real_tokens_per_second": round(epochs * float(positions.sum()) / seconds, 1),
        **({} if examples.throughput_name is None else {examples.throughput_name: round(units_per_second, 2)}),
        "padding": 0.0 if packed or reads_one_position else round(batches.padding(), 4),
        "flops": None if flops is None else epochs * flops,
        "flops_utilisation": None if flops is None else round(epochs * flops / seconds / peak_rate, 4),
        "cached_activations": cached is not None,
        "peak_memory_bytes": memory,
    }


def _flops_an_epoch(trainer: "TransferTrainer", positions: np.ndarray) -> float | None:
    """Return the FLOPs of an epoch, estimated from three examples by a parabola in the number of positions.

    Attention's FLOPs grow with the square of that number. No coefficient of the parabola is negative; otherwise the
    fit would take the rounding of lengths in convolutions for curvature. The constant term is left out: it does not
    grow with the length, and is paid once a step, as the merging of LoRA's update into the weights.

    Args:
        trainer: as it has trained.
        positions: of each training example, [n].

    Returns:
        None where counting fails: this figure is not worth the loss of a trained model.
    """
    countable = np.flatnonzero(positions <= max(LONGEST_COUNTED, positions.min()))
    rows = countable[_spread_rows(positions[countable])].tolist()
    try:
        counted = {int(positions[i]): _flops_of(trainer, [i]) for i in rows}
        if len(counted) == 1:  # all have the same length: what a second example adds
            return float(_flops_of(trainer, rows * 2) - next(iter(counted.values()))) * len(positions)
    except (RuntimeError, NotImplementedError) as error:
        trainer.model.zero_grad(set_to_none=True)
        logger.info("FLOPs are not counted: %s", " ".join(str(error).split())[:200])
        return None
    lengths, flops = np.array(list(counted)), np.array(list(counted.values()), dtype=float)
    longest = lengths.max()
    powers = np.arange(min(len(lengths), 3))
    coefficients, _ = nnls((lengths[:, None] / longest) ** powers, flops)
    return float((((positions[:, None] / longest) ** powers[1:]) @ coefficients[1:]).sum())


def _spread_rows(lengths: np.ndarray) -> list[int]:
    """Return the rows of the shortest example, of one a third of the range of lengths longer, and of one between.

    Convolutions round lengths, so that the FLOPs of examples with almost the same length do not show how they grow.
    """
    values, rows = np.unique(lengths, return_index=True)
    third = max(int(np.searchsorted(values, values[0] + (values[-1] - values[0]) / 3)), min(2, len(values) - 1))
    middle = min(int(np.searchsorted(values, (values[0] + values[third]) / 2)), max(third - 1, 0))
    return rows[np.unique([0, middle, third])].tolist()


def _flops_of(trainer: "TransferTrainer", rows: list[int]) -> int:
    """Return the FLOPs of a batch of training examples, forward and backward, in eval mode.

    Gradients are removed afterwards.
    """
    model = trainer.model
    examples = trainer.train_dataset.without_augmentation()  # which may change the length of examples
    inputs = trainer._prepare_inputs(trainer.data_collator(examples.__getitems__(rows)))
    model.eval()
    # FLOPs of fused attention are not counted; those of its separate products are.
    with _CountedFlops() as counted, sdpa_kernel(SDPBackend.MATH), torch.enable_grad():
        trainer.compute_loss(model, inputs).backward()
    model.zero_grad(set_to_none=True)
    return counted.flops


class _CountedFlops(TorchDispatchMode):
    """Context manager that counts the FLOPs of all operators that run inside the block, by torch's formulas.

    torch's own `FlopCounterMode` also assigns them to modules, which takes much longer.
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
    """Return the FLOPs per second of a large matrix product on a device, the best of up to five measurements.

    None of these but the first begins after 0.25 seconds.

    Args:
        device: that computes.
        precision: accelerate's setting: ``no``, ``fp16``, ``bf16``.
    """
    if precision != "no" and device.type == "cpu":  # a CPU without bf16 instructions is faster in float32
        return max(_rate(device, precision), _matmul_rate(device, "no"))
    return _rate(device, precision)


def _rate(device: torch.device, precision: str) -> float:
    size = 8192 if device.type == "cuda" else 1024
    dtypes = {"fp16": torch.float16, "bf16": torch.bfloat16}
    matrix = torch.randn(size, size, device=device, dtype=dtypes.get(precision, torch.float32))
    best, until = float("inf"), time.perf_counter() + 0.25
    for _ in range(5):
        started = time.perf_counter()
        if started > until:
            break
        matrix @ matrix
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    return 2.0 * size**3 / best


def _reset_peak_memory(device: torch.device) -> None:
    """Reset the recorded peak memory of this process, and of a GPU, where the system allows it.

    For Linux, see clear_refs in proc(5).
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:
        import resource
    except ImportError:  # on Windows; accelerate requires psutil
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # bytes there, kilobytes elsewhere
