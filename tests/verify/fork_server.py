"""Runs plans of ``memlint verify`` in forks of one process that has imported torch, which takes longer than most runs.

As a program (``python -m tests.verify.fork_server``) it reads paths of plans from standard input, one a line, and
answers on standard output with the exit code of each run.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import NoReturn

from tests.e2e.programs import ROOT


class ForkServers:
    """One for each thread that asks."""

    def __init__(self) -> None:
        self._own = threading.local()
        self._all: list[subprocess.Popen[str]] = []

    def run(self, plan: Path) -> int:
        """The exit code of the plan's run; minus a signal's number if that has ended it."""
        server: subprocess.Popen[str] | None = getattr(self._own, "server", None)
        if server is None:
            command = [sys.executable, "-m", "tests.verify.fork_server"]
            server = subprocess.Popen(
                command, cwd=ROOT, text=True, bufsize=1, stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
            self._own.server = server
            self._all.append(server)
        assert server.stdin is not None
        assert server.stdout is not None
        server.stdin.write(f"{plan}\n")
        server.stdin.flush()
        return int(server.stdout.readline())

    def close(self) -> None:
        """End them."""
        for server in self._all:
            server.communicate()


def _serve() -> None:
    for line in sys.stdin:
        process = os.fork()
        if not process:
            _run(line.strip())
        code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        sys.stdout.write(f"{code}\n")
        sys.stdout.flush()


def _run(plan: str) -> NoReturn:
    from memlint.verify.child.running import Run
    from memlint.verify.plan import Plan
    from memlint.verify.serial import loaded

    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(3):
        os.dup2(nothing, descriptor)
    try:
        Run(loaded(Plan, Path(plan).read_text("utf-8"))).execute()
    except SystemExit as error:
        os._exit(error.code if isinstance(error.code, int) else 0)
    finally:
        os._exit(1)


if __name__ == "__main__":
    import memlint.verify.child.session  # noqa: F401 - with torch: what the forks share

    _serve()
