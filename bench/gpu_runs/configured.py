"""Trains one small configuration for a few steps and prints, as JSON, what the allocator and the driver have seen.

configured.py MODEL OPTIMIZER PRECISION CHECKPOINTING BATCH
"""

from __future__ import annotations

import json
import sys
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

STEPS = 4
LENGTH, VOCABULARY, WIDTH = 256, 32000, 512


class Residual(nn.Module):
    """Two 3x3 convolutions with batch norm around a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.relu(x + self.body(x))


class Attention(nn.Module):
    """A causal transformer block before which each part is normalised."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, width = x.shape
        q, k, v = self.qkv(self.first(x)).view(batch, length, 3, 8, width // 8).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, length, width))
        return x + self.mlp(self.second(x))


class Adapted(nn.Module):
    """A frozen linear layer with a low-rank adapter."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer = layer.requires_grad_(requires_grad=False)
        self.down = nn.Linear(layer.in_features, 8, bias=False)
        self.up = nn.Linear(8, layer.out_features, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x) + self.up(self.down(x))


class Blocks(nn.Module):
    """What comes before, the blocks, what comes after."""

    def __init__(self, before: nn.Module, blocks: list[nn.Module], after: nn.Module, *, recompute: bool) -> None:
        super().__init__()
        self.before, self.blocks, self.after = before, nn.ModuleList(blocks), after
        self.recompute = recompute

    def forward(self, x: torch.Tensor) -> Any:
        x = self.before(x)
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False) if self.recompute else block(x)
        return self.after(x)


class Recurrent(nn.Module):
    """An LSTM language model."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(VOCABULARY, WIDTH)
        self.lstm = nn.LSTM(WIDTH, WIDTH, num_layers=2, batch_first=True)
        self.head = nn.Linear(WIDTH, VOCABULARY)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.lstm(self.words(x))[0])


class UNet(nn.Module):
    """Down twice, up twice, with the skipped connections."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Conv2d(3, 64, 3, padding=1), nn.Conv2d(64, 3, 3, padding=1)
        self.high, self.middle, self.low = Residual(64), Residual(128), Residual(256)
        self.down = nn.ModuleList([nn.Conv2d(64, 128, 2, stride=2), nn.Conv2d(128, 256, 2, stride=2)])
        self.up = nn.ModuleList([nn.ConvTranspose2d(256, 128, 2, stride=2), nn.ConvTranspose2d(128, 64, 2, stride=2)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        high = self.high(self.enter(x))
        middle = self.middle(self.down[0](high))
        low = self.low(self.down[1](middle))
        return self.leave(high + self.up[1](middle + self.up[0](low)))


def build(kind: str, *, recompute: bool) -> nn.Module:
    """The model of this name."""
    if kind == "cnn":
        after = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 100))
        return Blocks(nn.Conv2d(3, 128, 7, stride=2), [Residual(128) for _ in range(8)], after, recompute=recompute)
    if kind == "rnn":
        return Recurrent()
    if kind == "unet":
        return UNet()
    blocks: list[nn.Module] = [Attention(WIDTH) for _ in range(8)]
    model = Blocks(nn.Embedding(VOCABULARY, WIDTH), blocks, nn.Linear(WIDTH, VOCABULARY), recompute=recompute)
    if kind == "lora":
        model.requires_grad_(requires_grad=False)
        for block in blocks:
            block.qkv = Adapted(block.qkv)
    return model


def batch_of(kind: str, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs and targets on the host."""
    if kind in ("transformer", "lora", "rnn"):
        words = torch.randint(0, VOCABULARY, (size, LENGTH))
        return words, words.clone()
    images = torch.randn(size, 3, 64, 64)
    return images, images.clone() if kind == "unet" else torch.randint(0, 100, (size,))


def loss_of(kind: str, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Pixels against pixels, or classes."""
    if kind == "unet":
        return functional.mse_loss(output, target.to(output.dtype))
    return functional.cross_entropy(output.flatten(0, -2), target.flatten())


def main() -> None:
    """One run."""
    kind, name, precision, checkpointing, size = sys.argv[1:6]
    free = torch.cuda.mem_get_info()[0]
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    model = build(kind, recompute=checkpointing == "yes").to("cuda", dtype)
    trained = [each for each in model.parameters() if each.requires_grad]
    options = {"fused": True} if name == "AdamW-fused" else {}
    optimizer = getattr(torch.optim, name.partition("-")[0])(trained, lr=1e-3, **options)
    for _ in range(STEPS):
        inputs, target = (each.cuda() for each in batch_of(kind, int(size)))
        inputs = inputs.to(dtype) if inputs.is_floating_point() else inputs
        with torch.autocast("cuda", dtype=torch.bfloat16, enabled=precision == "amp"):
            loss = loss_of(kind, model(inputs), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.cuda.synchronize()
    seen = {
        "allocated": torch.cuda.max_memory_allocated(),
        "reserved": torch.cuda.max_memory_reserved(),
        "driver": free - torch.cuda.mem_get_info()[0],
    }
    print(json.dumps(seen))


main()
