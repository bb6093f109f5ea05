"""Nothing clears the gradients: each backward adds to those of all steps before."""

import torch
import torch.nn.functional as F
from torch import nn


def main():
    model = nn.Sequential(nn.Linear(128, 256), nn.ReLU(), nn.Linear(256, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    for _ in range(10):
        loss = F.cross_entropy(model(torch.randn(32, 128)), torch.randint(10, (32,)))
        loss.backward()
        optimizer.step()  # CONFIRMED MEM201 device (128*256 + 256 + 256*10 + 10)*4 at peak


main()
