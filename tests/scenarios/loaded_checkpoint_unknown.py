"""A checkpoint of this run, which has no GPU, does not tell where one from a GPU would go."""

import tempfile
from pathlib import Path

import torch
from torch import nn


def main():
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.pt"
        torch.save(nn.Linear(64, 64).state_dict(), path)
        model = nn.Linear(64, 64)
        model.load_state_dict(torch.load(path))  # INCONCLUSIVE MEM801
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    with torch.no_grad():
        print(model(torch.randn(4, 64)).sum())


main()
