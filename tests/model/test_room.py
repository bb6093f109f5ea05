"""Modules that are let go: what is found without them, and whether their memory is free."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

import pytest

from memlint.check.engine import check_data
from memlint.config import Settings
from memlint.model import project as projects
from memlint.model import room
from memlint.model.project import Project
from memlint.model.scopes import Module
from memlint.registry import all_rules

FILES = {
    "meters.py": """\
class Meter:
    def __init__(self):
        self.total = 0
        self.seen = []

    def update(self, loss):
        self.total += loss
        while len(self.seen) < 3:
            self.seen.append(loss)
""",
    "model.py": """\
from torch import nn

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x):
        return self.layer(x)

def loss_of(model, batch):
    x, y = batch
    return nn.functional.mse_loss(model(x), y)
""",
    "train.py": """\
import torch
from meters import Meter
from model import Model, loss_of

def train(loader):
    model, meter = Model(), Meter()
    optimizer = torch.optim.SGD(model.parameters())
    for batch in loader:
        loss = loss_of(model, batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        meter.update(loss)
    return meter.total
""",
}


def findings(root: Path) -> list[tuple[str, int]]:
    project = Project(root, sorted(root.glob("*.py")))
    found = []
    for _ in range(2):
        for name in ("train.py", "meters.py", "model.py"):
            result = check_data(root / name, (root / name).read_bytes(), all_rules(), project, Settings(root))
            assert result.error is None
            found += [(each.code, each.location.row) for each in result.diagnostics]
    return found


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def test_what_is_found_does_not_depend_on_what_is_kept(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = findings(root)
    assert ("MEM101", 13) in kept
    monkeypatch.setattr(room, "MAX_CHARACTERS", 1)
    assert findings(root) == kept


def test_the_memory_of_a_module_is_free_at_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone: list[weakref.ref[Module]] = []

    def take_apart(module: Module) -> None:
        gone.append(weakref.ref(module))
        room.take_apart(module)

    monkeypatch.setattr(projects, "take_apart", take_apart)
    monkeypatch.setattr(room, "MAX_CHARACTERS", 1)
    gc.disable()
    try:
        findings(root)
    finally:
        gc.enable()
    assert len(gone) > len(FILES)
    assert not [module for each in gone if (module := each()) is not None]
