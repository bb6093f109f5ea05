"""A name keeps the scores of a language model while the backward runs, and until the next ones are there."""

import torch
import torch.nn.functional as F
from torch import nn

BATCH, TOKENS, WORDS, WIDTH = 2, 32, 2000, 16


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(WORDS, WIDTH)
        self.head = nn.Linear(WIDTH, WORDS)

    def forward(self, tokens):
        return self.head(self.embedding(tokens))


def main():
    model = Model()
    optimizer = torch.optim.AdamW(model.parameters())
    for _ in range(6):
        optimizer.zero_grad()
        tokens = torch.randint(WORDS, (BATCH, TOKENS))
        logits = model(tokens)  # CONFIRMED MEM110 device 2*32*2000*4 at peak
        loss = F.cross_entropy(logits.flatten(0, 1), tokens.flatten())
        loss.backward()
        optimizer.step()


main()
