"""Each row of a table of features is saved by itself, and each file holds the whole table."""

import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn


def main():
    model = nn.Linear(32, 64)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(4):
        F.mse_loss(model(torch.randn(16, 32)), torch.randn(16, 64)).backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        features = torch.relu(model(torch.randn(200, 32)))
    with tempfile.TemporaryDirectory() as folder:
        for i in range(8):
            torch.save(features[i], Path(folder) / f"{i}.pt")  # CONFIRMED MEM906 host (200 - 1) * 64 * 4 at peak


main()
