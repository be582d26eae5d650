"""Clips of audio as input."""

import functools
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from datasets import Dataset, DatasetDict
from transformers import PreTrainedModel

from hf_transfer.arguments import DataArguments, ModelArguments
from hf_transfer.data.column_readers import TargetEncoding, TargetReader
from hf_transfer.data.loading import folder_of_relative_paths
from hf_transfer.data.splits import find_column
from hf_transfer.data.units import usual_unit_column
from hf_transfer.errors import InputError, logger
from hf_transfer.inputs.audio.clip_sources import excerpt_columns, resolve, seconds_of, source_of
from hf_transfer.inputs.audio.clips import Clips, PaddedClips, samples_for
from hf_transfer.inputs.audio.decoding import Decoding, as_data_uri
from hf_transfer.inputs.audio.models import (
    WHOLE_SECONDS,
    feature_extractor_of,
    fixed_seconds,
    frames_of,
    load_feature_extractor,
    shortest_input,
)
from hf_transfer.inputs.audio.recordings import (
    AUDIO_COLUMNS,
    caveats_of_speakers,
    clip_labels,
    read_recordings,
    say_left_out,
)
from hf_transfer.inputs.audio.settings import AudioSettings


@dataclass(frozen=True)
class AudioInput:
    """A clip an example.

    The examples have the columns ``audio`` (the clip's name), perhaps ``speaker``, ``start`` and ``end`` (of a part of
    a recording, in seconds), and where the decoded samples lie: see `read_recordings`.

    Attributes:
        settings: which columns they are, which clips are used, how training clips are augmented.
        auto_model: the `transformers.AutoModelFor...` class of the task.
    """

    settings: AudioSettings
    auto_model: Any
    name: ClassVar[str] = "audio"
    noun: ClassVar[str] = "clip"
    pipeline_example: ClassVar[str] = '"clip.wav"'

    # --- data -------------------------------------------------------------------------------------------------

    def input_columns(self, columns: Sequence[str]) -> dict[str, str]:
        """As of `Input`: ``audio``, and where rows mean parts of recordings ``start`` and ``end``, or ``duration``."""
        audio = find_column(columns, self.settings.audio_column_name, AUDIO_COLUMNS, "audio_column_name")
        return {"audio": audio, **excerpt_columns([name for name in columns if name != audio])}

    def metadata_columns(self, columns: Sequence[str]) -> dict[str, str]:
        """As of `Input`: ``speaker``."""
        speaker = self.settings.speaker_column_name or usual_unit_column(columns, nouns=("speakers",))
        return {"speaker": speaker} if speaker else {}

    def prediction_input(self, own: str, value: Any, file: str) -> Any:
        """A clip's file, as its table names it, or its content; or the seconds where it begins or ends."""
        if own != "audio":
            seconds = seconds_of(value)
            return value if seconds is None and isinstance(value, str) and value.strip() else seconds
        source = source_of(value, Path(file).parent)
        return str(source) if isinstance(source, Path) else source

    def read(
        self,
        splits: Mapping[str, Dataset],
        columns: Mapping[str, Mapping[str, str]],
        target: str,
        readers: Mapping[str, TargetReader],
        data: DataArguments,
        model: ModelArguments,
    ) -> tuple[dict[str, Dataset], dict[str, dict[str, int]]]:
        """As of `Input`: decoded clips; those that cannot be used are left out."""
        extractor = load_feature_extractor(model, self.auto_model)
        longest = min(self.settings.max_seconds, fixed_seconds(extractor) or math.inf)
        decoding = Decoding(extractor.sampling_rate, self.settings.min_seconds, longest)
        read, left_out = {}, {}
        for name, split in splits.items():
            read[name], left_out[name] = read_recordings(
                split, name, columns[name], folder_of_relative_paths(data, name), decoding, target, readers[name],
                self.settings.leave_out, drop=data.drop_incomplete,
            )  # fmt: skip
        return read, left_out

    def identities(self, split: Dataset) -> list[str]:
        """Clips whose samples are the same are equal."""
        return split["checksum"][:]

    def content_hashes(self, split: Dataset) -> list[str]:
        """Checksums of the samples."""
        return split["checksum"][:]

    def unit_column(self, columns: Sequence[str]) -> str | None:
        """--speaker_column_name, or one that is named so."""
        speaker = self.settings.speaker_column_name
        return speaker if speaker in columns else usual_unit_column(columns)

    def caveats(self, splits: DatasetDict) -> list[str]:
        """Speakers who are in training and test, and one who dominates."""
        return caveats_of_speakers(splits["train"], splits["test"])

    def facts(self, splits: DatasetDict) -> dict[str, Any]:
        """``hours`` and the number of ``speakers`` by split."""
        return {
            "hours": {name: round(sum(split["seconds"][:]) / 3600, 3) for name, split in splits.items()},
            "speakers": {
                name: len(set(split["speaker"][:]))
                for name, split in splits.items()
                if "speaker" in split.column_names
            },
        }

    def leave_out(self, name: str, split: Dataset, fits: list[bool], reason: str, remedy: str) -> Dataset:
        """As of `Input`: a line on the screen, and a list of the clips beside the decoded ones."""
        if all(fits):
            return split
        out = [clip for clip, fit in zip(clip_labels(split), fits, strict=True) if not fit]
        say_left_out(name, reason, out, remedy, Path(split["store"][0]).parent)
        return split.select([i for i, fit in enumerate(fits) if fit])

    # --- model ------------------------------------------------------------------------------------------------

    def require_settings(self, model: ModelArguments) -> None:
        """None of them depends on the model alone."""

    def load_processor(self, model: ModelArguments) -> Any:
        """The feature extractor."""
        return load_feature_extractor(model, self.auto_model)

    def config_settings(self, old: Any, processor: Any, *, pretrained: bool) -> dict[str, Any]:
        """No LayerDrop, and SpecAugment as asked for."""
        # Layers that are skipped at random leave parameters without gradients, and steps that cannot be repeated.
        settings: dict[str, Any] = {"layerdrop": 0.0} if hasattr(old, "layerdrop") else {}
        for name in ("mask_time_prob", "mask_feature_prob"):
            if getattr(self.settings, name) is not None:
                settings |= {name: getattr(self.settings, name), "apply_spec_augment": True}
        return settings

    def prepare_model(self, model: PreTrainedModel, splits: DatasetDict, processor: Any, *, pretrained: bool) -> None:
        """Fix the convolutional feature encoder, unless it is to be trained; note how long clips are heard whole."""
        fixed = pretrained and not self.settings.train_feature_encoder and hasattr(model, "freeze_feature_encoder")
        if fixed:
            model.freeze_feature_encoder()
        extractor = feature_extractor_of(processor)
        fixed_length = fixed_seconds(extractor)
        if fixed_length is None and not extractor.return_attention_mask:
            logger.info(
                "The model takes no attention mask, and padding changes what its feature encoder computes: %s.",
                "clips go through that one by one"
                if fixed
                else "clips are measured one by one; in training they share batches with clips of similar length",
            )
        # What is trained on and measured is heard whole in prediction too.
        model.config.whole_seconds = fixed_length or max(WHOLE_SECONDS, self.settings.max_seconds)

    def model_inputs(
        self, splits: DatasetDict, processor: Any, model: PreTrainedModel, encoding: TargetEncoding, seed: int
    ) -> tuple[DatasetDict, dict[str, Clips]]:
        """Clips with their labels; those whose target needs more frames than the model makes are not trained on."""
        extractor = feature_extractor_of(processor)
        frames = frames_of(extractor, model)
        fixed = fixed_seconds(extractor) is not None

        @functools.cache
        def samples_needed(wanted: int) -> int:
            return 1 if fixed else samples_for(wanted, lambda samples: frames([samples])[0])

        augmentation, shortest = self.settings.augmentation(), shortest_input(extractor, model)
        kept, ready = DatasetDict(), {}
        for name, split in encoding.respell(splits).items():
            labels = encoding(split)
            needed = [encoding.required_positions(label) for label in labels]
            # Nothing can be learned from more letters than frames; in a test split they are errors like any other.
            given = frames([max(n, shortest) for n in split["length"][:]])
            fits = [
                have > 0 and (name in ("test", "source") or 0 < need <= have)
                for need, have in zip(needed, given, strict=True)
            ]
            kept[name] = self.leave_out(name, split, fits, encoding.unfit_reason, encoding.remedy)
            if not any(fits):
                raise InputError(
                    f"Every clip in the {name} split has {encoding.unfit_reason}: are targets and clips the same "
                    "language and speed, and is the sampling rate right?"
                )
            rows = [i for i, fit in enumerate(fits) if fit]
            augmented = augmentation is not None and name == "train"
            ready[name] = Clips(
                kept[name],
                [labels[i] for i in rows],
                extractor,
                positions=[given[i] for i in rows],
                shortest=shortest,
                # Without a mask the zeros that pad a clip change what the model makes of it.
                padding_changes_outputs=not (fixed or extractor.return_attention_mask),
                augmentation=augmentation if augmented else None,
                min_samples=[samples_needed(needed[i]) for i in rows] if augmented else (),
                seed=seed,
            )
            if name == "train":
                self._fit_time_masks(model.config, int(ready[name].positions.min()))
        return kept, ready

    def _fit_time_masks(self, config: Any, shortest: int) -> None:
        """SpecAugment's masks are no longer than the shortest clip as it may be heard, which transformers demands."""
        shortest = max(1, int(shortest * (1 - self.settings.speed_perturbation)) - 1)
        masked = getattr(config, "apply_spec_augment", False) and getattr(config, "mask_time_prob", 0.0) > 0
        if masked and config.mask_time_length > shortest:
            logger.info("SpecAugment masks %d frames, not %d: the shortest clip.", shortest, config.mask_time_length)
            config.mask_time_length = shortest

    def pad(self, processor: Any) -> PaddedClips:
        """Samples or features, with an ``attention_mask`` where the model takes one."""
        extractor = feature_extractor_of(processor)
        return PaddedClips(extractor, fixed=fixed_seconds(extractor) is not None)

    def train_mode_effects(self, config: Any) -> list[str]:
        """SpecAugment."""
        masks = max(getattr(config, name, 0.0) for name in ("mask_time_prob", "mask_feature_prob"))
        on = getattr(config, "apply_spec_augment", False) and masks > 0
        return ["SpecAugment (--mask_time_prob, --mask_feature_prob)"] if on else []

    # --- report -----------------------------------------------------------------------------------------------

    def display_rows(self, split: Dataset) -> list[dict[str, Any]]:
        """The names of the clips, with the parts of their recordings."""
        return [{"audio": label} for label in clip_labels(split)]

    def media_data_uris(self, inputs: Clips, rows: Sequence[int]) -> list[str]:
        """The clips, to be played."""
        return [as_data_uri(inputs.samples(row), inputs.sampling_rate) for row in rows]

    def prediction_fields(self, split: Dataset) -> list[dict[str, Any]]:
        """The names of the clips, their parts and speakers."""
        names = [name for name in ("audio", "start", "end", "speaker") if name in split.column_names]
        return list(split.select_columns(names))

    def record_key(self, record: Mapping[str, Any]) -> tuple[Any, ...]:
        """The clip's name and part."""
        return tuple(record.get(name) for name in ("audio", "start", "end"))

    def predict_arguments(self, records: list[dict[str, Any]], told: Mapping[str, Any]) -> list[str]:
        """A clip of the test split."""
        file = told.get("test_file") or told.get("train_file")
        folder = Path(file).parent if file else Path(told.get("dataset_name", ""))
        clips = (resolve(record["audio"], folder) for record in records)
        return [next((os.path.relpath(clip) for clip in clips if os.path.isfile(clip)), "CLIP")]
