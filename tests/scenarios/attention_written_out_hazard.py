"""Attention that is written out: scores, and weights of all heads, are saved for the backward."""

import torch
from torch import nn

BATCH, HEADS, TOKENS, WIDTH = 2, 4, 256, 64


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.head = nn.Linear(WIDTH, 1)
        self.scale = (WIDTH // HEADS) ** -0.5

    def forward(self, x):
        q, k, v = self.qkv(x).reshape(BATCH, TOKENS, 3, HEADS, -1).permute(2, 0, 3, 1, 4).unbind(0)
        scores = (q @ k.transpose(-2, -1)) * self.scale
        weights = scores.softmax(dim=-1)  # CONFIRMED MEM503 device 2*4*256*256*4 at peak
        x = (weights @ v).transpose(1, 2).reshape(BATCH, TOKENS, WIDTH)
        return self.head(x)


def main():
    model = Block()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    for _ in range(6):
        optimizer.zero_grad()
        model(torch.randn(BATCH, TOKENS, WIDTH)).mean().backward()
        optimizer.step()


main()
