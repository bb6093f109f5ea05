"""A meter in another file sums what it is given, graphs included."""

import torch
import torch.nn.functional as F
from meters import AverageMeter
from torch import nn


def main():
    model = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 1))
    optimizer = torch.optim.Adam(model.parameters())
    losses = AverageMeter()
    for _ in range(10):
        optimizer.zero_grad(set_to_none=True)
        x = torch.randn(16, 64)
        loss = F.mse_loss(model(x), x.sum(dim=1, keepdim=True))
        loss.backward()
        optimizer.step()
        losses.update(loss, 1)  # CONFIRMED MEM101 host 7 * NODE per step
    print(losses.average)


main()
