"""The normaliser, vocabularies, and the error rates of transcripts."""

import jiwer
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_transfer.targets.transcripts import error_rates as transcription
from hf_transfer.targets.transcripts.error_rates import CharacterErrorRate, WordErrorRate
from hf_transfer.targets.transcripts.letters import build_tokenizer, covers, letters_of, normalise, unknown_letters

UPPER = set("ABCDEFGHIJKLMNOPQRSTUVWXYZ' ")
TEXT = st.lists(st.sampled_from(["go", "stop", "left", "a", "up", "right"]), max_size=6).map(" ".join)


@pytest.mark.parametrize(
    ("text", "letters", "spelt"),
    [
        ("Don’t stop!", UPPER, "DON'T STOP"),
        ("well-known, and/or “quoted”", UPPER, "WELL KNOWN AND OR QUOTED"),
        ("café naïve Straße ﬁne", UPPER, "CAFE NAIVE STRASSE FINE"),
        ("3 times", UPPER, "3 TIMES"),
        ("3.5 at 10:30, 1½ of 1,000", UPPER, "3 5 AT 10 30 1 1 2 OF 1000"),
        ("Привет", UPPER, "ПРИВЕТ"),
        ("Don’t  SHOUT…", None, "don't shout"),
        ("Café über", None, "café über"),
        ("Mixed Case", UPPER | set("abcdefghijklmnopqrstuvwxyz"), "Mixed Case"),
        ("e-mail.", set("abcdefghijklmnopqrstuvwxyz-. "), "e-mail."),
        ("rock'n'roll", UPPER - {"'"}, "ROCKNROLL"),
        (" \t\n ", UPPER, ""),
    ],
)
def test_normalise(text, letters, spelt):
    assert normalise(text, letters) == spelt
    assert normalise(spelt, letters) == spelt


def test_a_vocabulary_covers_its_own_alphabet_with_a_foreign_letter_now_and_then():
    assert covers(["hello there"] * 100 + ["café"], UPPER)
    assert covers(["hello there"] * 18 + ["20 % off & 5 €", "привет"], UPPER)  # a tenth of the transcripts
    assert not covers(["schöne grüße über alles"] * 10, UPPER)
    assert not covers(["привет"], UPPER)
    assert not covers(["12 34"], UPPER)
    assert unknown_letters(["ABC 1É1"], UPPER) == ({"1": 2, "É": 1}, 7)


def test_a_built_tokenizer_spells_its_texts_and_survives_saving(tmp_path):
    texts = ["grüße über alles", "don't", "привет"]
    tokenizer = build_tokenizer(texts)
    tokenizer.save_pretrained(tmp_path)
    from transformers import AutoTokenizer

    again = AutoTokenizer.from_pretrained(tmp_path)
    for reader in (tokenizer, again):
        assert letters_of(reader) == set("".join(texts)) | {" "}
        assert reader.pad_token_id == 0
        for text in texts:
            ids = [i for letter in reader(text).input_ids for i in (letter, reader.pad_token_id)]
            assert reader.decode(ids) == text


@given(st.lists(st.tuples(TEXT.filter(bool), TEXT), min_size=1, max_size=8))
def test_error_rates_are_those_of_jiwer(pairs):
    references, hypotheses = map(list, zip(*pairs, strict=True))
    found = transcription.compute_metrics(references, hypotheses)
    assert found["wer"] == pytest.approx(jiwer.wer(references, hypotheses))
    assert found["cer"] == pytest.approx(jiwer.cer(references, hypotheses))
    assert found["empty_hypotheses"] == np.mean([not text for text in hypotheses])
    assert WordErrorRate().compute(predictions=hypotheses, references=references) == {"wer": found["wer"]}
    assert CharacterErrorRate().compute(predictions=hypotheses, references=references) == {"cer": found["cer"]}


def test_words_that_nobody_said_are_errors():
    assert transcription.compute_metrics(["a b", ""], ["a b", "c"])["wer"] == 0.5


def test_errors_and_worst_clips_are_listed():
    references = ["turn left now", "stop", "go up", "go up"]
    hypotheses = ["turn right now", "", "go up up", "go up"]
    errors = transcription.most_frequent_errors(references, hypotheses)
    assert errors["substitutions"] == [{"reference": "left", "hypothesis": "right", "count": 1}]
    assert errors["deletions"] == [{"reference": "stop", "count": 1}]
    assert errors["insertions"] == [{"hypothesis": "up", "count": 1}]
    worst = transcription.worst_clips(references, hypotheses)
    assert [clip["row"] for clip in worst] == [1, 2, 0]
    assert worst[0] == {"row": 1, "reference": "stop", "hypothesis": "", "wer": 1.0}


def test_intervals_resample_speakers_where_there_are_enough():
    source = np.random.default_rng(0)
    speakers = [f"s{i // 20}" for i in range(300)]
    bad = source.random(15) < 0.5  # a speaker is heard well or not at all
    references = ["go"] * 300
    after = ["go" if not bad[i // 20] else "stop" for i in range(300)]
    by_clip = transcription.intervals(references, references, after, None, seed=0)["after"]["wer"]
    by_speaker = transcription.intervals(references, references, after, speakers, seed=0)["after"]["wer"]
    rate = bad.mean()
    assert by_clip[0] < rate < by_clip[1]
    assert by_speaker[1] - by_speaker[0] > 2.5 * (by_clip[1] - by_clip[0])
    few = transcription.intervals(references, references, after, ["one"] * 300, seed=0)["after"]["wer"]
    assert few == by_clip


def test_the_gain_is_paired():
    references = ["go"] * 200
    before = ["stop" if i < 100 else "go" for i in range(200)]
    after = ["stop" if i < 90 else "go" for i in range(200)]
    low, high = transcription.intervals(references, before, after, None, seed=0)["gain"]["wer"]
    assert -0.1 < low < -0.05 < high < -0.01
