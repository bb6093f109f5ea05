"""The whole loop runs in one autocast context, which keeps its casts of the weights from before the first step."""

import torch
import torch.nn.functional as F
from torch import nn


def main():
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = nn.Sequential(nn.Linear(64, 512, bias=False), nn.ReLU(), nn.Linear(512, 64, bias=False)).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, foreach=False)
    with torch.autocast(device, dtype=torch.bfloat16):  # CONFIRMED MEM401 device 2 * 64 * 512 * 4 / 2 at peak
        for _ in range(8):
            x = torch.randn(16, 64, device=device)
            loss = F.mse_loss(model(x).float(), x)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()


main()
