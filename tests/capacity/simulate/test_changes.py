"""A what-if is a re-run: each change changes what it says, and says when there is nothing to change."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from memlint.capacity.simulate.changes import CHANGES, Remedy, what_if
from memlint.capacity.simulate.settings import Settings
from memlint.devices import device

pytestmark = pytest.mark.skipif(find_spec("torch") is None, reason="runs scripts with torch")

SCRIPT = """
import torch
from torch.utils.data import DataLoader, TensorDataset
def block():
    return torch.nn.Sequential(torch.nn.Linear(1024, 4096), torch.nn.GELU(), torch.nn.Linear(4096, 1024))
class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = torch.nn.ModuleList(block() for _ in range(6))
    def forward(self, x):
        for each in self.blocks:
            x = x + each(x)
        return x
model = Model().cuda()
optimizer = torch.optim.AdamW(model.parameters())
for (x,) in DataLoader(TensorDataset(torch.randn(65536, 1024)), batch_size=4096):
    loss = model(x.cuda()).sum()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
"""
WEIGHTS = 6 * (2 * 1024 * 4096 + 4096 + 1024) * 4


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Remedy]:
    script = tmp_path_factory.mktemp("changes") / "train.py"
    script.write_text(SCRIPT, "utf-8")
    settings = Settings(device=device("A100-40GB"), steps=2, seconds=120.0)
    words = {change.word: [change] for change in CHANGES if change.word != "accumulate=4"}
    return {word: what_if(str(script), (), settings, changes) for word, changes in {"": [], **words}.items()}


def test_every_change_applies_and_needs_less(runs: dict[str, Remedy]) -> None:
    plain = runs.pop("").prediction.peak_allocated
    assert all(remedy.is_applicable for remedy in runs.values())
    # The peak of this script is in its backward pass, where the optimizer's implementation plays no part.
    smaller = {word: remedy.prediction.peak_allocated < plain for word, remedy in runs.items() if word != "fused"}
    assert all(smaller.values()), smaller
    states = runs["8bit"].prediction.by_category()["optimizer_state"]
    assert 2 * WEIGHTS / 4 < states < 2 * WEIGHTS / 4 * 1.1
    assert runs["lora=8"].prediction.by_category()["optimizer_state"] < WEIGHTS / 50


def test_what_has_nothing_to_change_is_said(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text("import torch\nlayer = torch.nn.Linear(8, 8).cuda()\nlayer(torch.ones(2, 8).cuda())\n", "utf-8")
    changes = [change for change in CHANGES if change.word in ("checkpoint", "accumulate=2", "8bit")]
    remedy = what_if(str(script), (), Settings(seconds=120.0), changes)
    assert remedy.prediction.outcome.not_applied == ["8bit", "accumulate=2", "checkpoint"]
    assert not remedy.is_applicable
