"""A learned token is copied for each sample of the batch, though nothing writes to the copies."""

import torch
from torch import nn

BATCH, COUNT, WIDTH = 64, 32, 128


class Queries(nn.Module):
    def __init__(self):
        super().__init__()
        self.queries = nn.Parameter(torch.randn(1, COUNT, WIDTH))

    def forward(self, x):
        queries = self.queries.repeat(len(x), 1, 1)  # CONFIRMED MEM509 device 64*32*128*4 at peak
        return (x.unsqueeze(1) * queries).sum(-1)


def main():
    model = Queries()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(6):
        optimizer.zero_grad()
        model(torch.randn(BATCH, WIDTH)).square().mean().backward()
        optimizer.step()


main()
