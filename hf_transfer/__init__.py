"""Transfer learning on the Hugging Face stack.

The public names are loaded on first use, so that ``import hf_transfer`` loads neither torch nor
transformers.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hf_transfer.comparing import compare
    from hf_transfer.errors import Failure, InputError
    from hf_transfer.finetuning import finetune
    from hf_transfer.hub import push
    from hf_transfer.inference import load_finetuned
    from hf_transfer.recipe import run_recipe
    from hf_transfer.studying import study
    from hf_transfer.tasks.audio_classification import AudioClassification
    from hf_transfer.tasks.speech_recognition import SpeechRecognition
    from hf_transfer.tasks.text_classification import TextClassification

__version__ = "0.1.0"
__all__ = [
    "AudioClassification",
    "Failure",
    "InputError",
    "SpeechRecognition",
    "TextClassification",
    "compare",
    "finetune",
    "load_finetuned",
    "push",
    "run_recipe",
    "study",
]

_MODULE_OF = {
    "AudioClassification": "hf_transfer.tasks.audio_classification",
    "Failure": "hf_transfer.errors",
    "InputError": "hf_transfer.errors",
    "SpeechRecognition": "hf_transfer.tasks.speech_recognition",
    "TextClassification": "hf_transfer.tasks.text_classification",
    "compare": "hf_transfer.comparing",
    "finetune": "hf_transfer.finetuning",
    "load_finetuned": "hf_transfer.inference",
    "push": "hf_transfer.hub",
    "run_recipe": "hf_transfer.recipe",
    "study": "hf_transfer.studying",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'hf_transfer' has no attribute {name!r}")
    value = getattr(import_module(_MODULE_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
