"""What reaches a person when something goes wrong, and the exit codes of every command."""

import difflib
import errno
import logging
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
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
    with suppress(OSError):  # the current folder has been removed
        if whole.is_absolute() and whole.is_relative_to(Path.cwd()):
            return str(whole.relative_to(Path.cwd()))
    with suppress(RuntimeError):  # there is no home folder
        if whole.is_relative_to(Path.home()):
            return f"~/{whole.relative_to(Path.home())}"
    return str(path)


def strerror(error: Exception) -> str:
    """What the system says of an error, without its number and the file."""
    return getattr(error, "strerror", None) or " ".join(str(error).split())


@contextmanager
def reading(path: str | Path) -> Iterator[None]:
    """Explain that a file or folder which the user named cannot be read.

    Raises:
        InputError: the system refused; the message has its reason.
    """
    try:
        yield
    except OSError as error:
        inside = error.filename and os.path.normpath(error.filename) != os.path.normpath(path)
        where = f"{error.filename}: " if inside else ""
        raise InputError(
            f"{path} cannot be read: {where}{strerror(error)}. Make it readable for this user, or name another one."
        ) from error


# What the system says where a disk is full, or a folder is not to be written.
FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
FORBIDDEN = (errno.EROFS, errno.EACCES, errno.EPERM)


def disk_trouble(error: BaseException | None) -> str | None:
    """A sentence on the full disk or the read-only folder that an error comes from; None where it comes from neither.

    Libraries wrap what the system says in errors of their own; some give its words alone.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        where = f" ({getattr(error, 'filename', None)})" if getattr(error, "filename", None) else ""
        number = getattr(error, "errno", None)
        if number in FULL or any(os.strerror(each) in str(error) for each in FULL):
            return (
                f"The disk is full{where}. Free some space, or name folders on another disk: HF_HOME for caches, "
                "--output_dir or --output for the result, TMPDIR for temporary files."
            )
        if isinstance(error, OSError) and number in FORBIDDEN and where:
            return (
                f"{error.filename}: {error.strerror}. Make it accessible, or name another folder: HF_HOME for caches, "
                "TMPDIR for temporary files."
            )
        error = error.__cause__ or error.__context__
    return None


def show(text: str) -> None:
    """Print what a finished command has to say; where that cannot be printed, the command is no less finished."""
    try:
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()
    except OSError as error:
        _to_nowhere(sys.stdout)
        if not isinstance(error, BrokenPipeError):  # a reader that went away does not want to know
            logger.warning("All is done; it could not be printed: %s.", strerror(error))


def _complain(message: str) -> None:
    with suppress(OSError):
        sys.stderr.write(f"error: {message}\n")


def _to_nowhere(stream: Any) -> None:
    """Have what a stream still holds be lost quietly."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _prepare_streams() -> None:
    """Standard streams that were closed lead nowhere; letters that one cannot print are written as escapes."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            # A file that is opened later would take its number, and get what is printed.
            descriptor = os.open(os.devnull, os.O_RDWR)
            if descriptor != number:
                os.dup2(descriptor, number)
                os.close(descriptor)
            setattr(sys, name, open(number, "r" if number == 0 else "w", encoding="utf-8", closefd=False))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


# Launchers and `timeout` send a signal twice at once; a person takes longer.
AGAIN_SECONDS = 0.3


class Signals:
    """The signals that have come since a program, or a run in a notebook, began; the second SIGINT ends it at once.

    What is being written then is absent afterwards: files and folders are renamed into place when they are whole.

    Args:
        program: whether the process is the program's own, and may end; otherwise the second one is an exception.
    """

    def __init__(self, *, program: bool):
        self.program = program
        self.number = 0
        self.first = 0.0

    def note(self, number: int) -> None:
        """A signal has come.

        Raises:
            Interrupted: SIGINT came again, and the process is not the program's own.
        """
        if self.number and number == signal.SIGINT and time.monotonic() - self.first >= AGAIN_SECONDS:
            if not self.program:
                raise Interrupted(number)
            with suppress(OSError):
                os.write(2, b"Stopped at once by a second SIGINT.\n")
            os._exit(128 + number)
        self.number, self.first = self.number or number, self.first or time.monotonic()

    def follow(self) -> None:
        """End the program where a signal has come and what it raised was swallowed, as C code does in imports.

        Raises:
            Interrupted: one has.
        """
        if self.number:
            raise Interrupted(self.number)

    def stop(self, number: int, _: FrameType | None) -> None:
        """Handler that ends the program wherever it is: in its imports, say."""
        self.note(number)
        raise Interrupted(number)


# Of the program that this process is, where it is one.
signals = Signals(program=False)


@contextmanager
def _handled(number_of: Iterable[int]) -> Iterator[None]:
    """Inside the block, the signals of the program end it quietly."""
    global signals
    outer, signals = signals, Signals(program=True)
    before = {}
    with suppress(ValueError):  # only the main thread may set handlers
        before = {number: signal.signal(number, signals.stop) for number in number_of}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signals = outer


def shell_quoted(path: str | Path) -> str:
    """A path as an argument of a command in a shell, whatever it holds or begins with."""
    text = str(path)
    return shlex.quote(f"./{text}" if text.startswith("-") else text)


def run_command(command: Callable[[], Any]) -> NoReturn:
    """Run `command` as a program: say what it decides on standard error and end with the contract's exit code.

    0 done; 2 the input or the arguments are wrong; 128 + signal after a polite stop; 1 anything else.
    """
    _prepare_streams()
    with _handled((signal.SIGINT, signal.SIGTERM)):
        code = _code_of(command)
    sys.exit(_flushed(code))


def _code_of(command: Callable[[], Any]) -> int:
    """Run the command, say what is wrong if anything is, and return the exit code."""
    if not logger.handlers:
        logger.addHandler(logging.StreamHandler(sys.stderr))
    logger.setLevel(logging.INFO if int(os.environ.get("RANK", "0")) == 0 else logging.ERROR)
    try:
        command()
    except InputError as error:
        if signals.number:  # it was to end before: see `Signals.follow`
            return 128 + signals.number
        # Several processes meet the same error: one message is enough.
        if int(os.environ.get("RANK", "0")) == 0:
            _complain(str(error))
        code = 2
    except Failure as error:
        _complain(str(error))
        code = 1
    except Interrupted as stop:
        code = 128 + stop.signal_number
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    except BrokenPipeError:
        _to_nowhere(sys.stdout)  # the reader went away (`| head`)
        code = 1
    except SystemExit as end:  # --help
        code = int(end.code or 0)
    except Exception as error:
        if signals.number:  # a library has made something else of the interrupt
            code = 128 + signals.number
        elif (trouble := disk_trouble(error)) is not None:
            _complain(trouble)
            code = 1
        else:
            raise
    else:
        code = 0
    return code


def _flushed(code: int) -> int:
    """The exit code once the streams are flushed: 1 where something of what a finished command printed is lost."""
    try:
        sys.stdout.flush()
    except OSError as error:
        _to_nowhere(sys.stdout)
        if code == 0 and not isinstance(error, BrokenPipeError):
            _complain(f"standard output could not be written: {strerror(error)}.")
        code = code or 1
    try:
        sys.stderr.flush()
    except OSError:
        _to_nowhere(sys.stderr)  # or the interpreter ends with a code of its own
    return code
