"""Audio classification: a label, several or a number for a clip (spoken commands, accents, sounds)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from transformers import AutoModelForAudioClassification

from hf_transfer.inputs.audio.audio import AudioInput
from hf_transfer.inputs.audio.settings import AudioSettings
from hf_transfer.targets.labels import labels_or_number
from hf_transfer.targets.labels.settings import LabelSettings
from hf_transfer.targets.target import Target
from hf_transfer.tasks.audio_pipeline import DecidingAudioClassificationPipeline
from hf_transfer.tasks.task import Task


@dataclass
class AudioClassification(AudioSettings, LabelSettings, Task):
    """An audio classifier."""

    # Labels may depend on pitch and tempo; and activations of clips that stay the same are computed once.
    speed_perturbation: float = field(
        default=0.0, metadata={"help": "Play training clips up to this share faster or slower; 0: as they are."}
    )
    pipeline_tag: ClassVar[str] = "audio-classification"
    defaults: ClassVar[Mapping[str, Any]] = {
        "model_name_or_path": "facebook/wav2vec2-base",
        "per_device_train_batch_size": 16,
        "per_device_eval_batch_size": 16,
    }
    # A head reads the mean over a clip of what it is given by position, which varies less from clip to clip.
    learning_rates: ClassVar[Mapping[str, float]] = {
        "full": 5e-5,
        "lora": 5e-4,
        "frozen": 1e-4,
        "scratch": 1e-4,
        "head": 3e-3,
    }
    epochs: ClassVar[int] = 10
    minimum_steps: ClassVar[int] = 1000
    auto_model: ClassVar[Any] = AutoModelForAudioClassification
    architecture_suffixes: ClassVar[tuple[str, ...]] = ("ForSequenceClassification", "ForAudioClassification")
    _argument_group_name: ClassVar[str] = "audio classification"

    def __post_init__(self) -> None:
        AudioSettings.__post_init__(self)
        LabelSettings.__post_init__(self)

    @property
    def input(self) -> AudioInput:
        return AudioInput(self, self.auto_model)

    @property
    def target(self) -> Target:
        return labels_or_number(self)

    @classmethod
    def settings_of(cls, config: Any) -> dict[str, Any]:
        return LabelSettings.of(config)

    def pipeline(self, model: Any, processor: Any) -> DecidingAudioClassificationPipeline:
        return DecidingAudioClassificationPipeline(model=model, feature_extractor=processor)
