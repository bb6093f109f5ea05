"""Evaluation records a graph for nothing."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def accuracy(model, loader):
    model.eval()
    correct = 0
    for x, y in loader:
        logits = model(x)  # CONFIRMED MEM601 device 64*(64 + 512 + 512)*4 at peak
        correct += (logits.argmax(dim=1) == y).sum().item()
    return correct / len(loader.dataset)


def main():
    model = nn.Sequential(nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10))
    optimizer = torch.optim.AdamW(model.parameters())
    data = TensorDataset(torch.randn(256, 64), torch.randint(10, (256,)))
    for _ in range(3):
        model.train()
        for x, y in DataLoader(data, batch_size=32):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
        print(accuracy(model, DataLoader(data, batch_size=64)))


main()
