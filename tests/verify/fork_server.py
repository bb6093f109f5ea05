"""Runs plans of ``memlint verify`` in forks of one process that has imported torch, which takes longer than most runs.

So does what else the scripts import of installed packages: it is imported before the fork, once for all scripts.

As a program (``python -m tests.verify.fork_server``) it reads from standard input lines with the path of a plan and
variables for the environment, and answers on standard output with the exit code of each run.
"""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from memlint.verify.child.running import Run
from memlint.verify.plan import Plan
from memlint.verify.serial import loaded
from tests.e2e.programs import ROOT

_PACKAGES = {"torch", "transformers", "lightning", "accelerate", "torchmetrics"}


class ForkServers:
    """As many as there are runs at the same time."""

    def __init__(self) -> None:
        self._all: list[subprocess.Popen[str]] = []
        self._idle: list[subprocess.Popen[str]] = []

    def run(self, plan: Path, variables: Mapping[str, str]) -> int:
        """The exit code of the plan's run; minus a signal's number if that has ended it."""
        server = self._idle.pop() if self._idle else self._new()
        assert server.stdin is not None
        assert server.stdout is not None
        server.stdin.write(f"{json.dumps([str(plan), dict(variables)])}\n")
        server.stdin.flush()
        code = int(server.stdout.readline())
        self._idle.append(server)
        return code

    def _new(self) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tests.verify.fork_server"]
        server = subprocess.Popen(
            command, cwd=ROOT, text=True, bufsize=1, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self._all.append(server)
        return server

    def close(self) -> None:
        """End them, all at once."""
        for server in self._all:
            assert server.stdin is not None
            server.stdin.close()
        for server in self._all:
            assert server.stdout is not None
            server.stdout.close()
            server.wait()


def _serve() -> None:
    for line in sys.stdin:
        path, variables = json.loads(line)
        plan = loaded(Plan, Path(path).read_text("utf-8"))
        _import_packages(Path(plan.target))
        process = os.fork()
        if not process:
            os.environ.update(variables)
            _run(plan)
        code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        sys.stdout.write(f"{code}\n")
        sys.stdout.flush()


def _import_packages(script: Path) -> None:
    for statement in ast.parse(script.read_text("utf-8")).body:
        if isinstance(statement, (ast.Import, ast.ImportFrom)) and _PACKAGES & _imported(statement):
            exec(compile(ast.Module([statement], []), "<imports>", "exec"), {})


def _imported(statement: ast.Import | ast.ImportFrom) -> set[str]:
    names = [statement.module] if isinstance(statement, ast.ImportFrom) else [each.name for each in statement.names]
    return {name.partition(".")[0] for name in names if name is not None}


def _run(plan: Plan) -> NoReturn:
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(3):
        os.dup2(nothing, descriptor)
    try:
        Run(plan).execute()
    except SystemExit as error:
        os._exit(error.code if isinstance(error.code, int) else 0)
    finally:
        os._exit(1)


if __name__ == "__main__":
    import torch

    import memlint.verify.child.session  # noqa: F401 - what the forks share

    # Imports torch's compiler, as the first optimizer of every process does.
    torch.optim.SGD([torch.zeros(1, requires_grad=True)])
    _serve()
