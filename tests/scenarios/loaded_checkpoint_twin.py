"""A checkpoint that was saved from a GPU goes to the host, where it is copied from."""

import tempfile
from pathlib import Path

import torch
from torch import nn

device = "cuda" if torch.cuda.is_available() else "cpu"
if device == "cpu":
    # A stand-in for a GPU: storages are saved as if they were on one, and loaded as if there was one.
    torch.serialization.register_package(1, lambda _: "cuda:0", lambda each, at: each if at == "cuda:0" else None)


def main():
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.pt"
        torch.save(nn.Linear(64, 64).to(device).state_dict(), path)
        model = nn.Linear(64, 64).to(device)
        model.load_state_dict(torch.load(path, map_location="cpu"))  # REFUTED MEM801
    with torch.no_grad():
        print(model(torch.randn(4, 64, device=device)).sum())


main()
