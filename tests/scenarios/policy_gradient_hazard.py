"""REINFORCE: the entropies of all episodes are kept, each with its part of the graph."""

import torch
from torch import nn
from torch.distributions import Categorical


def main():
    policy = nn.Sequential(nn.Linear(8, 128), nn.ReLU(), nn.Linear(128, 4))
    optimizer = torch.optim.Adam(policy.parameters(), lr=1e-2)
    log_probs = []
    entropies = []
    for _ in range(10):
        optimizer.zero_grad()
        returns = []
        for _ in range(6):
            probabilities = policy(torch.randn(1, 8)).softmax(dim=1)
            action = Categorical(probabilities)
            choice = action.sample()
            log_probs.append(action.log_prob(choice))
            # CONFIRMED MEM102 device anything per step entropies
            entropies.append(-(probabilities * probabilities.log()).sum())
            returns.append(float(choice))
        loss = -(torch.cat(log_probs) * torch.tensor(returns)).mean()
        loss.backward()
        optimizer.step()
        log_probs.clear()
    print(len(entropies))


main()
