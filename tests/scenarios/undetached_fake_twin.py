"""Both networks step on what one backward has left: the generator's gradients are used."""

import torch
import torch.nn.functional as F
from torch import nn


def main():
    generator, critic = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 256)), nn.Linear(256, 1)
    for_generator = torch.optim.Adam(generator.parameters())
    for_critic = torch.optim.Adam(critic.parameters())
    for _ in range(8):
        for_critic.zero_grad()
        for_generator.zero_grad()
        fake = generator(torch.randn(32, 16))
        on_real = F.softplus(-critic(torch.randn(32, 256))).mean()
        on_fake = F.softplus(critic(fake)).mean()  # REFUTED MEM108 fake
        (on_real + on_fake).backward()
        for_critic.step()
        for_generator.step()


main()
