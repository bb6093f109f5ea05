"""Runs programs as users do: in processes and environments of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

HAZARDS = """\
import torch
from torch import nn


def main(loader):
    model = nn.Linear(8, 1).cuda()
    model.load_state_dict(torch.load("model.pt"))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    total = 0.0
    for inputs, targets in loader:
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(inputs.cuda()), targets.cuda())
        loss.backward()
        optimizer.step()
        total += loss
    print(total)
"""
"""A training loop that reports MEM801 in row 7 and MEM101 in row 15, and nothing else."""

CLEAN = HAZARDS.replace('"model.pt"', '"model.pt", map_location="cpu"').replace("+= loss", "+= loss.detach()")


def run(*command: str | Path, cwd: Path, stdin: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
    """The finished process of ``command``; ``variables`` are added to its environment."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "GIT_"))}
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        input=stdin,
        env=environment | variables,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )


def output(*command: str | Path, cwd: Path, **variables: str) -> str:
    """What ``command`` prints; the test fails when the command does."""
    process = run(*command, cwd=cwd, **variables)
    if process.returncode:
        pytest.fail(f"{command} ended with {process.returncode}\n{process.stdout}\n{process.stderr}")
    return process.stdout


@dataclass(frozen=True)
class Environment:
    """A virtual environment of its own."""

    path: Path

    @classmethod
    def create(cls, path: Path, *requirements: str | Path) -> Environment:
        """A new environment at ``path`` in which pip has installed ``requirements`` (or was given those options)."""
        output(sys.executable, "-m", "venv", path, cwd=path.parent)
        environment = cls(path)
        output(environment.program("python"), "-m", "pip", "install", "--quiet", *requirements, cwd=path)
        return environment

    def program(self, name: str) -> Path:
        """The path of an installed command."""
        return self.path / ("Scripts" if os.name == "nt" else "bin") / name


def commit(directory: Path) -> None:
    """Makes ``directory`` a git repository, or adds all its files to the one that it is."""
    identity = ("-c", "user.name=tests", "-c", "user.email=tests@example.com", "-c", "commit.gpgsign=false")
    output("git", "init", "--quiet", cwd=directory)
    output("git", "add", "--all", cwd=directory)
    output("git", *identity, "commit", "--quiet", "--message", "State under test", cwd=directory)
