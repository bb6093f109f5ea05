"""Four micro-batches a step, and the graph of each stays in the running sum."""

import torch
import torch.nn.functional as F
from torch import nn


def main():
    model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))
    optimizer = torch.optim.AdamW(model.parameters())
    running = torch.zeros(())
    for index in range(40):
        loss = F.cross_entropy(model(torch.randn(8, 64)), torch.randint(10, (8,))) / 4
        loss.backward()
        running = running + loss  # CONFIRMED MEM101 host 4 * 9 * NODE per step
        if (index + 1) % 4 == 0:
            optimizer.step()
            optimizer.zero_grad()
    print(running)


main()
