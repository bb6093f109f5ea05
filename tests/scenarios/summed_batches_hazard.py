"""The losses of four micro-batches are added up for one backward: four graphs at the same time."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def main():
    model = nn.Sequential(nn.Linear(32, 256), nn.Sigmoid(), nn.Linear(256, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loader = DataLoader(TensorDataset(torch.randn(6 * 64, 32), torch.randn(6 * 64, 1)), batch_size=64)
    for x, y in loader:
        optimizer.zero_grad()
        total = 0.0
        for micro_x, micro_y in zip(x.split(16), y.split(16), strict=True):
            # Of each: the result of the sigmoid, the differences of mse_loss, which saves its two arguments.
            # CONFIRMED MEM301 device (4-1)*(16*256*4 + 16*4) at peak
            total = total + F.mse_loss(model(micro_x), micro_y) / 4
        total.backward()
        optimizer.step()


main()
