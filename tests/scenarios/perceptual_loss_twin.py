"""A frozen network that the generator is trained through: its graph is needed."""

import torch
from torch import nn


def main():
    critic = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10)).requires_grad_(False)
    generator = nn.Linear(16, 64)
    optimizer = torch.optim.Adam(generator.parameters())
    for _ in range(10):
        optimizer.zero_grad()
        image = generator(torch.randn(8, 16))
        features = critic(image)  # REFUTED MEM603
        features.square().mean().backward()
        optimizer.step()


main()
