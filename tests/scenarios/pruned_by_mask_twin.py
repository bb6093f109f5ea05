"""Weights that are pruned once: the mask goes before training begins."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import prune


def main():
    model = nn.Sequential(nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    prune.l1_unstructured(model[0], "weight", amount=0.9)  # REFUTED MEM706
    prune.remove(model[0], "weight")
    for _ in range(5):
        optimizer.zero_grad()
        F.cross_entropy(model(torch.randn(32, 64)), torch.randint(10, (32,))).backward()
        optimizer.step()


main()
