"""The scores of a language model get no name, and are gone when the backward no longer needs them."""

import torch
import torch.nn.functional as F
from torch import nn

BATCH, TOKENS, WORDS, WIDTH = 2, 32, 32000, 8


class Model(nn.Module):
    def __init__(self, vocab_size):
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, WIDTH)
        self.lm_head = nn.Linear(WIDTH, vocab_size)

    def forward(self, tokens, targets):
        logits = self.lm_head(self.embedding(tokens))
        loss = F.cross_entropy(logits.view(-1, logits.size(-1)), targets.view(-1))
        return logits, loss


def main():
    model = Model(WORDS)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(6):
        optimizer.zero_grad()
        tokens = torch.randint(WORDS, (BATCH, TOKENS))
        loss = model(tokens, tokens)[1]  # REFUTED MEM110 loss
        loss.backward()
        optimizer.step()


main()
