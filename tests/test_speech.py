"""Speech recognition: what each method moves, what is left out and said, what is reported and predicted."""

import csv
import json
import os
from pathlib import Path

import datasets
import jiwer
import numpy as np
import pytest
import soundfile
import torch
from conftest import ROOT, write_csv
from processes import fork
from safetensors.torch import load_file
from speech import DISTINCT, RATE, WORDS, in_encoder, moved, tones, weights_of, write_clips
from transformers import AutoModelForCTC

from hf_transfer import InputError, SpeechRecognition, finetune, load_finetuned
from hf_transfer.arguments import ModelArguments
from hf_transfer.arguments.parsing import parse_arguments
from hf_transfer.data.batches import model_inputs_of
from hf_transfer.targets.transcripts.letters import build_tokenizer
from hf_transfer.training import cost

pytestmark = pytest.mark.usefixtures("lean")

STEPS = {"max_steps": 3, "per_device_train_batch_size": 8, "gradient_accumulation_steps": 1, "report_to": "none",
         "disable_tqdm": True, "learning_rate": 1e-2}  # fmt: skip


def train(output, model, task=None, **arguments):
    task = task or SpeechRecognition()
    return finetune(task, output_dir=str(output), model_name_or_path=str(model), **{**STEPS, **arguments})


@pytest.fixture(scope="module")
def plain(speech_model, accents, tmp_path_factory):
    """The report of a run of the accents' clips that asks for nothing special."""
    place = tmp_path_factory.mktemp("plain")
    return train(place / "out", speech_model(), dataset_name=str(accents), logging_steps=1).report


def test_the_feature_encoder_is_trained_when_asked(speech_model, accents, tmp_path):
    task = SpeechRecognition(train_feature_encoder=True)
    train(tmp_path / "out", speech_model(), task, dataset_name=str(accents), method="full")
    changed, every = moved(speech_model(), tmp_path / "out")
    assert {name for name in every if in_encoder(name)} <= changed


@pytest.mark.parametrize("family", DISTINCT)
def test_lora_reaches_every_linear_layer_and_saves_the_head(speech_model, accents, tmp_path, family):
    report = train(tmp_path / "out", speech_model(family), dataset_name=str(accents), method="lora").report
    saved = load_file(tmp_path / "out" / "adapter_model.safetensors")
    trained = {name.partition(".lora_")[0].removeprefix("base_model.model.") for name in saved if "lora_B" in name}
    assert all(float(value.abs().max()) > 0 for name, value in saved.items() if "lora_B" in name)
    model = AutoModelForCTC.from_pretrained(speech_model(family))
    linear = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)} - {"lm_head"}
    if family == "wavlm":  # its attention reads these weights without calling the layers
        linear = {name for name in linear if not name.endswith(("q_proj", "k_proj", "v_proj", "out_proj"))}
    assert trained == linear
    assert {name for name in saved if "lora_" not in name} == {
        "base_model.model.lm_head.bias", "base_model.model.lm_head.weight"
    }  # fmt: skip
    assert not torch.equal(saved["base_model.model.lm_head.weight"], model.lm_head.weight)
    assert report["parity"]["max_difference_merged"] < 1e-3


def test_merged_lora_changes_the_layers_that_an_adapter_would_change(speech_model, accents, tmp_path, caplog):
    """WavLM's attention reads weights without calling their layers: these get no adapter, merged or not."""
    with caplog.at_level("INFO", "hf_transfer"):
        adapter, merged = (
            train(
                tmp_path / str(merge), speech_model("wavlm"), dataset_name=str(accents), method="lora", merge=merge
            ).report
            for merge in (False, True)
        )
    changed, _ = moved(speech_model("wavlm"), tmp_path / "True")
    saved = load_file(tmp_path / "False" / "adapter_model.safetensors")
    adapted = {name.partition(".lora_")[0].removeprefix("base_model.model.") for name in saved if "lora_B" in name}
    assert changed == {f"{name}.weight" for name in adapted} | {"lm_head.weight", "lm_head.bias"}
    assert not any(name.endswith(("q_proj", "k_proj", "v_proj", "out_proj")) for name in adapted)
    assert merged["parameters"] == adapter["parameters"]
    assert caplog.text.count("8 linear layers get no adapter") == 2
    assert merged["parity"]["max_difference"] < 1e-4


@pytest.mark.parametrize("family", DISTINCT)
def test_frozen_moves_the_head_and_the_last_layers(speech_model, accents, tmp_path, family):
    train(tmp_path / "out", speech_model(family), dataset_name=str(accents), method="frozen", trainable_layers=1)
    changed, every = moved(speech_model(family), tmp_path / "out")
    last = {name for name in every if ".layers.1." in name}
    assert {"lm_head.weight", "lm_head.bias"} <= changed
    assert changed - {"lm_head.weight", "lm_head.bias"} <= last
    assert len(changed & last) > 0.8 * len(last)


def test_scratch_begins_anew(speech_model, accents, tmp_path):
    train(tmp_path / "out", speech_model(), dataset_name=str(accents), method="scratch")
    changed, every = moved(speech_model(), tmp_path / "out")
    assert {name for name in every if name.endswith("weight") and "norm" not in name} <= changed


# --- vocabulary -------------------------------------------------------------------------------------------------


def with_texts(accents, place, change):
    rows = list(csv.DictReader((accents / "metadata.csv").open()))
    return write_csv(
        place / "t.csv",
        [
            {**row, "file_name": str(accents / row["file_name"]), "transcription": change(row["transcription"])}
            for row in rows
        ],
    )


def test_the_case_of_the_vocabulary_is_taken(speech_model, accents, tmp_path):
    file = with_texts(accents, tmp_path, lambda text: text.lower().replace(" ", "-") + "!")
    result = train(tmp_path / "out", speech_model(), train_file=str(file))
    predictions = [json.loads(line) for line in (tmp_path / "out" / "predictions.jsonl").open()]
    assert all(record["reference"].isupper() and "!" not in record["reference"] for record in predictions)
    assert (tmp_path / "out" / "vocab.json").read_text() == (speech_model() / "vocab.json").read_text()
    assert result.report["data"]["examples"] == {"train": 48, "test": 24}


def test_another_alphabet_gets_a_vocabulary_and_a_head_of_its_own(speech_model, accents, tmp_path, caplog):
    cyrillic = str.maketrans("ONFLIGHTSPERU", "ОНФЛИГХТСПЕРУ")
    file = with_texts(accents, tmp_path, lambda text: text.translate(cyrillic).lower())
    with caplog.at_level("INFO", "hf_transfer"):
        train(tmp_path / "out", speech_model(), train_file=str(file))
    assert "is built from the training transcripts: геилнопрстуфх" in caplog.text
    assert set(json.loads((tmp_path / "out" / "vocab.json").read_text())) >= set("геилнопрстуфх")
    assert load_finetuned(tmp_path / "out").model.lm_head.out_features == 3 + len("геилнопрстуфх")


def test_letters_that_both_vocabularies_know_keep_their_weights(speech_model, accents, tmp_path):
    file = with_texts(accents, tmp_path, lambda text: text.lower())
    train(tmp_path / "out", speech_model(), SpeechRecognition(vocabulary="new"), train_file=str(file),
          max_steps=1, learning_rate=0.0)  # fmt: skip
    old, new = (json.loads((place / "vocab.json").read_text()) for place in (speech_model(), tmp_path / "out"))
    before, after = (weights_of(place)["lm_head.weight"] for place in (speech_model(), tmp_path / "out"))
    for mine, theirs in (("s", "S"), ("|", "|"), ("[PAD]", "<pad>")):
        torch.testing.assert_close(after[new[mine]], before[old[theirs]])


def test_a_pretrained_only_checkpoint_gets_a_vocabulary(speech_model, accents, tmp_path):
    model = speech_model(vocabulary=False)
    result = train(tmp_path / "out", model, dataset_name=str(accents), method="lora")
    assert "lm_head.weight" in "".join(load_file(tmp_path / "out" / "adapter_model.safetensors"))
    assert result.report["parity"]["max_difference"] < 1e-3


def test_a_few_foreign_letters_cost_their_clips_alone(speech_model, accents, tmp_path, caplog):
    seen = iter(range(100))
    file = with_texts(accents, tmp_path, lambda text: f"{text} 7" if next(seen) == 1 else text)
    with caplog.at_level("INFO", "hf_transfer"):
        report = train(tmp_path / "out", speech_model(), train_file=str(file)).report
    assert report["data"]["left_out"]["train"] == {"letters outside the vocabulary": 1}
    assert "1 x letters outside the vocabulary (7: write numbers as words, or --vocabulary new): " in caplog.text


def test_scratch_makes_a_head_for_every_sign_of_the_tokenizer(speech_model, accents, tmp_path):
    import transformers

    tokenizer = build_tokenizer(["ABCDEFGHIJKLMNOPQRSTUVWXYZ'ÄÖÜÉÈÊÀÂÇ"])
    assert len(tokenizer) > 32
    AutoModelForCTC.from_pretrained(speech_model()).save_pretrained(tmp_path / "m")
    extractor = transformers.AutoFeatureExtractor.from_pretrained(speech_model())
    transformers.Wav2Vec2Processor(extractor, tokenizer).save_pretrained(tmp_path / "m")
    train(tmp_path / "out", tmp_path / "m", dataset_name=str(accents), method="scratch", max_steps=1)
    assert weights_of(tmp_path / "out")["lm_head.weight"].shape[0] == len(tokenizer)


@pytest.mark.parametrize("vocabulary", ["auto", "keep"])
def test_replayed_clips_do_not_change_the_vocabulary(speech_model, accents, tmp_path, vocabulary):
    rows = write_clips(tmp_path, 24, shift=0.8)
    for row in rows[:3]:
        row["transcription"] += " 7"
    source = write_csv(tmp_path / "s.csv", rows)
    report = train(tmp_path / "a", speech_model(), SpeechRecognition(vocabulary=vocabulary), replay=0.2,
                   dataset_name=str(accents), source_file=str(source), max_steps=1).report  # fmt: skip
    assert (tmp_path / "a" / "vocab.json").read_text() == (speech_model() / "vocab.json").read_text()
    assert report["data"]["left_out"]["source"] == {"letters outside the vocabulary": 3}


def test_a_head_is_kept_where_the_tokenizer_knows_more_signs_than_the_head(speech_model, accents, tmp_path):
    """transformers adds <s> and </s> to tokenizers whose vocabulary lacks them."""
    import transformers

    tokenizer = build_tokenizer(["ABCDEFGHIJKLMNOPQRSTUVWXYZ'"])
    model = AutoModelForCTC.from_pretrained(speech_model())
    model.lm_head = torch.nn.Linear(32, len(tokenizer))
    model.config.vocab_size, model.config.pad_token_id = len(tokenizer), tokenizer.pad_token_id
    model.save_pretrained(tmp_path / "m")
    tokenizer.add_special_tokens({"bos_token": "<s>", "eos_token": "</s>"})
    extractor = transformers.AutoFeatureExtractor.from_pretrained(speech_model())
    transformers.Wav2Vec2Processor(extractor, tokenizer).save_pretrained(tmp_path / "m")
    train(tmp_path / "out", tmp_path / "m", dataset_name=str(accents), max_steps=1, learning_rate=0.0)
    before, after = weights_of(tmp_path / "m"), weights_of(tmp_path / "out")
    torch.testing.assert_close(after["lm_head.weight"], before["lm_head.weight"])


# --- data -------------------------------------------------------------------------------------------------------


def test_bad_clips_are_left_out_counted_and_named(speech_model, tmp_path, recipe):
    rows = write_clips(tmp_path, 40)
    spoil = {
        1: lambda file: file.write_bytes(b""),
        2: lambda file: file.write_text("no audio"),
        3: lambda file: file.unlink(),
        4: lambda file: file.write_bytes(file.read_bytes()[:-3000]),
        5: lambda file: soundfile.write(file, np.zeros(RATE), RATE),
        6: lambda file: soundfile.write(file, tones("GO")[:500], RATE),
        7: lambda file: soundfile.write(file, np.tile(tones("GO"), 200), RATE),
        8: lambda file: soundfile.write(file, np.full(RATE, np.nan), RATE, subtype="FLOAT"),
    }
    for i, change in spoil.items():
        change(tmp_path / rows[i]["file_name"])
    rows[9]["transcription"] = " "
    rows[10]["transcription"] = "STOP GO LEFT RIGHT " * 40
    file = write_csv(tmp_path / "t.csv", [{**row, "accent": "north"} for row in rows])
    test = write_csv(tmp_path / "test.csv", [{**row, "accent": "north"} for row in rows[20:]])
    result = recipe("accent", "--train_file", file, "--test_file", test, "--model_name_or_path", speech_model(),
                    "--output_dir", tmp_path / "out", "--max_steps", 2, "--group_column_name", "accent")  # fmt: skip
    assert result.code == 0, result.err
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["data"]["left_out"]["train"] == {
        "empty": 1, "broken": 1, "missing": 1, "truncated": 1, "silent": 1, "too short": 1, "too long": 1,
        "not finite": 1, "empty transcript": 1, "does not fit the model": 1,
    }  # fmt: skip
    assert report["data"]["examples"]["train"] == 40 - 10
    assert report["data"]["group_counts"]["train"] == {"north": 40 - 10}
    for said in (
        "1 x too long (--max_seconds 30): clips/clip7.wav",
        "1 x missing",
        "clips/clip3.wav",
        "1 x more letters than frames (is it another clip's transcript?): clips/clip10.wav",
        "--min_seconds 0.1",
    ):
        assert said in result.err, said


def test_all_clips_left_out_are_listed(speech_model, tmp_path, caplog):
    rows = write_clips(tmp_path, 24)
    for row in rows[:5]:
        (tmp_path / row["file_name"]).unlink()
    file, test = write_csv(tmp_path / "t.csv", rows), write_csv(tmp_path / "test.csv", rows[12:])
    with caplog.at_level("INFO", "hf_transfer"):
        train(tmp_path / "out", speech_model(), train_file=str(file), test_file=str(test), max_steps=1)
    said = next(message for message in caplog.messages if "5 x missing" in message)
    listed = Path(said.partition("all in ")[2].rstrip(")."))
    assert [line.split()[0] for line in listed.read_text().splitlines()] == [row["file_name"] for row in rows[:5]]
    assert listed.name == "left_out_of_train_missing.txt"


def test_groups_of_a_class_label_keep_their_names(speech_model, tmp_path):
    from datasets import ClassLabel, Dataset

    rows = [{**row, "accent": i % 2} for i, row in enumerate(write_clips(tmp_path, 24))]
    dataset = Dataset.from_list([{**row, "file_name": str(tmp_path / row["file_name"])} for row in rows])
    dataset = dataset.cast_column("accent", ClassLabel(names=["north", "south"]))
    report = finetune(
        SpeechRecognition(), dataset=dataset, output_dir=str(tmp_path / "out"),
        model_name_or_path=str(speech_model()), group_column_name="accent", target_group=["south"], **STEPS,
    ).report  # fmt: skip
    assert set(report["groups"]) == {"south"}


def test_suspicious_clips_are_used_where_leave_out_says_so(speech_model, accents, tmp_path):
    rows = write_clips(tmp_path, 24)
    soundfile.write(tmp_path / rows[0]["file_name"], np.zeros(RATE), RATE)
    file = write_csv(tmp_path / "t.csv", rows)
    task = SpeechRecognition(leave_out=["none"])
    report = train(tmp_path / "out", speech_model(), task, train_file=str(file)).report
    assert sum(report["data"]["examples"].values()) == 24


@pytest.mark.parametrize(("suffix", "folder", "named"), [
    (".flac", "wavs", ""),  # as LJ Speech names them
    (".ogg", "clips", ".ogg"),
    (".mp3", "clips", ""),  # as Common Voice did at first
])  # fmt: skip
def test_common_voice_style_tables(speech_model, tmp_path, suffix, folder, named):
    rows = [
        {
            "client_id": row["speaker"],
            "path": row["file_name"].removeprefix("clips/").replace(suffix, named),
            "sentence": row["transcription"],
        }
        for row in write_clips(tmp_path, 24, suffix=suffix)
    ]
    (tmp_path / "clips").rename(tmp_path / folder)
    write_csv(tmp_path / "train.tsv", rows, delimiter="\t")
    report = train(tmp_path / "out", speech_model(), train_file=str(tmp_path / "train.tsv")).report
    assert report["data"]["left_out"] == {"train": {}}
    assert report["data"]["speakers"]["train"] == 3


def test_parquet_with_embedded_audio_gives_the_same_as_files(speech_model, accents, plain, tmp_path):
    from datasets import Dataset

    rows = list(csv.DictReader((accents / "metadata.csv").open()))
    Dataset.from_list(
        [
            {"audio": {"bytes": (accents / row["file_name"]).read_bytes(), "path": row["file_name"]},
             "text": row["transcription"], "split": row["split"]}
            for row in rows
        ]
    ).to_parquet(tmp_path / "t.parquet")  # fmt: skip
    embedded = train(tmp_path / "a", speech_model(), train_file=str(tmp_path / "t.parquet")).report
    assert embedded["metrics"] == plain["metrics"]


def test_a_second_run_reads_the_decoded_audio(speech_model, accents, plain, tmp_path, caplog):
    with caplog.at_level("INFO", "hf_transfer"):
        train(tmp_path / "b", speech_model(), dataset_name=str(accents), method="lora")
    assert "read from" in caplog.text
    assert "written to" not in caplog.text


@pytest.mark.parametrize("damage", ["clips.npz", "samples.int16"])
def test_damaged_audio_is_decoded_again(speech_model, tmp_path, caplog, damage):
    write_csv(tmp_path / "metadata.csv", write_clips(tmp_path, 24))
    kept = set(Path(datasets.config.HF_DATASETS_CACHE).glob(f"hf_transfer_audio/*/{damage}"))
    first = train(tmp_path / "a", speech_model(), dataset_name=str(tmp_path), max_steps=1)
    for file in set(Path(datasets.config.HF_DATASETS_CACHE).glob(f"hf_transfer_audio/*/{damage}")) - kept:
        os.truncate(file, file.stat().st_size // 2)
    with caplog.at_level("INFO", "hf_transfer"):
        again = train(tmp_path / "b", speech_model(), dataset_name=str(tmp_path), max_steps=1)
    assert "written to" in caplog.text
    assert again.report["metrics"] == first.report["metrics"]


def test_smoothed_labels_are_refused(speech_model, accents, tmp_path):
    with pytest.raises(InputError, match="--label_smoothing_factor does not work with CTC"):
        train(tmp_path / "out", speech_model(), dataset_name=str(accents), label_smoothing_factor=0.1)


@pytest.fixture
def refused(recipe, speech_model, tmp_path):
    def run(*arguments, says):
        result = recipe("accent", *arguments, "--model_name_or_path", speech_model(), "--output_dir", tmp_path / "out",
                        "--max_steps", 1)  # fmt: skip
        assert result.code == 2, result.err
        assert "Traceback" not in result.err
        assert says in result.err.splitlines()[-1]
        assert not (tmp_path / "out").exists()
        assert not (tmp_path / "out.partial").exists()

    return run


def test_bad_speech_data_is_refused(refused, accents, tmp_path):
    rows = write_clips(tmp_path, 12)
    table = write_csv(tmp_path / "t.csv", rows)
    refused("--dataset_name", accents, "--group_column_name", "accent", "--source_group", "suth",
            says="There are: north, south. Did you mean south?")  # fmt: skip
    refused("--dataset_name", accents, "--group_column_name", "accent", "--target_group", "soth",
            says="Did you mean south?")  # fmt: skip
    blank = write_csv(tmp_path / "blank.csv", [{**row, "transcription": ""} for row in rows])
    refused("--train_file", table, "--source_file", blank, says="The source split has no transcripts")
    refused("--train_file", table, "--audio_column_name", "sound", says="There are: file_name, transcription, speaker")
    lost = write_csv(tmp_path / "lost.csv", [{**row, "file_name": f"x/{row['file_name']}"} for row in rows])
    refused("--train_file", lost, says="Only 0 of 12 clips")
    refused("--train_file", table, "--gain_db", "-6", says="--gain_db is -6: expected 0 or more")
    alone = write_csv(tmp_path / "alone.csv", rows[:1])
    refused("--train_file", table, "--source_file", alone, "--replay", 0.1, says="has one usable example")
    splits = ["train", "test", "tset", *["train"] * len(rows)]
    odd = write_csv(tmp_path / "odd.csv", [{**row, "split": split} for row, split in zip(rows, splits, strict=False)])
    refused("--train_file", odd, says="row 3 is of the split 'tset'")
    refused("--train_file", table, "--leave_out", "quiet", says="expected none, or some of silent")
    outside = tmp_path / "inner"
    outside.mkdir()
    write_csv(outside / "metadata.csv", [{**row, "file_name": f"../{row['file_name']}"} for row in rows])
    refused("--dataset_name", outside, says="which is outside the folder")


def test_a_text_model_is_refused(recipe, tiny, accents, tmp_path):
    result = recipe(
        "accent", "--dataset_name", accents, "--model_name_or_path", tiny(), "--output_dir", tmp_path / "out"
    )
    assert result.code == 2
    assert "Traceback" not in result.err


def test_clips_at_an_impossible_pace_are_named(speech_model, tmp_path, caplog):
    rows = write_clips(tmp_path, 24)
    slow = tmp_path / rows[3]["file_name"]
    samples, _ = soundfile.read(slow)
    soundfile.write(slow, np.tile(samples, 4), RATE * 4)  # four times too fast: the header is wrong
    rows[3]["transcription"] = "STOP LEFT RIGHT GO " * 4
    rows[3], rows[0] = rows[0], rows[3]
    file = write_csv(tmp_path / "t.csv", rows)
    test = write_csv(tmp_path / "test.csv", rows[12:])
    with caplog.at_level("INFO", "hf_transfer"):
        train(tmp_path / "a", speech_model(), train_file=str(file), test_file=str(test))
    assert "1 clips in train are used although pace" in caplog.text
    task = SpeechRecognition(leave_out=["pace"])
    report = train(tmp_path / "b", speech_model(), task, train_file=str(file), test_file=str(test)).report
    assert report["data"]["left_out"]["train"] == {"pace": 1}


def test_shared_clips_and_voices_are_said(speech_model, accents, tmp_path, caplog):
    rows = write_clips(tmp_path, 20)
    for row in rows[:16]:
        row["speaker"] = "s0"
    file, test = write_csv(tmp_path / "t.csv", rows), write_csv(tmp_path / "test.csv", rows[:5] + rows[18:])
    with caplog.at_level("INFO", "hf_transfer"):
        report = train(tmp_path / "a", speech_model(), train_file=str(file), test_file=str(test)).report
    assert report["data"]["also_in_training"]["test"] == 7
    assert "Also in training: 7 of 7 in test" in caplog.text
    assert "are in train and test (s0" in caplog.text
    assert "Speaker s0 has" in caplog.text
    task = SpeechRecognition()
    report = train(
        tmp_path / "b", speech_model(), task, train_file=str(file), test_file=str(test), deduplicate=True
    ).report
    assert report["data"]["examples"]["train"] == 13


# --- forgetting -------------------------------------------------------------------------------------------------


def test_what_was_known_before_is_measured_apart(speech_model, accents, tmp_path):
    options = {"dataset_name": str(accents), "group_column_name": "accent", "source_group": "north"}
    report = train(tmp_path / "a", speech_model(), **options).report
    assert report["data"]["examples"] == {"train": 24, "test": 12, "source": 12}
    assert set(report["groups"]) == {"south"}
    assert set(report["source"]["groups"]) == {"north"}
    assert {"baseline", "metrics", "confidence", "gain"} <= set(report["source"])
    replayed = train(tmp_path / "b", speech_model(), **options, replay=0.5).report
    assert replayed["data"]["replayed"] == 12
    assert replayed["data"]["examples"]["train"] == 36
    card = (tmp_path / "b" / "README.md").read_text()
    assert "What it knew before" in card
    assert "12 of the training examples are source examples" in card
    assert str(accents) not in card  # where the data are on this machine
    splits = [json.loads(line).get("split", "test") for line in (tmp_path / "b" / "predictions.jsonl").open()]
    assert splits.count("source") == 12


def test_training_samples_are_counted_without_the_source(speech_model, accents, tmp_path):
    report = train(tmp_path / "a", speech_model(), dataset_name=str(accents), group_column_name="accent",
                   source_group="north", max_train_samples=20, max_eval_samples=6, max_steps=1).report  # fmt: skip
    assert report["data"]["examples"] == {"train": 20, "test": 6, "source": 6}


def test_other_groups_are_left_out(speech_model, accents, tmp_path):
    report = train(tmp_path / "a", speech_model(), dataset_name=str(accents), group_column_name="accent",
                   target_group=["south"]).report  # fmt: skip
    assert report["data"]["examples"] == {"train": 24, "test": 12}
    assert set(report["groups"]) == {"south"}
    assert {"wer", "wer_before", "confidence", "gain", "examples"} <= set(report["groups"]["south"])


def test_a_source_file_is_halved_where_it_is_replayed_too(speech_model, accents, tmp_path):
    rows = write_clips(tmp_path, 20, shift=0.8)
    source = write_csv(tmp_path / "s.csv", rows)
    report = train(
        tmp_path / "a", speech_model(), dataset_name=str(accents), source_file=str(source), replay=0.2
    ).report
    assert report["data"]["examples"]["source"] == 10
    assert report["data"]["replayed"] == 10  # a fifth of 48
    held = {json.loads(line)["audio"] for line in (tmp_path / "a" / "predictions.jsonl").open() if '"source"' in line}
    assert len(held) == 10


def test_a_source_file_keeps_its_own_splits(speech_model, accents, tmp_path):
    rows = [
        {**row, "split": "test" if i % 2 else "train"} for i, row in enumerate(write_clips(tmp_path, 20, shift=0.8))
    ]
    for row in rows:
        del row["speaker"]
    source = write_csv(tmp_path / "s.csv", rows)
    result = train(tmp_path / "a", speech_model(), dataset_name=str(accents), source_file=str(source), replay=0.2)
    assert result.report["data"]["examples"]["source"] == 10
    assert result.report["data"]["replayed"] == 10
    held = {json.loads(line)["audio"] for line in (tmp_path / "a" / "predictions.jsonl").open() if '"source"' in line}
    assert held == {row["file_name"] for row in rows if row["split"] == "test"}


def test_checkpoints_can_be_chosen_by_the_worst_group(speech_model, accents, tmp_path):
    report = train(
        tmp_path / "a", speech_model(), dataset_name=str(accents), group_column_name="accent", max_steps=-1,
        num_train_epochs=3, eval_strategy="epoch", save_strategy="epoch", load_best_model_at_end=True,
        metric_for_best_model="wer_worst_group", validation_size=0.2,
    ).report  # fmt: skip
    evaluations = [entry for entry in report["history"] if "eval_wer" in entry]
    assert len(evaluations) == 3
    for entry in evaluations:
        values = entry["eval_wer_north"], entry["eval_wer_south"]
        assert entry["eval_wer_worst_group"] == max(values)
        assert entry["eval_wer_mean_over_groups"] == pytest.approx(sum(values) / 2)
    again = {"num_train_epochs": 3, "eval_strategy": "epoch", "save_strategy": "epoch", "max_steps": -1,
             "load_best_model_at_end": True, "metric_for_best_model": "wer_worst_group"}  # fmt: skip
    finished = train(tmp_path / "a", speech_model(), dataset_name=str(accents), group_column_name="accent",
                     validation_size=0.2, resume_from_checkpoint="true", **again)  # fmt: skip
    assert finished.report["history"] == report["history"]  # nothing to resume
    with pytest.raises(InputError, match="Did you mean wer_worst_group"):
        train(tmp_path / "b", speech_model(), dataset_name=str(accents), group_column_name="accent",
              eval_strategy="epoch", metric_for_best_model="wer_worst_grop")  # fmt: skip


# --- training ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["wav2vec2-layer", "hubert", "wav2vec2-bert"])
def test_padding_changes_nothing_where_the_model_takes_a_mask(speech_model, family):
    model = AutoModelForCTC.from_pretrained(speech_model(family)).eval()
    processor = SpeechRecognition().load_processor(ModelArguments(str(speech_model(family))))
    collate = SpeechRecognition().collator(processor)
    loss = SpeechRecognition().target.loss_function(None, model, 0.0)
    examples = [
        {"input_values": tones(text), "labels": processor.tokenizer(text).input_ids, "length": len(tones(text))}
        for text in ("GO", "STOP LEFT RIGHT")
    ]

    def losses(batch):
        value = loss(model(**model_inputs_of(batch)), batch)
        value.backward()  # gradients of batches add up
        return value.item()

    together = losses(collate(examples))
    of_both = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    assert together == pytest.approx(sum(losses(collate([example])) for example in examples), rel=1e-5)
    scale = max(float(gradient.abs().max()) for gradient in of_both.values())
    for name, parameter in model.named_parameters():
        if name in of_both:
            torch.testing.assert_close(parameter.grad, of_both[name], atol=1e-5 * scale, rtol=1e-4, msg=name)


@pytest.mark.parametrize(
    ("family", "settings", "told"),
    [
        ("wav2vec2-group", {"train_feature_encoder": True}, True),
        ("wav2vec2-group", {}, False),  # the fixed encoder computes clips one by one
        ("wav2vec2-layer", {"train_feature_encoder": True}, False),
    ],
)
def test_the_report_says_where_padding_matters(speech_model, accents, tmp_path, family, settings, told):
    task = SpeechRecognition(**settings)
    report = train(tmp_path / "out", speech_model(family), task, dataset_name=str(accents), max_steps=1).report
    assert report["training"]["padding_changes_outputs"] is told
    assert ("padding changes its outputs" in (tmp_path / "out" / "README.md").read_text()) is told


def test_a_diverging_run_stops_with_a_cause(recipe, speech_model, accents, tmp_path):
    result = recipe("accent", "--dataset_name", accents, "--model_name_or_path", speech_model(), "--output_dir",
                    tmp_path / "out", "--learning_rate", "1e30", "--max_steps", 40, "--logging_steps", 1)  # fmt: skip
    assert result.code == 1
    assert "Lower --learning_rate" in result.err.splitlines()[-1]
    assert "Traceback" not in result.err
    assert not (tmp_path / "out").exists()


def test_a_collapse_to_blanks_is_stopped(recipe, tmp_path):
    """The packaged recogniser, and 120 of its clips: only what has learned something can lose it."""
    packaged = ROOT / "hf_transfer" / "demo" / "speech"
    with (packaged / "commands" / "metadata.csv").open(newline="", encoding="utf-8") as stream:
        rows = [row for row in csv.DictReader(stream) if row["split"] == "train" and row["accent"] == "american"][:120]
    for row in rows:
        row["file_name"] = str(packaged / "commands" / row["file_name"])
    result = recipe("accent", "--output_dir", tmp_path / "out", "--learning_rate", 0.1, "--warmup_steps", 10,
                    "--max_steps", 80, "--logging_steps", 1, "--save_strategy", "steps", "--save_steps", 5,
                    "--gradient_accumulation_steps", 1,
                    "--model_name_or_path", packaged / "wav2vec2-tiny-commands-american",
                    "--train_file", write_csv(tmp_path / "clips.csv", rows))  # fmt: skip
    assert result.code == 1
    said = result.err.splitlines()[-1]
    assert "has collapsed to blanks" in said
    assert "Lower --learning_rate" in said
    good = Path(said.partition("last good checkpoint is ")[2].rstrip("."))
    states = [json.loads((path / "trainer_state.json").read_text()) for path in good.parent.glob("checkpoint-*")]
    last = max(states, key=lambda state: state["global_step"])
    assert last["log_history"][-1]["empty_hypotheses"] < 0.99


def test_time_masks_fit_the_shortest_clip(speech_model, tmp_path, caplog):
    rows = write_clips(tmp_path, 12)
    soundfile.write(tmp_path / rows[0]["file_name"], tones("GO")[:1700], RATE)
    rows[0]["transcription"] = "A"
    file = write_csv(tmp_path / "t.csv", rows)
    task = SpeechRecognition(mask_time_prob=0.3)
    with caplog.at_level("INFO", "hf_transfer"):
        train(tmp_path / "a", speech_model(), task, train_file=str(file), test_file=str(file),
              per_device_train_batch_size=1, max_steps=12)  # fmt: skip
    assert "SpecAugment masks" in caplog.text


def test_costs_count_frames(trained):
    cost = json.loads((trained / "full" / "report.json").read_text())["training"]
    frames_a_second = RATE / (5 * 8 * 4)
    assert cost["real_tokens_per_second"] < cost["samples_per_second"] * 4 * frames_a_second
    assert cost["audio_seconds_per_second"] == pytest.approx(
        cost["real_tokens_per_second"] / frames_a_second, rel=0.05
    )


@pytest.mark.parametrize("long", [0, 4], ids=["alike", "a few are long"])
def test_arithmetic_of_clips_of_uneven_length_is_told(speech_model, tmp_path, with_arithmetic, monkeypatch, long):
    """From three clips, with a convolutional front that rounds their lengths, against every clip counted by itself."""
    rows = []
    (tmp_path / "data").mkdir()
    for i in range(16):
        samples = tones("TURN THE LIGHT ON", seconds=(0.5 if i < long else 0.06) + 0.003 * i)
        soundfile.write(tmp_path / "data" / f"{i}.wav", samples, RATE)
        rows.append({"file_name": f"{i}.wav", "transcription": "TURN THE LIGHT ON"})
    write_csv(tmp_path / "data" / "metadata.csv", rows)
    honest, told, counted = cost._flops_an_epoch, [], []

    def both(trainer, lengths):
        told.append(honest(trainer, lengths))
        counted.append(sum(cost._flops_of(trainer, [i]) for i in range(len(lengths))))
        return told[0]

    monkeypatch.setattr(cost, "_flops_an_epoch", both)
    report = train(tmp_path / "out", speech_model(), dataset_name=str(tmp_path / "data"), max_steps=1).report
    assert told == pytest.approx(counted, rel=0.03)
    assert 0 < report["training"]["flops"] <= told[0]  # one step is a part of an epoch
    assert 0 < report["training"]["flops_utilisation"] < 1


def test_every_setting_survives_arguments_yaml(speech_model, accents, tmp_path):
    task = SpeechRecognition(leave_out=["none"], noise_snr_db=[5.0, 15.0], noise_probability=0.5, max_seconds=20.0)
    train(tmp_path / "a", speech_model(), task, dataset_name=str(accents), max_steps=1)
    config = ["--config", str(tmp_path / "a" / "arguments.yaml")]
    assert parse_arguments(SpeechRecognition, config).task == task


def test_every_epoch_hears_the_clips_anew(speech_model, accents, tmp_path):
    losses = {}
    for share in (0.0, 0.1):
        report = train(
            tmp_path / str(share), speech_model(), SpeechRecognition(speed_perturbation=share),
            dataset_name=str(accents), learning_rate=0.0, max_steps=-1, num_train_epochs=3, logging_steps=1,
            per_device_train_batch_size=64,
        ).report  # fmt: skip
        losses[share] = {round(entry["loss"], 4) for entry in report["history"] if "loss" in entry}
    assert len(losses[0.0]) == 1
    assert len(losses[0.1]) == 3


def test_blanks_are_watched(plain):
    logs = [entry for entry in plain["history"] if "loss" in entry]
    assert len(logs) == 3
    assert all(0 <= entry["blank_ratio"] <= 1 and 0 <= entry["empty_hypotheses"] <= 1 for entry in logs)


# --- use --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(speech_model, accents, tmp_path_factory):
    """Models that have learned the tones: what they hear is worth comparing."""
    place = tmp_path_factory.mktemp("trained")
    task = SpeechRecognition(speed_perturbation=0)
    train(place / "full", speech_model(), task, dataset_name=str(accents), max_steps=400, logging_steps=50)
    train(place / "lora", place / "full", task, dataset_name=str(accents), method="lora", learning_rate=1e-3,
          max_steps=30)  # fmt: skip
    for method in ("full", "lora"):
        assert json.loads((place / method / "report.json").read_text())["metrics"]["wer"] < 0.7
    return place


@pytest.mark.parametrize("method", ["full", "lora"])
def test_predict_and_evaluate_give_what_the_run_measured(trained, accents, command, tmp_path, method):
    records = [json.loads(line) for line in (trained / method / "predictions.jsonl").open()]
    result = command("predict", trained / method, *(record["audio"] for record in records), "--output", tmp_path / "o")
    assert result.code == 0, result.err
    assert sum(bool(record["prediction"]) for record in records) > 20
    for line, record in zip((tmp_path / "o").open(), records, strict=True):
        found = json.loads(line)
        assert found["text"] == record["prediction"]
        assert " ".join(word["word"] for word in found["words"]) == record["prediction"]
    rows = [{"path": r["audio"], "sentence": r["reference"]} for r in records]
    file = write_csv(tmp_path / "t.csv", rows)
    result = command("evaluate", trained / method, "--test_file", file)
    assert result.code == 0, result.err
    report = json.loads((trained / method / "report.json").read_text())
    assert json.loads(result.out)["metrics"] == pytest.approx(report["metrics"])
    assert json.loads(result.out)["left_out"] == {}
    result = command("evaluate", trained / method, "--test_file", file, "--max_seconds", 1)
    assert json.loads(result.out)["left_out"]["too long"] > 0
    result = command("predict", trained / method, "--file", file)
    assert [json.loads(line)["text"] for line in result.out.splitlines()] == [r["prediction"] for r in records]


def test_predict_goes_on_past_a_bad_file(trained, command, tmp_path):
    soundfile.write(tmp_path / "a.wav", tones("STOP"), RATE)
    (tmp_path / "b.wav").write_text("no audio")
    result = command("predict", trained / "full", tmp_path / "b.wav", tmp_path / "a.wav")
    assert result.code == 2
    first, second = map(json.loads, result.out.splitlines())
    assert "broken" in first["error"]
    assert "text" in second
    assert result.err.splitlines()[-1].startswith("error: 1 input could not be used")


def test_long_files_are_heard_in_chunks_as_if_whole(trained, tmp_path):
    words = ["STOP", "GO", "LEFT", "RIGHT"] * 20
    clips = [tones(word) for word in words]
    samples = np.concatenate(clips)
    soundfile.write(tmp_path / "a.wav", samples, RATE)
    transcribe = load_finetuned(trained / "full")
    whole = transcribe(str(tmp_path / "a.wav"), chunk_length_s=1000.0)["text"]
    parts = transcribe(str(tmp_path / "a.wav"), chunk_length_s=8.0, stride_length_s=1.0, return_timestamps="char")
    assert len(samples) / RATE > 24
    assert len(whole) > 250
    assert jiwer.cer(whole, parts["text"]) < 0.02
    # Each letter is heard while its word is said.
    starts = np.cumsum([0, *(len(clip) for clip in clips)]) / RATE
    right = [
        chunk["text"] in words[int(np.searchsorted(starts, sum(chunk["timestamp"]) / 2)) - 1]
        for chunk in parts["chunks"]
        if chunk["text"].strip()
    ]
    assert len(right) > 250
    assert np.mean(right) > 0.9


@pytest.mark.parametrize("family", ["wav2vec2-group", "wav2vec2-layer"])
def test_what_is_measured_does_not_depend_on_the_batch(speech_model, accents, tmp_path, command, family):
    train(tmp_path / "out", speech_model(family), dataset_name=str(accents), max_steps=1, learning_rate=1e-5)
    records = [json.loads(line) for line in (tmp_path / "out" / "predictions.jsonl").open()]
    assert sum(bool(record["prediction"]) for record in records) > 20
    result = command("predict", tmp_path / "out", *(record["audio"] for record in records))
    heard = [json.loads(line)["text"] for line in result.out.splitlines()]
    assert heard == [record["prediction"] for record in records]


def test_predict_reads_audio_embedded_in_parquet(trained, accents, command, tmp_path):
    from datasets import Dataset

    records = [json.loads(line) for line in (trained / "full" / "predictions.jsonl").open()][:4]
    content = [{"audio": {"bytes": Path(r["audio"]).read_bytes(), "path": "x.wav"}} for r in records]
    Dataset.from_list(content).to_parquet(tmp_path / "t.parquet")
    result = command("predict", trained / "full", "--file", tmp_path / "t.parquet")
    assert result.code == 0, result.err
    assert [json.loads(line)["text"] for line in result.out.splitlines()] == [r["prediction"] for r in records]


def test_memory_does_not_grow_with_the_length_of_a_file(trained, tmp_path):
    peaks = {}
    (tmp_path / "peak.py").write_text(
        "import resource, sys; from hf_transfer import load_finetuned; t = load_finetuned(sys.argv[1]);"
        "t(sys.argv[2]); print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    for minutes in (1, 8):
        with soundfile.SoundFile(tmp_path / f"{minutes}.flac", "w", RATE, 1) as file:
            for _ in range(minutes):
                file.write(np.resize(tones("STOP GO"), 60 * RATE))
        done = fork(tmp_path / "peak.py", trained / "full", tmp_path / f"{minutes}.flac")
        assert done.returncode == 0, done.stderr
        peaks[minutes] = int(done.stdout.split()[-1]) / 1024
    assert peaks[8] - peaks[1] < 13, peaks  # 7 minutes are 27 MB as float32


def test_a_language_model_chooses_among_its_words(trained, command, tmp_path):
    pytest.importorskip("flashlight.lib.text", reason="needs the extra lm")
    soundfile.write(tmp_path / "a.wav", tones("STOP GO"), RATE)
    unigrams = "".join(f"-1\t{word}\t0\n" for word in WORDS)
    counts = f"ngram 1={len(WORDS) + 3}\nngram 2=1"
    (tmp_path / "lm.arpa").write_text(
        f"\\data\\\n{counts}\n\n\\1-grams:\n-3\t<unk>\n0\t<s>\t0\n-1\t</s>\n{unigrams}\n"
        "\\2-grams:\n-1\t<s> STOP\n\n\\end\\\n"
    )
    result = command("predict", trained / "full", tmp_path / "a.wav", "--language_model", tmp_path / "lm.arpa")
    assert result.code == 0, result.err
    found = json.loads(result.out)
    assert set(found["text"].split()) <= set(WORDS)
    assert [word["word"] for word in found["words"]] == found["text"].split()


def test_a_language_model_that_cannot_be_had_is_refused_with_the_install_command(trained, command, tmp_path):
    soundfile.write(tmp_path / "a.wav", tones("STOP"), RATE)
    (tmp_path / "lm.arpa").write_text("\\data\\\nngram 1=1\n\n\\1-grams:\n-1\tQQQQ\n\n\\end\\\n")
    result = command("predict", trained / "full", tmp_path / "a.wav", "--language_model", tmp_path / "none.arpa")
    assert result.code == 2
    assert "no such file" in result.err or 'pip install "hf-transfer-learning[lm]"' in result.err


# --- speakers ---------------------------------------------------------------------------------------------------


def with_speakers(accents, place, name_of):
    rows = list(csv.DictReader((accents / "metadata.csv").open()))
    return write_csv(
        place / "t.csv",
        [
            {"path": str(accents / row["file_name"]), "sentence": row["transcription"], "accent": row["accent"],
             "client_id": name_of(i, row["accent"])}
            for i, row in enumerate(rows)
        ],
    )  # fmt: skip


def test_a_drawn_test_split_is_of_new_voices(speech_model, accents, tmp_path):
    file = with_speakers(accents, tmp_path, lambda i, accent: f"{accent}-{i % 8}")
    report = train(tmp_path / "out", speech_model(), train_file=str(file), group_column_name="accent").report
    told = report["data"]
    assert told["made"]["test"]["split_by"] == "client_id"
    assert told["speakers"]["train"] + told["speakers"]["test"] == 16
    assert set(told["group_counts"]["test"]) == {"north", "south"}
    assert 0.1 < told["made"]["test"]["share"] < 0.35
    (few,) = told["caveats"]
    assert few.startswith("The test examples are of 4 speakers: too few for intervals over speakers")
    assert "whole speakers" in (tmp_path / "out" / "README.md").read_text()


def test_an_accent_of_one_speaker_is_learned_and_measured(speech_model, accents, tmp_path, with_page):
    """Whole speakers would leave it on one side: clips are drawn, and it is told that voices are known."""
    file = with_speakers(accents, tmp_path, lambda i, accent: f"{accent}-{i % 12 if accent == 'north' else 0}")
    report = train(tmp_path / "out", speech_model(), train_file=str(file), group_column_name="accent").report
    assert report["data"]["made"]["test"]["split_by"] is None
    assert set(report["data"]["group_counts"]["test"]) == {"north", "south"}
    assert any("the result holds for known voices" in caveat for caveat in report["data"]["caveats"])
    assert "known voices" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize("given", ["folder", "files"])
def test_quotes_in_a_common_voice_folder_merge_no_rows(speech_model, tmp_path, given):
    rows = write_clips(tmp_path, 24)
    # Quotes as Common Voice has them: unpaired, opening in one row and closing in a later one.
    marks = ['"{}', '{}"', '"{}" SHE SAID', "{}"]
    lines = [f"{row['speaker']}\t{Path(row['file_name']).name}\t{marks[min(i, 3)].format(row['transcription'])}\t"
             for i, row in enumerate(rows)]  # fmt: skip
    header = "client_id\tpath\tsentence\taccents"
    for name, part in (("train", lines[:16]), ("dev", lines[16:20]), ("test", lines[20:]), ("other", lines[:2])):
        (tmp_path / f"{name}.tsv").write_text("\n".join([header, *part]) + "\n")
    files = {"train": "train.tsv", "validation": "dev.tsv", "test": "test.tsv"}
    source = {"dataset_name": str(tmp_path)} if given == "folder" else {
        f"{name}_file": str(tmp_path / file) for name, file in files.items()}  # fmt: skip
    report = train(tmp_path / "out", speech_model(), **source).report
    assert report["data"]["examples"] == {"train": 16, "validation": 4, "test": 4}
