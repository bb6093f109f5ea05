"""Gradients of the step before live through the forward."""

import torch
import torch.nn.functional as F
from torch import nn


def main():
    model = nn.Sequential(nn.Linear(128, 256), nn.ReLU(), nn.Linear(256, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    for _ in range(10):
        loss = F.cross_entropy(model(torch.randn(32, 128)), torch.randint(10, (32,)))
        optimizer.zero_grad()  # CONFIRMED MEM203 device (128*256 + 256 + 256*10 + 10)*4 at peak
        loss.backward()
        optimizer.step()


main()
