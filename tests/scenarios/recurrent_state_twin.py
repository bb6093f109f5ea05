"""Truncated backpropagation through time: the state is cut before each step."""

import torch
import torch.nn.functional as F
from torch import nn


def main():
    cell = nn.GRUCell(16, 64)
    head = nn.Linear(64, 16)
    optimizer = torch.optim.SGD([*cell.parameters(), *head.parameters()], lr=0.01)
    state = torch.zeros(8, 64)
    for _ in range(10):
        optimizer.zero_grad()
        x = torch.randn(8, 16)
        state = cell(x, state.detach())  # REFUTED MEM107 state
        loss = F.mse_loss(head(state), x)
        loss.backward()
        optimizer.step()


main()
