"""The losses of four micro-batches are added up for the log; each has a backward of its own."""

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
            loss = F.mse_loss(model(micro_x), micro_y) / 4
            loss.backward()
            total = total + loss.detach()  # REFUTED MEM301 total
        print(total.item())
        optimizer.step()


main()
