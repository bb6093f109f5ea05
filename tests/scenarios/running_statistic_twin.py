"""The same average of detached features."""

import torch
import torch.nn.functional as F
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Linear(64, 512)
        self.head = nn.Linear(512, 10)
        self.register_buffer("spread", torch.zeros(512))

    def forward(self, x):
        features = self.features(x).relu()
        if self.training:
            spread = features.detach().std(dim=0)
            self.spread = 0.9 * self.spread + 0.1 * spread  # REFUTED MEM103 self.spread
        return self.head(features)


def main():
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(10):
        optimizer.zero_grad()
        F.cross_entropy(model(torch.randn(32, 64)), torch.randint(10, (32,))).backward()
        optimizer.step()


main()
