"""Checking that the model read back from disk has the weights and the outputs of the trained one."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import PreTrainedModel

from hf_transfer.data.batches import to_device
from hf_transfer.errors import Failure
from hf_transfer.inference import load_finetuned
from hf_transfer.models import output_tensors

if TYPE_CHECKING:
    from hf_transfer.inputs.input import ModelInputs
    from hf_transfer.tasks.task import Task

TOLERANCE = 1e-3
# They are compared in batches of two, one of them padded, which need no more memory than training.
EXAMPLES = 8


def check_parity(
    model: PreTrainedModel,
    folder: Path,
    task: "Task",
    processor: Any,
    examples: "ModelInputs",
    *,
    adapter: bool,
    trust_remote_code: bool,
) -> dict[str, float]:
    """Load the saved model and return its largest differences to the trained one; they may be rounding only.

    Weights and outputs are compared with those of the trained model in memory. An adapter is compared once more after
    it is merged into its base model.

    Args:
        model: the trained model.
        folder: to which it was saved.
        task: makes batches of the examples.
        processor: of the model.
        examples: preprocessed; the first eight are compared.
        adapter: whether the folder holds an adapter.
        trust_remote_code: run Python code that comes with the base model.

    Returns:
        The number of ``examples``, the ``max_difference`` of the outputs and, for adapters, the
        ``max_difference_merged``.

    Raises:
        Failure: a weight differs, or outputs differ by more than rounding.
    """
    rows = examples.__getitems__(list(range(min(EXAMPLES, len(examples)))))
    batches = [task.collator(processor)(rows[i : i + 2]) for i in range(0, len(rows), 2)]
    expected = _outputs(model, batches)
    result: dict[str, float] = {"examples": len(rows)}
    for name, merge in (("max_difference", False), ("max_difference_merged", True)):
        if adapter or not merge:
            reloaded = load_finetuned(
                folder, device=model.device, merge=merge, trust_remote_code=trust_remote_code
            ).model
            if not merge:
                _require_same_weights(model, reloaded, trained_only=adapter)
            result[name] = float((_outputs(reloaded, batches) - expected).abs().max())
    limit = TOLERANCE * max(1.0, float(expected.abs().max()))
    largest = max(result["max_difference"], result.get("max_difference_merged", 0.0))
    if not largest <= limit:
        raise Failure(
            f"The model read back from disk differs from the trained one: its outputs differ by up to {largest:.2g}, "
            f"more than rounding ({limit:.2g}). The result is not written."
        )
    return result


def _require_same_weights(model: PreTrainedModel, reloaded: PreTrainedModel, *, trained_only: bool) -> None:
    """Raise an error if a weight that both models have under the same name has different values.

    Args:
        model: the trained model.
        reloaded: the one read back; where an adapter was merged before saving, it has plain weights under names that
            the trained model does not have.
        trained_only: compare only the trained weights, as an adapter is loaded into another copy of its base model.
    """
    prefix = "base_model.model."
    trained = {name.removeprefix(prefix) for name, parameter in model.named_parameters() if parameter.requires_grad}
    expected = {name.removeprefix(prefix): tensor for name, tensor in model.state_dict().items()}
    for name, tensor in reloaded.state_dict().items():
        is_compared = name in (trained if trained_only else expected)
        if is_compared and not torch.equal(tensor, expected[name]):
            raise Failure(
                f"The model read back from disk differs from the trained one: {name} has other values. The result is "
                "not written."
            )


def _outputs(model: PreTrainedModel, batches: Sequence[Mapping[str, Any]]) -> torch.Tensor:
    """Return all output values of the model for some batches, as one flat tensor."""
    model.eval()
    with torch.inference_mode():
        outputs = [output for batch in batches for output in output_tensors(model(**to_device(model.device, batch)))]
    return torch.cat([output.float().flatten() for output in outputs])
