"""Programs in processes of their own: fresh ones, or forked from one that has imported the libraries already.

Importing torch and transformers takes longer than most of what is tested; a forked process is killed, stopped and
waited for like any other.
"""

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FORKSERVER = multiprocessing.get_context("forkserver")
FORKSERVER.set_forkserver_preload(["hf_transfer.comparing", "hf_transfer.studying", "hf_transfer.reporting.charts"])


def start(*arguments: Any, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python with arguments in a fresh process."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


def fork(*arguments: Any) -> subprocess.CompletedProcess[str]:
    """Run a program (``recipes/spam.py`` or ``-m hf_transfer.cli``) with arguments in a forked process."""
    return Forked(*arguments).finished()


class Forked:
    """A program that runs in a forked process, from the repository's root."""

    def __init__(self, *arguments: Any):
        self.outputs = [tempfile.NamedTemporaryFile(suffix=suffix) for suffix in (".out", ".err")]  # noqa: SIM115
        names = [output.name for output in self.outputs]
        self.process: Any = FORKSERVER.Process(target=_run, args=([str(each) for each in arguments], names))
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


def _run(arguments: list[str], outputs: list[str]) -> None:
    for descriptor, name in enumerate(outputs, start=1):
        os.dup2(os.open(name, os.O_WRONLY), descriptor)
    os.chdir(ROOT)
    if arguments[0] == "-m":
        sys.argv = arguments[1:]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = arguments
        runpy.run_path(arguments[0], run_name="__main__")
