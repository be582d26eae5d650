"""Checks of values that the command line's parser takes: choices and ranges."""

import math
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from hf_transfer.errors import InputError, nearest

# Lowest and highest value that is allowed; None: there is no highest.
Range = tuple[float, float | None]


def check_choices(settings: Any) -> None:
    """Raise an error if a field annotated with `Literal` holds a value that is not among its choices.

    Python keywords pass no parser that would check them.

    Args:
        settings: a dataclass instance.

    Raises:
        InputError: one does not.
    """
    for name, hint in get_type_hints(type(settings)).items():
        types = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)  # ... | None
        choices = [choice for each in types if get_origin(each) is Literal for choice in get_args(each)]
        value = getattr(settings, name)
        if choices and value not in choices and not (value is None and NoneType in types):
            raise InputError(f"--{name} is {value!r}: expected one of {', '.join(choices)}.{nearest(value, choices)}")


def check_ranges(settings: Any, ranges: dict[str, Range]) -> None:
    """Raise an error if a number in a dataclass is outside its range; None is not checked.

    Args:
        settings: a dataclass instance.
        ranges: by field name.

    Raises:
        InputError: one is not a number, or is out of its range.
    """
    for name, (low, high) in ranges.items():
        value = getattr(settings, name)
        if value is None:
            continue
        if not isinstance(value, (int, float)) or not low <= value <= (math.inf if high is None else high):
            wanted = f"{low:g} or more" if high is None else f"{low:g} to {high:g}"
            raise InputError(f"--{name} is {value!r}: expected a number, {wanted}.")
