"""Inference without an optimizer: every score keeps the activations behind it."""

import torch
from torch import nn


def main():
    model = nn.Sequential(
        nn.Conv1d(4, 32, 5), nn.ReLU(), nn.Conv1d(32, 32, 5), nn.ReLU(), nn.Flatten(), nn.Linear(32 * 56, 2)
    )
    model.eval()
    scores = []
    for _ in range(8):
        signal = torch.randn(16, 4, 64)
        # CONFIRMED MEM102 device (16*4*64 + 16*32*60 + 16*32*56 + 16*2)*4 per execution
        # CONFIRMED MEM601 device (16*4*64 + 16*32*60 + 16*32*56)*4 at peak
        scores.append(model(signal).softmax(dim=1)[:, 1])
    print(torch.cat(scores).mean().item())


main()
