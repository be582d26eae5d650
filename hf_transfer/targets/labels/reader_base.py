"""Base class of the readers of label columns, whether the labels are names or numbers."""

from typing import Any, ClassVar

# The flag that names another file for a split, where it is not --<split>_file.
FILE_FLAGS = {"source": "--source_file", "replay": "--source_file"}


class LabelReaderBase:
    """Base class of the readers of columns of labels and of numbers (`TargetReader`)."""

    required: ClassVar[bool] = True
    missing_reason: ClassVar[str] = "no label"
    unique_per_input: ClassVar[bool] = False  # different labels of equal inputs are reported: see `contradictions`
    pace_description: ClassVar[str] = ""

    def unusable_column_message(self, split: str, problem: str) -> str | None:
        """Return the error message for a split without any label, or None for another `problem`."""
        if not problem.startswith("no label"):
            return None
        flag = FILE_FLAGS.get(split, f"--{split}_file, or of a dataset --{split}_split_name")
        return (
            f"The {split} split has no labels at all (the first is {problem.removeprefix('no label: ')}). Name "
            f"another file: {flag}."
        )

    def log_changes(self, split: str, cells: list[Any], contents: list[Any]) -> None:
        """Do nothing, as reading does not change labels."""

    def has_unusual_pace(self, content: Any, seconds: float) -> bool:
        """Return False, as labels are not spoken at a pace."""
        return False
