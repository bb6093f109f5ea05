"""A gradient penalty through autograd.grad(create_graph=True): nothing is left once it has been differentiated."""

import torch
from torch import nn


def penalty(critic: nn.Module, x: torch.Tensor):
    mixed = x.clone().requires_grad_()
    score = critic(mixed).sum()
    (gradient,) = torch.autograd.grad(score, mixed, create_graph=True)  # REFUTED MEM105
    return ((gradient.norm(dim=1) - 1) ** 2).mean()


def main():
    critic = nn.Sequential(nn.Linear(32, 256), nn.Sigmoid(), nn.Linear(256, 1))
    optimizer = torch.optim.Adam(critic.parameters())
    for _ in range(8):
        optimizer.zero_grad()
        penalty(critic, torch.randn(64, 32)).backward()
        optimizer.step()


main()
