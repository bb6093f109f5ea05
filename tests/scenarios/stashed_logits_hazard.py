"""Logits kept after their backward: the tensors stay, the activations do not."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Trainer:
    def __init__(self):
        self.model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 100))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), foreach=False)
        self.history = []

    def step(self, x, y):
        self.optimizer.zero_grad()
        logits = self.model(x)
        loss = F.cross_entropy(logits, y)
        loss.backward()
        self.optimizer.step()
        self.history.append(logits)  # CONFIRMED MEM102 device 32*100*4 per step

    def fit(self, loader, epochs):
        for _ in range(epochs):
            for x, y in loader:
                self.step(x, y)


if __name__ == "__main__":
    data = TensorDataset(torch.randn(320, 64), torch.randint(100, (320,)))
    Trainer().fit(DataLoader(data, batch_size=32, shuffle=True), epochs=2)
