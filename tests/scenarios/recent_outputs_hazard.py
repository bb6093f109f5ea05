"""A queue without a limit."""

from collections import deque

import torch
from torch import nn


def main():
    model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 64))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    recent = deque()
    for _ in range(12):
        optimizer.zero_grad()
        output = model(torch.randn(16, 64))
        output.square().mean().backward()
        optimizer.step()
        recent.append(output)  # CONFIRMED MEM102 device 16*64*4 per step
    print(len(recent))


main()
