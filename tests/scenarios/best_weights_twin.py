"""The best weights so far are written to a file, and nothing of them stays in memory."""

import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn


def main():
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = nn.Sequential(nn.Linear(64, 512, bias=False), nn.ReLU(), nn.Linear(512, 16, bias=False)).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    lowest = float("inf")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "best.pt"
        for epoch in range(4):
            for _ in range(3):
                optimizer.zero_grad()
                x, y = torch.randn(32, 64, device=device), torch.randint(16, (32,), device=device)
                F.cross_entropy(model(x), y).backward()
                optimizer.step()
            if 4 - epoch < lowest:
                lowest = 4 - epoch
                torch.save(model.state_dict(), path)  # REFUTED MEM704
        model.load_state_dict(torch.load(path, map_location="cpu"))


main()
