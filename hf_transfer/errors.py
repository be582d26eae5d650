"""What reaches a person when something goes wrong, and the exit codes of every command."""

import difflib
import logging
import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NoReturn

logger = logging.getLogger("hf_transfer")


class InputError(ValueError):
    """The input or the arguments are wrong.

    The message says what was expected, what was found and where, and what to do. Commands end with exit
    code 2 and this message alone.
    """


class Failure(RuntimeError):
    """The run cannot go on, and neither input nor arguments are at fault: a full disk, a Hub that does not answer.

    The message says what is safe and how to go on. Commands end with exit code 1 and this message alone.
    """


class Interrupted(KeyboardInterrupt):
    """A polite stop was asked for by a signal; what had to be saved has been saved."""

    def __init__(self, signal_number: int):
        super().__init__(signal.Signals(signal_number).name)
        self.signal_number = signal_number


def nearest(name: str, candidates: Iterable[str]) -> str:
    """`` Did you mean …?`` for the candidate most like `name`, or an empty string."""
    match = difflib.get_close_matches(str(name), list(candidates), n=1, cutoff=0.6)
    return f" Did you mean {match[0]}?" if match else ""


def short_path(path: str | Path) -> str:
    """A path as it is short to read: from this folder, or from home."""
    whole = Path(path)
    if whole.is_absolute() and whole.is_relative_to(Path.cwd()):
        return str(whole.relative_to(Path.cwd()))
    return f"~/{whole.relative_to(Path.home())}" if whole.is_relative_to(Path.home()) else str(path)


def shell_quoted(path: str | Path) -> str:
    """A path as an argument of a command in a shell, whatever it holds or begins with."""
    text = str(path)
    return shlex.quote(f"./{text}" if text.startswith("-") else text)


def run_command(command: Callable[[], Any]) -> NoReturn:
    """Run `command` as a program: say what it decides on standard error and end with the contract's exit code.

    0 done; 2 the input or the arguments are wrong; 128 + signal after a polite stop; 1 anything else.
    """
    if not logger.handlers:
        logger.addHandler(logging.StreamHandler(sys.stderr))
    logger.setLevel(logging.INFO if int(os.environ.get("RANK", "0")) == 0 else logging.ERROR)
    try:
        command()
    except InputError as error:
        # Several processes meet the same error: one message is enough.
        if int(os.environ.get("RANK", "0")) == 0:
            sys.stderr.write(f"error: {error}\n")
        code = 2
    except Failure as error:
        sys.stderr.write(f"error: {error}\n")
        code = 1
    except Interrupted as stop:
        code = 128 + stop.signal_number
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    except BrokenPipeError:
        # The reader went away (`| head`). Point stdout elsewhere so that the interpreter's own flush is quiet.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    else:
        code = 0
    sys.stdout.flush()
    sys.exit(code)
