"""The model is one checkpoint: the backward computes all of it again before it frees anything."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint


def main():
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = nn.Sequential(*[nn.Sequential(nn.Linear(64, 64), nn.Tanh()) for _ in range(8)]).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(8):
        x = torch.randn(32, 64, device=device)
        y = checkpoint(model, x, use_reentrant=False)  # CONFIRMED MEM501 device 8 * 32 * 64 * 4 at peak
        F.mse_loss(y, x).backward()
        optimizer.step()
        optimizer.zero_grad()


main()
