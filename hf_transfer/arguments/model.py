"""The pretrained model that a run starts from."""

from dataclasses import dataclass, field


@dataclass
class ModelArguments:
    """Dataclass of the flags that name the pretrained model and say whether its own code may run."""

    _argument_group_name = "model"

    model_name_or_path: str | None = field(
        default=None, metadata={"help": "Hub id or local folder of the pretrained model."}
    )
    model_revision: str = field(default="main", metadata={"help": "Branch, tag or commit of a model on the Hub."})
    trust_remote_code: bool = field(
        default=False,
        metadata={"help": "Run Python code that comes with the model. Only for authors you trust."},
    )
