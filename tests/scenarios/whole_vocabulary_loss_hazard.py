"""The scores of all words are made and saved for nothing but a loss."""

import torch
import torch.nn.functional as F
from torch import nn

TOKENS, WORDS = 64, 40000


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(WORDS, 8)
        self.head = nn.Linear(8, WORDS)

    def forward(self, ids, labels):
        scores = self.head(self.words(ids))
        return F.cross_entropy(scores, labels)  # CONFIRMED MEM506 device 64*40000*4 at peak


def main():
    model = Model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(5):
        ids = torch.randint(WORDS, (TOKENS,))
        optimizer.zero_grad()
        model(ids, ids.roll(-1)).backward()
        optimizer.step()


main()
