"""L-BFGS keeps two copies of all parameters for each of its last hundred iterations."""

import torch
import torch.nn.functional as F
from torch import nn


def main():
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = nn.Sequential(nn.Linear(128, 256, bias=False), nn.Tanh(), nn.Linear(256, 16, bias=False)).to(device)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=1)  # CONFIRMED MEM705 device 2*(128+16)*256*4 per step
    x, y = torch.randn(64, 128, device=device), torch.randn(64, 16, device=device)

    def closure():
        optimizer.zero_grad()
        loss = F.mse_loss(model(x), y)
        loss.backward()
        return loss

    for _ in range(12):
        optimizer.step(closure)


main()
