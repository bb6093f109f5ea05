"""The cache of the allocator is emptied between training and evaluation."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def main():
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = nn.Linear(64, 64).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loader = DataLoader(TensorDataset(torch.randn(128, 64)), batch_size=32)
    for _ in range(3):
        for (x,) in loader:
            x = x.to(device)
            F.mse_loss(model(x), x).backward()
            optimizer.step()
            optimizer.zero_grad()
        torch.cuda.empty_cache()  # REFUTED MEM803


main()
