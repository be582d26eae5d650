"""Errors for the user, and how commands print them, handle signals and exit."""

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
from typing import Any, NoReturn, TextIO

logger = logging.getLogger("hf_transfer")


class InputError(ValueError):
    """Exception: the input or the arguments are wrong.

    The message says what was expected, what was found and where, and what to do. Commands end with exit
    code 2 and this message alone.
    """


class Failure(RuntimeError):
    """Exception: the run cannot continue for another reason than its input, such as a full disk or a silent Hub.

    The message says what has been saved and how to continue. Commands end with exit code 1 and this message alone.
    """


class Interrupted(KeyboardInterrupt):
    """Exception: the run was stopped by a signal, after what it needs to resume was saved."""

    def __init__(self, signal_number: int):
        super().__init__(signal.Signals(signal_number).name)
        self.signal_number = signal_number


def nearest(name: str, candidates: Iterable[str]) -> str:
    """Return `` Did you mean …?`` with the candidate that is most similar to `name`, or an empty string."""
    match = difflib.get_close_matches(str(name), list(candidates), n=1, cutoff=0.6)
    return f" Did you mean {match[0]}?" if match else ""


def short_path(path: str | Path) -> str:
    """Return a path as text, relative to the current or the home folder (``~``) if it is inside one of them."""
    absolute = Path(path)
    with suppress(OSError):  # the current folder has been removed
        if absolute.is_absolute() and absolute.is_relative_to(Path.cwd()):
            return str(absolute.relative_to(Path.cwd()))
    with suppress(RuntimeError):  # there is no home folder
        if absolute.is_relative_to(Path.home()):
            return f"~/{absolute.relative_to(Path.home())}"
    return str(path)


def strerror(error: Exception) -> str:
    """Return the operating system's message of an error as text, without its number and its file."""
    return getattr(error, "strerror", None) or " ".join(str(error).split())


@contextmanager
def reading(path: str | Path) -> Iterator[None]:
    """Context manager: turn errors of reading a file or folder that the user named into an `InputError`.

    Raises:
        InputError: it cannot be read; the message has the system's reason.
    """
    try:
        yield
    except OSError as error:
        is_other_file = error.filename and os.path.normpath(error.filename) != os.path.normpath(path)
        where = f"{error.filename}: " if is_other_file else ""
        raise InputError(
            f"{path} cannot be read: {where}{strerror(error)}. Make it readable for this user, or name another."
        ) from error


# Error numbers of a full disk, and of missing permission.
_DISK_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
_NOT_PERMITTED = (errno.EROFS, errno.EACCES, errno.EPERM)


def disk_error_message(error: BaseException | None) -> str | None:
    """Return a message if an error was caused by a full disk or by missing permission, else None.

    Libraries wrap the operating system's errors in their own, some with its message only.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        where = f" ({getattr(error, 'filename', None)})" if getattr(error, "filename", None) else ""
        number = getattr(error, "errno", None)
        if number in _DISK_FULL or any(os.strerror(disk_full) in str(error) for disk_full in _DISK_FULL):
            return (
                f"The disk is full{where}. Free some space, or name folders on another disk: HF_HOME for caches, "
                "--output_dir or --output for the result, TMPDIR for temporary files."
            )
        if isinstance(error, OSError) and number in _NOT_PERMITTED and where:
            return (
                f"{error.filename}: {error.strerror}. Make it accessible, or name another folder: HF_HOME for caches, "
                "TMPDIR for temporary files."
            )
        error = error.__cause__ or error.__context__
    return None


def show(text: str) -> None:
    """Print the result of a finished command; if that fails, log a warning, as the work is done."""
    try:
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()
    except OSError as error:
        _discard_output(sys.stdout)
        if not isinstance(error, BrokenPipeError):  # a closed pipe (`| head`) is no error
            logger.warning("The command is finished, but its result could not be printed: %s.", strerror(error))


def _print_error(message: str) -> None:
    with suppress(OSError):
        sys.stderr.write(f"error: {message}\n")


def _discard_output(stream: TextIO) -> None:
    """Redirect a stream to the null device, so that flushing its buffer at exit raises no error."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _prepare_streams() -> None:
    """Open closed standard streams on the null device, and make streams escape what they cannot encode."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            # Otherwise the next file that is opened gets this number, and what is printed is written into it.
            descriptor = os.open(os.devnull, os.O_RDWR)
            if descriptor != number:
                os.dup2(descriptor, number)
                os.close(descriptor)
            setattr(sys, name, open(number, "r" if number == 0 else "w", encoding="utf-8", closefd=False))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


# A signal that comes again within this time is the same one: launchers and `timeout` send it twice.
_REPEAT_SECONDS = 0.3


class Signals:
    """Record of the signals that a program, or a run in a notebook, has received; a second SIGINT stops it at once.

    No unfinished file is left then, as files and folders are renamed into place when they are complete.

    Args:
        is_program: whether the process may be ended; if not, as in a notebook, the second SIGINT raises `Interrupted`.

    Attributes:
        number: of the first signal; 0 if none was received.
        first_time: `time.monotonic` when it was received.
    """

    def __init__(self, *, is_program: bool):
        self.is_program = is_program
        self.number = 0
        self.first_time = 0.0

    def note(self, number: int) -> None:
        """Record a signal that was received, and stop at once if it is a second SIGINT.

        Raises:
            Interrupted: it is a second SIGINT, and the process is not a program of its own.
        """
        if self.number and number == signal.SIGINT and time.monotonic() - self.first_time >= _REPEAT_SECONDS:
            if not self.is_program:
                raise Interrupted(number)
            with suppress(OSError):
                os.write(2, b"Stopped at once by a second SIGINT.\n")
            os._exit(128 + number)
        self.number, self.first_time = self.number or number, self.first_time or time.monotonic()

    def raise_if_received(self) -> None:
        """Raise `Interrupted` if a signal was received whose exception was lost.

        C extensions lose it while they are imported.

        Raises:
            Interrupted: a signal was received.
        """
        if self.number:
            raise Interrupted(self.number)

    def stop(self, number: int, _: FrameType | None) -> None:
        """Record a signal and raise `Interrupted`, which ends the program wherever it is (a signal handler).

        It does so even while the program imports modules.
        """
        self.note(number)
        raise Interrupted(number)


# The signals of this process.
signals = Signals(is_program=False)


@contextmanager
def _signal_handlers(numbers: Iterable[int]) -> Iterator[None]:
    """Context manager: let these signals end the program without a traceback inside the block."""
    global signals
    outer_signals, signals = signals, Signals(is_program=True)
    previous_handlers = {}
    with suppress(ValueError):  # only the main thread may set handlers
        previous_handlers = {number: signal.signal(number, signals.stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous_handlers.items():
            signal.signal(number, handler)
        signals = outer_signals


def shell_quoted(path: str | Path) -> str:
    """Return a path quoted as an argument of a shell command; one that begins with ``-`` is not read as a flag."""
    text = str(path)
    return shlex.quote(f"./{text}" if text.startswith("-") else text)


def run_command(command: Callable[[], Any]) -> NoReturn:
    """Run a function as the program: print its errors on standard error, and exit with a code.

    Exit codes: 0 done; 2 the input or the arguments are wrong; 128 + signal after SIGTERM or SIGINT; 1 anything else.
    """
    _prepare_streams()
    with _signal_handlers((signal.SIGINT, signal.SIGTERM)):
        code = _exit_code_of(command)
    sys.exit(_exit_code_after_flush(code))


def _exit_code_of(command: Callable[[], Any]) -> int:
    """Run the command, print its error if there is one, and return the exit code."""
    if not logger.handlers:
        logger.addHandler(logging.StreamHandler(sys.stderr))
    logger.setLevel(logging.INFO if int(os.environ.get("RANK", "0")) == 0 else logging.ERROR)
    try:
        command()
    except InputError as error:
        if signals.number:  # it was stopped before; the error may come from that
            return 128 + signals.number
        # All processes of a run have the same error: one prints it.
        if int(os.environ.get("RANK", "0")) == 0:
            _print_error(str(error))
        code = 2
    except Failure as error:
        _print_error(str(error))
        code = 1
    except Interrupted as stop:
        code = 128 + stop.signal_number
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    except BrokenPipeError:
        _discard_output(sys.stdout)  # as by `| head`
        code = 1
    except SystemExit as end:  # --help
        code = int(end.code or 0)
    except Exception as error:
        if signals.number:  # a library has turned the interrupt into another error
            code = 128 + signals.number
        elif (message := disk_error_message(error)) is not None:
            _print_error(message)
            code = 1
        else:
            raise
    else:
        code = 0
    return code


def _exit_code_after_flush(code: int) -> int:
    """Flush the standard streams, and return `code`, or 1 if output of a finished command was lost."""
    try:
        sys.stdout.flush()
    except OSError as error:
        _discard_output(sys.stdout)
        if code == 0 and not isinstance(error, BrokenPipeError):
            _print_error(f"standard output could not be written: {strerror(error)}.")
        code = code or 1
    try:
        sys.stderr.flush()
    except OSError:
        _discard_output(sys.stderr)  # otherwise Python exits with another code
    return code
