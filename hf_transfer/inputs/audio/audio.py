"""Audio as input: columns, decoded clips and model inputs, as `hf_transfer.inputs.input.Input`."""

import functools
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from datasets import Dataset, DatasetDict
from transformers import PretrainedConfig, PreTrainedModel, SequenceFeatureExtractor

from hf_transfer.arguments import DataArguments, ModelArguments
from hf_transfer.data.column_readers import TargetEncoding, TargetReader
from hf_transfer.data.loading import folder_of_relative_paths
from hf_transfer.data.splits import find_column
from hf_transfer.data.units import usual_unit_column
from hf_transfer.errors import InputError, logger
from hf_transfer.inputs.audio.clip_paths import find_clip
from hf_transfer.inputs.audio.clip_sources import source_of
from hf_transfer.inputs.audio.clips import ClipPadding, Clips, min_samples_for
from hf_transfer.inputs.audio.decoding import DecodingSettings, to_data_uri
from hf_transfer.inputs.audio.excerpts import excerpt_columns, parse_seconds
from hf_transfer.inputs.audio.left_out import log_left_out
from hf_transfer.inputs.audio.models import (
    DEFAULT_WHOLE_SECONDS,
    feature_extractor_of,
    fixed_input_seconds,
    frame_counter,
    load_feature_extractor,
    min_input_samples,
)
from hf_transfer.inputs.audio.recordings import AUDIO_COLUMNS, display_names_of, read_recordings
from hf_transfer.inputs.audio.settings import AudioSettings
from hf_transfer.inputs.audio.speakers import speaker_caveats
from hf_transfer.inputs.input import Processor


@dataclass(frozen=True)
class AudioInput:
    """Dataclass of audio as an input of models (an `Input`): each example is a clip.

    The examples have the columns ``audio`` (the clip's name), perhaps ``speaker``, ``start`` and ``end`` (of an
    excerpt of a recording, in seconds), and those of the decoded samples: see `read_recordings`.

    Attributes:
        settings: the columns, which clips are used, how training clips are augmented.
        auto_model: the `transformers.AutoModelFor...` class of the task.
    """

    settings: AudioSettings
    auto_model: Any
    name: ClassVar[str] = "audio"
    noun: ClassVar[str] = "clip"
    pipeline_example: ClassVar[str] = '"clip.wav"'

    # --- data -------------------------------------------------------------------------------------------------

    def input_columns(self, columns: Sequence[str]) -> dict[str, str]:
        """Return the user's columns of ``audio`` and, for excerpts, of ``start`` and ``end`` or ``duration``."""
        audio = find_column(columns, self.settings.audio_column_name, AUDIO_COLUMNS, "audio_column_name")
        return {"audio": audio, **excerpt_columns([name for name in columns if name != audio])}

    def metadata_columns(self, columns: Sequence[str]) -> dict[str, str]:
        """Return the user's column of ``speaker``, or an empty dictionary if there is no such column."""
        speaker = self.settings.speaker_column_name or usual_unit_column(columns, nouns=("speakers",))
        return {"speaker": speaker} if speaker else {}

    def prediction_input(self, standard_column: str, value: Any, file: str) -> Any:
        """Return the path or content of the clip in a cell, or the seconds at which an excerpt starts or ends."""
        if standard_column != "audio":
            seconds = parse_seconds(value)
            # A text that is not a number is passed on: the record of the prediction says what is wrong with it.
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
        """Decode the clips of each split and read their targets; return examples and counts of rows left out.

        Clips that cannot be used are left out.
        """
        extractor = load_feature_extractor(model, self.auto_model)
        max_seconds = min(self.settings.max_seconds, fixed_input_seconds(extractor) or math.inf)
        decoding = DecodingSettings(extractor.sampling_rate, self.settings.min_seconds, max_seconds)
        clips, left_out = {}, {}
        for name, split in splits.items():
            clips[name], left_out[name] = read_recordings(
                split, name, columns[name], folder_of_relative_paths(data, name), decoding, target, readers[name],
                self.settings.leave_out, drop=data.drop_incomplete,
            )  # fmt: skip
        return clips, left_out

    def identities(self, split: Dataset) -> list[str]:
        """Return the checksum of each clip's samples, [n]: clips with the same samples count as equal."""
        return split["checksum"][:]

    def content_hashes(self, split: Dataset) -> list[str]:
        """Return the checksum of each clip's samples, [n]: any change of the samples changes it."""
        return split["checksum"][:]

    def unit_column(self, columns: Sequence[str]) -> str | None:
        """Return --speaker_column_name, or else a column with a usual name of speakers, patients or cameras."""
        speaker = self.settings.speaker_column_name
        return speaker if speaker in columns else usual_unit_column(columns)

    def caveats(self, splits: DatasetDict) -> list[str]:
        """Return and log sentences about speakers who are in both train and test, and about one who dominates."""
        return speaker_caveats(splits["train"], splits["test"])

    def facts(self, splits: DatasetDict) -> dict[str, Any]:
        """Return the ``hours`` of audio and the number of ``speakers`` of each split, as a dictionary."""
        return {
            "hours": {name: round(sum(split["seconds"][:]) / 3600, 3) for name, split in splits.items()},
            "speakers": {
                name: len(set(split["speaker"][:]))
                for name, split in splits.items()
                if "speaker" in split.column_names
            },
        }

    def leave_out(self, name: str, split: Dataset, fits: list[bool], reason: str, remedy: str) -> Dataset:
        """Return the clips of a split that fit; log the others, and list them in a file beside decoded clips."""
        if all(fits):
            return split
        left_out = [clip for clip, fit in zip(display_names_of(split), fits, strict=True) if not fit]
        log_left_out(name, reason, left_out, remedy, Path(split["store"][0]).parent)
        return split.select([i for i, fit in enumerate(fits) if fit])

    # --- model ------------------------------------------------------------------------------------------------

    def require_settings(self, model: ModelArguments) -> None:
        """Do nothing, as no setting of audio depends on the model."""

    def load_processor(self, model: ModelArguments) -> SequenceFeatureExtractor:
        """Return the feature extractor that comes with the model."""
        return load_feature_extractor(model, self.auto_model)

    def config_settings(self, old: PretrainedConfig, processor: Processor, *, pretrained: bool) -> dict[str, Any]:
        """Return by name settings of the model's config: no LayerDrop, and SpecAugment as the user asks for it."""
        # LayerDrop leaves parameters without gradients, and makes steps that cannot be repeated.
        settings: dict[str, Any] = {"layerdrop": 0.0} if hasattr(old, "layerdrop") else {}
        for name in ("mask_time_prob", "mask_feature_prob"):
            if getattr(self.settings, name) is not None:
                settings |= {name: getattr(self.settings, name), "apply_spec_augment": True}
        return settings

    def prepare_model(
        self, model: PreTrainedModel, splits: DatasetDict, processor: Processor, *, pretrained: bool
    ) -> None:
        """Freeze the model's convolutional feature encoder unless it is to be trained.

        The model's config gets the length from which clips are split.
        """
        is_frozen = pretrained and not self.settings.train_feature_encoder and hasattr(model, "freeze_feature_encoder")
        if is_frozen:
            model.freeze_feature_encoder()
        extractor = feature_extractor_of(processor)
        fixed_seconds = fixed_input_seconds(extractor)
        if fixed_seconds is None and not extractor.return_attention_mask:
            logger.info(
                "The model takes no attention mask, and padding changes what its feature encoder computes: %s.",
                "the encoder is given clips one by one"
                if is_frozen
                else "clips are measured one by one; in training they share batches with clips of similar length",
            )
        # In prediction, too, the model is given clips whole if they are as long as those in training and evaluation.
        model.config.whole_seconds = fixed_seconds or max(DEFAULT_WHOLE_SECONDS, self.settings.max_seconds)

    def model_inputs(
        self, splits: DatasetDict, processor: Processor, model: PreTrainedModel, encoding: TargetEncoding, seed: int
    ) -> tuple[DatasetDict, dict[str, Clips]]:
        """Return the splits, and each one's clips as `ModelInputs`, without clips too short for their target.

        Test clips that are too short stay: they count as errors.
        """
        extractor = feature_extractor_of(processor)
        count_frames = frame_counter(extractor, model)
        has_fixed_length = fixed_input_seconds(extractor) is not None

        @functools.cache
        def samples_for_frames(frames: int) -> int:
            return 1 if has_fixed_length else min_samples_for(frames, lambda samples: count_frames([samples])[0])

        augmentation, min_length = self.settings.augmentation(), min_input_samples(extractor, model)
        used_splits, inputs = DatasetDict(), {}
        for name, split in encoding.respell(splits).items():
            labels = encoding(split)
            required = [encoding.required_positions(label) for label in labels]
            available = count_frames([max(length, min_length) for length in split["length"][:]])
            # CTC cannot learn more letters than there are frames. In a test split such clips count as errors.
            fits = [
                frames > 0 and (name in ("test", "source") or 0 < needed <= frames)
                for needed, frames in zip(required, available, strict=True)
            ]
            used_splits[name] = self.leave_out(name, split, fits, encoding.unfit_reason, encoding.remedy)
            if not any(fits):
                raise InputError(
                    f"Every clip in the {name} split has {encoding.unfit_reason}. Check that the targets belong to "
                    "the clips, and that the sampling rate is right."
                )
            rows = [i for i, fit in enumerate(fits) if fit]
            is_augmented = augmentation is not None and name == "train"
            inputs[name] = Clips(
                used_splits[name],
                [labels[i] for i in rows],
                extractor,
                positions=[available[i] for i in rows],
                min_length=min_length,
                # Without an attention mask the model takes the padding for a part of the clip.
                padding_changes_outputs=not (has_fixed_length or extractor.return_attention_mask),
                augmentation=augmentation if is_augmented else None,
                min_samples=[samples_for_frames(required[i]) for i in rows] if is_augmented else (),
                seed=seed,
            )
            if name == "train":
                self._limit_mask_length(model.config, int(inputs[name].positions.min()))
        return used_splits, inputs

    def _limit_mask_length(self, config: PretrainedConfig, min_frames: int) -> None:
        """Limit the length of SpecAugment's masks, in the config, to the shortest training clip.

        transformers requires that.

        Args:
            config: of the model; changed in place.
            min_frames: of the shortest clip, before its speed is perturbed.
        """
        min_frames = max(1, int(min_frames * (1 - self.settings.speed_perturbation)) - 1)
        masks_time = getattr(config, "apply_spec_augment", False) and getattr(config, "mask_time_prob", 0.0) > 0
        if masks_time and config.mask_time_length > min_frames:
            logger.info("SpecAugment masks %d frames instead of %d, the length of the shortest training clip.",
                        min_frames, config.mask_time_length)  # fmt: skip
            config.mask_time_length = min_frames

    def pad(self, processor: Processor) -> ClipPadding:
        """Return the function that pads clips to a batch, with an ``attention_mask`` if the model takes one."""
        extractor = feature_extractor_of(processor)
        return ClipPadding(extractor, has_fixed_length=fixed_input_seconds(extractor) is not None)

    def train_mode_effects(self, config: PretrainedConfig) -> list[str]:
        """Return a list with SpecAugment and its flags, or an empty list if the model does not apply it."""
        probability = max(getattr(config, name, 0.0) for name in ("mask_time_prob", "mask_feature_prob"))
        is_applied = getattr(config, "apply_spec_augment", False) and probability > 0
        return ["SpecAugment (--mask_time_prob, --mask_feature_prob)"] if is_applied else []

    # --- report -----------------------------------------------------------------------------------------------

    def display_rows(self, split: Dataset) -> list[dict[str, Any]]:
        """Return for each clip of a split a dictionary with its name, and the times of an excerpt."""
        return [{"audio": name} for name in display_names_of(split)]

    def media_data_uris(self, inputs: Clips, rows: Sequence[int]) -> list[str]:
        """Return the clips of these rows as data URIs that a page can play."""
        return [to_data_uri(inputs.samples(row), inputs.sampling_rate) for row in rows]

    def prediction_fields(self, split: Dataset) -> list[dict[str, Any]]:
        """Return for each clip of a split its name, times and speaker, as in ``predictions.jsonl``."""
        names = [name for name in ("audio", "start", "end", "speaker") if name in split.column_names]
        return list(split.select_columns(names))

    def record_key(self, record: Mapping[str, Any]) -> tuple[Any, ...]:
        """Return the clip's name and times in a record of ``predictions.jsonl``, as a tuple."""
        return tuple(record.get(name) for name in ("audio", "start", "end"))

    def predict_arguments(self, records: list[dict[str, Any]], run_arguments: Mapping[str, Any]) -> list[str]:
        """Return a list with the path of a test clip, relative to the working directory, or ``CLIP``."""
        file = run_arguments.get("test_file") or run_arguments.get("train_file")
        folder = Path(file).parent if file else Path(run_arguments.get("dataset_name", ""))
        clips = (find_clip(record["audio"], folder) for record in records)
        return [next((os.path.relpath(clip) for clip in clips if os.path.isfile(clip)), "CLIP")]
