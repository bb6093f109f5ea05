"""A model is quantised for inference before it is trained: its quantised layers have nothing to train."""

import torch
import torch.nn.functional as F
from torch import nn


def main():
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.LayerNorm(64))
    model = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)  # CONFIRMED MEM406 device 0 at peak
    for _ in range(8):
        x = torch.randn(16, 64)
        F.mse_loss(model(x), x).backward()
        optimizer.step()
        optimizer.zero_grad()


main()
