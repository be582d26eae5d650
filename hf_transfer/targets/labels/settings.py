"""Settings of label targets: the label column and its form, class weights, and the decision threshold."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from hf_transfer.errors import InputError
from hf_transfer.targets.labels.thresholds import is_probability

if TYPE_CHECKING:
    from transformers import PretrainedConfig


CLASSIFICATION_SETTINGS = (
    "label_separator", "class_names", "positive_label", "class_weights", "threshold", "max_false_positive_rate"
)  # fmt: skip


@dataclass
class LabelSettings:
    """Dataclass of the flags of labels as target: their column and form, class weights, and the threshold.

    Raises:
        InputError: a setting is out of its range, or two settings exclude each other.
    """

    flags_for_evaluation: ClassVar[tuple[str, ...]] = ("label_column_name", "label_separator", "class_names")

    label_column_name: str | None = field(
        default=None,
        metadata={"help": "Column of the labels: texts, integers, lists of these, vectors of 0 and 1, or numbers."},
    )
    problem_type: Literal["classification", "regression"] = field(
        default="classification",
        metadata={
            "help": "What the labels are: names of classes (one or several for each example), or numbers to predict."
        },
    )
    label_separator: str | None = field(
        default=None, metadata={"help": "Text that separates the labels in a cell, where an example may have several."}
    )
    class_names: list[str] | None = field(
        default=None,
        metadata={
            "help": "Names of the labels in their order, where the label column holds numbers from 0 or vectors of 0 "
            "and 1; or the names of the columns of 0 and 1, where each label has a column."
        },
    )
    positive_label: str | None = field(
        default=None, metadata={"help": "Which of two labels F1 and thresholds are about (default: the last one)."}
    )
    class_weights: Literal["none", "balanced"] = field(
        default="none",
        metadata={"help": "Give rare labels more weight in the loss (balanced), or all labels the same."},
    )
    threshold: str | None = field(
        default=None,
        metadata={
            "help": "When to predict the positive one of two labels: from this probability on, or best_f1, from the "
            "one with the best F1 on the validation split."
        },
    )
    max_false_positive_rate: float | None = field(
        default=None,
        metadata={
            "help": "Choose on the validation split the threshold that keeps the false positive rate below this value."
        },
    )

    def __post_init__(self) -> None:
        if self.problem_type == "regression":
            self._refuse_classification_settings()
        if self.threshold is not None and self.max_false_positive_rate is not None:
            raise InputError("--threshold and --max_false_positive_rate are both given: expected one of them.")
        if self.threshold not in (None, "best_f1") and not is_probability(self.threshold):
            raise InputError(f"--threshold is {self.threshold!r}: expected best_f1 or a probability from 0 to 1.")
        if self.max_false_positive_rate is not None and not 0 <= self.max_false_positive_rate <= 1:
            raise InputError(f"--max_false_positive_rate is {self.max_false_positive_rate}: expected 0 to 1.")

    @staticmethod
    def from_model_config(config: "PretrainedConfig") -> dict[str, Any]:
        """Return by name the settings that are stored in the config of a fine-tuned model."""
        return {"problem_type": "regression"} if config.problem_type == "regression" else {}

    def _refuse_classification_settings(self) -> None:
        for name in CLASSIFICATION_SETTINGS:
            if getattr(self, name) not in (None, "none"):
                raise InputError(
                    f"--{name} is for classes, and --problem_type regression learns numbers. Leave one of them out."
                )
