"""The same sum where no graph is recorded, as the caller says."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def validate(model, loader):
    model.eval()
    total = 0
    for x, y in loader:
        total = total + F.cross_entropy(model(x), y)  # REFUTED MEM101 total; REFUTED MEM601
    return float(total) / len(loader)


def main():
    model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))
    data = TensorDataset(torch.randn(192, 64), torch.randint(10, (192,)))
    with torch.inference_mode():
        print(validate(model, DataLoader(data, batch_size=32)))


main()
