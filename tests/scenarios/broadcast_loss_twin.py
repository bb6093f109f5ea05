"""Predictions and targets of one dimension."""

import torch
from torch import nn

SAMPLES = 1024


def main():
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = nn.Linear(8, 1).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for _ in range(5):
        x, y = torch.randn(SAMPLES, 8, device=device), torch.randn(SAMPLES, 1, device=device)
        difference = model(x).squeeze(-1) - y.flatten()  # REFUTED MEM305 model
        difference.pow(2).mean().backward()
        optimizer.step()
        optimizer.zero_grad()


main()
