"""Features that are collected by torch.cat, batch by batch: at the last one, old and new are there together."""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


@torch.no_grad()
def extract(encoder: nn.Module, loader: DataLoader):
    features = torch.empty(0, 1024)
    for (x,) in loader:
        batch = encoder(x)
        # CONFIRMED MEM812 device (5+6)*32*1024*4 at peak; CONFIRMED MEM604 device 32*1024*4 per execution
        features = torch.cat([features, batch])
    return features


def main():
    encoder = nn.Linear(16, 1024)
    loader = DataLoader(TensorDataset(torch.randn(6 * 32, 16)), batch_size=32)
    print(extract(encoder, loader).shape)


main()
