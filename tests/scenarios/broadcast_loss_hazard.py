"""Predictions of one column meet targets of one dimension: the differences are a matrix."""

import torch
from torch import nn

SAMPLES = 1024


def main():
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = nn.Linear(8, 1).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for _ in range(5):
        x, y = torch.randn(SAMPLES, 8, device=device), torch.randn(SAMPLES, 1, device=device)
        difference = model(x) - y.flatten()  # CONFIRMED MEM305 device 1024*1024*4 at peak
        difference.pow(2).mean().backward()
        optimizer.step()
        optimizer.zero_grad()


main()
