"""Inference in inference mode."""

import torch
from torch import nn


@torch.inference_mode()
def main():
    model = nn.Sequential(
        nn.Conv1d(4, 32, 5), nn.ReLU(), nn.Conv1d(32, 32, 5), nn.ReLU(), nn.Flatten(), nn.Linear(32 * 56, 2)
    )
    model.eval()
    scores = []
    for _ in range(8):
        signal = torch.randn(16, 4, 64)
        scores.append(model(signal).softmax(dim=1)[:, 1])  # REFUTED MEM102 scores; REFUTED MEM601
    print(torch.cat(scores).mean().item())


main()
