"""Write the accent corpus: commands to a home and a telephone, spoken by espeak-ng in six English accents.

    python -m hf_transfer.demo.speech.make_corpus

It needs the program espeak-ng (Debian: ``apt-get install espeak-ng``), soundfile and torchaudio, and takes two
minutes. Everything random is seeded: the same versions of these write the same files, byte for byte.
"""

import argparse
import csv
import io
import random
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import torch
import torchaudio

from hf_transfer.demo.speech.sentences import draw_sentences

RATE = 16_000
# libsndfile's compression level: about 11 kbit/s (1 is 6 kbit/s, 0 is 256), so that two thousand clips take 5 MB.
COMPRESSION = 0.98

# espeak-ng's voice variants. In every accent those of test speakers differ from those of train speakers.
VARIANTS = {"train": ["m1", "m2", "m4", "m7", "m8", "f1", "f3", "f5"], "test": ["m3", "m6", "f2", "f4"]}
VOICES = {
    "american": "en-us",
    "scottish": "en-gb-scotland",
    "caribbean": "en-029",
    "lancastrian": "en-gb-x-gbclan",
    "west_midlands": "en-gb-x-gbcwmd",
    "german": "de",
}
CLIPS = {
    "american": {"train": 200, "test": 100},
    "scottish": {"train": 300, "test": 90},
    "caribbean": {"train": 300, "test": 90},
    "lancastrian": {"train": 250, "test": 80},
    "west_midlands": {"train": 250, "test": 80},
    "german": {"train": 300, "test": 90},
}

# A stereotype of English with a German accent: the phonemes of British English (as taught in German schools) that the
# German voice lacks, in espeak-ng's notation, and their replacements. The voice itself adds the German /r/ and vowels,
# and devoices consonants at the end of words.
GERMAN_PHONEMES = {
    "T": "s",
    "D": "z",
    "w": "v",
    "V": "a",
    "a": "E",
    "aa": "A:",
    "a#": "@",
    "A@": "A:",
    "I2": "I",
    "3:": "W",
    "0": "O",
    "O@": "O:",
    "o@": "o:3",
    "oU": "o:",
    "eI": "e:",
    "dZ": "tS",
    ";": "",
    "r-": "r",
}


@dataclass(frozen=True)
class Speaker:
    """Dataclass of an accent, a voice variant of espeak-ng, a pitch (0 to 99) and a speed (words per minute)."""

    accent: str
    variant: str
    pitch: int
    speed: int

    @property
    def name(self) -> str:
        return f"{self.accent}_{self.variant}"


def held_out_sentences(seed: int) -> list[str]:
    """Return the sentences of the test splits, which are the same for all accents.

    Only accents then make a difference.
    """
    return draw_sentences(max(clips["test"] for clips in CLIPS.values()), random.Random(f"{seed} test"))


def draw_speaker(accent: str, variant: str, rng: random.Random) -> Speaker:
    """Return a speaker of an accent and a voice variant, with a random pitch and speed."""
    return Speaker(accent, variant, pitch=rng.randint(30, 70), speed=rng.randint(175, 215))


def synthesise(sentence: str, speaker: Speaker) -> np.ndarray:
    """Return a sentence as speech, float32 [samples] at 16 kHz, with little silence at both ends."""
    if speaker.accent == "german":
        sentence = german_phonemes(sentence)
    voice = f"{VOICES[speaker.accent]}+{speaker.variant}"
    options = ["-v", voice, "-p", str(speaker.pitch), "-s", str(speaker.speed), "--stdout"]
    speech, rate = soundfile.read(io.BytesIO(run_espeak(*options, sentence)), dtype="float32")
    speech = torchaudio.functional.resample(torch.from_numpy(speech), rate, RATE).numpy()
    (audible,) = np.nonzero(np.abs(speech) > 0.005)
    return speech[max(audible[0] - RATE // 20, 0) : audible[-1] + RATE // 10]


def german_phonemes(sentence: str) -> str:
    """Return the phonemes of a sentence in espeak-ng's notation, with those that its German voice lacks replaced."""
    phonemes = run_espeak("-v", "en-gb", "-q", "-x", "--sep=_", sentence).decode()
    words = []
    for word in phonemes.split():
        # A stress mark stays in front of its phoneme.
        parts = re.findall(r"(?:^|_)([',]*)([^_]*)", word)
        words.append("".join(stress + GERMAN_PHONEMES.get(phoneme, phoneme) for stress, phoneme in parts))
    return f"[[{' '.join(words)}]]"


def run_espeak(*arguments: str) -> bytes:
    """Run espeak-ng with some arguments, and return the bytes that it writes to standard output."""
    return subprocess.run(["espeak-ng", *arguments], check=True, capture_output=True).stdout


def encode(speech: np.ndarray, serial: int = 0, compression: float = COMPRESSION) -> bytes:
    """Return speech as the bytes of an OGG Opus file, small and the same in every run.

    Args:
        speech: float32 [samples].
        serial: number of the stream, which libsndfile draws from the clock.
        compression: level from 0 to 1.
    """
    file = io.BytesIO()
    soundfile.write(file, speech, RATE, format="OGG", subtype="OPUS", compression_level=compression)
    ogg, pages = file.getvalue(), []
    while ogg:
        head, lacing = bytearray(ogg[:26]), ogg[27 : 27 + ogg[26]]
        size = 27 + len(lacing) + sum(lacing)
        body = ogg[27 + len(lacing) : size]
        if body.startswith(b"OpusTags"):
            # libsndfile reserves 800 bytes for comments, a quarter of a short clip: keep only the name of the library.
            body = body[: 12 + body[8]] + bytes(4)
            lacing = bytes([len(body)])
        # Bytes 14 to 18 are the serial number of the stream, 22 to 26 the checksum.
        head[14:18] = serial.to_bytes(4, "little")
        head[22:26] = bytes(4)
        page = head + bytes([len(lacing)]) + lacing + body
        page[22:26] = ogg_checksum(page).to_bytes(4, "little")
        pages.append(page)
        ogg = ogg[size:]
    return b"".join(pages)


def ogg_checksum(page: bytes | bytearray) -> int:
    """Return the checksum of an OGG page: CRC-32 with the most significant bit first, unlike zlib's."""
    value = 0
    for byte in page:
        value ^= byte << 24
        for _ in range(8):
            value = (value << 1) ^ (0x104C11DB7 if value & 0x80000000 else 0)
    return value


def main() -> None:
    here = Path(__file__).parent
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output_dir", type=Path, default=here / "commands", help="folder to write the corpus to")
    parser.add_argument("--seed", type=int, default=0, help="seed of sentences and speakers")
    args = parser.parse_args()

    tests = held_out_sentences(args.seed)
    rows: list[tuple[str, ...]] = []
    for accent, clips in CLIPS.items():
        rng = random.Random(f"{args.seed} {accent}")
        sentences = {
            "train": draw_sentences(clips["train"], rng, without=frozenset(tests)),
            "test": tests[: clips["test"]],
        }
        for split, variants in VARIANTS.items():
            speakers = [draw_speaker(accent, variant, rng) for variant in variants]
            (args.output_dir / accent / split).mkdir(parents=True, exist_ok=True)
            for i, sentence in enumerate(sentences[split]):
                speaker = speakers[i % len(speakers)]
                name = f"{accent}/{split}/{i:03d}.ogg"
                (args.output_dir / name).write_bytes(encode(synthesise(sentence, speaker), serial=len(rows)))
                rows.append((name, sentence.upper(), speaker.name, accent, split))
        print(f"{accent}: {clips['train']} train and {clips['test']} test clips")
    with open(args.output_dir / "metadata.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("file_name", "transcription", "speaker", "accent", "split"))
        writer.writerows(rows)
    size = sum(file.stat().st_size for file in args.output_dir.rglob("*.ogg"))
    print(f"{len(rows)} clips, {size / 1e6:.2f} MB, in {args.output_dir}")


if __name__ == "__main__":
    main()
