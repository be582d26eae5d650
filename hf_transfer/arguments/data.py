"""The data of a run: where they come from, and how they are split."""

from dataclasses import dataclass, field

from hf_transfer.arguments.checks import Range, check_ranges
from hf_transfer.errors import InputError

_RANGES: dict[str, Range] = {
    "test_size": (0, 0.99),
    "validation_size": (0, 0.99),
    "replay": (0, None),
    "max_train_samples": (1, None),
    "max_eval_samples": (1, None),
    "split_seed": (0, None),
}


@dataclass
class DataArguments:
    """Dataclass of the flags that name the data, their columns and groups, and say how splits are drawn."""

    _argument_group_name = "data"

    dataset_name: str | None = field(
        default=None, metadata={"help": "Hub id of a dataset, or a local folder of data files."}
    )
    dataset_config_name: str | None = field(
        default=None, metadata={"help": "Configuration of the dataset on the Hub."}
    )
    dataset_revision: str | None = field(
        default=None, metadata={"help": "Branch, tag or commit of a dataset on the Hub (default: main)."}
    )
    train_file: str | None = field(
        default=None, metadata={"help": "Local CSV, TSV, JSON, JSONL or Parquet file to train on."}
    )
    validation_file: str | None = field(default=None, metadata={"help": "Local file of the validation split."})
    test_file: str | None = field(default=None, metadata={"help": "Local file of the test split."})
    train_split_name: str = field(default="train", metadata={"help": "Name of the training split in the dataset."})
    validation_split_name: str = field(
        default="validation",
        metadata={"help": "Name of the validation split in the dataset."},
    )
    test_split_name: str = field(default="test", metadata={"help": "Name of the test split in the dataset."})
    column_names: list[str] | None = field(
        default=None, metadata={"help": "Column names of a CSV or TSV file that has no header."}
    )
    delimiter: str | None = field(
        default=None, metadata={"help": "Delimiter of CSV and TSV files (default: by the file's extension)."}
    )
    group_column_name: str | None = field(
        default=None,
        metadata={"help": "Column of groups (accent, speaker, domain): results are also reported for each."},
    )
    source_file: str | None = field(
        default=None,
        metadata={
            "help": "Local file of source examples, such as the model was trained on before. They measure "
            "forgetting, and --replay mixes some of them into training."
        },
    )
    source_group: str | None = field(
        default=None,
        metadata={
            "help": "Value of the group column that marks source examples, such as the model was trained on before. "
            "They are measured separately, and only --replay adds them to training."
        },
    )
    target_group: list[str] | None = field(
        default=None,
        metadata={
            "help": "Values of the group column to adapt to; others are left out (default: all but the source)."
        },
    )
    replay: float = field(
        default=0.0,
        metadata={"help": "Number of source examples mixed into training, as a share of the other training examples."},
    )
    test_size: float = field(
        default=0.2,
        metadata={"help": "Share of the training split that becomes the test split where there is none."},
    )
    validation_size: float | None = field(
        default=None,
        metadata={
            "help": "Share of the training split that becomes the validation split where there is none; 0 for no "
            "validation split (default: a tenth, at most 400 examples)."
        },
    )
    split_by: str | None = field(
        default=None,
        metadata={
            "help": "Column of units (speakers, patients, cameras). Where splits are drawn, all examples of a unit "
            "are in the same split (default: a column with such a name)."
        },
    )
    split_seed: int | None = field(
        default=None,
        metadata={
            "help": "Seed for drawing the splits that are missing, and the examples of --max_eval_samples "
            "(default: --seed)."
        },
    )
    max_train_samples: int | None = field(
        default=None, metadata={"help": "Train on this many examples, drawn with --seed."}
    )
    max_eval_samples: int | None = field(
        default=None, metadata={"help": "Validate and test on this many examples each, drawn with --split_seed."}
    )
    drop_incomplete: bool = field(
        default=False,
        metadata={"help": "Leave out rows without input or label, and report their number, instead of stopping."},
    )
    deduplicate: bool = field(
        default=False, metadata={"help": "Remove training examples that are also in the validation or test split."}
    )

    def is_in_memory(self) -> bool:
        """Return whether the data were given in Python, as neither a file nor a dataset is named."""
        return not (self.train_file or self.dataset_name)

    def check(self) -> None:
        """Raise an error if a value is out of its range, or the settings do not fit together.

        Raises:
            InputError: they do not.
        """
        if self.train_file and self.dataset_name:
            raise InputError("--train_file and --dataset_name are both given: expected one source of training data.")
        if self.dataset_revision and not self.dataset_name:
            raise InputError("--dataset_revision belongs to a dataset on the Hub: expected --dataset_name too.")
        check_ranges(self, _RANGES)
        for name in ("source_group", "target_group"):
            if getattr(self, name) is not None and not self.group_column_name:
                raise InputError(f"--{name} names a group: expected --group_column_name too, the column of groups.")
        if self.source_group is not None and self.source_file:
            raise InputError("--source_file and --source_group are both given: expected one of them.")
        if self.source_group is not None and self.split_by == self.group_column_name:
            raise InputError(
                f"--source_group needs examples of that group in training and in test, but --split_by "
                f"{self.split_by} keeps each value of that column in one split. Name another column, or leave one "
                "of the two out."
            )
        if self.replay and not (self.source_file or self.source_group is not None):
            raise InputError("--replay needs source examples: expected --source_file or --source_group too.")
