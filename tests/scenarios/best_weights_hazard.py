"""The best weights so far are copied beside the model; while a copy is replaced there are two."""

import copy

import torch
import torch.nn.functional as F
from torch import nn


def main():
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = nn.Sequential(nn.Linear(64, 512, bias=False), nn.ReLU(), nn.Linear(512, 16, bias=False)).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    lowest = float("inf")
    for epoch in range(4):
        for _ in range(3):
            optimizer.zero_grad()
            x, y = torch.randn(32, 64, device=device), torch.randint(16, (32,), device=device)
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
        if 4 - epoch < lowest:
            lowest = 4 - epoch
            best = copy.deepcopy(model.state_dict())  # CONFIRMED MEM704 device 2*(64+16)*512*4 at peak
    model.load_state_dict(best)


main()
