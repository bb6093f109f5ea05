"""Two losses share a trunk: the first backward has to retain it for the second."""

import torch
import torch.nn.functional as F
from torch import nn


def main():
    trunk = nn.Sequential(nn.Linear(64, 512), nn.Tanh(), nn.Linear(512, 512), nn.Tanh())
    head, side = nn.Linear(512, 10), nn.Linear(512, 1)
    modules = nn.ModuleList([trunk, head, side])
    optimizer = torch.optim.Adam(modules.parameters())
    for _ in range(9):
        x, y = torch.randn(32, 64), torch.randint(10, (32,))
        optimizer.zero_grad()
        features = trunk(x)
        loss = F.cross_entropy(head(features), y)
        auxiliary = side(features).square().mean()
        auxiliary.backward(retain_graph=True)  # REFUTED MEM104 auxiliary
        loss.backward()
        optimizer.step()


main()
