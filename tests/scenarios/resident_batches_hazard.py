"""All batches are moved to the device before the first one is used, and stay there."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def main():
    data = TensorDataset(torch.randn(6 * 32, 256))
    batches = []
    for (x,) in DataLoader(data, batch_size=32):
        batches.append(x.to(device))  # CONFIRMED MEM304 device 32*256*4 per execution
    model = nn.Linear(256, 256).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for x in batches:
        optimizer.zero_grad()
        F.mse_loss(model(x), x).backward()
        optimizer.step()


main()
