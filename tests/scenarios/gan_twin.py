"""The curve holds numbers."""

import torch
import torch.nn.functional as F
from torch import nn


def main():
    generator, critic = nn.Linear(16, 64), nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 1))
    for_generator = torch.optim.Adam(generator.parameters())
    for_critic = torch.optim.Adam(critic.parameters())
    curve = []
    for _ in range(10):
        for_generator.zero_grad()
        for_critic.zero_grad()
        fake = generator(torch.randn(32, 16))
        critic_loss = F.softplus(critic(fake.detach())).mean() + F.softplus(-critic(torch.randn(32, 64))).mean()
        critic_loss.backward()
        for_critic.step()
        generator_loss = F.softplus(-critic(fake)).mean()
        generator_loss.backward()
        for_generator.step()
        curve.append(critic_loss.item())  # REFUTED MEM102 curve
    print(float(sum(curve)))


main()
