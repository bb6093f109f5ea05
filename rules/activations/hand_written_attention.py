"""MEM503."""

from __future__ import annotations

from collections.abc import Iterator

from memlint.findings import Applicability, Claim, ClaimShape, Finding, Fix, Severity, Watch
from memlint.model.hand_written_attention import Attention, attentions, eager_models
from memlint.model.program import Program
from memlint.rule import Rule


class HandWrittenAttention(Rule):
    """Attention is written out with `softmax`, which saves a number for each pair of positions several times.

    ## What it does
    Finds `softmax(q @ k.transpose(-2, -1) * scale) @ v` in its many forms (`matmul`, `bmm`, `einsum`; with masks,
    biases and dropout), where nothing else reads the weights; and models of transformers that are loaded with
    `attn_implementation="eager"` in files that ask for no attentions.

    ## Why is this bad?
    Autograd saves the scores, the weights and what dropout makes of them, each `B * H * T * T` numbers: two to four
    such tensors for each layer. `scaled_dot_product_attention` computes them block by block and saves none. With 512
    positions, where one such tensor takes 16 MiB, 24 MiB were alive after the forward, 72 MiB with a mask and dropout,
    and 8 MiB with the function (measured with torch 2.13 on a CPU; with dropout the CPU falls back to the written-out
    form).

    ## Example
    ```python
    weights = (q @ k.transpose(-2, -1) * self.scale).softmax(dim=-1)
    x = self.dropout(weights) @ v
    ```

    ## Use instead
    ```python
    dropout = self.dropout.p if self.training else 0.0
    x = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=self.scale)
    ```
    A mask goes in as `attn_mask`: a bias that is added, or booleans that are true where attention is allowed.

    ## Fix safety
    Unsafe: other kernels round differently, and some models of transformers have no other implementation. Attention
    that is written out is not rewritten: what its mask means is for the author to say.

    ## When to ignore
    When there are few positions, as in small windows, or when a hook reads the weights.

    ## References
    - [scaled_dot_product_attention](https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.scaled_dot_product_attention.html)
    - [pytorch#98505](https://github.com/pytorch/pytorch/issues/98505)
    """

    code = "MEM503"
    name = "hand-written-attention"
    severity = Severity.WARNING
    gate = frozenset({"softmax", "Softmax", "attn_implementation"})
    fixers = ("replace_expression",)
    positive = (
        """
import torch
from torch import nn
class Attention(nn.Module):
    def __init__(self, dim, heads, drop):
        super().__init__()
        self.heads, self.scale = heads, (dim // heads) ** -0.5
        self.qkv = nn.Linear(dim, 3 * dim)
        self.drop = nn.Dropout(drop)
    def forward(self, x):
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        attn = (q @ k.transpose(-2, -1)) * self.scale
        attn = attn.softmax(dim=-1)  # MEM503: 16
        attn = self.drop(attn)
        return (attn @ v).transpose(1, 2).reshape(b, n, c)
""",
        """
import math
import torch
import torch.nn.functional as F
def attention(query, key, value, mask=None, training=True):
    scores = torch.matmul(query, key.transpose(-2, -1)) / math.sqrt(query.size(-1))
    if mask is not None:
        scores = scores.masked_fill(mask == 0, -1e9)
    weights = F.dropout(F.softmax(scores, dim=-1), p=0.1, training=training)  # MEM503: 25
    return torch.matmul(weights, value)
""",
        """
from math import sqrt
import torch
from torch import nn
class FullAttention(nn.Module):
    def __init__(self, output_attention=False):
        super().__init__()
        self.output_attention = output_attention
        self.dropout = nn.Dropout(0.1)
    def forward(self, queries, keys, values, attn_mask):
        scores = torch.einsum("blhe,bshe->bhls", queries, keys)
        scores.masked_fill_(attn_mask, float("-inf"))
        weights = self.dropout(torch.softmax(scores / sqrt(64), dim=-1))  # MEM503
        out = torch.einsum("bhls,bshd->blhd", weights, values)
        if self.output_attention:
            return out, weights
        return out, None
""",
        """
import torch
from torch import nn
class Block(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.q, self.k, self.v = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.softmax = nn.Softmax(dim=-1)
    def forward(self, x, bias):
        q = self.q(x) * 0.125
        scores = torch.bmm(q, self.k(x).transpose(1, 2)) + bias
        return torch.bmm(self.softmax(scores), self.v(x))  # MEM503: 26
""",
        """
from transformers import AutoModelForCausalLM
def load(name):
    return AutoModelForCausalLM.from_pretrained(name, attn_implementation="eager")  # MEM503: 12
""",
        """
import torch
from torch import nn
class WindowAttention(nn.Module):
    def __init__(self, window, heads):
        super().__init__()
        self.scale = 0.25
        self.bias = nn.Parameter(torch.zeros(heads, window * window, window * window))
    def forward(self, q, k, v):
        scores = (q * self.scale) @ k.transpose(-2, -1) + self.bias
        return scores.softmax(-1) @ v  # MEM503?
""",
    )
    negative = (
        """
import torch
import torch.nn.functional as F
from torch import nn
class Attention(nn.Module):
    def forward(self, q, k, v, gate):
        weights = (q @ k.transpose(-2, -1) / 8).softmax(-1)
        self.weights = weights.detach()
        x = weights @ v
        gated = (q @ k.transpose(-2, -1) / 8).softmax(-1) * gate
        y = gated @ v
        over_queries = (q @ k.transpose(-2, -1) / 8).softmax(1) @ v
        experts = torch.softmax(self.router(x), dim=-1)
        return F.scaled_dot_product_attention(x, y, v), over_queries, experts @ self.outputs
""",
        """
import torch
import torch.nn.functional as F
class Attention(torch.nn.Module):
    def forward(self, x):
        q, k, v = self.qkv(x).unbind(2)
        if self.fused:
            return F.scaled_dot_product_attention(q, k, v)
        return (q @ k.transpose(-2, -1) * self.scale).softmax(dim=-1) @ v
class Chosen(torch.nn.Module):
    def flash(self, q, k, v):
        return self.kernel(q, k, v)
    def plain(self, q, k, v):
        return (q @ k.transpose(-2, -1) * self.scale).softmax(dim=-1) @ v
class ClassAttention(torch.nn.Module):
    def forward(self, x):
        q, k, v = self.q(x[:, :1]), self.k(x), self.v(x)
        return (q @ k.transpose(-2, -1) * self.scale).softmax(dim=-1) @ v
""",
        """
import torch
def attention(q, k, v):
    weights = torch.softmax(q @ k.transpose(-2, -1) / 8, dim=-1)
    return weights @ v, weights
def pointer(q, k):
    return torch.softmax(q @ k.transpose(-2, -1) / 8, dim=-1)
def contrast(a, b):
    return -torch.log(torch.softmax(a @ b.t() / 0.07, dim=-1).diagonal()).mean()
""",
        """
from transformers import AutoModel
def load(name, data, kind):
    model = AutoModel.from_pretrained(name, attn_implementation="eager")
    other = AutoModel.from_pretrained(name, attn_implementation="sdpa")
    third = AutoModel.from_pretrained(name, attn_implementation=kind)
    return model(**data, output_attentions=True).attentions, other, third
""",
    )

    def check(self, program: Program) -> Iterator[Finding]:
        for attention in attentions(program):
            yield self._written_out(attention)
        for call, confidence in eager_models(program):
            yield self.finding(
                call.node,
                "The eager implementation saves attention weights for each pair of positions, and nothing reads them",
                holds="the attention weights of all heads and layers, until the backward",
                severity=Severity.NOTE,
                confidence=confidence,
                fixes=tuple(
                    Fix(
                        "replace_expression",
                        'Use `"sdpa"`',
                        Applicability.UNSAFE,
                        {"expression": argument.node.value},
                        {"code": '"sdpa"'},
                    )
                    for argument in call.arguments
                    if argument.keyword == "attn_implementation"
                ),
                claim=Claim(
                    ClaimShape.SPIKE,
                    "device",
                    "2 to 4 x B * H * T * T * E for each layer",
                    held=call.node,
                    unobservable="the weights are made where the model runs, not where it is loaded",
                ),
            )

    def _written_out(self, attention: Attention) -> Finding:
        return self.finding(
            attention.softmax.node,
            "Attention is written out: autograd saves its weights for each pair of positions, several times",
            holds="scores and weights of all heads, a number for each pair of positions, until the backward",
            confidence=attention.confidence,
            claim=Claim(
                ClaimShape.PRESENT,
                "device",
                "2 to 4 x B * H * T * T * E",
                held=attention.softmax.node,
                watch=Watch.ATTENTION_WEIGHTS,
            ),
        )
