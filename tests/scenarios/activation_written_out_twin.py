"""Without gradients what is written out is freed at once: the peak is in the training, with F.silu."""

import torch
import torch.nn.functional as F
from torch import nn

BATCH, WIDTH = 64, 2048


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.wide, self.narrow = nn.Linear(64, WIDTH), nn.Linear(WIDTH, 64)

    def forward(self, x):
        return self.narrow(F.silu(self.wide(x)))


@torch.no_grad()
def smooth(x):
    return x * torch.sigmoid(x)  # REFUTED MEM510


def main():
    model = Block()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(6):
        scale = smooth(torch.randn(BATCH, 64)).mean().item()
        optimizer.zero_grad()
        model(scale * torch.randn(BATCH, 64)).square().mean().backward()
        optimizer.step()


main()
