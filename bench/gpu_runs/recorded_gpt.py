"""One step, or one forward pass, of the language model whose CUDA memory history is in the recorded ``gpt_*`` traces.

    recorded_gpt.py CONTEXT forward|fullstep fp32|mixed OUT

The recorded process made forward passes with contexts of 128, 256 and 512 tokens and then whole steps with the same; so
does this one, up to the run that is asked for, whose peaks (bytes) it writes to OUT.

Written anew from the requests and the lines of the traces (kkaitlyn111/cs336-a2-systems at c1272e18, which calls
modules that are not in that repository): the same operators on the same shapes, 3.4 billion parameters.
"""

from __future__ import annotations

import json
import math
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn

WIDTH, INNER, LAYERS, HEADS, WORDS, BATCH = 2560, 10240, 32, 32, 10000, 4
HEAD = WIDTH // HEADS


class Linear(nn.Module):
    """Without a bias, as an einsum."""

    def __init__(self, out: int, inward: int, **options: Any) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out, inward, **options))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.einsum("...i,oi->...o", x, self.weight)


class RMSNorm(nn.Module):
    """Of the last dimension."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(WIDTH, **options))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        norm = torch.linalg.norm(x, dim=-1, keepdim=True)
        rms = torch.sqrt(norm**2 / WIDTH + 1e-5)
        x = x / rms
        return x * self.weight


class Rotation(nn.Module):
    """Rotary positions, halves interleaved."""

    def __init__(self, length: int, device: torch.device) -> None:
        super().__init__()
        angles = torch.arange(length, device=device)[:, None] / 10000 ** (torch.arange(HEAD // 2, device=device) / HEAD)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        cos = self.cos[positions][:, None]
        sin = self.sin[positions][:, None]
        even, odd = x[..., 0::2], x[..., 1::2]
        out = torch.empty_like(x)
        out[..., 0::2] = even * cos - odd * sin
        out[..., 1::2] = even * sin + odd * cos
        return out


def softmax(x: torch.Tensor) -> torch.Tensor:
    """Of the last dimension."""
    largest = torch.max(x, dim=-1, keepdim=True)[0]
    exponents = torch.exp(x - largest)
    total = torch.sum(exponents, dim=-1, keepdim=True)
    return exponents / total


class Attention(nn.Module):
    """Causal, with its scores."""

    def __init__(self, length: int, **options: Any) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (Linear(WIDTH, WIDTH, **options) for _ in range(4))
        self.rotate = Rotation(length, options["device"])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, _ = x.shape
        query, key, value = self.query(x), self.key(x), self.value(x)
        query, key, value = (each.view(batch, length, HEADS, HEAD).transpose(1, 2) for each in (query, key, value))
        positions = torch.arange(length, device=x.device).unsqueeze(0).expand(batch, -1)
        query = self.rotate(query, positions)
        key = self.rotate(key, positions)
        mask = torch.triu(torch.ones(length, length, device=x.device), diagonal=1).to(torch.bool)
        mask = ~mask
        mask = mask[None, None].expand(batch, HEADS, -1, -1)
        scores = torch.einsum("...qd,...kd->...qk", query, key)
        scores = scores / math.sqrt(HEAD)
        scores = scores.masked_fill(mask == False, -1e9)  # noqa: E712 - it makes a tensor, as it did
        weights = softmax(scores)
        mixed = torch.einsum("...qk,...kd->...qd", weights, value)
        return self.out(mixed.transpose(1, 2).reshape(batch, length, WIDTH))


class Block(nn.Module):
    """Attention and a gated unit, normalised before."""

    def __init__(self, length: int, **options: Any) -> None:
        super().__init__()
        self.first, self.second = RMSNorm(**options), RMSNorm(**options)
        self.attention = Attention(length, **options)
        self.gate, self.up, self.down = (
            Linear(INNER, WIDTH, **options),
            Linear(INNER, WIDTH, **options),
            Linear(WIDTH, INNER, **options),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.first(x)
        h = self.attention(h)
        x = x + h
        h = self.second(x)
        gate, up = self.gate(h), self.up(h)
        h = self.down(gate * torch.sigmoid(gate) * up)
        return x + h


class Model(nn.Module):
    """Words in, scores of words out."""

    def __init__(self, length: int, **options: Any) -> None:
        super().__init__()
        self.words = nn.Parameter(torch.empty(WORDS, WIDTH, **options))
        self.blocks = nn.ModuleList([Block(length, **options) for _ in range(LAYERS)])
        self.last = RMSNorm(**options)
        self.head = Linear(WORDS, WIDTH, **options)

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        x = self.words[words]
        for block in self.blocks:
            x = block(x)
        return self.head(self.last(x))


def cross_entropy(scores: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Mean over all tokens."""
    largest = scores.max(dim=-1, keepdim=True)[0]
    shifted = scores - largest
    total = shifted.exp().sum(dim=-1)
    chosen = torch.gather(shifted, -1, targets.unsqueeze(-1)).squeeze(-1)
    return (total.log() - chosen).mean()


class AdamW(torch.optim.Optimizer):
    """One parameter after the other."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, {})

    def step(self, _closure: Any = None) -> None:
        with torch.no_grad():
            for parameter in (each for group in self.param_groups for each in group["params"]):
                state = self.state[parameter]
                if not state:
                    state["m"] = torch.zeros_like(parameter)
                    state["v"] = torch.zeros_like(parameter)
                state["m"].mul_(0.9).add_(parameter.grad, alpha=0.1)
                state["v"].mul_(0.95).addcmul_(parameter.grad, parameter.grad, value=0.05)
                denominator = state["v"].sqrt() + 1e-8
                parameter.addcdiv_(state["m"], denominator, value=-1e-4)


def run(length: int, how: str, precision: str) -> None:
    """A forward pass or a step of a model of its own."""
    device = torch.device("cuda")
    dtype = torch.bfloat16 if precision == "mixed" else torch.float32
    # Under autocast the parameters of the recorded run were in single precision, as the blocks of its trace are.
    model = Model(length, device=device, dtype=torch.float32)
    optimizer = AdamW(model.parameters())
    words = torch.randint(0, WORDS, (BATCH, length)).to(device)
    with torch.autocast("cuda", dtype=dtype) if precision == "mixed" else nullcontext():
        torch.cuda.reset_peak_memory_stats()
        torch.cuda.empty_cache()
        if how == "forward":
            scores = model(words)
        else:
            optimizer.zero_grad()
            scores = model(words)
            loss = cross_entropy(scores, words)
            loss.backward()
            optimizer.step()
    seen = {"allocated": torch.cuda.max_memory_allocated(), "reserved": torch.cuda.memory_reserved()}
    Path(sys.argv[4]).write_text(json.dumps(seen), "utf-8")


def main() -> None:
    """The runs up to the one that is asked for."""
    for how in ("forward", "fullstep"):
        for length in (128, 256, 512):
            run(length, how, sys.argv[3])
            if (str(length), how) == (sys.argv[1], sys.argv[2]):
                return


main()
