"""Settings of labels as target: their column and form, and how scores become decisions."""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from hf_transfer.errors import InputError
from hf_transfer.targets.labels.classification import is_probability


@dataclass
class LabelSettings:
    """Settings of labels as target.

    Raises:
        InputError: one of them is out of its range, or two of them exclude each other.
    """

    flags_for_evaluation: ClassVar[tuple[str, ...]] = ("label_column_name", "label_separator", "class_names")

    label_column_name: str | None = field(
        default=None,
        metadata={"help": "Column of the labels: text, integers, lists of them, vectors of 0 and 1; or numbers."},
    )
    problem_type: Literal["classification", "regression"] = field(
        default="classification",
        metadata={"help": "What labels are: names of classes (one an example, or several), or numbers to predict."},
    )
    label_separator: str | None = field(
        default=None, metadata={"help": "What separates the labels of one example, where it may have several."}
    )
    class_names: list[str] | None = field(
        default=None,
        metadata={
            "help": "Names of labels that are numbers from 0, or places in vectors of 0 and 1, in their order; or the "
            "columns of 0 and 1, where each label has one."
        },
    )
    positive_label: str | None = field(
        default=None, metadata={"help": "Of two labels, the one that F1 and thresholds are about (default: the last)."}
    )
    class_weights: Literal["none", "balanced"] = field(
        default="none", metadata={"help": "Weigh the loss of each label by how rare it is."}
    )
    threshold: str | None = field(
        default=None,
        metadata={
            "help": "Of two labels, when to predict the positive one: best_f1 (on validation), or a probability."
        },
    )
    max_false_positive_rate: float | None = field(
        default=None, metadata={"help": "Choose the threshold on validation that keeps false alarms below this share."}
    )

    def __post_init__(self) -> None:
        if self.problem_type == "regression":
            self._refuse_what_is_of_classes()
        if self.threshold is not None and self.max_false_positive_rate is not None:
            raise InputError("--threshold and --max_false_positive_rate are both given: expected one of them.")
        if self.threshold not in (None, "best_f1") and not is_probability(self.threshold):
            raise InputError(f"--threshold is {self.threshold!r}: expected best_f1 or a probability from 0 to 1.")
        if self.max_false_positive_rate is not None and not 0 <= self.max_false_positive_rate <= 1:
            raise InputError(f"--max_false_positive_rate is {self.max_false_positive_rate}: expected 0 to 1.")

    @staticmethod
    def from_model_config(config: Any) -> dict[str, Any]:
        """The settings that the config of a fine-tuned model decides."""
        return {"problem_type": "regression"} if config.problem_type == "regression" else {}

    def _refuse_what_is_of_classes(self) -> None:
        of_classes = (
            "label_separator", "class_names", "positive_label", "class_weights", "threshold", "max_false_positive_rate"
        )  # fmt: skip
        for name in of_classes:
            if getattr(self, name) not in (None, "none"):
                raise InputError(
                    f"--{name} is of classes, and --problem_type regression learns numbers. Leave one of them out."
                )
