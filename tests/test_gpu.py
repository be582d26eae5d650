"""What only a GPU shows: `pytest -m gpu`. The other tests stay on the CPU, where results are the same to the bit."""

import json

import pytest
import torch
import yaml
from conftest import message_rows, write_csv
from processes import start
from safetensors.torch import load_file

from hf_transfer import SpeechRecognition, TextClassification, finetune, load_finetuned

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
PRECISIONS = [{"fp16": True}, {"bf16": True}, {"bf16": False}]


def train_texts(tiny, tmp_path, **arguments):
    file = write_csv(tmp_path / "m.csv", message_rows(120))
    return finetune(
        TextClassification(), model_name_or_path=str(tiny()), train_file=str(file), num_train_epochs=6,
        learning_rate=3e-3, logging_steps=1, disable_tqdm=True, **{"output_dir": str(tmp_path / "out"), **arguments},
    )  # fmt: skip


@pytest.mark.parametrize("method", ["full", "lora", "frozen"])
@pytest.mark.parametrize("head_first", [False, True])
@pytest.mark.parametrize("precision", PRECISIONS, ids=["fp16", "bf16", "float32"])
def test_texts_are_learned_in_every_precision_and_shipped_in_float32(tiny, tmp_path, method, head_first, precision):
    head_first = head_first and method != "frozen"
    report = train_texts(tiny, tmp_path, method=method, head_first=head_first, **precision).report
    assert report["device"] == torch.cuda.get_device_name()
    if not head_first:  # the head has learned before the first step that is logged
        losses = [entry["loss"] for entry in report["history"] if "loss" in entry]
        assert sum(losses[-5:]) < sum(losses[:5])
    (weights,) = (tmp_path / "out").glob("*.safetensors")
    assert {value.dtype for value in load_file(weights).values()} == {torch.float32}
    classify = load_finetuned(tmp_path / "out")
    assert classify.device.type == "cuda"
    records = [json.loads(line) for line in (tmp_path / "out" / "predictions.jsonl").open()]
    for record, found in zip(records, classify([record["text"] for record in records], top_k=None), strict=True):
        assert {each["label"]: each["score"] for each in found} == pytest.approx(record["scores"], abs=1e-4)


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("precision", PRECISIONS, ids=["fp16", "bf16", "float32"])
def test_speech_is_learned_in_every_precision(speech_model, accents, tmp_path, method, precision):
    report = finetune(
        SpeechRecognition(), model_name_or_path=str(speech_model()), dataset_name=str(accents), method=method,
        num_train_epochs=3, learning_rate=3e-3, logging_steps=1, disable_tqdm=True,
        output_dir=str(tmp_path / "out"), **precision,
    ).report  # fmt: skip
    losses = [entry["loss"] for entry in report["history"] if "loss" in entry]
    assert losses[-1] < losses[0]


def test_bf16_is_what_a_gpu_that_has_it_computes_in(tiny, tmp_path):
    has_it = torch.cuda.is_bf16_supported(including_emulation=False)
    for asked, expected in (
        ({}, has_it),
        ({"bf16": False}, False),
        ({"fp16": True}, False),
        ({"use_cpu": True}, False),
    ):
        place = tmp_path / "-".join(["run", *asked])
        train_texts(tiny, tmp_path, output_dir=str(place), **asked)
        assert yaml.safe_load((place / "arguments.yaml").read_text())["bf16"] is expected
        device = json.loads((place / "report.json").read_text())["device"]
        assert device.startswith("CPU") == ("use_cpu" in asked)


def test_in_float32_the_steps_are_those_of_the_cpu(tiny, tmp_path):
    histories = []
    for place, use_cpu in (("cuda", False), ("cpu", True)):
        report = train_texts(tiny, tmp_path, use_cpu=use_cpu, bf16=False, output_dir=str(tmp_path / place)).report
        histories.append([entry["loss"] for entry in report["history"] if "loss" in entry])
    assert histories[0] == pytest.approx(histories[1], rel=1e-3)


def test_a_compiled_run_takes_the_same_steps(tiny, tmp_path):
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    histories = []
    for place, compiled in (("compiled", True), ("plain", False)):
        report = train_texts(
            tiny, tmp_path, torch_compile=compiled, bf16=False, output_dir=str(tmp_path / place)
        ).report
        histories.append([entry["loss"] for entry in report["history"] if "loss" in entry])
    assert histories[0] == pytest.approx(histories[1], rel=1e-2)
    # One for the first length, one for all others, and perhaps as many for batches without padding.
    assert 0 < torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 4


def test_a_recipe_is_launched_on_it(tiny, tmp_path):
    file = write_csv(tmp_path / "m.csv", message_rows(60))
    done = start(
        "-m", "accelerate.commands.launch", "--num_processes", "1", "recipes/spam.py", "--train_file", file,
        "--model_name_or_path", tiny(), "--num_train_epochs", "1", "--output_dir", tmp_path / "out",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "model.safetensors").is_file()
