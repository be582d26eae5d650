"""Pretrained models, from the Hub or a local folder."""

import contextlib
import dataclasses
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ResolvedRevision
from transformers import AutoConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging
from transformers.utils.hub import resolve_revision

from hf_transfer.arguments import ModelArguments
from hf_transfer.errors import InputError, reading


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' bars, loading tables and notes to other authors: what matters is said by us, in a line."""
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|peft|accelerate)\.")
            warnings.filterwarnings("ignore", message="Support for mismatched key_padding_mask")  # WavLM's own call
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()


@contextlib.contextmanager
def explained(name: str, what: str) -> Iterator[None]:
    """Loading errors as one sentence: what was expected and where it was looked for."""
    try:
        with quiet():
            yield
    except InputError:
        raise
    except Exception as error:  # damaged files and foreign ones fail in every way that there is
        reason = " ".join(str(error).split())
        detail = f" ({reason})" if len(reason) < 300 else f" ({reason[:300]} ...)"
        with reading(name):
            where = _looked_for(name)
        if where.endswith("expected a folder."):
            detail = ""
        raise InputError(f"{name}: {what} could not be loaded. {where}{detail}") from error


def _looked_for(name: str) -> str:
    """Where a model of that name was looked for, in a sentence."""
    if not Path(name).exists() and Path(f"{name}.partial").is_dir():
        return f"The run in {name}.partial is not finished: go on with --resume_from_checkpoint true."
    if Path(name).is_dir():
        files = ", ".join(sorted(file.name for file in Path(name).iterdir())[:8]) or "nothing"
        return f"The folder holds: {files}."
    if Path(name).exists() or name.startswith((".", "/")):
        return f"{'That is a file' if Path(name).is_file() else 'There is no such folder'}; expected a folder."
    return "It is no local folder, and the Hub did not give it (is it spelt right, is the Hub reachable?)."


def at_commit(model: ModelArguments) -> tuple[ModelArguments, str | None]:
    """A model on the Hub at the commit that its revision names today, and that commit.

    A local folder as it is, and None; as where the Hub and its cache know no commit: loading says why.
    """
    revision = resolve_revision(str(model.model_name_or_path), model.model_revision)
    if not isinstance(revision, ResolvedRevision):
        return model, None
    commit = str(revision.resolved)
    return dataclasses.replace(model, model_revision=commit), commit


def load_config(model: ModelArguments, auto_model: Any, **settings: Any) -> Any:
    """The model's config with `settings` on top.

    Raises:
        InputError: there is no config, or `auto_model` has no class for this kind of model.
    """
    name = str(model.model_name_or_path)
    with explained(name, "a model's config.json"):
        config = AutoConfig.from_pretrained(
            name, revision=model.model_revision, trust_remote_code=model.trust_remote_code, **settings
        )
    if type(config) not in auto_model._model_mapping and not getattr(config, "auto_map", None):
        kind = auto_model.__name__.removeprefix("AutoModelFor")
        raise InputError(
            f"{name} is a {config.model_type} model, which transformers has no {kind} class for. "
            "Expected a model for this task."
        )
    return config


def load_pretrained(
    auto_model: Any, model: ModelArguments, *, pretrained: bool, **settings: Any
) -> tuple[PreTrainedModel, list[str]]:
    """A model in float32, with `settings` on top of its config; what does not fit the checkpoint is made anew.

    Args:
        auto_model: an `AutoModelFor...` class.
        model: which checkpoint.
        pretrained: False gives random weights throughout.
        **settings: of the config.

    Returns:
        The model, and the names of the parameters that did not come from the checkpoint.

    Raises:
        InputError: the checkpoint cannot be loaded, or is of another kind.
    """
    name = str(model.model_name_or_path)
    if (Path(name) / "adapter_config.json").is_file():
        raise InputError(f"{name} is an adapter, not a whole model: hf-transfer merge {name} FOLDER writes one.")
    config = load_config(model, auto_model, **settings)
    if not pretrained:
        with quiet():
            fresh = auto_model.from_config(config, trust_remote_code=model.trust_remote_code).float()
        fresh.config.architectures = [type(fresh).__name__]
        return fresh, []
    with explained(name, "safetensors weights"):
        loaded, report = auto_model.from_pretrained(
            name,
            config=config,
            revision=model.model_revision,
            trust_remote_code=model.trust_remote_code,
            ignore_mismatched_sizes=True,
            use_safetensors=True,
            # The checkpoint's own dtype may be half precision, whose small updates are lost in training.
            dtype=torch.float32,
            output_loading_info=True,
        )
    new = sorted({*report["missing_keys"], *(key[0] for key in report["mismatched_keys"])})
    _refuse_foreign_weights(loaded, new, name)
    loaded.config.architectures = [type(loaded).__name__]  # load_finetuned() reads it, for adapters too
    if Path(name).is_dir():
        loaded.name_or_path = str(Path(name).resolve())  # an adapter finds its base model from any folder
    return loaded, new


def _refuse_foreign_weights(model: PreTrainedModel, new: list[str], name: str) -> None:
    trunk = f"{model.base_model_prefix}."
    every = [key for key, _ in model.named_parameters() if key.startswith(trunk)]
    absent = [key for key in new if key.startswith(trunk)]
    if len(absent) > len(every) / 2:
        raise InputError(
            f"{name}: the weights are not those of a {model.config.model_type}: {len(absent)} of its {len(every)} "
            "tensors are missing. Is the folder's config.json that of another model?"
        )


def plain(model: Any) -> Any:
    """The model itself where peft wraps it."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def trunk_of(model: Any) -> str:
    """The name of a model's trunk: its largest part where its prefix is that of a larger model, as Whisper's is."""
    parts = dict(model.named_children())
    if model.base_model_prefix in parts:
        return model.base_model_prefix
    sizes = {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}
    return max(sizes, key=lambda name: sizes[name])


def output_tensors(outputs: Any) -> list[torch.Tensor]:
    """What a model computes of a batch: the tensors of numbers among its outputs, each [batch, ...]."""
    found = outputs.values() if isinstance(outputs, Mapping) else outputs
    return [value for value in found if isinstance(value, torch.Tensor) and value.is_floating_point()]


def output_lengths(model: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """From lengths of inputs [batch] to how many positions the model makes of each [batch].

    Raises:
        InputError: the model does not say it.
    """
    own = getattr(plain(model), "_get_feat_extract_output_lengths", None)
    if own is None:
        kind = plain(model).config.model_type
        raise InputError(f"A {kind} does not say how many positions it makes of an input: choose another.")
    return lambda lengths: own(lengths).long()
