"""A loaded checkpoint is released before the model trains that has copied its weights."""

import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn


def build():
    return nn.Sequential(nn.Linear(64, 512, bias=False), nn.ReLU(), nn.Linear(512, 16, bias=False))


def main():
    model = build()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "last.pt"
        torch.save({"model": build().state_dict(), "epoch": 3}, path)
        checkpoint = torch.load(path, map_location="cpu")  # REFUTED MEM802
    model.load_state_dict(checkpoint["model"])
    epoch = checkpoint["epoch"]
    del checkpoint
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(epoch, 8):
        optimizer.zero_grad()
        F.cross_entropy(model(torch.randn(32, 64)), torch.randint(16, (32,))).backward()
        optimizer.step()


main()
