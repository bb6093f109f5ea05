"""MEM504."""

from __future__ import annotations

from collections.abc import Iterator

from memlint.findings import Applicability, Claim, ClaimShape, Finding, Fix, Severity, Watch
from memlint.model.attention_modules import computes_unused_weights
from memlint.model.program import Program
from memlint.model.source_text import code
from memlint.rule import Rule


class MhaWeightsComputedAndDropped(Rule):
    """`nn.MultiheadAttention` computes attention weights that nobody uses.

    ## What it does
    Finds calls of an `nn.MultiheadAttention` without `need_weights` whose second result is dropped.

    ## Why is this bad?
    By default `need_weights` is true. The weights of all heads are then computed as a tensor of `B * H * T * T`
    numbers, which autograd saves, and averaged for the caller. With `need_weights=False` the module calls
    `scaled_dot_product_attention`, which holds no such tensor. For a batch of 4, 8 heads and 512 tokens, 53.0 MiB were
    alive after the forward with the weights and 15.1 MiB without; the peak fell from 117.3 to 27.3 MiB (measured with
    torch 2.13 on a CPU).

    ## Example
    ```python
    y, _ = self.attention(x, x, x)
    ```

    ## Use instead
    ```python
    y, _ = self.attention(x, x, x, need_weights=False)
    ```

    ## Fix safety
    Safe: the output is the same up to rounding (6e-8 in a measurement), and the second result becomes `None`.

    ## When to ignore
    When a forward hook that memlint does not see reads the weights.

    ## References
    - [MultiheadAttention](https://docs.pytorch.org/docs/stable/generated/torch.nn.MultiheadAttention.html)
    - [pytorch#100347](https://github.com/pytorch/pytorch/issues/100347),
      [RT-DETR#680](https://github.com/lyuwenyu/RT-DETR/pull/680)
    """

    code = "MEM504"
    name = "mha-weights-computed-and-dropped"
    severity = Severity.WARNING
    gate = frozenset({"MultiheadAttention"})
    fixers = ("add_argument",)
    positive = (
        """
from torch import nn
class Block(nn.Module):
    def __init__(self, d, h):
        super().__init__()
        self.attention = nn.MultiheadAttention(d, h, batch_first=True)
    def forward(self, x, mask):
        y, _ = self.attention(x, x, x, key_padding_mask=mask)  # MEM504: 16
        return x + y
""",
        """
import torch
class Block(torch.nn.Module):
    def __init__(self, d, h):
        super().__init__()
        self.attn = torch.nn.MultiheadAttention(d, h)
    def forward(self, q, k, v):
        return self.attn(q, k, v)[0]  # MEM504
""",
        """
from torch.nn import Module, MultiheadAttention
class Encoder(Module):
    def __init__(self, d, h, n):
        super().__init__()
        self.first, self.repeat = MultiheadAttention(d, h), n
    def forward(self, x):
        for _ in range(self.repeat):
            out = self.first(x, x, x)  # MEM504
            x = x + out[0]
        return x
""",
        """
from torch import nn
class Decoder(nn.Module):
    def __init__(self, d, h, n):
        super().__init__()
        self.own = nn.ModuleList(nn.MultiheadAttention(d, h) for _ in range(n))
        self.cross = nn.ModuleList()
        for _ in range(n):
            self.cross.append(nn.MultiheadAttention(d, h))
    def forward(self, x, memory):
        for own, cross in zip(self.own, self.cross):
            x = x + own(x, x, x)[0]  # MEM504
            x = x + cross(x, memory, memory)[0]  # MEM504
        y, _ = self.own[0](x, x, x)  # MEM504
        return y
""",
        """
from torch import nn
class Block(nn.Module):
    def __init__(self, d, h):
        super().__init__()
        self.attention = nn.MultiheadAttention(d, h)
    def forward(self, x, **options):
        y, weights = self.attention(x, x, x, **options)  # MEM504?
        return y
""",
        """
from torch import nn
attention = nn.MultiheadAttention(64, 4)
def hook(module, args, output):
    print(output[1].shape)
def run(x, modules):
    for module in modules:
        module.register_forward_hook(hook)
    return attention(x, x, x)[0]  # MEM504?
""",
        """
from torch import nn
attention = nn.MultiheadAttention(64, 4)
def maps(x):
    found = []
    attention.register_forward_hook(lambda module, args, output: found.append(output[1]))
    y, _ = attention(x, x, x)  # MEM504?
    return y, found
""",
    )
    negative = (
        """
from torch import nn
class Block(nn.Module):
    def __init__(self, d, h):
        super().__init__()
        self.attention = nn.MultiheadAttention(d, h)
        self.weights = None
    def forward(self, x):
        a, _ = self.attention(x, x, x, need_weights=False)
        b, self.weights = self.attention(a, a, a)
        c, w = self.attention(b, b, b)
        d, _ = self.attention(c, c, c, average_attn_weights=False)
        e = self.attention(d, d, d, None, False)[0]
        return e, w.mean()
""",
        """
from torch import nn
class Block(nn.Module):
    def __init__(self, d, h):
        super().__init__()
        self.attention = nn.MultiheadAttention(d, h)
    def forward(self, x):
        return self.attention(x, x, x)
""",
        """
from torch import nn
class MultiheadAttention(nn.Module):
    def forward(self, q, k, v):
        return q * k + v, None
class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = MultiheadAttention()
    def forward(self, x):
        y, _ = self.attention(x, x, x)
        return y
""",
        """
from torch import nn
class Mixed(nn.Module):
    def __init__(self, d, h, layers):
        super().__init__()
        self.mixed = nn.ModuleList([nn.MultiheadAttention(d, h), nn.LSTM(d, d)])
        self.given = nn.ModuleList(layers)
    def forward(self, x):
        for layer in (*self.mixed, *self.given):
            x = layer(x, x, x)[0]
        return x, self.mixed[1](x)[0], self.given[0](x, x, x)[0]
""",
        """
from torch import nn
attention = nn.MultiheadAttention(64, 4)
def run(x):
    y, weights = attention(x, x, x)
    def show():
        return weights.mean()
    return y, show
""",
    )

    def check(self, program: Program) -> Iterator[Finding]:
        for call in program.calls():
            confidence = computes_unused_weights(call)
            if confidence is not None:
                yield self.finding(
                    call.node,
                    f"`{code(call.node.func)}` computes the attention weights of all heads, and nothing uses them",
                    holds="the attention weights of all heads, a number for each pair of tokens, until the backward",
                    confidence=confidence,
                    fixes=(
                        Fix(
                            "add_argument",
                            "Compute no weights: `need_weights=False`",
                            Applicability.SAFE,
                            {"call": call.node},
                            {"code": "need_weights=False"},
                        ),
                    ),
                    claim=Claim(
                        ClaimShape.PRESENT, "device", "B * H * T * T * E", held=call.node, watch=Watch.ATTENTION_WEIGHTS
                    ),
                )
