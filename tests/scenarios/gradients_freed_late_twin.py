"""Gradients are freed before the forward."""

import torch
import torch.nn.functional as F
from torch import nn


def main():
    model = nn.Sequential(nn.Linear(128, 256), nn.ReLU(), nn.Linear(256, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    for _ in range(10):
        optimizer.zero_grad()  # REFUTED MEM203 optimizer
        loss = F.cross_entropy(model(torch.randn(32, 128)), torch.randint(10, (32,)))
        loss.backward()
        optimizer.step()


main()
