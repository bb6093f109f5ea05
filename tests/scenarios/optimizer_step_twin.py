"""AdamW updates one parameter after the other, with what that needs for one of them."""

import torch
import torch.nn.functional as F
from torch import nn


def main():
    device = "cuda" if torch.cuda.is_available() else "cpu"
    layers = [layer for _ in range(8) for layer in (nn.Linear(128, 128, bias=False), nn.Tanh())]
    model = nn.Sequential(*layers).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, foreach=False)  # REFUTED MEM701
    for _ in range(8):
        x = torch.randn(8, 128, device=device)
        F.mse_loss(model(x), x).backward()
        optimizer.step()
        optimizer.zero_grad()


main()
