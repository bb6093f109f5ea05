"""Accelerate: a smoothed loss drags all graphs along."""

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def main():
    accelerator = Accelerator(cpu=True)
    model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 4))
    optimizer = torch.optim.AdamW(model.parameters(), foreach=False)
    data = TensorDataset(torch.randn(320, 32), torch.randint(4, (320,)))
    model, optimizer, loader = accelerator.prepare(model, optimizer, DataLoader(data, batch_size=16))
    smoothed = torch.zeros((), device=accelerator.device)
    for x, y in loader:
        loss = F.cross_entropy(model(x), y)
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        smoothed = 0.9 * smoothed + 0.1 * loss  # CONFIRMED MEM101 host 10 * NODE per step
    accelerator.print(smoothed)


if __name__ == "__main__":
    main()
