"""The languages of a multilingual CTC checkpoint (MMS): each has a vocabulary and a small file of adapter weights.

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

# The default of transformers, and the language of the main weights of MMS checkpoints.
DEFAULT_LANGUAGE = "eng"
# Languages that an error message lists.
MAX_LISTED = 20


@dataclass(frozen=True)
class Language:
    """Dataclass of a language of a multilingual checkpoint: its name, vocabulary and file of weights.

    Attributes:
        name: the checkpoint's code for it, mostly of ISO 639-3.
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
        """Number of classes of the language's CTC head."""
        return 1 + max(self.vocabulary.values())


def vocabularies(model: ModelArguments) -> dict[str, dict[str, int]]:
    """Return by language the vocabularies of a multilingual checkpoint; empty for other checkpoints."""
    content = _read_json(model, "vocab.json")
    return content if all(isinstance(value, dict) for value in content.values()) else {}


def language_of(model: ModelArguments, target_lang: str | None) -> Language | None:
    """Return the `Language` that a checkpoint is used in, or None if the checkpoint is not multilingual.

    Args:
        model: the checkpoint.
        target_lang: the user's choice; the default is the language that the checkpoint's tokenizer is set to, or
            English.

    Raises:
        InputError: there is no such language, or its weights are absent.
    """
    languages = vocabularies(model)
    name = model.model_name_or_path
    if not languages:
        if target_lang:
            raise InputError(
                f"--target_lang {target_lang}: {name} has no languages to choose from (MMS checkpoints with adapters "
                "have them in vocab.json, for example facebook/mms-1b-all). Leave the flag out."
            )
        return None
    configured = _read_json(model, "tokenizer_config.json").get("target_lang")
    chosen = target_lang or configured or (DEFAULT_LANGUAGE if DEFAULT_LANGUAGE in languages else None)
    if chosen is None and len(languages) == 1:
        chosen = next(iter(languages))
    if chosen not in languages:
        what = f"--target_lang {chosen}: {name} has no such language" if chosen else f"{name} has several languages"
        raise InputError(
            f"{what}. Choose one of: {_listed(languages)}.{nearest(str(chosen), languages)} For any other language, "
            "choose the most similar one and build a new vocabulary: --target_lang LANGUAGE --vocabulary new."
        )
    file = _adapter(model, chosen)
    if file is None and chosen != configured and (target_lang or configured):
        raise InputError(
            f"--target_lang {chosen}: {name} has a vocabulary but no weights for it "
            f"(adapter.{chosen}.safetensors is missing)."
        )
    if file and not target_lang and _has_main_weights(model, chosen, file):
        file = None
    return Language(chosen, languages[chosen], file, configured)


def load_language(loaded: PreTrainedModel, language: Language, revision: str) -> None:
    """Load a language's attention adapters and head into a model, and name it in the config.

    `restore_language` reads it there.
    """
    if language.adapter:
        with explain_loading_errors(str(loaded.config.name_or_path), f"the weights of {language.name}"):
            loaded.load_adapter(language.name, revision=revision, use_safetensors=True)
        logger.info("The checkpoint's weights for the language %s are loaded.", language.name)
    loaded.config.target_lang = language.name if language.adapter else None


def restore_language(base: PreTrainedModel, name: str, revision: str) -> None:
    """Load the attention adapters of the config's language into the base model of a LoRA adapter.

    The head is not loaded: it comes with the LoRA adapter.

    Args:
        base: the base model.
        name: its Hub id or folder.
        revision: its revision on the Hub.
    """
    language = getattr(base.config, "target_lang", None)
    if not language:
        return
    with explain_loading_errors(name, f"the weights of {language}"):
        tensors = load_file(str(cached_file(name, f"adapter.{language}.safetensors", revision=revision)))
        base.load_state_dict({k: v for k, v in tensors.items() if not k.startswith("lm_head.")}, strict=False)


def languages_that_spell(letters: set[str], languages: dict[str, dict[str, int]]) -> list[str]:
    """Return the languages whose vocabularies have all of `letters`.

    Apostrophes, digits and symbols may be missing.
    """
    needed = {letter for letter in letters if letter.isalpha() or unicodedata.category(letter)[0] == "M"}
    return [name for name, tokens in languages.items() if needed - set(APOSTROPHES) <= tokens.keys()]


def _has_main_weights(model: ModelArguments, chosen: str, file: str) -> bool:
    """Return whether a checkpoint's main weights are of this language: equal to its file, or trained further.

    They are of another language if the head has another size, or is equal to that of another language's file.
    """
    main = _head(_cached(model, "model.safetensors"))
    if main.shape != _head(file).shape:
        return False
    folder = Path(str(model.model_name_or_path))
    names = (
        {path.name.split(".")[1] for path in folder.glob("adapter.*.safetensors")}
        if folder.is_dir()
        else {DEFAULT_LANGUAGE}
    )
    same = {name for name in names if torch.equal(main, _head(_adapter(model, name)))}
    return not same or chosen in same


def _head(file: str | None) -> torch.Tensor:
    """Return the weights of the head in a safetensors file, or an empty tensor if it has no head."""
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


def _read_json(model: ModelArguments, name: str) -> dict[str, Any]:
    """Return the content of a checkpoint's JSON file, or an empty dictionary if it is missing or damaged.

    What is wrong with a damaged file is reported when the tokenizer is loaded.
    """
    file = _cached(model, name)
    try:
        content = json.loads(Path(file).read_text(encoding="utf-8")) if file else {}
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _listed(languages: dict[str, Any]) -> str:
    shown = sorted(languages)
    return ", ".join(shown[:MAX_LISTED]) + (f" and {len(shown) - MAX_LISTED} more" if len(shown) > MAX_LISTED else "")
