"""The same figure without a graph."""

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
        with torch.no_grad():
            seen.append(side(features).tanh().mean())  # REFUTED MEM102 seen; REFUTED MEM603
        loss = F.cross_entropy(head(features), torch.randint(10, (32,)))
        loss.backward()
        optimizer.step()
    print(torch.stack(seen).mean())


main()
