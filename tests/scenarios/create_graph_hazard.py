"""A gradient penalty through backward(create_graph=True): gradients and graph keep each other alive."""

import torch
from torch import nn


def penalty(critic: nn.Module, x: torch.Tensor):
    mixed = x.clone().requires_grad_()
    score = critic(mixed).sum()
    score.backward(create_graph=True)  # CONFIRMED MEM105 device anything at peak
    return ((mixed.grad.norm(dim=1) - 1) ** 2).mean()


def main():
    critic = nn.Sequential(nn.Linear(32, 256), nn.Sigmoid(), nn.Linear(256, 1))
    optimizer = torch.optim.Adam(critic.parameters())
    for _ in range(8):
        optimizer.zero_grad()
        penalty(critic, torch.randn(64, 32)).backward()
        optimizer.step()


main()
