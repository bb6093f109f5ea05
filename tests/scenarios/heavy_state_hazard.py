"""Adam keeps two numbers for each parameter, which is more than a quarter of a small device."""

# device: 4MiB
import torch
import torch.nn.functional as F
from torch import nn


def main():
    device = "cuda" if torch.cuda.is_available() else "cpu"
    # CONFIRMED MEM702 device 8 * 2 * 256 * 512 at peak
    model = nn.Sequential(nn.Linear(256, 512, bias=False), nn.ReLU(), nn.Linear(512, 256, bias=False)).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, foreach=False)
    for _ in range(8):
        x = torch.randn(16, 256, device=device)
        F.mse_loss(model(x), x).backward()
        optimizer.step()
        optimizer.zero_grad()


main()
