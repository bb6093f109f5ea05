"""Synthetic sensor recordings, the data of every example: nothing is downloaded.

A recording is a sum of noisy waves on eight channels; its regime, the class to predict, is their frequency.
"""

from __future__ import annotations

import torch
from torch.utils.data import DataLoader, TensorDataset

CHANNELS = 8
REGIMES = 12
SAMPLES = 128


def make_signals(count: int, seed: int, samples: int = SAMPLES) -> TensorDataset:
    """``count`` recordings of shape ``(CHANNELS, samples)``, float32, each with its regime in ``range(REGIMES)``."""
    generator = torch.Generator().manual_seed(seed)
    regimes = torch.randint(REGIMES, (count,), generator=generator)
    time = torch.arange(samples) / SAMPLES
    phases = torch.rand(count, CHANNELS, 1, generator=generator)
    waves = torch.sin(2 * torch.pi * (4 * (regimes[:, None, None] + 1) * time + phases))
    noise = torch.randn(count, CHANNELS, samples, generator=generator)
    return TensorDataset(waves + 0.5 * noise, regimes)


def make_loader(count: int, seed: int, batch_size: int = 32, shuffle: bool = False) -> DataLoader:
    """Batches of ``(signal, regime)``; the order of a shuffled loader depends on ``seed`` alone."""
    generator = torch.Generator().manual_seed(seed)
    return DataLoader(make_signals(count, seed), batch_size=batch_size, shuffle=shuffle, generator=generator)
