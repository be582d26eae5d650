"""Speech recognition with CTC: from clips to the letters that were said."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from transformers import AutoModelForCTC

from hf_transfer.inputs.audio.audio import AudioInput
from hf_transfer.inputs.audio.settings import AudioSettings
from hf_transfer.targets.transcripts.settings import TranscriptSettings
from hf_transfer.targets.transcripts.transcripts import TranscriptTarget
from hf_transfer.tasks.speech_pipeline import SpeechPipeline
from hf_transfer.tasks.task import Task


@dataclass
class SpeechRecognition(AudioSettings, TranscriptSettings, Task):
    """A speech recogniser."""

    pipeline_tag: ClassVar[str] = "automatic-speech-recognition"
    # Sixteen clips a step, eight at a time: half a minute of speech each takes gigabytes in a large model.
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
    # CTC aligns letters and frames by itself, which takes far more steps than telling two labels apart.
    epochs: ClassVar[int] = 10
    minimum_steps: ClassVar[int] = 1000
    auto_model: ClassVar[Any] = AutoModelForCTC
    architecture_suffixes: ClassVar[tuple[str, ...]] = ("ForCTC",)
    pipeline_flags: ClassVar[Mapping[str, str]] = {
        "language_model": "KenLM file (ARPA) to transcribe with; needs the extra lm"
    }
    _argument_group_name: ClassVar[str] = "speech recognition"

    @property
    def input(self) -> AudioInput:
        return AudioInput(self, self.auto_model)

    @property
    def target(self) -> TranscriptTarget:
        return TranscriptTarget(self)

    def pipeline(self, model: Any, processor: Any) -> SpeechPipeline:
        return SpeechPipeline(
            model=model, tokenizer=processor.tokenizer, feature_extractor=processor.feature_extractor
        )
