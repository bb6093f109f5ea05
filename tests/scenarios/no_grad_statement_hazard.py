"""A context manager that nobody enters."""

import torch
from torch import nn


def predict(model, x):
    torch.no_grad()  # CONFIRMED MEM602 device 32*(64 + 512)*4 at peak
    return model(x).argmax(dim=1)


def main():
    model = nn.Sequential(nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 10)).eval()
    for _ in range(6):
        print(predict(model, torch.randn(32, 64)).sum())


main()
