"""Run a program that is killed, as by `kill -9`, when it calls a function for the n-th time.

python tests/killed.py MODULE:FUNCTION N program.py ...
"""

import functools
import importlib
import os
import runpy
import signal
import sys
from typing import Any


def kill_at_call(target: str, number: int) -> None:
    module, _, path = target.partition(":")
    owner: Any = importlib.import_module(module)
    *parents, name = path.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    honest, calls = getattr(owner, name), 0

    @functools.wraps(honest)
    def killing(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return honest(*args, **kwargs)

    setattr(owner, name, killing)


if __name__ == "__main__":
    kill_at_call(sys.argv[1], int(sys.argv[2]))
    sys.argv = sys.argv[3:]
    runpy.run_path(sys.argv[0], run_name="__main__")
