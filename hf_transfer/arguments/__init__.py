"""Arguments of a run: each is a flag, a YAML key and a Python keyword at once.

The names are those of the transformers example scripts and of `transformers.TrainingArguments`.
"""

from hf_transfer.arguments.data import DataArguments
from hf_transfer.arguments.method import MethodArguments, arguments_for_method
from hf_transfer.arguments.model import ModelArguments
from hf_transfer.arguments.run import Arguments
from hf_transfer.arguments.training import TransferTrainingArguments

__all__ = [
    "Arguments",
    "DataArguments",
    "MethodArguments",
    "ModelArguments",
    "TransferTrainingArguments",
    "arguments_for_method",
]
