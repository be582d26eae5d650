"""Which module may know which: the map in CONTRIBUTING.md, read from imports and strings."""

import ast
import inspect
import re

import pytest
from conftest import ROOT
from transformers import Trainer

from hf_transfer.training.trainer import TransferTrainer

PACKAGE = ROOT / "hf_transfer"
FILES = sorted(file for file in PACKAGE.rglob("*.py") if "demo" not in file.parts)
RUN = (
    "finetuning",
    "preparation",
    "result_writing",
    "inference",
    "recipe",
    "comparing",
    "studying",
    "series",
    "parity",
    "arguments.parsing",
    "cli",
    "command_flags",
)
# Rooms, and what none of their files imports.
UNKNOWN = {
    "data": ("evaluation", "inputs", "targets", "tasks", "methods", "models", "training", "reporting", *RUN),
    "evaluation": ("inputs", "targets", "tasks", "methods", "models", "training", "reporting", *RUN),
    "methods": ("data", "evaluation", "inputs", "targets", "tasks", "training", "reporting", *RUN),
    "training": ("inputs", "targets", "tasks", "reporting", *RUN),
    "reporting": ("data", "inputs", "targets", "tasks", "methods", "models", "training", *RUN),
    "inputs": ("targets", "tasks", "methods", "training", "reporting", *RUN),
    "targets": ("inputs", "tasks", "methods", "reporting", *RUN),
    "tasks": ("methods", "training", "reporting", *RUN),
}
# What a task, an input, a target or a family of models is known by.
WORDS = re.compile(
    r"classification\b|speech|recogni[sz]|transcri|audio|\bclips?\b|text_|tokeniz|spectr"
    r"|wav2vec|whisper|hubert|wavlm|\bbert|roberta|gpt|mms\b",
    re.IGNORECASE,
)
# Formats of files, versions of packages, and the files that a tokenizer writes.
ALLOWED = {
    "data/delimited.py": {"audio", "transcription", "transcript"},  # usual names of columns
    "data/cache_cleanup.py": {r"samples\.int16|clips\.npz|left_out_of_\w+\.txt|[0-9a-f]{32}\.(npy|npz|partial)"},
    "data/media_folders.py": {
        ": an audiofolder without training data: expected metadata.csv, or train/metadata.csv.",
        ": an audiofolder's table needs a column file_name; it has ",
    },
    "reporting/run_files.py": {"tokenizer.json", "tokenizer_config.json"},
    "reporting/report.py": {"torchaudio"},
}


def room(file):
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(file):
    """Rooms, and modules in a room, that a file imports when it runs."""
    tree = ast.parse(file.read_text())
    for_types = [
        node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
    ]
    left_out = {inner for node in for_types for inner in ast.walk(node)}
    for node in set(ast.walk(tree)) - left_out:
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        for name in names:
            if name.startswith("hf_transfer."):
                parts = name.split(".")[1:]
                yield from {parts[0], ".".join(parts[:2])}


def strings(file):
    """Strings in a file's code, docstrings left out."""
    tree = ast.parse(file.read_text())
    documented = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    return {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in documented
    }


@pytest.mark.parametrize("name", UNKNOWN)
def test_a_room_knows_its_neighbours_alone(name):
    found = {
        (str(file.relative_to(PACKAGE)), other) for file in FILES if room(file) == name for other in imported(file)
    }
    assert found, "no such room"
    assert not {pair for pair in found if pair[1] in UNKNOWN[name]}


def test_tasks_inputs_targets_and_families_are_named_in_their_rooms_alone():
    elsewhere = [file for file in FILES if room(file) not in ("inputs", "targets", "tasks", "__init__")]
    for file in elsewhere:
        name = str(file.relative_to(PACKAGE))
        found = {string for string in strings(file) if WORDS.search(string)}
        assert found == ALLOWED.get(name, set()), name


def test_one_folder_imports_peft():
    files = [file for file in FILES if re.search(r"^\s*(from|import) peft\b", file.read_text(), re.MULTILINE)]
    assert {room(file) for file in files} == {"methods"}


# Trainer's methods without a promise, as they are called: what overrides them has to change where they do.
OVERRIDDEN = {
    "_evaluate": ["trial", "ignore_keys_for_eval", "skip_scheduler"],
    "_get_num_items_in_batch": ["batch_samples", "device"],
    "_get_output_dir": ["trial"],
    "_init_training_state": ["max_steps", "num_update_steps_per_epoch", "num_train_epochs", "resume_from_checkpoint",
                             "trial"],
    "_prepare_input": ["data"],
    "_run_epoch": ["model", "epoch", "train_dataloader", "steps_in_epoch", "num_update_steps_per_epoch", "trial",
                   "ignore_keys_for_eval", "start_time", "resume_from_checkpoint", "epochs_trained",
                   "steps_trained_in_current_epoch"],
    "_save_checkpoint": ["model", "trial"],
    "_update_auto_batch_size": ["batch_size"],
}  # fmt: skip
CALLED = {
    "_maybe_log_save_evaluate": ["tr_loss", "grad_norm", "model", "trial", "epoch", "ignore_keys_for_eval",
                                 "start_time", "learning_rate"],
    "_prepare_inputs": ["inputs"],
}  # fmt: skip


def test_what_is_used_of_trainer_without_a_promise_is_as_it_was():
    own = {name for kind in TransferTrainer.__mro__[: TransferTrainer.__mro__.index(Trainer)] for name in vars(kind)}
    private = {name for name in own if re.match("_[a-z]", name) and hasattr(Trainer, name)}
    assert private == set(OVERRIDDEN)
    for name, parameters in (OVERRIDDEN | CALLED).items():
        assert list(inspect.signature(getattr(Trainer, name)).parameters)[1:] == parameters, name
    source = inspect.getsource(Trainer)
    for name in (*OVERRIDDEN, *CALLED, "_tr_loss", "_globalstep_last_logged"):
        assert f"self.{name}" in source, name
