"""Whatever a file holds, a reader gives its content or refuses it with a message.

Longer: ``pytest tests/test_fuzz.py --hypothesis-profile long``.
"""

import contextlib
import io

import numpy as np
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_transfer import InputError, TextClassification
from hf_transfer.arguments.parsing import parse_arguments
from hf_transfer.data.tables import read_rows
from hf_transfer.inputs.audio.decoding import DecodingSettings, decode
from hf_transfer.inputs.audio.sources import UnusableAudio

# Pieces that mean something to the readers, and anything between them.
TABLE = [b"text,label\n", b"text\tlabel\r\n", b'"', b'""', b",", b"\t", b"\n", b"\r", b"\r\n", b"\xef\xbb\xbf",
         b"\x00", b"\xff\xfe", b"[", b"]", b"{", b"}", b'{"text": "a", "label": 1}', b"null", b"NaN", b":", b"1e999",
         b"\\u0000", b"\\ud800", b"spam", b" "]  # fmt: skip
YAML = ["learning_rate: ", "seed: ", "method: ", "lora_r: ", "- ", "\n", "{", "}", "[", "]", ": ", "&a ", "*a",
        "!!python/object/apply:os.system ['true']", "1e-3", ".nan", ".inf", "true", "~", "'", '"', "|", "? ", "%",
        "train_file: a.csv\n", "group_column_name: ", "label_smoothing_factor: ", "test_size: ", "\t"]  # fmt: skip


def some(pieces, whatever, empty):
    return st.lists(st.sampled_from(pieces) | whatever, max_size=30).map(empty.join)


def soundfiles():
    found = []
    for kind, subtype in (("WAV", "PCM_16"), ("WAV", "FLOAT"), ("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("MP3", None)):
        stream = io.BytesIO()
        samples = np.random.default_rng(0).normal(scale=0.1, size=4000)
        soundfile.write(stream, samples, 16_000, format=kind, subtype=subtype)
        found.append(stream.getvalue())
    return found


SOUNDFILES = soundfiles()


@given(some(TABLE, st.binary(max_size=8), b""), st.sampled_from([".csv", ".tsv", ".json", ".jsonl", ".parquet"]))
@settings(deadline=None)
def test_tables(tmp_path_factory, content, suffix):
    file = tmp_path_factory.getbasetemp() / f"fuzz{suffix}"
    file.write_bytes(content)
    with contextlib.suppress(InputError):
        assert all(isinstance(row, dict) for row in read_rows(file))


@given(some(YAML, st.text(max_size=8), ""))
@settings(deadline=None)
def test_yaml(tmp_path_factory, content):
    file = tmp_path_factory.getbasetemp() / "fuzz.yaml"
    named = f"output_dir: x\nmodel_name_or_path: m\n{content}"
    file.write_bytes(named.encode("utf-8", "surrogatepass"))
    with contextlib.suppress(InputError):
        assert parse_arguments(TextClassification, ["--config", str(file)]).training.output_dir == "x"


@given(
    st.sampled_from(SOUNDFILES),
    st.lists(st.tuples(st.integers(0, 200) | st.integers(0, 10_000), st.integers(0, 255)), max_size=6),
    st.none() | st.integers(0, 9000),
)
@settings(deadline=None)
def test_audio(file, changes, end):
    content = bytearray(file)
    for place, value in changes:
        content[place % len(content)] = value
    with contextlib.suppress(UnusableAudio):
        assert decode(bytes(content[:end]), DecodingSettings(16_000, 0.01, 30.0)).samples.dtype == np.int16
