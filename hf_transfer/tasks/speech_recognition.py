"""Speech recognition with CTC: from clips to the letters that were said."""

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from datasets import Dataset, DatasetDict
from transformers import AutoModelForCTC, PreTrainedModel, Wav2Vec2BertProcessor, Wav2Vec2Processor

from hf_transfer.arguments import DataArguments, ModelArguments
from hf_transfer.data.groups import NAMELESS
from hf_transfer.data.leakage import UNIT, drawn_together, unit_names, usual_unit_column
from hf_transfer.data.loading import home_of_tables
from hf_transfer.data.splits import find_column
from hf_transfer.errors import InputError, logger
from hf_transfer.evaluation.bootstrap import Resampled
from hf_transfer.inputs.audio.clip_sources import excerpt_columns, resolve, seconds_of, source_of
from hf_transfer.inputs.audio.clips import Clips, SpeechCollator, samples_for, spelling_frames
from hf_transfer.inputs.audio.decoding import AudioSettings, as_data_uri
from hf_transfer.inputs.audio.recordings import (
    AUDIO_COLUMNS,
    TRANSCRIPT_COLUMNS,
    caveats_of_speakers,
    clip_labels,
    read_recordings,
    read_transcripts,
    say_left_out,
)
from hf_transfer.models import load_config, load_pretrained
from hf_transfer.targets.transcripts import error_rates as transcription
from hf_transfer.targets.transcripts.ctc_models import (
    frames_of,
    input_length,
    load_feature_extractor,
    renew_head,
    shortest_input,
)
from hf_transfer.targets.transcripts.languages import load_language, restore_language, vocabularies
from hf_transfer.targets.transcripts.letters import (
    build_tokenizer,
    covers,
    letters_of,
    new_letters,
    normalise,
    spells,
    unknown_letters,
)
from hf_transfer.targets.transcripts.tags import say_tags
from hf_transfer.targets.transcripts.vocabulary import label_ids, read_vocabulary, respelt, say_why_new, usable
from hf_transfer.tasks.speech_pipeline import WHOLE_SECONDS, SpeechPipeline
from hf_transfer.tasks.speech_settings import SpeechSettings
from hf_transfer.training.losses import CTCLoss


@dataclass
class SpeechRecognition(SpeechSettings):
    """A speech recogniser.

    The example splits have the columns ``audio`` (the clip's name), ``text`` in the letters of the vocabulary, perhaps
    ``speaker`` and ``group``, and where the decoded samples lie.
    """

    pipeline_tag: ClassVar[str] = "automatic-speech-recognition"
    main_input: ClassVar[str] = "audio"
    template: ClassVar[str] = "automatic-speech-recognition"
    headline: ClassVar[tuple[str, ...]] = ("wer", "cer")
    metrics: ClassVar[tuple[str, ...]] = ("wer", "cer", "empty_hypotheses")
    decides: ClassVar[bool] = False
    # Sixteen clips a step, eight at a time: half a minute of speech each takes gigabytes in a large model.
    defaults: ClassVar[Mapping[str, Any]] = {
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
    chooses: ClassVar[bool] = False
    minimum_steps: ClassVar[int] = 1000
    auto_model: ClassVar[Any] = AutoModelForCTC
    architecture_suffix: ClassVar[str] = "ForCTC"
    _argument_group_name: ClassVar[str] = "speech recognition"

    @classmethod
    def settings_of(cls, config: Any) -> dict[str, Any]:
        return {}

    # --- data -------------------------------------------------------------------------------------------------

    def input_columns(self, columns: Sequence[str]) -> dict[str, str]:
        audio = find_column(columns, self.audio_column_name, AUDIO_COLUMNS, "audio_column_name")
        return {"audio": audio, **excerpt_columns([name for name in columns if name != audio])}

    def prediction_input(self, own: str, value: Any, file: str) -> Any:
        if own != "audio":
            seconds = seconds_of(value)
            return value if seconds is None and isinstance(value, str) and value.strip() else seconds
        source = source_of(value, Path(file).parent)
        return str(source) if isinstance(source, Path) else source

    def require_settings(self, model: ModelArguments) -> None:
        """None of them depends on the model alone."""

    def standardise(
        self, splits: DatasetDict, data: DataArguments, model: ModelArguments, config: Any = None
    ) -> tuple[DatasetDict, dict[str, dict[str, int]], dict[str, str]]:
        columns: dict[str, dict[str, str]] = {}
        for name, split in splits.items():
            alike = [columns[other] for other in columns if splits[other].column_names == split.column_names]
            columns[name] = alike[0] if alike else self._columns(split, data)
        letters = self._letters(model, splits, columns, fixed=config is not None)
        settings = AudioSettings(load_feature_extractor(model).sampling_rate, self.min_seconds, self.max_seconds)
        ready, left_out = DatasetDict(), {}
        for name, split in splits.items():
            say_tags(name, read_transcripts(split, columns[name]["text"])[0], lambda text: spells(letters, text))
            ready[name], left_out[name] = read_recordings(
                split, name, columns[name], home_of_tables(data, name), settings,
                lambda text: normalise(text, letters), self.leave_out,
            )  # fmt: skip
        for name in ("train", "replay", *(["source"] if data.replay else [])):  # what is trained on
            if name in ready:
                before = len(ready[name])
                ready[name] = self._spellable(name, ready[name], letters)
                left_out[name] |= {"letters outside the vocabulary": before - len(ready[name])}
        return ready, left_out, next(iter(columns.values()))

    def _columns(self, split: Dataset, data: DataArguments) -> dict[str, str]:
        """The columns of a split; tables of the same data may name them differently, and only some know speakers."""
        there = split.column_names
        columns = {"audio": self.input_columns(there)["audio"]}
        columns["text"] = find_column(there, self.text_column_name, TRANSCRIPT_COLUMNS, "text_column_name")
        speaker = self.speaker_column_name or usual_unit_column(there, nouns=("speakers",))
        columns |= {"speaker": speaker} if speaker else {}
        columns |= {UNIT: str(data.split_by)} if data.split_by in there else {}
        return columns | ({"group": data.group_column_name} if data.group_column_name else {})

    def _letters(
        self, model: ModelArguments, splits: DatasetDict, columns: dict[str, dict[str, str]], *, fixed: bool
    ) -> set[str]:
        """The letters that transcripts are written in: of the kept vocabulary, or of one that will be built."""
        vocabulary = read_vocabulary(model, self.target_lang, needed=self.vocabulary != "new", say=not fixed)
        if fixed or self.vocabulary == "keep":
            return usable(vocabulary, model, "--vocabulary keep: " if self.vocabulary == "keep" else "").letters
        texts, _ = read_transcripts(splits["train"], columns["train"]["text"])
        if vocabulary and not vocabulary.fault and self.vocabulary == "auto" and covers(texts, vocabulary.letters):
            return vocabulary.letters
        letters = new_letters(texts)
        if vocabulary and self.vocabulary == "auto":
            say_why_new(vocabulary, texts, letters, vocabularies(model))
        return letters

    def _spellable(self, name: str, split: Dataset, letters: set[str]) -> Dataset:
        """Without the clips whose transcripts hold letters that the vocabulary lacks."""
        foreign, _ = unknown_letters(split["text"][:], letters)
        if not foreign:
            return split
        fits = [spells(letters, text) for text in split["text"][:]]
        kept = [i for i, fit in enumerate(fits) if fit]
        shown = " ".join(letter if letter != " " else "(space)" for letter, _ in foreign.most_common(10))
        cure = f"{shown}: write numbers as words, or --vocabulary new"
        _say_unfit(name, split, fits, "letters outside the vocabulary", cure)
        if not kept:
            raise InputError(f"No {name} transcript can be spelt in the checkpoint's vocabulary: --vocabulary new.")
        return split.select(kept)

    def strata(self, split: Dataset) -> list[Any]:
        return split["group"][:] if "group" in split.column_names else [""] * len(split)

    def identities(self, split: Dataset) -> list[str]:
        return split["checksum"][:]

    def contents(self, split: Dataset) -> list[str]:
        return split["checksum"][:]

    def unit_column(self, columns: Sequence[str]) -> str | None:
        return self.speaker_column_name if self.speaker_column_name in columns else usual_unit_column(columns)

    def check(self, splits: DatasetDict) -> list[str]:
        return caveats_of_speakers(splits["train"], splits["test"])

    def facts(self, splits: DatasetDict) -> dict[str, Any]:
        return {
            "hours": {name: round(sum(split["seconds"][:]) / 3600, 3) for name, split in splits.items()},
            "speakers": {
                name: len(set(split["speaker"][:]))
                for name, split in splits.items()
                if "speaker" in split.column_names
            },
            "answer": ("wer", "Word error rate"),
        }

    # --- model ------------------------------------------------------------------------------------------------

    def load_processor(self, model: ModelArguments, splits: DatasetDict | None = None) -> Any:
        extractor, new = load_feature_extractor(model), self.vocabulary == "new" and splits is not None
        vocabulary = read_vocabulary(model, self.target_lang, needed=not new)
        texts = splits["train"]["text"][:] if splits is not None else []
        if splits is None or self.vocabulary == "keep":
            tokenizer = usable(vocabulary, model).tokenizer
        elif vocabulary and not (vocabulary.fault or new) and all(spells(vocabulary.letters, text) for text in texts):
            tokenizer = vocabulary.tokenizer
        else:
            tokenizer = build_tokenizer(texts)
            letters = "".join(sorted(letters_of(tokenizer) - {" "}))
            why = "The checkpoint's vocabulary is left" if vocabulary else "The checkpoint has no vocabulary"
            logger.info("%s: one of %d letters is built from the training transcripts: %s", why, len(letters), letters)
        kind = Wav2Vec2Processor if hasattr(extractor, "do_normalize") else Wav2Vec2BertProcessor
        return kind(feature_extractor=extractor, tokenizer=tokenizer)

    def load_model(
        self, model: ModelArguments, splits: DatasetDict, processor: Any, *, pretrained: bool
    ) -> tuple[PreTrainedModel, list[str]]:
        tokenizer = processor.tokenizer
        old = load_config(model, self.auto_model)
        settings: dict[str, Any] = {"pad_token_id": tokenizer.pad_token_id}
        # Layers that are skipped at random leave parameters without gradients, and steps that cannot be repeated.
        settings |= {"layerdrop": 0.0} if hasattr(old, "layerdrop") else {}
        for name in ("mask_time_prob", "mask_feature_prob"):
            if getattr(self, name) is not None:
                settings |= {name: getattr(self, name), "apply_spec_augment": True}
        own = read_vocabulary(model, self.target_lang, needed=False)
        renewed = pretrained and own is not None and own.tokenizer.get_vocab() != tokenizer.get_vocab()
        if own is None or not pretrained:
            settings["vocab_size"] = len(tokenizer)  # a checkpoint's own counts no tokens that were added to it
        loaded, new = load_pretrained(self.auto_model, model, pretrained=pretrained, **settings)
        if pretrained and own and own.language:
            load_language(loaded, own.language, model.model_revision)
        if renewed and own:
            new += renew_head(loaded, own.tokenizer, tokenizer)
        fixed = pretrained and not self.train_feature_encoder and hasattr(loaded, "freeze_feature_encoder")
        if fixed:
            loaded.freeze_feature_encoder()
        if not processor.feature_extractor.return_attention_mask:
            logger.info(
                "The model takes no attention mask, and padding changes what its feature encoder computes: %s.",
                "clips go through that one by one"
                if fixed
                else "clips are measured one by one; in training they share batches with clips of similar length",
            )
        # What is trained on and measured is heard whole in prediction too.
        loaded.config.whole_seconds = max(WHOLE_SECONDS, self.max_seconds)
        return loaded, new

    def prepare_base(self, model: PreTrainedModel, name: str, revision: str) -> None:
        restore_language(model, name, revision)

    def preprocess(
        self, splits: DatasetDict, processor: Any, model: PreTrainedModel, seed: int
    ) -> tuple[DatasetDict, dict[str, Clips]]:
        to_frames = frames_of(model)

        def frames(samples: list[int]) -> list[int]:
            return to_frames(torch.tensor([input_length(processor, n) for n in samples])).tolist()

        @functools.cache
        def samples_needed(wanted: int) -> int:
            return samples_for(wanted, lambda samples: frames([samples])[0])

        augmentation, shortest = self.augmentation(), shortest_input(processor, model)
        letters = letters_of(processor.tokenizer, model.config.vocab_size)
        kept, ready = DatasetDict(), {}
        for name, split in respelt(splits, letters).items():
            labels = label_ids(processor.tokenizer, split["text"][:], model.config.vocab_size)
            needed = [spelling_frames(ids) for ids in labels]
            # Nothing can be learned from more letters than frames; in a test split they are errors like any other.
            given = frames([max(n, shortest) for n in split["length"][:]])
            fits = [
                have > 0 and (name in ("test", "source") or 0 < need <= have)
                for need, have in zip(needed, given, strict=True)
            ]
            _say_unfit(name, split, fits, "more letters than frames", "is it another clip's transcript?")
            if not any(fits):
                raise InputError(
                    f"Every clip in the {name} split has more letters than the model makes frames of it: are "
                    "transcripts and clips the same language and speed, and is the sampling rate right?"
                )
            rows = [i for i, fit in enumerate(fits) if fit]
            kept[name] = split.select(rows)
            augmented = augmentation is not None and name == "train"
            ready[name] = Clips(
                kept[name],
                [labels[i] for i in rows],
                processor.feature_extractor.sampling_rate,
                positions=[given[i] for i in rows],
                shortest=shortest,
                # Without a mask the zeros that pad a clip change what the model makes of it.
                alone=not processor.feature_extractor.return_attention_mask,
                augmentation=augmentation if augmented else None,
                min_samples=[samples_needed(needed[i]) for i in rows] if augmented else (),
                seed=seed,
            )
            if name == "train":
                self._fit_time_masks(model.config, min(ready[name].positions))
        return kept, ready

    def _fit_time_masks(self, config: Any, shortest: int) -> None:
        """SpecAugment's masks are no longer than the shortest clip as it may be heard, which transformers demands."""
        shortest = max(1, int(shortest * (1 - self.speed_perturbation)) - 1)
        masked = getattr(config, "apply_spec_augment", False) and getattr(config, "mask_time_prob", 0.0) > 0
        if masked and config.mask_time_length > shortest:
            logger.info("SpecAugment masks %d frames, not %d: the shortest clip.", shortest, config.mask_time_length)
            config.mask_time_length = shortest

    def collator(self, processor: Any) -> SpeechCollator:
        return SpeechCollator(processor.feature_extractor)

    def loss_function(self, train: Dataset, model: Any, label_smoothing: float) -> CTCLoss:
        if label_smoothing:
            raise InputError("--label_smoothing_factor is of labels, and CTC has none. Leave it out.")
        return CTCLoss(model.config.pad_token_id, frames_of(model))

    def readout(self, processor: Any, model: Any) -> Callable[..., list[str]]:
        """The text that each clip is heard as: the likeliest letter of each frame, repetitions and blanks removed."""
        to_frames, tokenizer = frames_of(model), processor.tokenizer

        def read(logits: torch.Tensor, lengths: torch.Tensor) -> list[str]:
            ids, frames = logits.argmax(dim=-1).cpu().numpy(), to_frames(lengths).tolist()
            return [" ".join(tokenizer.decode(row[:n]).split()) for row, n in zip(ids, frames, strict=True)]

        return read

    # --- quality ----------------------------------------------------------------------------------------------

    def finished(self, model: Any) -> AbstractContextManager[None]:
        return nullcontext()

    def decide(self, outputs: Any, split: Dataset | None, config: Any) -> dict[str, Any]:
        return {}

    def measure(self, outputs: Any, split: Dataset, config: Any) -> dict[str, float]:
        return transcription.measure(split["text"][:], list(outputs))

    def intervals(self, before: Any, after: Any, split: Dataset, config: Any, seed: int) -> dict[str, Any]:
        return transcription.intervals(split["text"][:], list(before), list(after), unit_names(split), seed)

    def findings(self, outputs: Any, split: Dataset, config: Any) -> dict[str, Any]:
        references, hypotheses = split["text"][:], list(outputs)
        return {
            "errors": transcription.commonest_errors(references, hypotheses),
            "worst": transcription.worst_clips(clip_labels(split), references, hypotheses),
        }

    def media(self, inputs: Clips, worst: list[dict[str, Any]]) -> list[str]:
        return [as_data_uri(inputs.samples(one["row"]), inputs.sampling_rate) for one in worst]

    def predictions(self, outputs: Any, split: Dataset, config: Any) -> list[dict[str, Any]]:
        names = [name for name in ("audio", "start", "end", "speaker", "group", UNIT) if name in split.column_names]
        counts = transcription.count_errors(split["text"][:], list(outputs))
        return [
            {name: example[name] for name in names}
            | {"reference": example["text"], "prediction": text}
            | {name: int(values[i]) for name, values in counts.items()}
            for i, (example, text) in enumerate(zip(split, outputs, strict=True))
        ]

    def example(self, record: dict[str, Any]) -> Any:
        return record["audio"] if "start" not in record else [record[name] for name in ("audio", "start", "end")]

    def resampled(self, records: list[dict[str, Any]], facts: dict[str, Any]) -> Resampled:
        counts = {
            name: np.array([record[name] for record in records], dtype=float)
            for pair in transcription.RATES.values()
            for name in pair
        }
        speakers = [record.get(UNIT, record.get("speaker", NAMELESS)) for record in records]
        return Resampled(drawn_together(speakers, len(records)), lambda weights: transcription.rates(counts, weights))

    def to_try(self, records: list[dict[str, Any]], told: Mapping[str, Any]) -> list[str]:
        file = told.get("test_file") or told.get("train_file")
        folder = Path(file).parent if file else Path(told.get("dataset_name", ""))
        clips = (resolve(record["audio"], folder) for record in records)
        return [next((os.path.relpath(clip) for clip in clips if os.path.isfile(clip)), "CLIP")]

    def outputs(self, inputs: Clips, predict: Callable[[Any], Any], pipeline: SpeechPipeline) -> Any:
        return pipeline.texts_of(inputs, predict)

    def pipeline(self, model: Any, processor: Any) -> SpeechPipeline:
        return SpeechPipeline(
            model=model, tokenizer=processor.tokenizer, feature_extractor=processor.feature_extractor
        )


def _say_unfit(name: str, split: Dataset, fits: list[bool], reason: str, cure: str) -> None:
    out = [clip for clip, fit in zip(clip_labels(split), fits, strict=True) if not fit]
    if out:
        say_left_out(name, reason, out, cure, Path(split["store"][0]).parent)
