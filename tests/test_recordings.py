"""Recordings as people have them: parts of long files, samples in memory, links, odd headers and foreign formats."""

import json
import os
import shlex
import shutil
import struct
import subprocess
import unicodedata

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from conftest import write_csv
from datasets import Dataset
from speech import RATE, build_speech_model, tones, write_clips
from transformers import AutoModelForCTC

from hf_transfer import InputError, SpeechRecognition, finetune, load_finetuned
from hf_transfer.inference import evaluate, predict
from hf_transfer.inputs.audio import cache as audio_cache
from hf_transfer.inputs.audio import clip_sources, decoding
from hf_transfer.inputs.audio.clip_sources import ClipSources
from hf_transfer.inputs.audio.decoding import DecodingSettings, decode, decode_stream
from hf_transfer.inputs.audio.excerpts import excerpt_columns
from hf_transfer.inputs.audio.sources import Excerpt, Samples, UnusableAudio
from hf_transfer.targets.transcripts.transcripts import TranscriptTarget

pytestmark = pytest.mark.usefixtures("lean")

SETTINGS = DecodingSettings(RATE, 0.05, 30.0)
STEP = {"max_steps": 1, "per_device_train_batch_size": 8, "report_to": "none", "disable_tqdm": True,
        "learning_rate": 1e-5}  # fmt: skip


def train(output, model, task=None, **arguments):
    task = task or SpeechRecognition()
    return finetune(task, output_dir=str(output), model_name_or_path=str(model), **{**STEP, **arguments})


def records_of(output):
    return [json.loads(line) for line in (output / "predictions.jsonl").open()]


def sharp(folder, family):
    """A tiny model of which every frame's letter is another, and clear."""
    model = AutoModelForCTC.from_pretrained(build_speech_model(folder, family))
    with torch.no_grad():
        model.lm_head.weight.mul_(200)
    model.save_pretrained(folder)
    return folder


def babble(seconds, rate, source):
    """Tones that come and go, so that what is heard changes."""
    time = np.arange(int(seconds * rate)) / rate
    gates = [np.sin(2 * np.pi * source.uniform(0.5, 8) * time + source.uniform(0, 6)) > 0 for _ in range(6)]
    voices = [np.sin(2 * np.pi * source.uniform(100, 3000) * time) for _ in range(6)]
    return 0.1 * sum(v * g for v, g in zip(voices, gates, strict=True)) + source.normal(scale=0.02, size=len(time))


# --- evaluation and prediction ----------------------------------------------------------------------------------


CLIPS = [(0.02, 16000, 1), (0.05, 16000, 1), (0.099, 8000, 2), (1.3, 44100, 1), (2.7, 22050, 3), (24.01, 16000, 1),
         (27, 8000, 1), (30, 16000, 1), (30.01, 16000, 1), (70, 8000, 1)]  # fmt: skip


@pytest.mark.parametrize("family", ["wav2vec2-layer", "wav2vec2-group", "wav2vec2-bert"])
def test_evaluate_and_predict_hear_the_same(tmp_path, monkeypatch, family):
    """Clips around every length at which something changes, of all rates and channel layouts, and odd levels."""
    model, source, rows = sharp(tmp_path / family, family), np.random.default_rng(0), []
    signals = [(np.stack([babble(s, rate, source)] * channels, axis=1), rate) for s, rate, channels in CLIPS]
    clip = babble(4, RATE, source)[:, None]
    signals += [(np.hstack([clip, -clip]), RATE), (5 * clip, RATE), (0.3 * clip + 0.5, RATE), (clip * [1, 0.5], RATE)]
    for i, (samples, rate) in enumerate(signals):
        soundfile.write(tmp_path / f"{i}.wav", samples, rate, subtype="FLOAT")
        rows.append({"path": str(tmp_path / f"{i}.wav"), "sentence": "STOP"})
    measured = {}
    measure = TranscriptTarget.compute_metrics

    def noted(target, outputs, split, config):
        measured.update(zip(split["audio"][:], outputs, strict=True))
        return measure(target, outputs, split, config)

    monkeypatch.setattr(TranscriptTarget, "compute_metrics", noted)
    found = evaluate(model, str(write_csv(tmp_path / "t.csv", rows)), min_seconds=0.01, max_seconds=100.0)
    assert found["examples"] == len(rows)
    heard = list(predict(load_finetuned(model), [{"audio": row["path"]} for row in rows]))
    assert {record["audio"]: record["text"] for record in heard} == measured
    for record, (samples, rate) in zip(heard, signals, strict=True):
        assert len(record["text"]) > 3 * len(samples) / rate - 3
        ends = [word["end"] for word in record["words"]]
        assert ends == sorted(ends)
        assert not ends or abs(ends[-1] - len(samples) / rate) < max(0.5, 0.2 * len(samples) / rate)


def test_what_was_trained_whole_is_heard_whole(tmp_path, monkeypatch):
    """A limit above the usual one is the model's from then on."""
    model, source = sharp(tmp_path / "m", "wav2vec2-group"), np.random.default_rng(1)
    rows = []
    for i, seconds in enumerate([34, 36, 35, 31]):
        soundfile.write(tmp_path / f"{i}.wav", babble(seconds, RATE, source), RATE)
        rows.append({"path": str(tmp_path / f"{i}.wav"), "sentence": "STOP", "split": "test" if i > 1 else "train"})
    table = str(write_csv(tmp_path / "t.csv", rows))
    task = SpeechRecognition(max_seconds=40.0, speed_perturbation=0.0, leave_out=["none"])
    train(tmp_path / "out", model, task, train_file=table, method="frozen", per_device_train_batch_size=1)
    records = records_of(tmp_path / "out")
    pipeline = load_finetuned(tmp_path / "out")
    assert pipeline.whole_seconds == 40
    heard = [one["text"] for one in predict(pipeline, [{"audio": r["audio"]} for r in records])]
    assert heard == [r["prediction"] for r in records]
    assert all(len(text) > 100 for text in heard)
    pipeline.model.config.whole_seconds = 30.0
    divided = [one["text"] for one in predict(pipeline, [{"audio": r["audio"]} for r in records])]
    assert divided != heard  # the limit matters


def test_chunks_cover_a_recording_once_and_are_as_long(tmp_path):
    from hf_transfer.inputs.audio.chunks import split_into_chunks

    for length in (1, 299, 300, 301, 419, 420, 421, 700, 1234):
        samples = np.arange(length, dtype=np.float32)
        for size in (1, 7, 300):
            blocks = [samples[at : at + size] for at in range(0, length, size)]
            chunks = list(split_into_chunks(blocks, 300, 280, 40))
            inner = [chunk[left : len(chunk) - right] for chunk, left, right, _ in chunks]
            np.testing.assert_array_equal(np.concatenate(inner), samples)
            assert [last for *_, last in chunks] == [False] * (len(chunks) - 1) + [True]
            assert len(chunks) == 1 or {len(chunk) for chunk, *_ in chunks} == {280}


def test_long_and_short_readings_of_a_file_are_the_same(tmp_path, monkeypatch):
    source = np.random.default_rng(0)
    samples = np.stack([babble(9, 22050, source) * 3 + 0.2, babble(9, 22050, source)], axis=1)
    for kind in ("wav", "flac", "ogg", "mp3"):
        soundfile.write(tmp_path / f"a.{kind}", np.clip(samples, -1, 1), 22050)
        held = decode(tmp_path / f"a.{kind}", SETTINGS)
        with monkeypatch.context() as patch:
            patch.setattr(decoding, "BUFFERED_SECONDS", 2)
            again = decode(tmp_path / f"a.{kind}", SETTINGS)
        np.testing.assert_array_equal(held.samples, again.samples)
        assert held.findings == again.findings


# --- parts of recordings ----------------------------------------------------------------------------------------


def write_recordings(folder, count=4, per=6):
    """Long recordings of several clips; the rows of a table in which each says where it is."""
    (folder / "src").mkdir()
    clips, rows = write_clips(folder / "src", count * per), []
    for k in range(count):
        pieces, at = [], 0.0
        for clip in clips[k * per : (k + 1) * per]:
            samples, _ = soundfile.read(folder / "src" / clip["file_name"])
            pieces += [np.zeros(RATE // 2), samples]
            at += 0.5
            seconds = len(samples) / RATE
            rows.append({"audio_filepath": f"{k}.wav", "offset": round(at, 4), "duration": round(seconds, 4),
                         "text": clip["transcription"], "clip": str(folder / "src" / clip["file_name"])})  # fmt: skip
            at += seconds
        soundfile.write(folder / f"{k}.wav", np.concatenate(pieces), RATE)
    return rows


def write_jsonl(file, rows):
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_parts_of_recordings_are_what_the_clips_by_themselves_are(tmp_path, monkeypatch, command):
    model = sharp(tmp_path / "m", "wav2vec2-layer")
    rows = write_recordings(tmp_path)
    nemo = write_jsonl(tmp_path / "nemo.jsonl", [{k: v for k, v in row.items() if k != "clip"} for row in rows])
    spans = write_csv(tmp_path / "spans.csv", [
        {"audio": r["audio_filepath"], "start": r["offset"], "end": r["offset"] + r["duration"], "text": r["text"]}
        for r in rows
    ])  # fmt: skip
    alone = write_csv(tmp_path / "alone.csv", [{"audio": row["clip"], "text": row["text"]} for row in rows])
    results = {}
    for name, file in (("nemo", nemo), ("spans", spans), ("alone", alone)):
        train(tmp_path / name, model, train_file=str(file), test_file=str(file), learning_rate=0.0)
        results[name] = records_of(tmp_path / name)
        found = command("predict", tmp_path / name, "--file", file)
        heard = [json.loads(line) for line in found.out.splitlines()]
        assert [one["text"] for one in heard] == [record["prediction"] for record in results[name]]
        if name != "alone":
            assert [one["start"] for one in heard] == [row["offset"] for row in rows]
            for one, row in zip(heard, rows, strict=True):
                for word in one["words"]:
                    assert row["offset"] <= word["start"] < word["end"] < row["offset"] + row["duration"] + 0.05
    texts = {name: [record["prediction"] for record in records] for name, records in results.items()}
    assert texts["nemo"] == texts["spans"] == texts["alone"]
    assert len(set(texts["nemo"])) > len(rows) / 2
    assert results["nemo"][1]["start"] == rows[1]["offset"]
    assert results["nemo"][1]["end"] == pytest.approx(rows[1]["offset"] + rows[1]["duration"])
    shutil.rmtree(tmp_path / "src")  # nothing is read from there


@pytest.mark.parametrize("kind", ["wav", "flac", "ogg", "mp3"])
def test_a_part_is_found_without_reading_what_comes_before(tmp_path, monkeypatch, kind):
    time = np.arange(60 * RATE) / RATE
    pitches = 200 + 20 * np.floor(time)
    soundfile.write(tmp_path / f"a.{kind}", 0.5 * np.sin(2 * np.pi * pitches * time), RATE)
    read = []
    original = soundfile.SoundFile.read

    def counted(file, frames=-1, *args, **kwargs):
        block = original(file, frames, *args, **kwargs)
        read.append(len(block))
        return block

    monkeypatch.setattr(soundfile.SoundFile, "read", counted)
    for second in (3, 30, 57):
        read.clear()
        part = decode(Excerpt(tmp_path / f"a.{kind}", second + 0.25, second + 0.75), SETTINGS).samples
        assert len(part) == RATE // 2
        assert np.argmax(np.abs(np.fft.rfft(part))) * 2 == pytest.approx(200 + 20 * second, abs=4)
        assert sum(read) <= RATE // 2


def test_a_part_belongs_to_what_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(audio_cache.datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    soundfile.write(tmp_path / "a.wav", np.concatenate([tones("STOP GO"), tones("LEFT")]), RATE)

    def stored(*ends):
        parts = [Excerpt(tmp_path / "a.wav", 0.0, end) for end in ends]
        return audio_cache.store_clips(parts, len(parts), SETTINGS, name="train", show=False)

    first, _ = stored(0.3, 0.5)
    assert np.diff(first.offsets).tolist() == [0.3 * RATE, 0.5 * RATE]
    assert first.checksums[0] != first.checksums[1]
    assert stored(0.3, 0.5)[1]
    assert not stored(0.3, 0.6)[1]


def test_columns_of_parts_by_their_usual_names():
    assert excerpt_columns(["audio_filepath", "offset", "duration"]) == {"start": "offset", "duration": "duration"}
    assert excerpt_columns(["path", "Start", "End", "duration"]) == {"start": "Start", "end": "End"}
    assert excerpt_columns(["begin_time", "end_time"]) == {"start": "begin_time", "end": "end_time"}
    assert excerpt_columns(["begin", "duration"]) == {"start": "begin", "duration": "duration"}
    assert excerpt_columns(["path", "duration"]) == {}
    assert excerpt_columns(["path", "start"]) == {}


def test_times_that_cannot_be_are_refused_with_their_cause(tmp_path, speech_model, caplog):
    rows = write_recordings(tmp_path)
    thousands = [{**r, "offset": 1000 * r["offset"], "duration": 1000 * r["duration"]} for r in rows]
    with pytest.raises(InputError, match=r"Only 0 of 24 .* 'outside its file' .* milliseconds"):
        train(tmp_path / "a", speech_model(), train_file=str(write_jsonl(tmp_path / "ms.jsonl", thousands)))
    wholes = [{"audio_filepath": row["audio_filepath"], "text": row["text"]} for row in rows]
    with pytest.raises(InputError, match=r"Rows 1 and 2 .* 0\.wav.*offset and duration, or start and end"):
        train(tmp_path / "b", speech_model(), train_file=str(write_jsonl(tmp_path / "w.jsonl", wholes)))
    odd = [{**row, "duration": "soon"} if i == 3 else {**row, "offset": -1} if i == 4 else row
           for i, row in enumerate(rows)]  # fmt: skip
    file = str(write_csv(tmp_path / "odd.csv", odd))
    report = train(tmp_path / "c", speech_model(), train_file=file, test_file=file).report
    assert report["data"]["left_out"]["train"] == {"no part of its file": 2}
    records = list(predict(load_finetuned(tmp_path / "c"), [
        {"audio": str(tmp_path / "0.wav"), "start": start, "end": end} for start, end in ((0, 1), (1, 900), (2, 1))
    ]))  # fmt: skip
    assert ["error" in record for record in records] == [False, True, True]
    assert "outside its file" in records[1]["error"]


def test_a_remedy_for_rows_without_parts_leads_on(tmp_path, speech_model):
    rows = [{"path": row["audio_filepath"], "offset": row["offset"], "duration": row["duration"], "text": row["text"]}
            for row in write_recordings(tmp_path)]  # fmt: skip
    other = [{"path": r["path"], "at": r["offset"], "long": r["duration"], "text": r["text"]} for r in rows]
    with pytest.raises(InputError, match="in columns named offset and duration"):
        train(tmp_path / "a", speech_model(), train_file=str(write_csv(tmp_path / "a.csv", other)))
    report = train(tmp_path / "b", speech_model(), train_file=str(write_csv(tmp_path / "b.csv", rows))).report
    assert sum(report["data"]["examples"].values()) == len(rows)


def test_one_clip_twice_is_a_duplicate(tmp_path, speech_model):
    rows = write_clips(tmp_path, 12)
    file = write_csv(tmp_path / "t.csv", [*rows, *rows[:3]])
    report = train(tmp_path / "out", speech_model(), train_file=str(file), test_file=str(file)).report
    assert report["data"]["examples"]["train"] == 15


def test_clips_that_were_cut_already_are_heard_whole(tmp_path, speech_model, caplog):
    """Datasets of parts keep the times of the recording that they come from."""
    rows = write_clips(tmp_path, 12)
    for i, row in enumerate(rows):
        length = soundfile.info(tmp_path / row["file_name"]).duration
        row |= {"begin_time": 100 + 10 * i, "end_time": 100 + 10 * i + length}
    file = str(write_csv(tmp_path / "t.csv", rows))
    with caplog.at_level("INFO", "hf_transfer"):
        report = train(tmp_path / "out", speech_model(), train_file=file, test_file=file).report
    assert report["data"]["left_out"]["train"] == {}
    assert "12 clips in train are already cut" in caplog.text


# --- samples in memory ------------------------------------------------------------------------------------------


def test_samples_in_memory_are_what_their_files_are(tmp_path, speech_model, command):
    model = sharp(tmp_path / "m", "wav2vec2-layer")
    rows = write_clips(tmp_path, 24)
    files = [{"audio": str(tmp_path / row["file_name"]), "text": row["transcription"]} for row in rows]
    held = [{"audio": {"array": soundfile.read(row["audio"], dtype="float32")[0], "sampling_rate": RATE},
             "text": row["text"]} for row in files]  # fmt: skip
    Dataset.from_list(held).to_parquet(tmp_path / "held.parquet")
    bare = [{"audio": row["audio"]["array"], "sample_rate": RATE, "text": row["text"]} for row in held]
    Dataset.from_list(bare).to_parquet(tmp_path / "bare.parquet")
    write_csv(tmp_path / "files.csv", files)
    texts = {}
    for name in ("files.csv", "held.parquet", "bare.parquet"):
        place = tmp_path / name.partition(".")[0]
        train(place, model, train_file=str(tmp_path / name), test_file=str(tmp_path / name))
        texts[name] = [record["prediction"] for record in records_of(place)]
    finetune(SpeechRecognition(), dataset={"train": Dataset.from_list(held), "test": Dataset.from_list(held)},
             output_dir=str(tmp_path / "memory"), model_name_or_path=str(model), **STEP)  # fmt: skip
    texts["memory"] = [record["prediction"] for record in records_of(tmp_path / "memory")]
    pipeline = load_finetuned(tmp_path / "files")
    texts["predict"] = [one["text"] for one in predict(pipeline, [{"audio": row["audio"]} for row in held])]
    found = command("predict", tmp_path / "files", "--file", tmp_path / "held.parquet")
    assert found.code == 0, found.err
    texts["command"] = [json.loads(line)["text"] for line in found.out.splitlines()]
    texts["pipeline"] = [pipeline(dict(row["audio"]))["text"] for row in held]
    assert len(set(texts["files.csv"])) > 12
    assert {name: len(own) for name, own in texts.items() if own != texts["files.csv"]} == {}


@pytest.mark.parametrize(
    ("array", "rate", "reason"),
    [
        (np.zeros((2, 2)), RATE, "no samples"),
        (np.zeros((3, 4, 5)), RATE, "no samples"),
        (np.zeros(0), RATE, "no samples"),
        (np.array(["a", "b"]), RATE, "no samples"),
        ([[0.1, 0.2], [0.3]], RATE, "no samples"),
        (np.full(RATE, np.nan), RATE, "not finite"),
        (np.ones(RATE), None, "no sampling rate"),
        (np.ones(RATE), -5, "no sampling rate"),
        (np.ones(RATE), "16k", "no sampling rate"),
        (np.ones(RATE), 0.5, "no sampling rate"),
        (np.ones(RATE), 3, "broken"),
    ],
)
def test_samples_that_are_none(array, rate, reason):
    with pytest.raises(UnusableAudio) as found:
        decode(Samples(array, rate), SETTINGS)
    assert found.value.reason == reason


def test_samples_of_any_layout_and_type():
    clip = tones("STOP")
    expected = decode(Samples(clip, RATE), SETTINGS).samples
    sixteen = np.round(clip * 32768).astype(np.int16)
    for array in (clip.astype(np.float64), clip[None], clip[:, None], np.stack([clip, clip]), np.stack([clip] * 2, 1),
                  sixteen, sixteen.astype(np.int64), sixteen.tolist(), clip.tolist()):  # fmt: skip
        np.testing.assert_allclose(decode(Samples(array, RATE), SETTINGS).samples, expected, atol=2)


# --- headers and levels -----------------------------------------------------------------------------------------


def wav(body, *, riff=None, data=None, extra=b"", order="<", form=1, bits=16, after=b""):
    riff, data = len(body) + 36 + len(extra) if riff is None else riff, len(body) if data is None else data
    name = b"RIFF" if order == "<" else b"RIFX"
    head = struct.pack(f"{order}4sI4s4sIHHIIHH", name, riff, b"WAVE", b"fmt ", 16, form, 1, RATE, RATE * bits // 8,
                       bits // 8, bits)  # fmt: skip
    return head + extra + struct.pack(f"{order}4sI", b"data", data) + body + after


PCM = np.round(tones("STOP GO") * 32767).astype("<i2")
LIST = b"LIST" + struct.pack("<I", 18) + b"INFOISFT" + struct.pack("<I", 6) + b"me 1.0"


@pytest.mark.parametrize(
    "content",
    [
        wav(PCM.tobytes(), riff=0, data=0),
        wav(PCM.tobytes(), riff=36, data=0),
        wav(PCM.tobytes(), riff=0xFFFFFFFF, data=0xFFFFFFFF),
        wav(PCM.tobytes(), riff=0x7FFFFFFF, data=0x7FFFFFFF - 36),
        wav(PCM.tobytes(), riff=0x80000024, data=0x80000000),
        wav(PCM.tobytes(), riff=2_000_000_036, data=2_000_000_000),
        wav(PCM.tobytes(), riff=1_000_000_036, data=1_000_000_000),
        wav(PCM.tobytes(), riff=36),
        wav(PCM.tobytes(), riff=0, data=0, after=LIST),
        wav(PCM.tobytes(), riff=0xFFFFFFFF, data=0xFFFFFFFF, after=LIST),
        wav(PCM.tobytes(), extra=b"LIST" + struct.pack("<I", 5) + b"INFOa" + b"\0"),
        wav(PCM.tobytes(), extra=b"LIST" + struct.pack("<I", 5) + b"INFOa"),
        wav(PCM.astype(">i2").tobytes(), order=">"),
        wav(PCM.astype(">i2").tobytes(), order=">", riff=0, data=0),
    ],
)
def test_headers_that_do_not_know_their_length_take_what_is_there(tmp_path, content):
    (tmp_path / "a.wav").write_bytes(content)
    for source in (content, tmp_path / "a.wav"):
        found = decode(source, SETTINGS)
        assert found.findings == ()
        np.testing.assert_allclose(found.samples, PCM, atol=2)


def test_a_file_without_samples_stays_one():
    with pytest.raises(UnusableAudio, match="no samples"):
        decode(wav(b"", after=LIST), SETTINGS)


def test_a_file_of_kinds_that_breaks_off_is_noticed_whatever_its_coding(tmp_path):
    cases = [("WAV", s) for s in ("PCM_16", "PCM_24", "FLOAT", "ULAW", "ALAW", "IMA_ADPCM", "MS_ADPCM", "GSM610")]
    cases += [("RF64", "PCM_16"), ("W64", "PCM_16"), ("WAVEX", "ULAW"), ("AIFF", "PCM_16"), ("AIFF", "ULAW")]
    for kind, subtype in cases:
        soundfile.write(tmp_path / "a", tones("STOP GO LEFT"), RATE, format=kind, subtype=subtype)
        content = (tmp_path / "a").read_bytes()
        assert "truncated" not in decode(content, SETTINGS).findings, (kind, subtype)
        assert "truncated" in decode(content[: len(content) * 2 // 3], SETTINGS).findings, (kind, subtype)


def test_a_long_recording_without_a_length_takes_no_memory(tmp_path):
    """Twenty minutes that were streamed: its header is mended in reading, and not in memory."""
    import resource

    with (tmp_path / "a.wav").open("wb") as stream:
        stream.write(wav(b"", riff=0, data=0))
        for _ in range(20):
            stream.write(np.resize(PCM, 60 * RATE).tobytes())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    blocks = sum(len(block) for block in decode_stream(tmp_path / "a.wav", RATE).blocks)
    assert blocks == 1200 * RATE
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 40_000


def test_opposite_channels_are_heard_by_the_louder_one():
    clip, source = tones("STOP GO"), np.random.default_rng(0)
    noisy = -0.8 * clip + source.normal(scale=0.003, size=len(clip))
    for channels in ([clip, -clip], [0.5 * clip, -clip], [clip, noisy], [clip, -clip, clip, -clip]):
        found = decode(Samples(np.stack(channels), RATE), SETTINGS)
        assert found.findings == ("opposite",)
        assert abs(np.corrcoef(found.samples, clip)[0, 1]) > 0.999
        assert np.abs(found.samples).max() > 0.9 * 32767 * np.abs(clip).max()
    other = tones("LEFT UP")
    for channels in ([clip, clip], [clip, 0 * clip], [clip, other], [clip, 0.2 * other]):
        channels = [one[: min(map(len, channels))] for one in channels]
        found = decode(Samples(np.stack(channels), RATE), SETTINGS)
        assert found.findings == ()
        np.testing.assert_allclose(found.samples / 32767, np.mean(channels, axis=0), atol=1e-4)


def test_a_constant_offset_is_no_sound():
    clip = tones("STOP GO")
    for offset in (0.3, -0.3, 0.02):
        assert "silent" in decode(Samples(np.full(RATE, offset), RATE), SETTINGS).findings
        found = decode(Samples(0.5 * clip + offset, RATE), SETTINGS)
        assert found.findings == ("offset",)
        np.testing.assert_allclose(found.samples / 32767, 0.5 * clip - 0.5 * clip.mean(), atol=1e-3)
    little = 3000.0 * clip + 3.0  # on this scale
    assert "offset" not in decode(Samples(little, RATE), SETTINGS).findings
    loud = np.clip(2 * clip + 0.3, -1, 1)
    assert "silent" not in decode(Samples(loud, RATE), SETTINGS).findings


def test_decisions_over_clips_are_counted_and_named(tmp_path, speech_model, caplog):
    rows = write_clips(tmp_path, 12)
    for row in rows[:4]:
        samples, _ = soundfile.read(tmp_path / row["file_name"])
        soundfile.write(tmp_path / row["file_name"], np.stack([samples, -samples], 1), RATE)
    file = str(write_csv(tmp_path / "t.csv", rows))
    with caplog.at_level("INFO", "hf_transfer"):
        train(tmp_path / "out", speech_model(), train_file=file, test_file=file)
        assert "4 clips in train have channels of opposite phase" in caplog.text
        assert "clips/clip0.wav" in caplog.text
        caplog.clear()
        list(predict(load_finetuned(tmp_path / "out"), [{"audio": str(tmp_path / rows[0]["file_name"])}]))
    assert "1 clips in the inputs have channels of opposite phase" in caplog.text


# --- foreign formats and names ----------------------------------------------------------------------------------

FOREIGN = {
    "a b.m4a": b"\x00\x00\x00\x20ftypM4A \x00\x00\x00\x00" + bytes(2000),
    "it's.mp4": b"\x00\x00\x00\x20ftypisom\x00\x00\x00\x00" + bytes(2000),
    "c.aac": b"\xff\xf1\x50\x80\x2e\x7f\xfc" + bytes(range(256)) * 8,
    "d.wma": b"\x30\x26\xb2\x75\x8e\x66\xcf\x11" + bytes(2000),
    "e.webm": b"\x1a\x45\xdf\xa3" + bytes(2000),
    "f.raw": np.random.default_rng(0).integers(-9000, 9000, RATE).astype("<i2").tobytes(),
    "g.pcm": np.random.default_rng(0).integers(-9000, 9000, RATE).astype("<i2").tobytes(),
    "h.txt": b"These are words." * 100,
    "-i.m4a": b"\x00\x00\x00\x20ftypM4A \x00\x00\x00\x00" + bytes(2000),
}


def command_in(text):
    return shlex.split(text[text.index("ffmpeg ") :].partition(" with its own")[0].partition(" (")[0].rstrip(").:,"))


def test_foreign_formats_cost_one_clip_each_and_name_a_command(tmp_path, speech_model, command, caplog):
    rows = write_clips(tmp_path, 24)
    for name, content in FOREIGN.items():
        (tmp_path / name).write_bytes(content)
    foreign = [{"file_name": name, "transcription": "STOP", "speaker": "x"} for name in FOREIGN]
    table = str(write_csv(tmp_path / "t.csv", [*rows, *foreign]))
    with caplog.at_level("INFO", "hf_transfer"):
        report = train(tmp_path / "out", speech_model(), train_file=table, test_file=table).report
    left_out = report["data"]["left_out"]["train"]
    assert left_out == {"unknown format": len(FOREIGN) - 1, "broken": 1}
    assert "ffmpeg -i" in caplog.text
    good = tmp_path / rows[0]["file_name"]
    found = command("predict", tmp_path / "out", good, *(tmp_path / name for name in FOREIGN), good)
    assert found.code == 2
    records = [json.loads(line) for line in found.out.splitlines()]
    assert ["error" in record for record in records] == [False, *[True] * len(FOREIGN), False]
    for name, record in zip(FOREIGN, records[1:-1], strict=True):
        words = command_in(record["error"])
        assert words[words.index("-i") + 1] == str(tmp_path / name)
        assert words[-1] == str((tmp_path / name).with_suffix(".wav"))


def test_the_command_that_converts_leads_on(tmp_path):
    if shutil.which("ffmpeg") is None:
        pytest.skip("needs ffmpeg")
    soundfile.write(tmp_path / "s.wav", tones("STOP GO"), RATE)
    name = tmp_path / "it's a b.m4a"
    subprocess.run(["ffmpeg", "-v", "error", "-i", tmp_path / "s.wav", "-c:a", "aac", name], check=True)
    with pytest.raises(UnusableAudio) as error:
        decode(name, SETTINGS)
    subprocess.run(command_in(str(error.value)), check=True, capture_output=True)
    assert abs(len(decode(name.with_suffix(".wav"), SETTINGS).samples) - len(tones("STOP GO"))) < 0.2 * RATE


def test_any_exception_over_a_file_is_that_files_problem(tmp_path, speech_model, monkeypatch):
    """Whatever soundfile and numpy raise over one clip, the others are used."""
    rows = write_clips(tmp_path, 12)
    original = soundfile.SoundFile.__init__

    def raising(file, name, *args, **kwargs):
        if str(name).endswith("clip3.wav"):
            raise TypeError("samplerate must be specified")
        if str(name).endswith("clip4.wav"):
            raise MemoryError
        original(file, name, *args, **kwargs)

    monkeypatch.setattr(soundfile.SoundFile, "__init__", raising)
    table = str(write_csv(tmp_path / "t.csv", rows))
    report = train(tmp_path / "out", speech_model(), train_file=table, test_file=table).report
    assert report["data"]["left_out"]["train"] == {"unreadable": 2}
    records = list(
        predict(load_finetuned(tmp_path / "out"), [{"audio": str(tmp_path / r["file_name"])} for r in rows])
    )
    assert [i for i, record in enumerate(records) if "error" in record] == [3, 4]
    assert "clip3.wav" in records[3]["error"]


def link_tree(rows, source, place):
    """The clips in the layout of the Hub's cache: a snapshot whose files are links to blobs without endings."""
    snapshot = place / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (place / "blobs").mkdir()
    for i, row in enumerate(rows):
        shutil.copy(source / row["file_name"], place / "blobs" / f"{i:064x}")
        row["file_name"] = f"{i}.wav"
        os.symlink(f"../../blobs/{i:064x}", snapshot / row["file_name"])
    write_csv(place / "blobs" / "table", rows)
    os.symlink("../../blobs/table", snapshot / "metadata.csv")
    write_jsonl(place / "blobs" / "lines", rows)
    os.symlink("../../blobs/lines", snapshot / "lines.jsonl")
    return snapshot


def test_links_are_followed_and_names_stay_inside(tmp_path, speech_model):
    rows = write_clips(tmp_path, 12)
    snapshot = link_tree(rows, tmp_path, tmp_path / "hub")
    report = train(tmp_path / "a", speech_model(), dataset_name=str(snapshot)).report
    assert sum(report["data"]["examples"].values()) == 12
    os.symlink(snapshot, tmp_path / "short")
    report = train(tmp_path / "b", speech_model(), dataset_name=str(tmp_path / "short")).report
    assert sum(report["data"]["examples"].values()) == 12
    report = train(tmp_path / "c", speech_model(), train_file=str(snapshot / "lines.jsonl")).report
    assert sum(report["data"]["examples"].values()) == 12
    for name in ("../x.wav", "a/../../x.wav", str(tmp_path / "clips" / "clip0.wav"), "/etc/passwd"):
        (tmp_path / "inner").mkdir(exist_ok=True)
        write_csv(tmp_path / "inner" / "metadata.csv", [{**rows[0], "file_name": name}])
        with pytest.raises(InputError, match="which is outside the folder"):
            train(tmp_path / "d", speech_model(), dataset_name=str(tmp_path / "inner"))


def test_names_that_differ_in_form_alone(tmp_path, speech_model, caplog):
    rows = write_clips(tmp_path, 24)
    renamed = {0: "Ünïcode.wav", 1: "Upper.WAV", 2: "space.wav"}
    for i, name in renamed.items():
        form = unicodedata.normalize("NFD" if i == 0 else "NFC", name)
        (tmp_path / rows[i]["file_name"]).rename(tmp_path / "clips" / form)
    rows[0]["file_name"] = "clips/" + unicodedata.normalize("NFC", renamed[0])
    rows[1]["file_name"], rows[2]["file_name"] = "clips/upper.wav", "clips/space.wav "
    table = str(write_csv(tmp_path / "t.csv", rows))
    with caplog.at_level("INFO", "hf_transfer"):
        report = train(tmp_path / "out", speech_model(), train_file=table, test_file=table).report
    assert report["data"]["left_out"]["train"] == {"missing": 2}  # the first is there
    assert "but 'Upper.WAV' is there: correct the name 'upper.wav' in the table" in caplog.text
    assert "but 'space.wav' is there: correct the name 'space.wav ' in the table" in caplog.text


# --- transcripts ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("values", [[5, 7, None], [5.0, 7.0, float("nan")]], ids=["integers", "floats"])
def test_transcripts_that_are_numbers_are_read_as_they_are_said(speech_model, tmp_path, values, caplog):
    """NaN and nothing are no word; and speakers are found whatever the case of their column's name."""
    (tmp_path / "clips").mkdir()
    rows = [{"path": str(tmp_path / f"clips/{i}.wav"), "text": values[i % 3], "Speaker_ID": "ab"[i % 2]}
            for i in range(18)]  # fmt: skip
    for i, row in enumerate(rows):
        soundfile.write(row["path"], tones("STOP", shift=1 + i / 50), RATE)
    table = tmp_path / "t.parquet"
    pq.write_table(pa.table({name: pa.array([row[name] for row in rows]) for name in rows[0]}), table)
    task = SpeechRecognition(vocabulary="new")
    with caplog.at_level("INFO", "hf_transfer"):
        report = train(tmp_path / "out", speech_model(), task, train_file=str(table), test_file=str(table),
                       validation_size=0.0).report  # fmt: skip
    assert report["data"]["left_out"]["test"]["empty transcript"] == 6
    assert {(one["reference"], one["speaker"]) for one in records_of(tmp_path / "out")} == {
        (text, speaker) for text in "57" for speaker in "ab"
    }


def test_transcripts_that_are_no_text_are_left_out_with_the_reason(speech_model, tmp_path, caplog):
    rows = write_clips(tmp_path, 12)
    rows[3]["transcription"] = {"words": ["GO"]}
    with (tmp_path / "t.jsonl").open("w") as stream:
        stream.writelines(json.dumps(row) + "\n" for row in rows)
    with caplog.at_level("INFO", "hf_transfer"):
        train(tmp_path / "out", speech_model(), train_file=str(tmp_path / "t.jsonl"),
              test_file=str(tmp_path / "t.jsonl"))  # fmt: skip
    assert "clips/clip3.wav (expected a text, found a dict)" in caplog.text


def test_parts_of_recordings_are_worked_out_once(monkeypatch):
    """Once for a table, and not once for each of its rows."""
    rows = Dataset.from_dict({"audio": ["a.wav"] * 50, "start": [*range(50)], "end": [*range(1, 51)]})
    sources, made = clip_sources.ClipSources(rows, "audio", None), []
    monkeypatch.setattr(clip_sources, "format_time_range", lambda part: made.append(part) or "")
    assert len([sources.display_names[i] for i in range(50)]) == len(made) == 50
    assert sources.time_ranges is sources.time_ranges


# --- files that break off ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [4, 70])
def test_prediction_hears_what_is_there_of_a_file_that_breaks_off(tmp_path, seconds, caplog):
    """As training does where --leave_out lets it; longer files are not held in memory."""
    model, samples = sharp(tmp_path / "m", "wav2vec2-group"), babble(seconds, 8000, np.random.default_rng(2))
    there = len(samples) * 2 // 3
    soundfile.write(tmp_path / "cut.wav", samples, 8000)
    with (tmp_path / "cut.wav").open("r+b") as stream:
        stream.truncate(44 + 2 * there)
    soundfile.write(tmp_path / "shorter.wav", samples[:there], 8000)
    pipeline = load_finetuned(model)
    with caplog.at_level("INFO", "hf_transfer"):
        cut, shorter = predict(pipeline, [{"audio": str(tmp_path / f"{name}.wav")} for name in ("cut", "shorter")])
    assert (cut["truncated"], cut["text"], cut["words"]) == (True, shorter["text"], shorter["words"])
    assert cut["text"]
    assert "truncated" not in shorter
    note = "1 clips in the inputs are truncated: the part that is there is used"
    assert f"{note}: {tmp_path / 'cut.wav'}." in caplog.text
    trained, whole = (
        decode(tmp_path / f"{name}.wav", DecodingSettings(RATE, 0.1, 100)) for name in ("cut", "shorter")
    )
    assert trained.findings == ("truncated",)
    assert np.array_equal(trained.samples, whole.samples)
    with caplog.at_level("INFO", "hf_transfer"):
        assert pipeline(str(tmp_path / "cut.wav"))["text"].split() == cut["text"].split()
    assert "cut.wav is truncated" in caplog.text


# --- decoded clips ----------------------------------------------------------------------------------------------


def test_clips_that_another_process_has_put_in_place_are_kept(tmp_path, monkeypatch):
    """Damaged ones are replaced; what another process has put there at that moment is its own, and good."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    sources = [Samples(tones("GO"), RATE)]

    def store():
        return audio_cache.store_clips(sources, 1, SETTINGS, name="train", show=False)[0]

    file, read = store().file, audio_cache._read
    shutil.copytree(file.parent, tmp_path / "good")
    number = (tmp_path / "good" / file.name).stat().st_ino
    file.write_bytes(b"")  # damaged
    looked = []

    def reading(folder):
        found = read(folder)
        looked.append(folder)
        if len(looked) == 2:  # this process has decoded the clips; the other one has too, and is faster
            shutil.rmtree(file.parent)
            (tmp_path / "good").rename(file.parent)
        return found

    monkeypatch.setattr(audio_cache, "_read", reading)
    found = store()
    assert np.array_equal(audio_cache.read_int16(found.file, 0, 100), (tones("GO")[:100] * 32767).round())
    assert file.stat().st_ino == number
    assert [path.name for path in file.parent.parent.iterdir()] == [file.parent.name]


def test_a_row_that_lacks_the_times_that_others_have_is_not_the_whole_recording(tmp_path):
    soundfile.write(tmp_path / "long.wav", np.concatenate([tones("STOP"), tones("GO")]), RATE)
    soundfile.write(tmp_path / "short.wav", tones("ON"), RATE)
    rows = [("long.wav", 0.0, 0.4), ("long.wav", 0.4, 0.8), ("long.wav", None, None), ("short.wav", None, None)]
    table = Dataset.from_list([{"file": name, "start": start, "end": end} for name, start, end in rows])
    first, second, third, fourth = ClipSources(table, "file", tmp_path)
    assert (first.end, second.start) == (0.4, 0.4)
    assert isinstance(third, UnusableAudio)
    assert str(third) == "no part of its file: no start and no end, and other rows name this file"
    assert fourth == tmp_path / "short.wav"  # which no other row is about


def test_a_damaged_folder_that_another_process_has_moved_is_no_failure(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    sources = [Samples(tones("GO"), RATE)]
    file, read = audio_cache.store_clips(sources, 1, SETTINGS, name="train", show=False)[0].file, audio_cache._read
    file.write_bytes(b"")  # damaged
    looked = []

    def reading(folder):
        found = read(folder)
        looked.append(folder)
        if len(looked) == 2:  # it was in the way a moment ago
            file.parent.rename(tmp_path / "aside")
        return found

    monkeypatch.setattr(audio_cache, "_read", reading)
    found = audio_cache.store_clips(sources, 1, SETTINGS, name="train", show=False)[0]
    assert np.array_equal(audio_cache.read_int16(found.file, 0, 100), (tones("GO")[:100] * 32767).round())


def test_damaged_clips_are_replaced(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    for _ in range(2):
        found, there = audio_cache.store_clips([Samples(tones("GO"), RATE)], 1, SETTINGS, name="train", show=False)
        assert not there
        assert found.file.stat().st_size == 2 * len(tones("GO"))
        assert len(list(found.file.parent.parent.iterdir())) == 1
        found.file.write_bytes(b"")
