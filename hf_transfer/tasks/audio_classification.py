"""Audio classification: one label, several labels or a number for a clip (spoken commands, accents, sounds)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from transformers import AutoModelForAudioClassification, PreTrainedModel

from hf_transfer.inputs.audio.audio import AudioInput
from hf_transfer.inputs.audio.settings import AudioSettings
from hf_transfer.tasks.audio_pipeline import CalibratedAudioClassificationPipeline
from hf_transfer.tasks.classification import ClassificationTask


@dataclass
class AudioClassification(AudioSettings, ClassificationTask):
    """Audio classification."""

    # 0, unlike in speech recognition: labels may depend on pitch and speed, and the activations of clips that do not
    # change are computed once.
    speed_perturbation: float = field(
        default=0.0,
        metadata={"help": "Play training clips faster or slower by up to this share; 0 leaves them unchanged."},
    )
    pipeline_tag: ClassVar[str] = "audio-classification"
    defaults: ClassVar[Mapping[str, Any]] = {
        "model_name_or_path": "facebook/wav2vec2-base",
        "per_device_train_batch_size": 16,
        "per_device_eval_batch_size": 16,
    }
    # A head is given the mean over the frames of a clip, which varies little between clips: it takes larger steps.
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
        ClassificationTask.__post_init__(self)

    @property
    def input(self) -> AudioInput:
        return AudioInput(self, self.auto_model)

    def pipeline(self, model: PreTrainedModel, processor: Any) -> CalibratedAudioClassificationPipeline:
        return CalibratedAudioClassificationPipeline(model=model, feature_extractor=processor)
