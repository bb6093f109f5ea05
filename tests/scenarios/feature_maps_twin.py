"""Skip connections, as in a U-Net: the list belongs to one forward."""

import torch
import torch.nn.functional as F
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(128, 128) for _ in range(3))
        self.head = nn.Linear(128, 10)
        self.maps = []

    def forward(self, x):
        maps = []
        for layer in self.layers:
            x = layer(x).relu()
            maps.append(x)  # REFUTED MEM102 maps
        return self.head(sum(maps))


def main():
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(10):
        optimizer.zero_grad()
        F.cross_entropy(model(torch.randn(64, 128)), torch.randint(10, (64,))).backward()
        optimizer.step()


main()
