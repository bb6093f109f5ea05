"""Losses over pairs of samples are told from products with weights, attention and searches."""

from __future__ import annotations

import ast

import pytest

from memlint.model.coupled_losses import couples_samples

_COUPLED = {
    "clip": """
def loss(image, text, scale):
    logits = scale * image @ text.t()
    labels = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.t(), labels)) / 2
""",
    "module": """
class Loss(nn.Module):
    def __init__(self):
        self.ce = nn.CrossEntropyLoss()
        self.targets = torch.arange(64)
    def forward(self, q, k):
        return self.ce(self.score(q, k), self.targets.to(q.device) + 64 * self.rank)
""",
    "supcon": """
def forward(features, mask, temperature):
    anchor_dot_contrast = torch.div(torch.matmul(features, features.T), temperature)
    return anchor_dot_contrast
""",
    "simclr": """
class NTXent(nn.Module):
    def sim(self, a, b):
        return self.cos(a.unsqueeze(1), b.unsqueeze(0))
    def other(self, a, b):
        return F.cosine_similarity(a[:, None], b[None, :], dim=-1)
""",
    "pairs by einsum": """
def step(q, k):
    scores = torch.einsum("nc,mc->nm", q, k)
    return -F.log_softmax(scores, 1).diag().mean()
""",
    "barlow": """
def loss(z1, z2):
    c = z1.T @ z2
    return (torch.diagonal(c) - 1).pow(2).sum()
""",
    "encoded": """
class M(nn.Module):
    def forward(self, a, b):
        x, y = self.encoder(a), self.other(b)
        z = self.head(x)
        return F.cross_entropy(z @ y.t() / self.temperature, self.labels)
""",
    "scaled": """
class M(nn.Module):
    def forward(self, a, b):
        logits = self.logit_scale.exp() * a @ b.t()
        return F.cross_entropy(logits, self.labels)
""",
    "gathered": """
def loss(x, y):
    xs = gather(x)
    s = x @ xs.t()
    return -torch.logsumexp(s, 1).mean()
""",
}
_OTHERS = {
    "attention": """
def forward(self, q, k, v):
    return F.softmax(q @ k.transpose(-2, -1), -1) @ v
""",
    "tied": """
class M(nn.Module):
    def forward(self, x):
        logits = x @ self.wte.weight.T
        return F.cross_entropy(logits, self.y)
""",
    "head": """
class M(nn.Module):
    def __init__(self):
        self.head = nn.Parameter(torch.zeros(5, 3))
    def forward(self, x, y):
        return F.cross_entropy(torch.matmul(x, self.head.t()), y)
""",
    "normalised head": """
class ArcFace(nn.Module):
    def __init__(self):
        self.weight = nn.Parameter(torch.zeros(5, 3))
    def forward(self, x, y):
        w = F.normalize(self.weight)
        return F.cross_entropy(F.normalize(x) @ w.t(), y)
""",
    "named parameter": """
class ArcFace(nn.Module):
    def __init__(self):
        self.kernel = nn.Parameter(torch.zeros(5, 3))
    def forward(self, x, y):
        w = F.normalize(self.kernel)
        return F.cross_entropy(F.normalize(x) @ w.t(), y)
""",
    "queue": """
class MoCo(nn.Module):
    def forward(self, q, k):
        l = torch.einsum("nc,kc->nk", q, self.queue.clone().detach())
        return F.cross_entropy(torch.cat([l, l]), torch.zeros(len(q), dtype=torch.long))
""",
    "buffer": """
class VQ(nn.Module):
    def __init__(self):
        self.register_buffer("book", torch.randn(3, 4))
    def forward(self, z):
        return (z @ self.book.t()).softmax(1)
""",
    "numpy": """
def f(a, b):
    return np.exp(a @ b.T)
""",
    "search": """
@torch.no_grad()
def zero_shot(image, text):
    return (image @ text.T).softmax(-1)
def nearest(a, b):
    return (a @ b.t()).topk(5)
""",
    "positions": """
def forward(self, x):
    pos = torch.arange(x.shape[1])
    return self.wpe(pos) + x
""",
    "classify": """
loss = F.cross_entropy(model(x), y)
""",
    "einsum attention": """
def f(q, k):
    return torch.einsum("bhid,bhjd->bhij", q, k).softmax(-1)
""",
    "codebook": """
class Quantizer(nn.Module):
    def __init__(self):
        self.codebook = nn.Embedding(4, 5)
    def forward(self, z):
        return (z @ self.codebook.weight.t()).softmax(1), torch.cdist(z, self.codebook.weight)
""",
}


_IMPORTS = """
import math
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
"""


@pytest.mark.parametrize("text", _COUPLED.values(), ids=_COUPLED)
def test_samples_are_compared_with_each_other(text: str) -> None:
    assert _couples(_IMPORTS + text)


@pytest.mark.parametrize("text", _OTHERS.values(), ids=_OTHERS)
def test_what_looks_alike_is_none(text: str) -> None:
    assert not _couples(_IMPORTS + text)


_PRODUCT = """
class Scores(nn.Module):
    def forward(self, x, y):
        table = norm.normalize(self.rows)
        return torch.matmul(x, table.t()).softmax(-1)
"""


def test_weights_are_those_that_a_function_of_torch_is_given_whatever_its_module_is_called() -> None:
    assert not _couples(f"import torch\nfrom torch import nn\nimport torch.nn.functional as norm\n{_PRODUCT}")
    assert _couples(f"import torch\nfrom torch import nn\nimport mine as norm\n{_PRODUCT}")


def _couples(text: str) -> bool:
    return couples_samples(text, ast.parse(text))
