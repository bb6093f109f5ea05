"""How much is done for a file, counted instead of timed: what grows faster than the text fails here on any machine."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import libcst
import pytest

from memlint import parsing
from memlint.check.engine import check_data
from memlint.config import Settings
from memlint.findings import Confidence
from memlint.model import project as projects
from memlint.model.callers import MAX_FILES
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

    monkeypatch.setattr(projects, "read", parse)
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
    assert many.answers / many.lines < 12


def test_one_file_costs_the_same_in_a_larger_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small, large = made(tmp_path / "small", 3), made(tmp_path / "large", 60)
    alone = work(tmp_path / "small", small, [tmp_path / "small" / "train1.py"], monkeypatch)
    among = work(tmp_path / "large", large, [tmp_path / "large" / "train1.py"], monkeypatch)
    assert alone == among
    assert among.parses == 2


PIPELINE = """\
import torch
from parts.blocks import Block
from parts.common import prepare

class Pipeline{n}(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.block = Block()
        self.outputs = []

    def encode(self, x):
        out = self.block(prepare(x))
        self.outputs.append(out)
        return out

def run{n}(loader, pipeline):
    return [pipeline.encode(x) for x in loader]

def main{n}(loader):
    return run{n}(loader, Pipeline{n}())
"""
BLOCKS = """\
from torch import nn
from parts.common import prepare

class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x):
        return self.layer(prepare(x))
"""


def pipelines(root: Path, count: int) -> list[Path]:
    """A project in which everybody calls the same two helpers, and methods that bear the same names."""
    (root / "parts").mkdir(parents=True)
    (root / "parts" / "__init__.py").touch()
    (root / "parts" / "blocks.py").write_text(BLOCKS)
    (root / "parts" / "common.py").write_text("def prepare(x):\n    return x.float()\n")
    for n in range(count):
        (root / f"pipeline{n}.py").write_text(PIPELINE.format(n=n))
    return sorted(root.rglob("*.py"))


def test_names_that_everybody_uses_lead_to_few_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = pipelines(tmp_path, 60)
    assert work(tmp_path, files, [tmp_path / "pipeline7.py"], monkeypatch).parses <= 3 + MAX_FILES
    monkeypatch.undo()
    assert work(tmp_path, files, [tmp_path / "parts" / "blocks.py"], monkeypatch).parses <= 2 + MAX_FILES


@pytest.mark.parametrize("make", [made, pipelines])
def test_the_order_of_the_files_changes_nothing(tmp_path: Path, make: Callable[[Path, int], list[Path]]) -> None:
    files = make(tmp_path, 9)

    def found(order: Iterable[Path]) -> dict[Path, list[str]]:
        project = Project(tmp_path, files)
        return {
            path: [
                f"{each.location} {each.code} {each.confidence} {each.message}"
                for each in check_data(
                    path, path.read_bytes(), all_rules(), project, Settings(tmp_path), least=Confidence.POSSIBLE
                ).diagnostics
            ]
            for path in order
        }

    forwards = found(files)
    assert any(forwards.values())
    assert found(reversed(files)) == forwards
    assert {path: alone for path in files for alone in found([path]).values()} == forwards


KEPT_GRAPHS = """\
import torch
from torch import nn

def test_losses(loader):
    model, kept, total = nn.Linear(3, 3), [], 0
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for x, y in loader:
        loss = nn.functional.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        kept.append(loss[None])
        total += loss[None]
    print(total, kept)
"""


@pytest.mark.parametrize(("name", "count"), [("test_losses.py", 0), ("losses.py", 1)])
def test_a_text_is_read_once_more_only_for_findings_that_are_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, count: int
) -> None:
    path = tmp_path / name
    path.write_text(KEPT_GRAPHS)
    completed: list[str] = []
    parse = parsing.parse

    def counted(text: str) -> libcst.Module:
        completed.append(text)
        return parse(text)

    monkeypatch.setattr(parsing, "parse", counted)
    result = check_data(path, path.read_bytes(), all_rules(), Project(tmp_path, [path]), Settings(tmp_path))
    assert bool(result.diagnostics) == bool(count)
    assert len(completed) == count
