"""The training method (full, lora, frozen, scratch) and its settings."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from hf_transfer.arguments.checks import Range, check_ranges
from hf_transfer.errors import InputError

# Settings of --method lora and their defaults. In MethodArguments they are None by default, so that it is known
# whether the user gave one with another method, where it is an error.
LORA_DEFAULTS: dict[str, Any] = {"lora_r": 16, "lora_alpha": 32, "lora_dropout": 0.0, "lora_variant": "lora"}

# The methods that take a setting, for settings that not all methods take.
METHODS_OF_SETTING: dict[str, tuple[str, ...]] = {
    "trainable_layers": ("frozen",),
    "merge": ("lora",),
    "head_first": ("full", "lora"),
    **dict.fromkeys(LORA_DEFAULTS, ("lora",)),
}

_RANGES: dict[str, Range] = {
    "trainable_layers": (0, None),
    "lora_r": (1, None),
    "lora_alpha": (1, None),
    "lora_dropout": (0, 0.99),
}


@dataclass
class MethodArguments:
    """Dataclass of the flags of the training method: which weights are trained, and how."""

    _argument_group_name = "method"

    method: Literal["full", "lora", "frozen", "scratch"] = field(
        default="full",
        metadata={
            "help": "What is trained. full: every weight; lora: LoRA adapters and the head; frozen: the head, and "
            "the last --trainable_layers; scratch: every weight, from random initialisation."
        },
    )
    trainable_layers: int = field(
        default=0,
        metadata={"help": "Number of layers, counted from the last, that --method frozen trains with the head."},
    )
    lora_r: int | None = field(default=None, metadata={"help": "Rank of the LoRA matrices (default: 16)."})
    lora_alpha: int | None = field(
        default=None, metadata={"help": "Scale of the LoRA update; it is divided by the rank (default: 32)."}
    )
    lora_dropout: float | None = field(
        default=None, metadata={"help": "Dropout before the LoRA matrices (default: 0)."}
    )
    lora_variant: Literal["lora", "rslora", "dora", "pissa"] | None = field(
        default=None,
        metadata={
            "help": "lora; rslora: rank-stabilised LoRA; dora: DoRA; pissa: LoRA initialised from principal "
            "components (default: lora)."
        },
    )
    merge: bool = field(
        default=False,
        metadata={"help": "After --method lora, merge the adapter and write plain weights."},
    )
    head_first: bool = field(
        default=False,
        metadata={"help": "Fit the head on frozen features before --method full or lora (LP-FT)."},
    )

    def __post_init__(self) -> None:
        if self.method == "lora":
            for name, default in LORA_DEFAULTS.items():
                if getattr(self, name) is None:
                    setattr(self, name, default)

    @property
    def leaves_adapter(self) -> bool:
        """Boolean: whether the run writes a LoRA adapter instead of plain weights."""
        return self.method == "lora" and not self.merge

    def check(self) -> None:
        """Raise an error if a value is out of its range, or a setting does not belong to the method.

        Raises:
            InputError: a setting does not.
        """
        check_ranges(self, _RANGES)
        for name, methods in METHODS_OF_SETTING.items():
            value = getattr(self, name)
            # A value of 0 or False is the default of a setting that has one; LoRA's settings have None.
            is_set = value is not None if name in LORA_DEFAULTS else bool(value)
            if is_set and self.method not in methods:
                raise InputError(f"--{name} belongs to --method {' or '.join(methods)}, not to {self.method}.")


def arguments_for_method(values: Mapping[str, Any], method: str) -> dict[str, Any]:
    """Return the arguments in `values`, by name, without those that only other methods take."""
    return {name: value for name, value in values.items() if method in METHODS_OF_SETTING.get(name, (method,))}
