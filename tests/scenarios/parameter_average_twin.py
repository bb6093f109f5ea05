"""An average of the parameters that is computed from detached ones: nothing hangs on the updates before."""

import torch
import torch.nn.functional as F
from torch import nn


def update(averages, model, decay):
    for name, parameter in model.named_parameters():
        # REFUTED MEM703 averages
        averages[name] = decay * averages[name] + (1 - decay) * parameter.detach()


def main():
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10))
    averages = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(10):
        F.cross_entropy(model(torch.randn(32, 64)), torch.randint(10, (32,))).backward()
        optimizer.step()
        optimizer.zero_grad()
        update(averages, model, 0.99)


main()
