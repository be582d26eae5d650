"""Train the source model of the accent demo: a tiny wav2vec2 CTC model, from random weights, on American English.

    python -m hf_transfer.demo.speech.make_corpus
    python -m hf_transfer.demo.speech.train_source_model

The training clips are made with the functions of make_corpus.py and kept in memory. They have more voices than the
corpus, without those of its test speakers, and none of the sentences of its American clips. The American train split
is used for validation; all test splits are measured at the end. Training is seeded and runs in one thread.
"""

import argparse
import csv
import itertools
import json
import random
import re
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import jiwer
import numpy as np
import soundfile
import torch
from transformers import (
    Wav2Vec2Config,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    Wav2Vec2Processor,
    get_cosine_schedule_with_warmup,
)

from hf_transfer.demo.speech.make_corpus import RATE, VARIANTS, Speaker, encode, synthesise
from hf_transfer.demo.speech.sentences import GRAMMAR, draw_sentence

# The tokens of wav2vec2-base-960h, in its order.
VOCABULARY = ["<pad>", "<s>", "</s>", "<unk>", "|", *"ETAONIHSRDLUMWCFGYPBVK'XJQZ"]
# Voice variants in addition to those of the corpus's train speakers.
MORE_VARIANTS = ["m5", "adam", "Alicia", "Andrea", "Denis", "ed", "Hugo", "linda", "Marco", "max", "paul", "victor"]
WORDS = sorted(set(re.findall(r"(?<![{\w])[\w']+(?![}\w])", " ".join(itertools.chain(*GRAMMAR.values())))))

# Samples and transcript.
Clip = tuple[np.ndarray, str]


def make_clips(count: int, rng: random.Random, without: set[str]) -> list[Clip]:
    """Return American clips (samples, transcript) with random sentence, voice, pitch, speed and bit rate.

    Args:
        count: number of clips.
        rng: source of randomness.
        without: sentences that no clip has, in upper case.
    """
    clips: list[Clip] = []
    while len(clips) < count:
        # Half of the clips are random words: from the grammar alone the model would learn the sentences by heart.
        sentence = draw_sentence(rng) if rng.random() < 0.5 else " ".join(rng.sample(WORDS, rng.randint(2, 7)))
        if sentence.upper() in without:
            continue
        variant = rng.choice(VARIANTS["train"] + MORE_VARIANTS)
        speaker = Speaker("american", variant, pitch=rng.randint(15, 85), speed=rng.randint(160, 230))
        speech = synthesise(sentence, speaker)
        if rng.random() < 0.75:
            speech = decode(encode(speech, compression=rng.uniform(0.96, 0.99)))
        clips.append((speech, sentence.upper()))
        if len(clips) % 1000 == 0:
            print(f"{len(clips)} clips made", flush=True)
    return clips


def decode(file: bytes | Path) -> np.ndarray:
    """Return the samples of an audio file, float32 [samples]; raise an error if they are not at 16 kHz."""
    speech, rate = soundfile.read(BytesIO(file) if isinstance(file, bytes) else file, dtype="float32")
    if rate != RATE:
        raise ValueError(f"{rate} Hz: expected {RATE}.")
    return speech


def read_corpus(folder: Path) -> dict[tuple[str, str], list[Clip]]:
    """Return the clips (samples, transcript) in the folder of the corpus, by accent and split."""
    clips: dict[tuple[str, str], list[Clip]] = {}
    with open(folder / "metadata.csv", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            clip = (decode(folder / row["file_name"]), row["transcription"])
            clips.setdefault((row["accent"], row["split"]), []).append(clip)
    return clips


def make_processor(folder: Path) -> Wav2Vec2Processor:
    """Write the model's vocabulary to a folder, and return the model's processor."""
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = folder / "vocab.json"
    vocabulary.write_text(json.dumps({token: i for i, token in enumerate(VOCABULARY)}), encoding="utf-8")
    return Wav2Vec2Processor(
        feature_extractor=Wav2Vec2FeatureExtractor(sampling_rate=RATE, do_normalize=True, return_attention_mask=True),
        tokenizer=Wav2Vec2CTCTokenizer(str(vocabulary)),
    )


def make_model() -> Wav2Vec2ForCTC:
    """Return an untrained wav2vec2 CTC model of 0.93 million parameters, without dropout and masking.

    It is too small to need them.
    """
    config = Wav2Vec2Config(
        vocab_size=len(VOCABULARY),
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        conv_dim=(32, *(64,) * 6),
        num_conv_pos_embeddings=32,
        num_conv_pos_embedding_groups=8,
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        activation_dropout=0.0,
        feat_proj_dropout=0.0,
        final_dropout=0.0,
        layerdrop=0.0,
        mask_time_prob=0.0,
        ctc_loss_reduction="mean",
        ctc_zero_infinity=True,
        pad_token_id=VOCABULARY.index("<pad>"),
    )
    return Wav2Vec2ForCTC(config)


def draw_batches(clips: list[Clip], size: int, rng: random.Random) -> Iterator[list[Clip]]:
    """Yield, without end, batches of `size` clips of similar length, so that little is padding."""
    while True:
        order = sorted(clips, key=lambda clip: len(clip[0]) * rng.uniform(0.9, 1.1))
        batches = [order[i : i + size] for i in range(0, len(order), size)]
        rng.shuffle(batches)
        yield from batches


def augment(speech: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return speech [samples] with random silence around it and white noise at least 15 dB below it."""
    silences = rng.integers(-RATE // 8, RATE // 8, size=2).clip(min=0)
    speech = np.pad(speech, (silences[0], silences[1]))
    noise = rng.standard_normal(len(speech), dtype=np.float32)
    return speech + noise * speech.std() * 10 ** (-rng.uniform(15, 60) / 20)


def compute_loss(model: Wav2Vec2ForCTC, processor: Wav2Vec2Processor, batch: list[Clip]) -> torch.Tensor:
    """Return the CTC loss of a batch of clips, a scalar, with the model in train mode."""
    model.train()
    speeches, sentences = zip(*batch, strict=True)
    inputs = processor(list(speeches), sampling_rate=RATE, padding=True, return_tensors="pt")
    labels = processor.tokenizer(list(sentences), padding=True, return_tensors="pt")
    return model(**inputs, labels=labels.input_ids.masked_fill(labels.attention_mask == 0, -100)).loss


def error_rate(model: Wav2Vec2ForCTC, processor: Wav2Vec2Processor, clips: list[Clip], size: int = 16) -> float:
    """Return the word error rate of greedy decoding of clips, computed in batches of `size` clips."""
    model.eval()
    clips = sorted(clips, key=lambda clip: len(clip[0]))
    predictions: list[str] = []
    for i in range(0, len(clips), size):
        speeches = [speech for speech, _ in clips[i : i + size]]
        inputs = processor(speeches, sampling_rate=RATE, padding=True, return_tensors="pt")
        with torch.inference_mode():
            tokens = model(**inputs).logits.argmax(-1)
        # Predictions of padded frames are noise.
        mask = model._get_feature_vector_attention_mask(tokens.shape[1], inputs.attention_mask)
        predictions += processor.batch_decode(tokens.masked_fill(~mask, VOCABULARY.index("<pad>")))
    return jiwer.wer([sentence for _, sentence in clips], predictions)


def main() -> None:
    here = Path(__file__).parent
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus_dir", type=Path, default=here / "commands")
    parser.add_argument("--output_dir", type=Path, default=here / "wav2vec2-tiny-commands-american")
    parser.add_argument("--clips", type=int, default=10_000)
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--learning_rate", type=float, default=2e-3)
    parser.add_argument("--eval_steps", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    rng, noise_rng = random.Random(args.seed), np.random.default_rng(args.seed)
    corpus = read_corpus(args.corpus_dir)
    sentences_of_corpus = {
        sentence for (accent, _), clips in corpus.items() if accent == "american" for _, sentence in clips
    }
    clips = make_clips(args.clips, rng, without=sentences_of_corpus)

    processor = make_processor(args.output_dir)
    model = make_model()
    print(f"{model.num_parameters():,} parameters")
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.learning_rate, weight_decay=0.01)
    schedule = get_cosine_schedule_with_warmup(optimizer, args.steps // 10, args.steps)
    batches = draw_batches(clips, args.batch_size, rng)
    start = time.perf_counter()
    for step in range(1, args.steps + 1):
        batch = [(augment(speech, noise_rng), sentence) for speech, sentence in next(batches)]
        loss = compute_loss(model, processor, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 50 == 0:
            print(f"step {step}: loss {loss.item():.3f}, {time.perf_counter() - start:.0f} s", flush=True)
        if step % args.eval_steps == 0:
            print(f"WER american train: {error_rate(model, processor, corpus['american', 'train']):.3f}", flush=True)

    model.save_pretrained(args.output_dir)
    processor.save_pretrained(args.output_dir)
    for (accent, split), accent_clips in corpus.items():
        if split == "test":
            print(f"WER {accent} test: {error_rate(model, processor, accent_clips):.3f}")


if __name__ == "__main__":
    main()
