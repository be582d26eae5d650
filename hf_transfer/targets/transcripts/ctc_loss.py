"""The CTC loss of transcripts, and the check for a recogniser that writes nothing any more."""

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch.nn import functional as F

from hf_transfer.training.loss import TrainingPosition, add_counts, examples_counted

# A recogniser that wrote text before and then writes none for so many logs and clips in a row has collapsed to blanks.
COLLAPSED_LOGS, COLLAPSED_CLIPS = 10, 100
# Shares of empty hypotheses from which a recogniser writes nothing, and below which it writes text.
EMPTY_SHARE, WRITING_SHARE = 0.99, 0.9
# In nats per letter. A new head writes random letters at twice this loss, then nothing for a while, before it learns.
WRITING_LOSS = 2.0


class BlankCollapseCheck:
    """Check (a `CollapseCheck`) for a recogniser that predicts only blanks, and so writes no text."""

    def __init__(self) -> None:
        self.has_written = False
        self.logs = self.since = 0  # empty logs in a row, and the step of the last log that was not empty

    @property
    def suspected(self) -> bool:
        """Boolean: whether the recogniser wrote text before and writes no text now."""
        return self.has_written and self.logs > 0

    def check(self, figures: Mapping[str, float], position: TrainingPosition) -> str | None:
        """Return a clause that says that the recogniser has collapsed to blanks, or None, from a log's figures."""
        if "empty_hypotheses" not in figures:
            return None
        empty = figures["empty_hypotheses"]
        self.has_written = self.has_written or (empty < WRITING_SHARE and figures["loss"] < WRITING_LOSS)
        if empty < EMPTY_SHARE:
            self.logs, self.since = 0, position.step
            return None
        self.logs += 1
        clips = (position.step - self.since) * position.examples_per_step
        if self.has_written and self.logs >= COLLAPSED_LOGS and clips >= COLLAPSED_CLIPS:
            return f"the recogniser has collapsed to blanks: it wrote nothing for {clips} clips"
        return None

    def final_warning(self) -> str | None:
        """Return a sentence if the recogniser never wrote any text, or None if it did."""
        if not self.logs or self.has_written:
            return None
        return (
            "At the last step the recogniser still writes nothing: train longer (--num_train_epochs), raise "
            "--learning_rate, or start from a checkpoint that was trained on transcripts."
        )


@dataclass
class CTCLoss:
    """Training loss of transcripts, a callable dataclass: the CTC loss per letter, averaged over clips.

    Connectionist temporal classification: Graves et al. 2006.

    A clip with too few frames for its transcript has an infinite loss, which is not hidden.

    Attributes:
        blank: id of the blank token.
        frames_of: function from the lengths of inputs [batch] to the numbers of output frames [batch].
    """

    blank: int
    frames_of: Callable[[torch.Tensor], torch.Tensor]
    counts: list[torch.Tensor] = field(default_factory=list, repr=False)
    chance_loss: float = 0.0
    collapse_check: BlankCollapseCheck = field(default_factory=BlankCollapseCheck, repr=False)
    starts_at_chance: ClassVar[bool] = False

    def weights(self, batch: Mapping[str, Any]) -> torch.Tensor:
        """Return the number of clips in a batch that are counted, [1]."""
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
        """Return the shares of blank frames and of clips without text since the last call.

        They are ``blank_ratio`` and ``empty_hypotheses``.
        """
        if not self.counts:
            return {}
        blank, frames, empty, clips = self.counts[0].tolist()
        self.counts.clear()
        return {"blank_ratio": blank / max(1, frames), "empty_hypotheses": empty / max(1, clips)}


def _ctc(
    log_probabilities: torch.Tensor, labels: torch.Tensor, frames: torch.Tensor, letters: torch.Tensor, blank: int
) -> torch.Tensor:
    """Return the CTC loss of each clip, [batch].

    It is computed on the CPU for Apple's GPUs, for which PyTorch has no CTC loss.
    """
    device = log_probabilities.device
    ctc_device = torch.device("cpu") if device.type == "mps" else device
    log_probabilities, labels = log_probabilities.to(ctc_device), labels.to(ctc_device)
    each = F.ctc_loss(
        log_probabilities, labels, frames.to(ctc_device), letters.to(ctc_device), blank, reduction="none"
    )
    return each.to(device)


def required_frames(labels: list[int]) -> int:
    """Return the number of frames that CTC needs for `labels`: one for each, and a blank between equal ones."""
    return len(labels) + sum(a == b for a, b in itertools.pairwise(labels))
