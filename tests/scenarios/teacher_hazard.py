"""A teacher that nobody trains records a graph, and gets gradients that nobody uses."""

import torch
import torch.nn.functional as F
from torch import nn


def main():
    teacher = nn.Sequential(nn.Linear(64, 1024), nn.ReLU(), nn.Linear(1024, 10))
    student = nn.Linear(64, 10)
    optimizer = torch.optim.AdamW(student.parameters())
    for _ in range(10):
        optimizer.zero_grad()
        x = torch.randn(32, 64)
        target = teacher(x)  # CONFIRMED MEM603 device 32*(64 + 1024)*4 at peak
        loss = F.mse_loss(student(x), target)
        loss.backward()
        optimizer.step()


main()
