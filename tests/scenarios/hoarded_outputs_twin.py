"""One number for each batch."""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


@torch.no_grad()
def predict(model, loader):
    model.eval()
    outputs = []
    for (x,) in loader:
        probabilities = model(x).softmax(dim=1)
        outputs.append(probabilities.amax(dim=1).mean())  # REFUTED MEM604 outputs
    return outputs


def main():
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 1000)).to(device)
    loader = DataLoader(TensorDataset(torch.randn(512, 64, device=device)), batch_size=64)
    print(len(predict(model, loader)))


if __name__ == "__main__":
    main()
