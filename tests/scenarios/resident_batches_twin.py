"""Of each batch that is moved, one number is kept."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def main():
    data = TensorDataset(torch.randn(6 * 32, 256))
    loader = DataLoader(data, batch_size=32)
    means = []
    for (x,) in loader:
        means.append(x.to(device).mean().item())  # REFUTED MEM304 means
    model = nn.Linear(256, 256).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for (x,) in loader:
        x = x.to(device) - means[0]
        optimizer.zero_grad()
        F.mse_loss(model(x), x).backward()
        optimizer.step()


main()
