"""The scores of a language model have no name, and are gone when the backward no longer needs them."""

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
        loss = F.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten())  # REFUTED MEM110 loss
        loss.backward()
        optimizer.step()


main()
