"""Speech recognition with CTC: the transcript of a clip."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from transformers import AutoModelForCTC, PreTrainedModel

from hf_transfer.inputs.audio.audio import AudioInput
from hf_transfer.inputs.audio.settings import AudioSettings
from hf_transfer.targets.transcripts.settings import TranscriptSettings
from hf_transfer.targets.transcripts.transcripts import TranscriptTarget
from hf_transfer.tasks.speech_pipeline import SpeechPipeline
from hf_transfer.tasks.task import Task


@dataclass
class SpeechRecognition(AudioSettings, TranscriptSettings, Task):
    """Automatic speech recognition."""

    pipeline_tag: ClassVar[str] = "automatic-speech-recognition"
    # Sixteen clips a step in two micro-batches: eight clips of half a minute take gigabytes in a large model.
    defaults: ClassVar[Mapping[str, Any]] = {
        "model_name_or_path": "facebook/wav2vec2-base-960h",
        "per_device_train_batch_size": 8,
        "gradient_accumulation_steps": 2,
        "per_device_eval_batch_size": 8,
    }
    learning_rates: ClassVar[Mapping[str, float]] = {
        "full": 1e-4,
        "lora": 5e-4,
        "frozen": 2e-4,
        "scratch": 2e-4,
        "head": 1e-3,
    }
    # CTC has to learn the alignment of letters and frames, which takes far more steps than a classifier needs.
    epochs: ClassVar[int] = 10
    minimum_steps: ClassVar[int] = 1000
    auto_model: ClassVar[Any] = AutoModelForCTC
    architecture_suffixes: ClassVar[tuple[str, ...]] = ("ForCTC",)
    pipeline_flags: ClassVar[Mapping[str, str]] = {
        "language_model": 'KenLM language model (ARPA file) for decoding; needs pip install ".[lm]"'
    }
    _argument_group_name: ClassVar[str] = "speech recognition"

    @property
    def input(self) -> AudioInput:
        return AudioInput(self, self.auto_model)

    @property
    def target(self) -> TranscriptTarget:
        return TranscriptTarget(self)

    def pipeline(self, model: PreTrainedModel, processor: Any) -> SpeechPipeline:
        return SpeechPipeline(
            model=model, tokenizer=processor.tokenizer, feature_extractor=processor.feature_extractor
        )
