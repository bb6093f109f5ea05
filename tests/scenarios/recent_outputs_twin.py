"""A queue of four."""

from collections import deque

import torch
from torch import nn


def main():
    model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 64))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    recent = deque(maxlen=4)
    for _ in range(12):
        optimizer.zero_grad()
        output = model(torch.randn(16, 64))
        output.square().mean().backward()
        optimizer.step()
        recent.append(output)  # REFUTED MEM102 recent
    print(len(recent))


main()
