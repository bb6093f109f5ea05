"""A recurrent state that is never detached: every step keeps the graphs of all steps before."""

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
        state = cell(x, state)  # CONFIRMED MEM107 device 8*(16 + 64 + 3*64 + 3*64)*4 per execution
        loss = F.mse_loss(head(state), x)
        loss.backward(retain_graph=True)
        # Stepping would change weights that the older graphs need.


main()
