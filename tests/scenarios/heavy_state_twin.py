"""Without momentum SGD keeps nothing for a parameter."""

# device: 4MiB
import torch
import torch.nn.functional as F
from torch import nn


def main():
    device = "cuda" if torch.cuda.is_available() else "cpu"
    # REFUTED MEM702
    model = nn.Sequential(nn.Linear(256, 512, bias=False), nn.ReLU(), nn.Linear(512, 256, bias=False)).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(8):
        x = torch.randn(16, 256, device=device)
        F.mse_loss(model(x), x).backward()
        optimizer.step()
        optimizer.zero_grad()


main()
