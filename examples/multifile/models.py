"""The model: an encoder and a classifying head."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Encoder(nn.Module):
    """A recording of shape ``(batch, channels, samples)`` becomes one vector of ``width`` features."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv1d(channels, width, kernel_size=5, padding=2),
            nn.GELU(),
            nn.Conv1d(width, width, kernel_size=5, padding=2),
            nn.GELU(),
        )

    def forward(self, signal: Tensor) -> Tensor:
        return self.layers(signal).mean(dim=2)


class RegimeClassifier(nn.Module):
    """Returns the logits together with the features that they were computed from."""

    def __init__(self, channels: int, regimes: int, width: int = 32) -> None:
        super().__init__()
        self.encoder = Encoder(channels, width)
        self.head = nn.Linear(width, regimes)

    def forward(self, signal: Tensor) -> tuple[Tensor, Tensor]:
        features = self.encoder(signal)
        return self.head(features), features


def load_encoder(model: RegimeClassifier, path: str, device: torch.device) -> None:
    """Starts from the encoder of an earlier run."""
    model.encoder.load_state_dict(torch.load(path, map_location=device))
