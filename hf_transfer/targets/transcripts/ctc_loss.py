"""The CTC loss of transcripts."""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn import functional as F

from hf_transfer.training.losses import add_up


@dataclass
class CTCLoss:
    """Connectionist temporal classification (Graves et al. 2006), each clip's loss a letter.

    Infinite losses stay infinite: they are a clip that cannot be spelt in its frames.

    Attributes:
        blank: id of the blank token.
        frames_of: from the lengths of inputs [batch] to those of the model's outputs.
    """

    blank: int
    frames_of: Callable[[torch.Tensor], torch.Tensor]
    counts: list[torch.Tensor] = field(default_factory=list, repr=False)
    chance: float = 0.0

    def __call__(self, outputs: Any, labels: Any, lengths: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        logits = outputs["logits"].float()
        counted = labels[:, 0] != -100
        letters = (labels != -100).sum(dim=-1)
        self.chance = math.log(logits.shape[-1])
        frames = self.frames_of(lengths)
        with torch.autocast(logits.device.type, enabled=False):
            each = _ctc(logits.log_softmax(dim=-1).transpose(0, 1), labels.clamp(min=0), frames, letters, self.blank)
        each = torch.where(counted, each / letters.clamp(min=1), 0.0)
        if logits.requires_grad:
            self._watch(logits.detach(), frames, counted)
        return each.sum() / (len(labels) if num_items_in_batch is None else num_items_in_batch)

    def _watch(self, logits: torch.Tensor, frames: torch.Tensor, counted: torch.Tensor) -> None:
        """Count on the device: asking for the numbers here would make each step wait."""
        real = torch.arange(logits.shape[1], device=logits.device) < frames[:, None]
        real &= counted[:, None]
        blank = (logits.argmax(dim=-1) == self.blank) & real
        empty = (blank.sum(dim=-1) == real.sum(dim=-1)) & counted
        add_up(self.counts, torch.stack([blank.sum(), real.sum(), empty.sum(), counted.sum()]))

    def watched(self) -> dict[str, float]:
        """``blank_ratio``, the share of blank frames, and ``empty_hypotheses``, the share of clips that stay empty."""
        if not self.counts:
            return {}
        blank, frames, empty, clips = self.counts[0].tolist()
        self.counts.clear()
        return {"blank_ratio": blank / max(1, frames), "empty_hypotheses": empty / max(1, clips)}


def _ctc(
    log_probabilities: torch.Tensor, labels: torch.Tensor, frames: torch.Tensor, letters: torch.Tensor, blank: int
) -> torch.Tensor:
    """The loss of each clip [batch]; on the processor where the GPU is Apple's, for which PyTorch has no CTC."""
    device = log_probabilities.device
    place = torch.device("cpu") if device.type == "mps" else device
    log_probabilities, labels = log_probabilities.to(place), labels.to(place)
    each = F.ctc_loss(log_probabilities, labels, frames.to(place), letters.to(place), blank, reduction="none")
    return each.to(device)


def spelling_frames(labels: list[int]) -> int:
    """Frames that CTC needs to spell `labels`: one each, and a blank between two that are the same."""
    return len(labels) + sum(a == b for a, b in itertools.pairwise(labels))
