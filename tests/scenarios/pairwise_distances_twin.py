"""The same distances from products; the peak is in the optimizer, whose states are larger."""

import torch
from torch import nn

POINTS, CENTERS, WIDTH = 16, 12, 512


class Clusters(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(1024, WIDTH)
        self.centers = nn.Parameter(torch.randn(CENTERS, WIDTH))

    def forward(self, x):
        z = self.encoder(x)
        return torch.cdist(z, self.centers).square()  # REFUTED MEM508


def main():
    model = Clusters()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(6):
        optimizer.zero_grad()
        model(torch.randn(POINTS, 1024)).amin(1).mean().backward()
        optimizer.step()


main()
