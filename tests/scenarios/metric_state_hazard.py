"""A curve that needs all scores is fed in the training, and another one in evaluation after evaluation."""

import torch
import torch.nn.functional as F
from torch import nn
from torchmetrics.classification import BinaryAUROC


def main():
    model = nn.Linear(16, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    curve = BinaryAUROC()  # CONFIRMED MEM606 device 512*(4 + 8) per step
    for _ in range(10):
        x, y = torch.randn(512, 16), torch.randint(2, (512,))
        optimizer.zero_grad()
        scores = model(x).squeeze(1)
        F.binary_cross_entropy_with_logits(scores, y.float()).backward()
        optimizer.step()
        curve.update(scores.detach(), y)
    print(curve.compute())


main()
