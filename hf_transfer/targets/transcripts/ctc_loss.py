"""The CTC loss of transcripts."""

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch.nn import functional as F

from hf_transfer.training.loss import TrainingPosition, add_counts, examples_counted

# A recogniser that has spoken and then stays silent for so many clips and logs in a row has collapsed to blanks.
COLLAPSED_LOGS, COLLAPSED_CLIPS = 10, 100
SILENT_SHARE, SPEAKING_SHARE = 0.99, 0.9
# In nats a letter. A head that is new babbles at twice as much, and then is silent for a while before it learns.
SPEAKING_LOSS = 2.0


class Silence:
    """`CollapseCheck` of a recogniser that hears nothing."""

    def __init__(self) -> None:
        self.has_spoken = False
        self.logs = self.since = 0

    @property
    def suspected(self) -> bool:
        """Whether it is silent again."""
        return self.has_spoken and self.logs > 0

    def check(self, figures: Mapping[str, float], position: TrainingPosition) -> str | None:
        """As of `CollapseCheck`."""
        if "empty_hypotheses" not in figures:
            return None
        empty = figures["empty_hypotheses"]
        self.has_spoken = self.has_spoken or (empty < SPEAKING_SHARE and figures["loss"] < SPEAKING_LOSS)
        if empty < SILENT_SHARE:
            self.logs, self.since = 0, position.step
            return None
        self.logs += 1
        clips = (position.step - self.since) * position.examples_per_step
        if self.has_spoken and self.logs >= COLLAPSED_LOGS and clips >= COLLAPSED_CLIPS:
            return f"the recogniser has collapsed to blanks: it wrote nothing for {clips} clips"
        return None

    def final_warning(self) -> str | None:
        """That it never spoke."""
        if not self.logs or self.has_spoken:
            return None
        return (
            "By the last step the recogniser still writes nothing: train longer (--num_train_epochs), raise "
            "--learning_rate, or start from a checkpoint that can spell."
        )


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
    chance_loss: float = 0.0
    collapse_check: Silence = field(default_factory=Silence, repr=False)
    starts_at_chance: ClassVar[bool] = False

    def weights(self, batch: Mapping[str, Any]) -> torch.Tensor:
        """The number of clips, [1]."""
        return examples_counted(batch)

    def __call__(self, outputs: Any, batch: Mapping[str, Any]) -> torch.Tensor:
        logits, labels, counted = outputs["logits"].float(), batch["labels"], batch["counted"]
        letters = (labels != -100).sum(dim=-1)
        self.chance_loss = math.log(logits.shape[-1])
        frames = self.frames_of(batch["length"])
        with torch.autocast(logits.device.type, enabled=False):
            each = _ctc(logits.log_softmax(dim=-1).transpose(0, 1), labels.clamp(min=0), frames, letters, self.blank)
        each = torch.where(counted, each / letters.clamp(min=1), 0.0)
        if logits.requires_grad:
            self._count(logits.detach(), frames, counted)
        return each.sum()[None]

    def _count(self, logits: torch.Tensor, frames: torch.Tensor, counted: torch.Tensor) -> None:
        real = torch.arange(logits.shape[1], device=logits.device) < frames[:, None]
        real &= counted[:, None]
        blank = (logits.argmax(dim=-1) == self.blank) & real
        empty = (blank.sum(dim=-1) == real.sum(dim=-1)) & counted
        add_counts(self.counts, torch.stack([blank.sum(), real.sum(), empty.sum(), counted.sum()]))

    def pop_figures(self) -> dict[str, float]:
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
