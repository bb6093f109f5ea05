"""This one works as a statement."""

import torch
from torch import nn


def predict(model, x):
    torch.set_grad_enabled(False)  # REFUTED MEM602
    return model(x).argmax(dim=1)


def main():
    model = nn.Sequential(nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 10)).eval()
    for _ in range(6):
        print(predict(model, torch.randn(32, 64)).sum())


main()
