"""REINFORCE: what an episode needs is let go after its update."""

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
            entropies.append(-(probabilities * probabilities.log()).sum())  # REFUTED MEM102 entropies
            returns.append(float(choice))
        loss = -(torch.cat(log_probs) * torch.tensor(returns)).mean()
        loss.backward()
        optimizer.step()
        log_probs.clear()
        entropies.clear()
    print(len(entropies))


main()
