"""The model read back from disk must be what the trained one is, and compute what that does."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from hf_transfer.data.batches import to_device
from hf_transfer.errors import Failure
from hf_transfer.inference import load_finetuned
from hf_transfer.models import output_tensors

TOLERANCE = 1e-3
# Compared in pairs, so that one is padded: no more memory than training took.
EXAMPLES = 8


def check_parity(
    model: Any, folder: Path, task: Any, processor: Any, examples: Any, *, adapter: bool, trust_remote_code: bool
) -> dict[str, Any]:
    """Load the written model, and compare it with the live one: its weights, and what it computes.

    An adapter is also merged and compared.

    Args:
        model: the trained model.
        folder: what was written of it.
        task: whose collator makes a batch.
        processor: of the model.
        examples: preprocessed examples, the first of which are compared.
        adapter: whether an adapter was written.
        trust_remote_code: run Python code that comes with the base model.

    Returns:
        ``examples``, ``max_difference`` of the outputs and, for adapters, ``max_difference_merged``.

    Raises:
        Failure: a weight differs, or the outputs by more than rounding.
    """
    rows = examples.__getitems__(list(range(min(EXAMPLES, len(examples)))))
    batches = [task.collator(processor)(rows[i : i + 2]) for i in range(0, len(rows), 2)]
    live = _outputs(model, batches)
    found: dict[str, Any] = {"examples": len(rows)}
    for name, merge in (("max_difference", False), ("max_difference_merged", True)):
        if adapter or not merge:
            reloaded = load_finetuned(
                folder, device=model.device, merge=merge, trust_remote_code=trust_remote_code
            ).model
            if not merge:
                _require_same_weights(model, reloaded, trained_alone=adapter)
            found[name] = float((_outputs(reloaded, batches) - live).abs().max())
    limit = TOLERANCE * max(1.0, float(live.abs().max()))
    worst = max(found["max_difference"], found.get("max_difference_merged", 0.0))
    if not worst <= limit:
        raise Failure(
            f"The model read back from disk differs from the trained one: its outputs are {worst:.2g} apart, more "
            f"than rounding ({limit:.2g}). The result is not written."
        )
    return found


def _require_same_weights(model: Any, reloaded: Any, *, trained_alone: bool) -> None:
    """Compare what both have: plain weights lie in an adapter's folder where the live model keeps them apart.

    Args:
        model: the trained model.
        reloaded: the one read back.
        trained_alone: leave out what was not trained: an adapter is read back into another copy of its base model.
    """
    prefix = "base_model.model."
    trained = {name.removeprefix(prefix) for name, parameter in model.named_parameters() if parameter.requires_grad}
    live = {name.removeprefix(prefix): tensor for name, tensor in model.state_dict().items()}
    for name, tensor in reloaded.state_dict().items():
        compared = name in (trained if trained_alone else live)
        if compared and not torch.equal(tensor, live[name]):
            raise Failure(
                f"The model read back from disk differs from the trained one: {name} is another one. The result is "
                "not written."
            )


def _outputs(model: Any, batches: Sequence[Mapping[str, Any]]) -> torch.Tensor:
    """All that the model computes of some batches, one number after another."""
    model.eval()
    with torch.inference_mode():
        outputs = [output for batch in batches for output in output_tensors(model(**to_device(model.device, batch)))]
    return torch.cat([output.float().flatten() for output in outputs])
