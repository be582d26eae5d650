"""Programs in processes of their own: fresh ones, or forked from one that has imported the libraries already.

Importing torch and transformers takes longer than most of what is tested; a forked process is killed, stopped and
waited for like any other.
"""

import contextlib
import gc
import multiprocessing
import multiprocessing.forkserver
import os
import runpy
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
# What runs import on the way as well: each forked process would do it anew.
IMPORTED = ["hf_transfer.comparing", "hf_transfer.studying", "hf_transfer.reporting.charts", "hf_transfer.hub",
            "hf_transfer.tasks.speech_recognition", "hf_transfer.tasks.text_classification", "sklearn.metrics",
            "transformers.models.bert.modeling_bert", "transformers.models.wav2vec2.modeling_wav2vec2",
            "transformers.pipelines", "peft", "matplotlib.backends.backend_svg", "rich.progress"]  # fmt: skip
FORKSERVER = multiprocessing.get_context("forkserver")
FORKSERVER.set_forkserver_preload(IMPORTED)


def start(*arguments: Any, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python with arguments in a fresh process."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


def fork(*arguments: Any, stdout: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program (``recipes/spam.py``, ``-m hf_transfer.cli``, ``-c CODE``) with arguments in a forked process."""
    return Forked(*arguments, stdout=stdout, **environment).finished()


def fork_joined(*arguments: Any, processes: int = 2, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program in several forked processes that find each other by the variables that `accelerate launch` sets.

    What they wrote is joined too, and the first exit code that is not 0 is that of all.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    joined = {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1",
              "MASTER_PORT": port, "ACCELERATE_MIXED_PRECISION": "no", "OMP_NUM_THREADS": "1"}  # fmt: skip
    running = [
        Forked(*arguments, **{**joined, **environment, "RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(processes)
    ]
    done = [each.finished() for each in running]
    code = next((each.returncode for each in done if each.returncode), 0)
    return subprocess.CompletedProcess(
        "joined", code, "".join(each.stdout for each in done), "".join(each.stderr for each in done)
    )


@contextlib.contextmanager
def forked_with(**environment: str) -> Iterator[None]:
    """Inside, processes are forked from one that was started with these variables.

    For those that the libraries read when they are imported, as the Hub's client does.
    """
    server = multiprocessing.forkserver.ForkServer()
    server.set_forkserver_preload(IMPORTED)
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    server.ensure_running()
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})
    module: Any = multiprocessing.forkserver
    usual, module.connect_to_new_process = module.connect_to_new_process, server.connect_to_new_process
    try:
        yield
    finally:
        module.connect_to_new_process = usual
        server._stop()  # type: ignore[attr-defined]


class Forked:
    """A program that runs in a forked process, from the repository's root.

    Args:
        *arguments: as of Python.
        stdout: a file that standard output is appended to, or a pipe's, instead of being captured.
        **environment: variables that are read when the program runs, not when libraries are imported.
    """

    def __init__(self, *arguments: Any, stdout: Path | None = None, **environment: str):
        self.outputs = [tempfile.NamedTemporaryFile(suffix=suffix) for suffix in (".out", ".err")]  # noqa: SIM115
        names = [str(stdout or self.outputs[0].name), self.outputs[1].name]
        self.process: Any = FORKSERVER.Process(
            target=_run, args=([str(each) for each in arguments], names, environment)
        )
        self.process.start()

    def running(self) -> bool:
        return self.process.exitcode is None

    def send(self, number: int) -> None:
        os.kill(self.process.pid, number)

    def finished(self) -> subprocess.CompletedProcess[str]:
        """Wait for its end; as of `subprocess.run`."""
        self.process.join(300)
        if self.running():
            self.process.kill()
            raise TimeoutError(f"It still ran after 300 s:\n{self.said()}")
        out, err = (Path(output.name).read_text() for output in self.outputs)
        return subprocess.CompletedProcess(self.process.name, self.process.exitcode, out, err)

    def said(self) -> str:
        """What it has written to standard error so far."""
        return Path(self.outputs[1].name).read_text()


def _run(arguments: list[str], outputs: list[str], environment: dict[str, str]) -> None:
    gc.freeze()  # what was imported is never garbage
    os.environ.update(environment)
    for descriptor, name in enumerate(outputs, start=1):
        os.dup2(os.open(name, os.O_WRONLY | os.O_APPEND), descriptor)
    # Python's own were opened on something else, which may have been sought in, as a pipe cannot be.
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    os.chdir(ROOT)
    if arguments[0] == "-m":
        sys.argv = arguments[1:]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    elif arguments[0] == "-c":
        sys.argv = ["-c", *arguments[2:]]
        exec(compile(arguments[1], "-c", "exec"), {"__name__": "__main__"})
    else:
        sys.argv = arguments
        runpy.run_path(arguments[0], run_name="__main__")
