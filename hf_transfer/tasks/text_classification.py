"""Text classification: one label, several labels or a number for a text or a pair of texts."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from transformers import AutoModelForSequenceClassification, PreTrainedModel

from hf_transfer.inputs.text.settings import TextSettings
from hf_transfer.inputs.text.text import TextInput
from hf_transfer.tasks.classification import ClassificationTask
from hf_transfer.tasks.text_pipeline import CalibratedTextClassificationPipeline


@dataclass
class TextClassification(TextSettings, ClassificationTask):
    """Text classification."""

    pipeline_tag: ClassVar[str] = "text-classification"
    defaults: ClassVar[Mapping[str, Any]] = {
        "model_name_or_path": "google-bert/bert-base-uncased",
        "per_device_train_batch_size": 16,
        "per_device_eval_batch_size": 32,
    }
    # Full: the highest of the BERT paper (Devlin et al. 2019, appendix A.3). LoRA needs about ten times as much
    # (Schulman et al. 2025, "LoRA Without Regret"). A head that is trained alone is given standardised inputs.
    learning_rates: ClassVar[Mapping[str, float]] = {
        "full": 5e-5,
        "lora": 5e-4,
        "frozen": 5e-5,
        "scratch": 1e-4,
        "head": 5e-4,
    }
    # Three epochs as in the BERT paper. On a few dozen examples these are too few steps to learn anything
    # (Zhang et al. 2021, https://arxiv.org/abs/2006.05987).
    epochs: ClassVar[int] = 3
    minimum_steps: ClassVar[int] = 100
    auto_model: ClassVar[Any] = AutoModelForSequenceClassification
    architecture_suffixes: ClassVar[tuple[str, ...]] = ("ForSequenceClassification",)
    _argument_group_name: ClassVar[str] = "text classification"

    def __post_init__(self) -> None:
        TextSettings.__post_init__(self)
        ClassificationTask.__post_init__(self)

    @property
    def input(self) -> TextInput:
        return TextInput(self, self.auto_model)

    def pipeline(self, model: PreTrainedModel, processor: Any) -> CalibratedTextClassificationPipeline:
        return CalibratedTextClassificationPipeline.from_model(model, processor)
