"""A model is quantised for inference after it has been trained."""

import torch
import torch.nn.functional as F
from torch import nn


def main():
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.LayerNorm(64))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)  # REFUTED MEM406
    for _ in range(8):
        x = torch.randn(16, 64)
        F.mse_loss(model(x), x).backward()
        optimizer.step()
        optimizer.zero_grad()
    model = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    with torch.no_grad():
        print(model(torch.randn(4, 64)).mean())


main()
