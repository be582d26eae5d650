"""Languages of a multilingual CTC checkpoint (MMS): a vocabulary and a small file of adapter weights each.

Pratap et al. 2023, https://arxiv.org/abs/2305.13516. transformers keeps them as a vocab.json of vocabularies by
language and files ``adapter.LANGUAGE.safetensors``, which hold the language's attention adapters and its head.
"""

import json
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import PreTrainedModel
from transformers.utils.hub import cached_file

from hf_transfer.arguments import ModelArguments
from hf_transfer.errors import InputError, logger, nearest
from hf_transfer.models import explain_loading_errors
from hf_transfer.targets.transcripts.spelling import APOSTROPHES

# transformers' own default, and that of the weights that MMS checkpoints come with.
DEFAULT = "eng"
SHOWN = 20


@dataclass(frozen=True)
class Language:
    """A language of a checkpoint.

    Attributes:
        name: as the checkpoint calls it, mostly by ISO 639-3.
        vocabulary: its tokens and their ids.
        adapter: the file of its weights; None where the checkpoint's own weights are of this language.
        configured: the language that the checkpoint's tokenizer is set to.
    """

    name: str
    vocabulary: dict[str, int]
    adapter: str | None
    configured: str | None

    @property
    def classes(self) -> int:
        """Classes of the head."""
        return 1 + max(self.vocabulary.values())


def vocabularies(model: ModelArguments) -> dict[str, dict[str, int]]:
    """The vocabulary of each language of a checkpoint; empty where there is one vocabulary, or none."""
    found = _json(model, "vocab.json")
    return found if all(isinstance(value, dict) for value in found.values()) else {}


def language_of(model: ModelArguments, target_lang: str | None) -> Language | None:
    """The language that a checkpoint is used in; None where it has no languages.

    Args:
        model: the checkpoint.
        target_lang: the user's choice; by default what the checkpoint's tokenizer is set to, or English.

    Raises:
        InputError: there is no such language, or its weights are absent.
    """
    languages = vocabularies(model)
    name = model.model_name_or_path
    if not languages:
        if target_lang:
            raise InputError(
                f"--target_lang {target_lang}: {name} has no languages to choose from (they are in the vocab.json of "
                "MMS checkpoints with adapters, as facebook/mms-1b-all). Leave it out."
            )
        return None
    configured = _json(model, "tokenizer_config.json").get("target_lang")
    chosen = target_lang or configured or (DEFAULT if DEFAULT in languages else None)
    if chosen is None and len(languages) == 1:
        chosen = next(iter(languages))
    if chosen not in languages:
        what = f"--target_lang {chosen}: no language of {name}" if chosen else f"{name} is of several languages"
        raise InputError(
            f"{what}. There are: {_listed(languages)}.{nearest(str(chosen), languages)} For another one, choose the "
            "nearest and build a vocabulary of its letters: --target_lang LANGUAGE --vocabulary new."
        )
    file = _adapter(model, chosen)
    if file is None and chosen != configured and (target_lang or configured):
        raise InputError(
            f"--target_lang {chosen}: {name} has its vocabulary and no weights for it (adapter.{chosen}.safetensors)."
        )
    if file and not target_lang and _own_weights(model, chosen, file):
        file = None
    return Language(chosen, languages[chosen], file, configured)


def load_language(loaded: PreTrainedModel, language: Language, revision: str) -> None:
    """Put a language's attention adapters and head into a model, and note it in the config: see `restore_language`."""
    if language.adapter:
        with explain_loading_errors(str(loaded.config.name_or_path), f"the weights of {language.name}"):
            loaded.load_adapter(language.name, revision=revision, use_safetensors=True)
        logger.info("The checkpoint's weights of the language %s are loaded.", language.name)
    loaded.config.target_lang = language.name if language.adapter else None


def restore_language(base: PreTrainedModel, name: str, revision: str) -> None:
    """Put the attention adapters of its config's language into the base model `name` of a LoRA adapter.

    The head comes with the LoRA adapter.
    """
    language = getattr(base.config, "target_lang", None)
    if not language:
        return
    with explain_loading_errors(name, f"the weights of {language}"):
        tensors = load_file(str(cached_file(name, f"adapter.{language}.safetensors", revision=revision)))
        base.load_state_dict({k: v for k, v in tensors.items() if not k.startswith("lm_head.")}, strict=False)


def languages_that_spell(letters: set[str], languages: dict[str, dict[str, int]]) -> list[str]:
    """The languages whose vocabularies hold all of `letters`, apostrophes, digits and symbols left out."""
    needed = {letter for letter in letters if letter.isalpha() or unicodedata.category(letter)[0] == "M"}
    return [name for name, tokens in languages.items() if needed - set(APOSTROPHES) <= tokens.keys()]


def _own_weights(model: ModelArguments, chosen: str, file: str) -> bool:
    """Whether the checkpoint's main weights are of this language: those of its file, or trained on from there.

    They are another language's where they have another size, or are equal to that one's file.
    """
    main = _head(_cached(model, "model.safetensors"))
    if main.shape != _head(file).shape:
        return False
    folder = Path(str(model.model_name_or_path))
    names = (
        {path.name.split(".")[1] for path in folder.glob("adapter.*.safetensors")} if folder.is_dir() else {DEFAULT}
    )
    same = {name for name in names if torch.equal(main, _head(_adapter(model, name)))}
    return not same or chosen in same


def _head(file: str | None) -> torch.Tensor:
    if file is None:
        return torch.zeros(0)
    with safe_open(file, framework="pt") as tensors:
        return tensors.get_tensor("lm_head.weight") if "lm_head.weight" in tensors.keys() else torch.zeros(0)  # noqa: SIM118


def _adapter(model: ModelArguments, language: str) -> str | None:
    return _cached(model, f"adapter.{language}.safetensors")


def _cached(model: ModelArguments, file: str) -> str | None:
    name = str(model.model_name_or_path)
    with explain_loading_errors(name, "the vocabulary"):
        return cached_file(name, file, revision=model.model_revision, _raise_exceptions_for_missing_entries=False)


def _json(model: ModelArguments, name: str) -> dict[str, Any]:
    """The content of a checkpoint's file; empty where there is none, or the tokenizer's reader will say what it is."""
    file = _cached(model, name)
    try:
        found = json.loads(Path(file).read_text(encoding="utf-8")) if file else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _listed(languages: dict[str, Any]) -> str:
    shown = sorted(languages)
    return ", ".join(shown[:SHOWN]) + (f" and {len(shown) - SHOWN} more" if len(shown) > SHOWN else "")
