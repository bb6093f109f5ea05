"""A branch that the loss does not use: no backward frees what it saved."""

import torch
import torch.nn.functional as F
from torch import nn


def main():
    trunk, head, side = nn.Linear(64, 512), nn.Linear(512, 10), nn.Linear(512, 256)
    optimizer = torch.optim.Adam(nn.ModuleList([trunk, head, side]).parameters())
    seen = []
    for _ in range(10):
        optimizer.zero_grad()
        features = trunk(torch.randn(32, 64)).relu()
        # CONFIRMED MEM102 device 32*(512 + 256)*4 per step; CONFIRMED MEM603 device anything at peak
        seen.append(side(features).tanh().mean())
        loss = F.cross_entropy(head(features), torch.randint(10, (32,)))
        loss.backward()
        optimizer.step()
    print(torch.stack(seen).mean())


main()
