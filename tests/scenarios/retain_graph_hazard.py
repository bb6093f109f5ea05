"""A graph that is retained although no backward follows."""

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
        loss = loss + auxiliary
        # CONFIRMED MEM104 device 32*(64 + 512 + 512 + 1 + 10)*4 + 32*8 at peak
        loss.backward(retain_graph=True)
        optimizer.step()


main()
