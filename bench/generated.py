"""Writes projects of any size: models, losses, data and training scripts that import each other, as real ones do."""

from __future__ import annotations

from pathlib import Path

MODEL = '''\
"""Model {n}."""

import torch
from torch import nn

from ..common.layers import Block
from ..common.ops import normalized


class Net{n}(nn.Module):
    """Blocks between an embedding and a head."""

    def __init__(self, width=64, depth=4, classes=10):
        super().__init__()
        self.embed = nn.Linear(3, width)
        self.blocks = nn.ModuleList([Block(width) for _ in range(depth)])
        self.head = nn.Linear(width, classes)
        self.history{n} = []

    def forward(self, x):
        x = self.embed(normalized(x))
        for block in self.blocks:
            x = block(x)
        return self.head(x)

    def score{n}(self, x, y):
        logits = self(x)
        return nn.functional.cross_entropy(logits, y), logits

    @torch.no_grad()
    def predict{n}(self, x):
        return self(x).argmax(-1)
'''
TRAINING = '''\
"""Trains model {n}."""

import argparse

import torch
from torch.utils.data import DataLoader

from ..common.data import Pairs
from ..common.meters import Meter
from ..models.net{n} import Net{n}


def train{n}(loader, epochs, device):
    model = Net{n}().to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    meter = Meter()
    for epoch in range(epochs):
        model.train()
        running = 0.0
        for step, (x, y) in enumerate(loader):
            x, y = x.to(device), y.to(device)
            loss, logits = model.score{n}(x, y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            running += {kept}
            meter.update(loss.item(), x.size(0))
            if step % 100 == 0:
                print(epoch, step, meter.average)
        print(epoch, running / len(loader))
    return model


def evaluate{n}(model, loader, device):
    model.eval()
    correct = 0
    with torch.no_grad():
        for x, y in loader:
            correct += int((model.predict{n}(x.to(device)) == y.to(device)).sum())
    return correct / len(loader.dataset)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=32)
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    loader = DataLoader(Pairs(1000), batch_size=options.batch_size, shuffle=True)
    model = train{n}(loader, options.epochs, device)
    print(evaluate{n}(model, loader, device))


if __name__ == "__main__":
    main()
'''
COMMON = {
    "layers": """\
import torch
from torch import nn


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x):
        return x + self.mlp(self.norm(x))
""",
    "ops": """\
import torch


def normalized(x):
    return (x - x.mean()) / (x.std() + 1e-6)
""",
    "meters": """\
class Meter:
    def __init__(self):
        self.total, self.count = 0.0, 0

    def update(self, value, number):
        self.total += value * number
        self.count += number

    @property
    def average(self):
        return self.total / max(self.count, 1)
""",
    "data": """\
import torch
from torch.utils.data import Dataset


class Pairs(Dataset):
    def __init__(self, size):
        self.x = torch.randn(size, 3)
        self.y = torch.randint(0, 10, (size,))

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return self.x[index], self.y[index]
""",
}
_LINES_OF_A_PAIR = sum(text.count("\n") for text in (MODEL, TRAINING))


def project(root: Path, *, files: int | None = None, lines: int | None = None) -> int:
    """Writes a project of about that many ``files`` or ``lines`` below ``root``; returns how many lines it has.

    One training script in ten keeps the graphs of an epoch, so that there is something to find.
    """
    pairs = max(1, (files or 0) // 2 - 3 if files else (lines or 0) // _LINES_OF_A_PAIR)
    package = root / "project"
    for folder in ("common", "models", "training"):
        (package / folder).mkdir(parents=True)
        (package / folder / "__init__.py").touch()
    (package / "__init__.py").touch()
    (root / "pyproject.toml").write_text('[project]\nname = "generated"\ndependencies = ["torch>=2.2"]\n')
    for name, text in COMMON.items():
        (package / "common" / f"{name}.py").write_text(text)
    for n in range(pairs):
        (package / "models" / f"net{n}.py").write_text(MODEL.format(n=n))
        kept = "loss" if n % 10 == 0 else "loss.item()"
        (package / "training" / f"train{n}.py").write_text(TRAINING.format(n=n, kept=kept))
    return sum(path.read_bytes().count(b"\n") for path in package.rglob("*.py"))
