"""A model whose defaults are large runs its blocks without checkpoints; here it is made small."""

import torch
import torch.nn.functional as F
from torch import nn


class Model(nn.Module):
    def __init__(self, width=4096, depth=24):
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)) for _ in range(depth)
        )

    def forward(self, x):
        for block in self.blocks:
            x = block(x)  # CONFIRMED MEM511 device (4 - 1) * 1024 * (128 + 128) * 4 at peak
        return x


def main():
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = Model(width=64, depth=4).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(8):
        x = torch.randn(1024, 64, device=device)
        F.mse_loss(model(x), x).backward()
        optimizer.step()
        optimizer.zero_grad()


main()
