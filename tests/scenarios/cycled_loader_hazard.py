"""A loader is repeated by `cycle`, which keeps every batch of the first epoch."""

import itertools

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader


def main():
    model = nn.Linear(64, 64)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loader = DataLoader(torch.randn(256, 64), batch_size=16, shuffle=True)
    batches = itertools.cycle(loader)  # CONFIRMED MEM908 host 16 * 64 * 4 per execution
    for _ in range(20):
        x = next(batches)
        F.mse_loss(model(x), x).backward()
        optimizer.step()
        optimizer.zero_grad()


main()
