"""The loss is computed in chunks of a few tokens."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

TOKENS, WORDS = 64, 40000


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(WORDS, 8)
        self.head = nn.Linear(8, WORDS)

    def loss(self, hidden, labels):
        return F.cross_entropy(self.head(hidden), labels, reduction="sum")

    def forward(self, ids, labels):
        hidden = self.words(ids)
        total = 0
        for part, wanted in zip(hidden.split(4), labels.split(4), strict=True):
            total = total + checkpoint(self.loss, part, wanted, use_reentrant=False)
        return total / len(labels)  # REFUTED MEM506


def main():
    model = Model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(5):
        ids = torch.randint(WORDS, (TOKENS,))
        optimizer.zero_grad()
        model(ids, ids.roll(-1)).backward()
        optimizer.step()


main()
