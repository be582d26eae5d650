"""Loading pretrained models from the Hub or a local folder, and reading what their classes tell about them."""

import contextlib
import dataclasses
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ResolvedRevision
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging
from transformers.utils.hub import resolve_revision

from hf_transfer.arguments import ModelArguments
from hf_transfer.errors import InputError, reading


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Context manager: silence transformers' progress bars, loading tables and deprecation warnings in the block.

    What a user has to know of them is logged by this package, in one line.
    """
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|peft|accelerate)\.")
            warnings.filterwarnings("ignore", message="Support for mismatched key_padding_mask")  # in WavLM's own code
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()


@contextlib.contextmanager
def explain_loading_errors(name: str, what: str) -> Iterator[None]:
    """Context manager: turn any error of loading a model into an `InputError` that says what and where.

    Args:
        name: the model's folder, or its repository on the Hub.
        what: what the block loads from there, as ``safetensors weights``.

    Raises:
        InputError: the block raised an error.
    """
    try:
        with quiet():
            yield
    except InputError:
        raise
    except Exception as error:  # damaged and foreign files raise errors of every kind
        reason = " ".join(str(error).split())
        detail = f" ({reason})" if len(reason) < 300 else f" ({reason[:300]} ...)"
        with reading(name):
            place = _describe_place(name)
        if place.endswith("expected a folder."):
            detail = ""
        raise InputError(f"{name}: {what} could not be loaded. {place}{detail}") from error


def _describe_place(name: str) -> str:
    """Return a sentence about the folder, or the Hub, where a model was looked for."""
    if not Path(name).exists() and Path(f"{name}.partial").is_dir():
        return f"The run in {name}.partial is not finished: continue it with --resume_from_checkpoint true."
    if Path(name).is_dir():
        files = ", ".join(sorted(file.name for file in Path(name).iterdir())[:8]) or "nothing"
        return f"The folder holds: {files}."
    if Path(name).exists() or name.startswith((".", "/")):
        return f"{'That is a file' if Path(name).is_file() else 'There is no such folder'}; expected a folder."
    return "It is not a local folder, and the Hub did not return it (is the name right, is the Hub reachable?)."


def pin_to_commit(model: ModelArguments) -> tuple[ModelArguments, str | None]:
    """Return model arguments with a branch or tag on the Hub replaced by its commit of today, and that commit.

    Returns:
        The arguments with that commit as ``model_revision``, and the commit. For a local folder, and where neither
        the Hub nor its cache know a commit, the arguments do not change and the commit is None; loading then reports
        what is wrong.
    """
    revision = resolve_revision(str(model.model_name_or_path), model.model_revision)
    if not isinstance(revision, ResolvedRevision):
        return model, None
    commit = str(revision.resolved)
    return dataclasses.replace(model, model_revision=commit), commit


def load_config(model: ModelArguments, auto_model: Any, **settings: Any) -> PretrainedConfig:
    """Return a pretrained model's config; raise an error if `auto_model` has no class for this type of model.

    Args:
        model: which checkpoint.
        auto_model: the `AutoModelFor...` class that will load the model.
        **settings: override values of the config.

    Raises:
        InputError: there is no config, or `auto_model` has no class for this type of model.
    """
    name = str(model.model_name_or_path)
    with explain_loading_errors(name, "a model's config.json"):
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
    """Load a model in float32, and return it and the names of the newly initialised parameters.

    Newly initialised are weights that the checkpoint lacks, or has in another shape.

    Args:
        auto_model: an `AutoModelFor...` class.
        model: which checkpoint.
        pretrained: False makes all weights random.
        **settings: override values of the config.

    Returns:
        The model, and the names of the parameters that did not come from the checkpoint.

    Raises:
        InputError: the checkpoint cannot be loaded, or is of another kind.
    """
    name = str(model.model_name_or_path)
    if (Path(name) / "adapter_config.json").is_file():
        raise InputError(
            f"{name} is an adapter, not a whole model: `hf-transfer merge {name} FOLDER` writes a whole model to "
            "FOLDER."
        )
    config = load_config(model, auto_model, **settings)
    if not pretrained:
        with quiet():
            random_model = auto_model.from_config(config, trust_remote_code=model.trust_remote_code).float()
        random_model.config.architectures = [type(random_model).__name__]
        return random_model, []
    with explain_loading_errors(name, "safetensors weights"):
        loaded, report = auto_model.from_pretrained(
            name,
            config=config,
            revision=model.model_revision,
            trust_remote_code=model.trust_remote_code,
            ignore_mismatched_sizes=True,
            use_safetensors=True,
            # A checkpoint may be in half precision, which is too coarse for the small updates of training.
            dtype=torch.float32,
            output_loading_info=True,
        )
    newly_initialised = sorted({*report["missing_keys"], *(key[0] for key in report["mismatched_keys"])})
    _check_weights_fit(loaded, newly_initialised, name)
    loaded.config.architectures = [type(loaded).__name__]  # load_finetuned() reads it, for adapters too
    if Path(name).is_dir():
        # So that an adapter finds its base model from any working directory.
        loaded.name_or_path = str(Path(name).resolve())
    return loaded, newly_initialised


def _check_weights_fit(model: PreTrainedModel, newly_initialised: list[str], name: str) -> None:
    """Raise an error if a checkpoint lacks more than half of the trunk's parameters.

    It is of another type of model then.
    """
    prefix = f"{model.base_model_prefix}."
    expected = [key for key, _ in model.named_parameters() if key.startswith(prefix)]
    missing = [key for key in newly_initialised if key.startswith(prefix)]
    if len(missing) > len(expected) / 2:
        raise InputError(
            f"{name}: the weights are not those of a {model.config.model_type}: {len(missing)} of its {len(expected)} "
            "tensors are missing. Is the folder's config.json that of another model?"
        )


def unwrap_peft(model: torch.nn.Module) -> PreTrainedModel:
    """Return the model inside a `peft.PeftModel`, or the model itself where it is not wrapped."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]


def trunk_name(model: PreTrainedModel) -> str:
    """Return the module name of the trunk (base model) inside a model with a head.

    It is ``base_model_prefix``, or the largest child where the model has no child of that name, as in Whisper's
    classifier.
    """
    children = dict(model.named_children())
    if model.base_model_prefix in children:
        return model.base_model_prefix
    sizes = {name: sum(p.numel() for p in child.parameters()) for name, child in children.items()}
    return max(sizes, key=lambda name: sizes[name])


def output_tensors(outputs: Any) -> list[torch.Tensor]:
    """Return the floating-point tensors among a model's outputs, each [batch, ...], as a list."""
    values = outputs.values() if isinstance(outputs, Mapping) else outputs
    return [value for value in values if isinstance(value, torch.Tensor) and value.is_floating_point()]


def output_lengths(model: torch.nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return a model's function from input lengths [batch] to numbers of output positions (frames) [batch].

    Raises:
        InputError: the model's class has no such function.
    """
    of_model = getattr(unwrap_peft(model), "_get_feat_extract_output_lengths", None)
    if of_model is None:
        raise InputError(
            f"A {unwrap_peft(model).config.model_type} does not tell how many output positions (frames) it makes of "
            "an input of a given length: choose a model of another type."
        )
    return lambda lengths: of_model(lengths).long()
