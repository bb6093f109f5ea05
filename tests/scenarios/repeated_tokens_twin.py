"""The token is seen once for each sample of the batch."""

import torch
from torch import nn

BATCH, COUNT, WIDTH = 64, 32, 128


class Queries(nn.Module):
    def __init__(self):
        super().__init__()
        self.queries = nn.Parameter(torch.randn(1, COUNT, WIDTH))

    def forward(self, x):
        queries = self.queries.expand(len(x), -1, -1)  # REFUTED MEM509
        return (x.unsqueeze(1) * queries).sum(-1)


def main():
    model = Queries()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(6):
        optimizer.zero_grad()
        model(torch.randn(BATCH, WIDTH)).square().mean().backward()
        optimizer.step()


main()
