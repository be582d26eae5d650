"""Text classification: a label, several or a number for a text or a pair of texts."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from transformers import AutoModelForSequenceClassification

from hf_transfer.inputs.text.settings import TextSettings
from hf_transfer.inputs.text.text import TextInput
from hf_transfer.targets.labels import labels_or_number
from hf_transfer.targets.labels.settings import LabelSettings
from hf_transfer.targets.target import Target
from hf_transfer.tasks.task import Task
from hf_transfer.tasks.text_pipeline import DecidingTextClassificationPipeline


@dataclass
class TextClassification(TextSettings, LabelSettings, Task):
    """A text classifier."""

    pipeline_tag: ClassVar[str] = "text-classification"
    defaults: ClassVar[Mapping[str, Any]] = {
        "model_name_or_path": "google-bert/bert-base-uncased",
        "per_device_train_batch_size": 16,
        "per_device_eval_batch_size": 32,
    }
    # Full: the top of the BERT paper's range (Devlin et al. 2019, appendix A.3). LoRA wants about ten times that
    # (Schulman et al. 2025, "LoRA Without Regret"). A head alone sees standardised inputs.
    learning_rates: ClassVar[Mapping[str, float]] = {
        "full": 5e-5,
        "lora": 5e-4,
        "frozen": 5e-5,
        "scratch": 1e-4,
        "head": 5e-4,
    }
    # Three epochs as in the BERT paper; on a few dozen examples that is too few steps to leave the start (Zhang et al.
    # 2021, https://arxiv.org/abs/2006.05987).
    epochs: ClassVar[int] = 3
    minimum_steps: ClassVar[int] = 100
    auto_model: ClassVar[Any] = AutoModelForSequenceClassification
    architecture_suffixes: ClassVar[tuple[str, ...]] = ("ForSequenceClassification",)
    _argument_group_name: ClassVar[str] = "text classification"

    def __post_init__(self) -> None:
        TextSettings.__post_init__(self)
        LabelSettings.__post_init__(self)

    @property
    def input(self) -> TextInput:
        return TextInput(self, self.auto_model)

    @property
    def target(self) -> Target:
        return labels_or_number(self)

    @classmethod
    def settings_of(cls, config: Any) -> dict[str, Any]:
        return LabelSettings.of(config)

    def pipeline(self, model: Any, processor: Any) -> DecidingTextClassificationPipeline:
        return DecidingTextClassificationPipeline.of(model, processor)
