"""Tiny models built from configs, small tables, and the recipes run as a user runs them."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"  # the tests run side by side
os.environ.pop("HF_TOKEN", None)

import csv
import gc
import runpy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from processes import ROOT
from speech import build_speech_model, write_clips

import hf_transfer.comparing
import hf_transfer.result_writing
import hf_transfer.studying
import hf_transfer.training.cost

hypothesis.settings.register_profile("long", max_examples=20_000, deadline=None)

# What the libraries have made while they were imported is never garbage; looking at it takes longer than a short run.
gc.collect()
gc.freeze()
gc.set_threshold(20_000, 20, 20)


def pytest_configure(config: pytest.Config) -> None:
    """Stay on the CPU, where results are the same to the bit, unless it is the GPU's own tests that are asked for."""
    if config.option.markexpr != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


# Those that take longest: no worker is to begin one of them when the others have nothing left.
LONGEST = ["test_speech.py", "test_recipes.py", "test_reliability.py", "test_launch.py", "test_cli.py",
           "test_methods.py", "test_audio_classification.py", "test_output.py", "test_simulations.py",
           "test_recordings.py", "test_frozen.py", "test_packing.py", "test_hub.py", "test_text_models.py",
           "test_interruption.py", "test_pages.py", "test_compare.py", "test_trackers.py", "test_regression.py",
           "test_data.py", "test_study.py", "test_wheel.py"]  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


DATA = Path(os.environ.get("HF_TRANSFER_TEST_DATA", ROOT.parent / "shared" / "data"))
WRITE_PAGE, COUNT_ARITHMETIC = hf_transfer.result_writing._write_page, hf_transfer.training.cost._flops_an_epoch
WORDS = [
    "a",
    "an",
    "the",
    "and",
    "or",
    "not",
    "is",
    "was",
    "it",
    "this",
    "that",
    "you",
    "we",
    "they",
    "i",
    "my",
    "your",
    "call",
    "now",
    "free",
    "win",
    "prize",
    "cash",
    "text",
    "reply",
    "stop",
    "meet",
    "home",
    "late",
    "soon",
    "dinner",
    "lunch",
    "love",
    "sorry",
    "thanks",
    "good",
    "bad",
    "great",
    "awful",
    "film",
    "food",
    "phone",
    "money",
    "bank",
    "link",
    "click",
    "urgent",
    "account",
    "today",
    "tomorrow",
    "see",
    "ok",
    "yes",
    "no",
    "mum",
    "dad",
    "bus",
    "work",
    "school",
    "game",
    "1",
    "2",
    "3",
    "4",
    "5",
    "6",
    "7",
    "8",
    "9",
    "0",
    "!",
    "?",
    ".",
    ",",
]

# Families by their config class and the settings that make one tiny.
SMALL = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64,
         "max_position_embeddings": 66, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
         "pad_token_id": 0}  # fmt: skip
DECODER = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
           "intermediate_size": 64, "max_position_embeddings": 66}  # fmt: skip
NO_TOKENS = {"pad_token_id": None, "bos_token_id": None, "eos_token_id": None}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("BertConfig", SMALL),
    "distilbert": ("DistilBertConfig", {"dim": 32, "n_layers": 3, "n_heads": 4, "hidden_dim": 64, "dropout": 0.0,
                                        "attention_dropout": 0.0, "seq_classif_dropout": 0.0,
                                        "max_position_embeddings": 66, "pad_token_id": 0}),
    "roberta": ("RobertaConfig", SMALL),
    "deberta-v2": ("DebertaV2Config", {**SMALL, "relative_attention": True, "position_buckets": 8,
                                       "pos_att_type": ["p2c", "c2p"], "pooler_dropout": 0.0,
                                       "position_biased_input": False}),
    "modernbert": ("ModernBertConfig", {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4,
                                        "intermediate_size": 64, "max_position_embeddings": 66, "pad_token_id": 0,
                                        "bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3,
                                        "classifier_pooling": "mean", "local_attention": 8}),
    "electra": ("ElectraConfig", {**SMALL, "embedding_size": 16}),
    "albert": ("AlbertConfig", {**SMALL, "embedding_size": 16, "classifier_dropout_prob": 0.0}),
    "minilm": ("BertConfig", {**SMALL, "num_hidden_layers": 2, "num_attention_heads": 2}),
    # Decoders, with the dropout that real ones have (Llama and those after it have none). None names a padding token:
    # it is the tokenizer's that counts.
    "gpt2": ("GPT2Config", {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 66, **NO_TOKENS}),
    "llama": ("LlamaConfig", {**DECODER, **NO_TOKENS}),
    "qwen2": ("Qwen2Config", {**DECODER, **NO_TOKENS}),
    "gemma": ("GemmaConfig", {**DECODER, **NO_TOKENS, "head_dim": 8}),
}  # fmt: skip
# For what is compared weight by weight.
WITHOUT_DROPOUT = {"gpt2": {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}}
DECODERS = ("gpt2", "llama", "qwen2", "gemma")
# Its convolutions read the padding behind a text.
ODD = {"convbert": ("ConvBertConfig", {**SMALL, "embedding_size": 32})}
# A share of dropout wherever a config has a setting for it.
DROPPING = {"hidden_dropout_prob": 0.2, "attention_probs_dropout_prob": 0.2, "dropout": 0.2, "attention_dropout": 0.2,
            "seq_classif_dropout": 0.2, "mlp_dropout": 0.2, "embedding_dropout": 0.2, "classifier_dropout": 0.2,
            "pooler_dropout": 0.2, "classifier_dropout_prob": 0.2, "summary_last_dropout": 0.2,
            "resid_pdrop": 0.2, "embd_pdrop": 0.2, "attn_pdrop": 0.2,
            "hidden_dropout": 0.2, "activation_dropout": 0.2, "feat_proj_dropout": 0.2, "final_dropout": 0.2,
            "conformer_conv_dropout": 0.2}  # fmt: skip


def build_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    letters = list("abcdefghijklmnopqrstuvwxyz")
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{c}" for c in letters)]
    vocabulary += [word for word in WORDS if word not in vocabulary]
    tokenizer = Tokenizer(models.WordPiece({t: i for i, t in enumerate(vocabulary)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        mask_token="[MASK]", model_max_length=64, model_input_names=["input_ids", "attention_mask"],
    ).save_pretrained(folder)  # fmt: skip


def build_model(folder: Path, family: str, **changes: Any) -> Path:
    """Write a tiny base model (no head) of a family, with a tokenizer."""
    import torch
    import transformers

    name, settings = {**FAMILIES, **ODD}[family]
    config = getattr(transformers, name)(vocab_size=160, **{**settings, **changes})
    torch.manual_seed(0)
    transformers.AutoModel.from_config(config).save_pretrained(folder)
    build_tokenizer(folder)
    return folder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A tiny base model's folder by family, made once."""
    made: dict[Any, Path] = {}

    def get(family: str = "bert", **changes: Any) -> Path:
        key = family, *changes.items()
        if key not in made:
            made[key] = build_model(tmp_path_factory.mktemp("models") / family, family, **changes)
        return made[key]

    return get


def moved(base: Path, output: Path) -> tuple[set[str], set[str]]:
    """Names of parameters that differ from the base model, and that do not; heads are always new."""
    import torch
    from safetensors.torch import load_file

    before, after = load_file(base / "model.safetensors"), load_file(output / "model.safetensors")
    changed, kept = set(), set()
    for name, value in after.items():
        plain = name.partition(".")[2]
        (kept if plain in before and torch.equal(before[plain], value) else changed).add(name)
    return changed, kept


def settings_of(config_class: str, changes: dict[str, Any]) -> dict[str, Any]:
    """Those of `changes` that a config knows."""
    import transformers

    config = getattr(transformers, config_class)()
    return {name: value for name, value in changes.items() if hasattr(config, name)}


@pytest.fixture(scope="module")
def lean() -> Iterator[None]:
    """Runs write no ``report.html`` and count no arithmetic, half of a tiny one: for tests that are of other things.

    What was imported by then is no garbage to be looked for.
    """
    gc.collect()
    gc.freeze()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hf_transfer.result_writing._write_page", lambda *_: None)
        patch.setattr("hf_transfer.training.cost._flops_an_epoch", lambda *_: None)
        yield


@pytest.fixture
def with_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page nevertheless, in a module of ``lean`` runs."""
    monkeypatch.setattr("hf_transfer.result_writing._write_page", WRITE_PAGE)


@pytest.fixture
def with_arithmetic(monkeypatch: pytest.MonkeyPatch) -> None:
    """Arithmetic that is counted nevertheless."""
    monkeypatch.setattr("hf_transfer.training.cost._flops_an_epoch", COUNT_ARITHMETIC)


def message_rows(count: int, labels: tuple[str, ...] = ("ham", "spam")) -> list[dict[str, str]]:
    """Texts of unequal length whose label shows in their words."""
    import random

    source = random.Random(7)
    rows = []
    for i in range(count):
        k = i % len(labels)
        own = WORDS[15 + 6 * k : 21 + 6 * k]
        words = source.choices(own, k=2 + i % 3) + source.choices(WORDS, k=i % 9)
        source.shuffle(words)
        rows.append({"text": " ".join(words) + f" {i}", "label": labels[k], "channel": "sms" if i % 4 else "chat"})
    return rows


def number_rows(count: int, unit: float = 1.0, zero: float = 0.0) -> list[dict[str, Any]]:
    """Texts with a number that shows in their words: how often one of them occurs, in any unit."""
    import random

    source = random.Random(3)
    rows = []
    for i in range(count):
        amount = source.randrange(6)
        words = source.choices(WORDS, k=6 + i % 5) + ["great"] * amount
        source.shuffle(words)
        rows.append({"text": " ".join(words) + f" {i}", "label": (amount + 0.25 * (i % 3)) * unit + zero,
                     "channel": "sms" if i % 4 else "chat"})  # fmt: skip
    return rows


def write_csv(file: Path, rows: list[dict[str, Any]], **options: Any) -> Path:
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]), **options)
        writer.writeheader()
        writer.writerows(rows)
    return file


@pytest.fixture
def messages(tmp_path: Path) -> Path:
    return write_csv(tmp_path / "messages.csv", message_rows(120))


class Result:
    def __init__(self, code: int, out: str, err: str):
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """Run a recipe with arguments as a program, in this process: its exit code and what it printed."""

    def run(name: str, *arguments: Any) -> Result:
        return _run_program(ROOT / "recipes" / f"{name}.py", arguments, monkeypatch, capfd)

    return run


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """Run `hf-transfer` with arguments, in this process."""

    def run(*arguments: Any) -> Result:
        return _run_program(ROOT / "hf_transfer" / "cli.py", arguments, monkeypatch, capfd)

    return run


def _run_program(path: Path, arguments: Any, monkeypatch: Any, capfd: Any) -> Result:
    import logging

    capfd.readouterr()
    logging.getLogger("hf_transfer").handlers.clear()
    monkeypatch.setattr(sys, "argv", [path.name, *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(path), run_name="__main__")
    logging.getLogger("hf_transfer").handlers.clear()
    out, err = capfd.readouterr()
    return Result(int(ended.value.code or 0), out, err)


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What is kept from run to run lies apart from what the person has who runs the tests, in child processes too."""
    patch = pytest.MonkeyPatch()
    place = tmp_path_factory.mktemp("cache")
    patch.setattr("datasets.config.HF_DATASETS_CACHE", place)
    patch.setenv("HF_DATASETS_CACHE", str(place))
    patch.setenv("TRACKIO_DIR", str(place / "trackio"))
    yield
    patch.undo()


@pytest.fixture(scope="session")
def speech_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A tiny CTC model's folder by family, made once."""
    made: dict[Any, Path] = {}

    def get(family: str = "wav2vec2-layer", **options: Any) -> Path:
        key = family, *options.items()
        if key not in made:
            made[key] = build_speech_model(tmp_path_factory.mktemp("speech") / family, family, **options)
        return made[key]

    return get


@pytest.fixture(scope="session")
def accents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An audiofolder of two accents, a third of it for testing."""
    place = tmp_path_factory.mktemp("audiofolder")
    rows = write_clips(place, 36, accent="north") + write_clips(place, 36, shift=1.2, accent="south")
    write_csv(
        place / "metadata.csv", [{**row, "split": "test" if i % 3 == 0 else "train"} for i, row in enumerate(rows)]
    )
    return place
