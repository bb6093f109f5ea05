"""Gradient accumulation: micro-batches add up on purpose, and each step starts anew."""

import torch
import torch.nn.functional as F
from torch import nn


def main():
    model = nn.Sequential(nn.Linear(128, 256), nn.ReLU(), nn.Linear(256, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    for index in range(40):
        loss = F.cross_entropy(model(torch.randn(32, 128)), torch.randint(10, (32,))) / 4
        loss.backward()
        if index % 4 == 3:
            optimizer.step()  # REFUTED MEM201 optimizer
            optimizer.zero_grad()


main()
