"""Audio files of every kind: what comes out, what is refused and why, and what is kept."""

import io
import os
import resource
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import torchaudio
from hypothesis import given, settings
from hypothesis import strategies as st
from speech import RATE, tones

from hf_transfer.inputs.audio import cache as audio_cache
from hf_transfer.inputs.audio.augmentation import Augmentation
from hf_transfer.inputs.audio.cache import read_float32, store_clips
from hf_transfer.inputs.audio.decoding import DecodingSettings, decode
from hf_transfer.inputs.audio.files import Recording
from hf_transfer.inputs.audio.resampling import resample_blocks
from hf_transfer.inputs.audio.sources import UnusableAudio

SETTINGS = DecodingSettings(RATE, 0.1, 30.0)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(audio_cache.datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def spectrum_peak(samples: np.ndarray, rate: int) -> float:
    return float(np.argmax(np.abs(np.fft.rfft(samples))) * rate / len(samples))


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG", "MP3"])
@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000])
@pytest.mark.parametrize("channels", [1, 2])
def test_formats_rates_and_channels(tmp_path, kind, rate, channels):
    if kind == "MP3" and rate == 8000:
        rate = 16000
    sine = 0.5 * np.sin(2 * np.pi * 440 * np.arange(rate * 2) / rate)
    file = tmp_path / f"a.{kind.lower()}"
    soundfile.write(file, np.stack([sine] * channels, axis=1), rate, format=kind)
    for source in (file, file.read_bytes()):
        found = decode(source, SETTINGS)
        assert found.samples.dtype == np.int16
        assert abs(len(found.samples) - 2 * RATE) < 0.1 * RATE
        assert spectrum_peak(found.samples, RATE) == pytest.approx(440, abs=2)
        assert np.abs(found.samples).max() / 32767 == pytest.approx(0.5, abs=0.05)
        assert found.findings == ()


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
def test_sample_formats(tmp_path, subtype):
    soundfile.write(tmp_path / "a.wav", tones("STOP"), RATE, subtype=subtype)
    found = decode(tmp_path / "a.wav", SETTINGS).samples / 32767
    np.testing.assert_allclose(found, tones("STOP"), atol=0.01 if subtype == "PCM_U8" else 1e-4)


def test_eight_channels_are_averaged(tmp_path):
    channels = np.random.default_rng(0).normal(scale=0.1, size=(RATE, 8)).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", channels, RATE, subtype="FLOAT")
    np.testing.assert_allclose(decode(tmp_path / "a.wav", SETTINGS).samples / 32767, channels.mean(1), atol=1e-4)


def test_a_float_file_on_another_scale_is_brought_into_range(tmp_path):
    soundfile.write(tmp_path / "a.wav", 32768 * tones("STOP"), RATE, subtype="FLOAT")
    found = decode(tmp_path / "a.wav", SETTINGS).samples
    assert np.corrcoef(found, tones("STOP"))[0, 1] > 0.999


@settings(max_examples=30, deadline=None)
@given(st.sampled_from([8000, 11025, 22050, 32000, 44100, 48000]), st.integers(1, 60000), st.floats(0.05, 3.0))
def test_reading_in_blocks_changes_nothing(tmp_path_factory, rate, length, seconds):
    samples = np.random.default_rng(length).normal(scale=0.1, size=length).astype(np.float32)
    file = tmp_path_factory.mktemp("blocks") / "a.wav"
    soundfile.write(file, samples, rate, subtype="FLOAT")
    whole = torchaudio.transforms.Resample(rate, RATE)(torch.from_numpy(samples)).numpy()
    with Recording(file) as recording:
        blocks = (block[:, 0] for block in recording.blocks(seconds))
        found = np.concatenate(list(resample_blocks(blocks, rate, RATE)))
    np.testing.assert_allclose(found, whole, atol=1e-6)


def wav_bytes(tmp_path: Path, samples: np.ndarray, **options) -> bytes:
    soundfile.write(tmp_path / "x.wav", samples, RATE, **options)
    return (tmp_path / "x.wav").read_bytes()


def flac_bytes(tmp_path: Path) -> bytes:
    soundfile.write(tmp_path / "x.flac", np.random.default_rng(0).normal(scale=0.1, size=RATE * 3), RATE)
    return (tmp_path / "x.flac").read_bytes()


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda t: b"", "empty"),
        (lambda t: b"This is no audio but text.\n" * 50, "broken"),
        (lambda t: b"\x00" * 5000, "broken"),
        (lambda t: wav_bytes(t, np.zeros(0)), "no samples"),
        (lambda t: wav_bytes(t, np.array([0.1, np.nan, 0.2] * 2000), subtype="FLOAT"), "not finite"),
        (lambda t: wav_bytes(t, np.array([0.1, np.inf] * 2000), subtype="FLOAT"), "not finite"),
        (lambda t: wav_bytes(t, np.full(100, 0.1)), "too short"),
        (lambda t: wav_bytes(t, np.full(31 * RATE, 0.1)), "too long"),
        (lambda t: flac_bytes(t)[:30], "broken"),
    ],
)
def test_what_cannot_be_used(tmp_path, make, reason):
    content = make(tmp_path)
    (tmp_path / "a.wav").write_bytes(content)
    for source in (content, tmp_path / "a.wav"):
        with pytest.raises(UnusableAudio) as found:
            decode(source, SETTINGS)
        assert found.value.reason == reason


def test_missing_file():
    with pytest.raises(UnusableAudio, match="missing"):
        decode(Path("/nowhere/a.wav"), SETTINGS)


@pytest.mark.parametrize(
    "make", [lambda t: wav_bytes(t, tones("STOP GO LEFT"))[:-9000], lambda t: flac_bytes(t)[:-40000]]
)
def test_truncated_files_are_noticed(tmp_path, make):
    assert decode(make(tmp_path), SETTINGS).findings == ("truncated",)


def test_wav_files_that_only_look_truncated_are_whole(tmp_path):
    plain = wav_bytes(tmp_path, tones("STOP"))
    at = plain.index(b"data")
    note = b"LIST" + (20).to_bytes(4, "little") + b"INFOICMT" + (8).to_bytes(4, "little") + b"data\xff\xff\xff\x00"
    for content in (
        plain[:at] + note + plain[at:],
        plain[: at + 4] + (0x7FFFF000).to_bytes(4, "little") + plain[at + 8 :],
        plain[: at + 4] + b"\xff\xff\xff\xff" + plain[at + 8 :],
    ):
        found = decode(content, SETTINGS)
        assert found.findings == ()
        assert len(found.samples) == len(tones("STOP"))


@pytest.mark.parametrize("rate", [44101, 22254, 2003])
def test_odd_sampling_rates_cost_no_memory(tmp_path, rate):
    sine = 0.5 * np.sin(2 * np.pi * 440 * np.arange(rate * 2) / rate)
    soundfile.write(tmp_path / "a.wav", sine, rate)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = decode(tmp_path / "a.wav", SETTINGS)
    assert spectrum_peak(found.samples, RATE) == pytest.approx(440, abs=2)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000


def test_names_that_no_file_can_have(tmp_path):
    for name in ("x" * 300, "a\0b"):
        with pytest.raises(UnusableAudio, match=r"unreadable|missing"):
            decode(tmp_path / name, SETTINGS)


def test_silent_and_clipped_clips_are_noticed(tmp_path):
    assert decode(wav_bytes(tmp_path, np.full(RATE, 1e-5)), SETTINGS).findings == ("silent",)
    assert decode(wav_bytes(tmp_path, np.clip(20 * tones("STOP"), -1, 1)), SETTINGS).findings == ("clipped",)
    assert decode(wav_bytes(tmp_path, tones("STOP")), SETTINGS).findings == ()


def test_three_hours_are_refused_without_being_decoded(tmp_path):
    with soundfile.SoundFile(tmp_path / "a.flac", "w", 8000, 1) as file:
        for _ in range(3 * 60):
            file.write(np.zeros(8000 * 60))
    started = time.perf_counter()
    with pytest.raises(UnusableAudio, match=r"too long: 10800.0 s"):
        decode(tmp_path / "a.flac", SETTINGS)
    assert time.perf_counter() - started < 0.5


def stored(files, **changes):
    return store_clips(files, len(files), DecodingSettings(**{**vars(SETTINGS), **changes}), name="train", show=False)


def test_clips_are_decoded_once_until_something_changes(tmp_path):
    files = [tmp_path / f"{i}.wav" for i in range(5)]
    for i, file in enumerate(files):
        soundfile.write(file, tones("GO" * (i + 1)), RATE)
    first, there = stored(files)
    assert not there
    again, there = stored(files)
    assert there
    assert again.file == first.file
    np.testing.assert_array_equal(first.offsets, again.offsets)
    length = int(first.offsets[3] - first.offsets[2])
    np.testing.assert_allclose(read_float32(first.file, int(first.offsets[2]), length), tones("GOGOGO"), atol=1e-4)
    assert stored(files, max_seconds=10.0)[0].file != first.file
    assert stored(files, sampling_rate=8000)[0].file != first.file
    soundfile.write(files[2], tones("STOP"), RATE)
    changed, there = stored(files)
    assert not there
    assert changed.checksums[2] != first.checksums[2]
    assert changed.checksums[3] == first.checksums[3]


def test_a_missing_file_among_good_ones_is_a_problem_of_its_own(tmp_path):
    files = [tmp_path / f"{i}.wav" for i in range(40)]
    for file in files:
        soundfile.write(file, tones("GO"), RATE)
    files[17].unlink()
    clips, _ = stored(files)
    assert [i for i, problem in enumerate(clips.problems) if problem] == [17]
    assert clips.problems[17].startswith("missing")
    assert clips.offsets[17] == clips.offsets[18]


def test_an_interrupted_decoding_leaves_nothing_that_passes_for_whole(tmp_path, monkeypatch):
    files = [tmp_path / f"{i}.wav" for i in range(8)]
    for file in files:
        soundfile.write(file, tones("GO"), RATE)

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(audio_cache.np, "savez", interrupted)
        with pytest.raises(KeyboardInterrupt):
            stored(files)
    clips, there = stored(files)
    assert not there
    assert clips.problems == [""] * 8
    assert [name for name in os.listdir(clips.file.parent.parent) if name.startswith(".partial")] == []


@pytest.mark.parametrize(
    "settings",
    [{"speed_perturbation": 0.1}, {"noise_probability": 1.0}, {"gain_db": 6.0}, {"telephone_probability": 1.0}],
    ids=lambda settings: next(iter(settings)),
)
def test_augmentation_depends_on_its_generator_alone(settings):
    augment = Augmentation(**settings)
    first, again, other = (
        augment(tones("STOP GO"), RATE, np.random.default_rng(seed), 400) for seed in ([1, 2], [1, 2], [1, 3])
    )
    np.testing.assert_array_equal(first, again)
    assert first.dtype == np.float32
    assert np.abs(first).max() <= 1.0
    if settings != {"telephone_probability": 1.0}:
        assert first.shape != other.shape or np.abs(first - other).max() > 1e-3


def test_augmentation_does_what_it_says():
    clip = tones("STOP GO LEFT RIGHT")
    speeds = [
        len(Augmentation(speed_perturbation=0.1)(clip, RATE, np.random.default_rng(i), 400)) / len(clip)
        for i in range(60)
    ]
    assert 0.9 < min(speeds) < 0.94
    assert 1.06 < max(speeds) < 1.12
    assert len(Augmentation(speed_perturbation=0.1)(clip, RATE, np.random.default_rng(3), len(clip))) >= len(clip)
    noisy = Augmentation(noise_probability=1.0, noise_snr_db=(10, 10))(clip, RATE, np.random.default_rng(0), 400)
    snr = 10 * np.log10((clip**2).sum() / ((noisy - clip) ** 2).sum())
    assert snr == pytest.approx(10, abs=0.5)
    loud = Augmentation(gain_db=6)(clip, RATE, np.random.default_rng(1), 400)
    assert 0.5 <= np.abs(loud).max() / np.abs(clip).max() <= 2.0
    white = np.random.default_rng(0).normal(scale=0.1, size=RATE).astype(np.float32)
    line = np.abs(np.fft.rfft(Augmentation(telephone_probability=1.0)(white, RATE, np.random.default_rng(0), 400)))
    assert line[1000:3000].mean() > 8 * line[4500:].mean()
    assert line[1000:3000].mean() > 3 * line[:100].mean()


def test_a_rate_that_nothing_has_is_no_crash():
    stream = io.BytesIO()
    soundfile.write(stream, tones("GO"), RATE, format="WAV")
    content = bytearray(stream.getvalue())
    content[27] = 2  # the highest byte of the sampling rate
    with pytest.raises(UnusableAudio, match="broken: its header says 33570432 samples a second"):
        decode(bytes(content), SETTINGS)


def test_an_mp3_without_a_header_for_its_length_is_whole():
    stream = io.BytesIO()
    soundfile.write(stream, np.tile(tones("GO STOP"), 6), 22_050, format="MP3")
    content = stream.getvalue()
    told = max(content[:2000].find(b"Info"), content[:2000].find(b"Xing"))
    assert told > 0
    frames = content[content.index(b"\xff\xf3", told) :]  # without the frame that tells the number of the others
    assert decode(frames, SETTINGS).findings == ()
    assert decode(frames[: len(frames) // 2], SETTINGS).samples.size > 0
