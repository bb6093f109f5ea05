"""A hook collects a number for what a layer returns."""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def watch(layer: nn.Module, norms: list):
    def keep(_module, _args, output):
        norms.append(output.norm().item())  # REFUTED MEM106 norms

    layer.register_forward_hook(keep)


@torch.no_grad()
def main():
    model = nn.Sequential(nn.Linear(8, 64), nn.Sigmoid(), nn.Linear(64, 1))
    norms = []
    watch(model[1], norms)
    for (x,) in DataLoader(TensorDataset(torch.randn(8 * 16, 8)), batch_size=16):
        model(x)
    print(len(norms))


main()
