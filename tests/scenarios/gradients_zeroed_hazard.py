"""Gradients are filled with zeros instead of freed."""

import torch
import torch.nn.functional as F
from torch import nn


def main():
    model = nn.Sequential(nn.Linear(128, 256), nn.ReLU(), nn.Linear(256, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    for _ in range(10):
        optimizer.zero_grad(set_to_none=False)  # CONFIRMED MEM202 device (128*256 + 256 + 256*10 + 10)*4 at peak
        loss = F.cross_entropy(model(torch.randn(32, 128)), torch.randint(10, (32,)))
        loss.backward()
        optimizer.step()


main()
