"""How much is done for a file, counted instead of timed: what grows faster than the text fails here on any machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import libcst
import pytest

from memlint.check.engine import check_data
from memlint.config import Settings
from memlint.model import project as projects
from memlint.model.project import Project
from memlint.registry import all_rules

MODEL = """\
import torch
from torch import nn

class Model{n}(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x):
        return self.layer(x)

def loss{n}(model, batch):
    x, y = batch
    return nn.functional.mse_loss(model(x), y)
"""
TRAINING = """\
import torch
from parts.model{n} import Model{n}, loss{n}

def train{n}(loader):
    model = Model{n}()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    total, seen = 0, []
    for batch in loader:
        loss = loss{n}(model, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss
        seen.append(loss)
    return evaluate{n}(model, loader), total

def evaluate{n}(model, loader):
    model.eval()
    return sum(loss{n}(model, batch).item() for batch in loader)
"""


@dataclass(frozen=True)
class Work:
    """What checking some files of a project took."""

    parses: int
    answers: int
    lines: int
    findings: int


def made(root: Path, pairs: int) -> list[Path]:
    """A project of ``pairs`` models, each with the script that trains it."""
    (root / "parts").mkdir(parents=True)
    (root / "parts" / "__init__.py").touch()
    for n in range(pairs):
        (root / "parts" / f"model{n}.py").write_text(MODEL.format(n=n))
        (root / f"train{n}.py").write_text(TRAINING.format(n=n))
    return sorted(root.rglob("*.py"))


def work(root: Path, files: list[Path], checked: list[Path], monkeypatch: pytest.MonkeyPatch) -> Work:
    parsed: list[str] = []

    def parse(text: str) -> libcst.Module:
        parsed.append(text)
        return libcst.parse_module(text)

    monkeypatch.setattr(projects, "parse", parse)
    project = Project(root, files)
    results = [check_data(path, path.read_bytes(), all_rules(), project, Settings(root)) for path in checked]
    findings = sum(len(result.diagnostics) for result in results)
    lines = sum(path.read_text().count("\n") for path in checked)
    return Work(len(parsed), len(project.memo), lines, findings)


def test_each_file_is_parsed_once_however_many_ask_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = made(tmp_path, 12)
    done = work(tmp_path, files, files, monkeypatch)
    assert done.findings >= 12
    assert done.parses <= len(files)


def test_questions_grow_with_the_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small, large = made(tmp_path / "small", 6), made(tmp_path / "large", 24)
    few = work(tmp_path / "small", small, small, monkeypatch)
    many = work(tmp_path / "large", large, large, monkeypatch)
    assert many.findings == 4 * few.findings
    assert many.answers / many.lines < 1.1 * few.answers / few.lines
    assert many.answers / many.lines < 100


def test_one_file_costs_the_same_in_a_larger_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small, large = made(tmp_path / "small", 3), made(tmp_path / "large", 60)
    alone = work(tmp_path / "small", small, [tmp_path / "small" / "train1.py"], monkeypatch)
    among = work(tmp_path / "large", large, [tmp_path / "large" / "train1.py"], monkeypatch)
    assert alone == among
    assert among.parses == 2
