"""MEM508."""

from __future__ import annotations

from collections.abc import Iterator

from memlint.findings import Applicability, Claim, ClaimShape, Confidence, Finding, Fix, Severity, Watch
from memlint.model.broadcasting import Pairwise, pairwise_distances
from memlint.model.contractions import expanded_contractions
from memlint.model.program import Program
from memlint.model.source_text import text
from memlint.rule import Rule


class PairwiseBroadcastDistance(Rule):
    """Distances of all pairs are computed from a tensor that holds the difference of each pair.

    ## What it does
    Finds `(a[:, None] - b[None]).pow(2).sum(-1)` in its many forms (`unsqueeze`, `abs`, `norm`), where the differences
    serve for the distances only. It also finds products of `torch.einsum` that serve for a sum only, which another
    `einsum` computes: `einsum("nti,ntj->ntij", a, b)` and then `einsum("ntij->nij", products)`.

    ## Why is this bad?
    The differences are N x M x D numbers, for N x M distances: autograd saves them, and often their squares.
    `torch.cdist` computes the same from products, with no tensor of that size: 1.25 MiB in place of 65 MiB (measured
    with torch 2.13 on a CPU, N = M = 512, D = 64). A contraction in one step (`"nti,ntj->nij"`) needs no tensor with
    the dimension that is summed, either.

    ## Example
    ```python
    distances = (a[:, None] - b[None]).pow(2).sum(-1)
    ```

    ## Use instead
    ```python
    distances = torch.cdist(a, b).square()
    ```

    ## Fix safety
    Unsafe: rounding differs where points are close to each other, and the gradient of a distance of zero is zero.

    ## When to ignore
    When there are few features or few pairs. Where no graph is recorded the differences are freed at once, and the
    finding is only possible. There is no fix for sums of products: the equation is in the message.

    ## References
    - [torch.cdist](https://docs.pytorch.org/docs/stable/generated/torch.cdist.html)
    """

    code = "MEM508"
    name = "pairwise-broadcast-distance"
    severity = Severity.WARNING
    gate = frozenset({"sum", "norm", "mean", "vector_norm", "einsum"})
    fixers = ("replace_expression",)
    positive = (
        """
import torch
def kernel(a: torch.Tensor, b: torch.Tensor, scale):
    distances = (a[:, None] - b[None]).pow(2).sum(-1)  # MEM508: 17
    return torch.exp(-distances / scale)
""",
        """
import torch
def nearest(points: torch.Tensor, centers: torch.Tensor):
    difference = points.unsqueeze(1) - centers.unsqueeze(0)
    return torch.norm(difference, dim=-1).argmin(1)  # MEM508: 12
""",
        """
import torch
def spread(x, y):
    d1 = torch.sum(torch.abs(x[None, :, :] - y[:, None, :]), dim=2)  # MEM508
    d2 = ((x[:, :, None] - y[:, None]) ** 2).mean(dim=-1)  # MEM508
    return d1, d2
""",
        """
import torch
def costs(boxes: torch.Tensor, targets: torch.Tensor):
    return (boxes.detach().unsqueeze(1) - targets.detach().unsqueeze(0)).abs().sum(-1)  # MEM508?
@torch.no_grad()
def nearest(x: torch.Tensor, y: torch.Tensor):
    return (x[:, None] - y[None]).norm(dim=-1).argmin(-1)  # MEM508?
""",
        """
def unknown(x, y):
    return abs(((x[:, None] - y[None]) ** 2).sum(-1))  # MEM508?
""",
        """
import torch
def per_sample_gradient(activations, backprops):
    products = torch.einsum("n...i,n...j->n...ij", backprops, activations)  # MEM508: 16
    return torch.einsum("n...ij->nij", products)
""",
    )
    negative = (
        """
import torch
def attention(q, k, v, gradient):
    scores = torch.einsum("bqd,bkd->bqk", q, k)
    total = torch.einsum("bqk->b", scores)
    kept = torch.einsum("bqd,bkd->bqk", k, v)
    turned = torch.einsum("bqk->bkq", kept)
    gradient = torch.einsum("nti,ntj->nij", gradient, v)
    return torch.einsum("bqk,bkd->bqd", scores, v), total, turned, torch.einsum("nij->nij", gradient)
""",
        """
import torch
from torch import nn

class Matcher(nn.Module):
    def forward(self, boxes: torch.Tensor, targets):
        boxes = boxes.detach().float()
        return (boxes.unsqueeze(2) - targets.unsqueeze(1)).abs().sum(-1)

class Bins(nn.Module):
    def __init__(self, limits):
        super().__init__()
        self.limits = limits

    def forward(self, features):
        points: torch.Tensor = features["points"]
        distances = torch.linalg.norm(points[:, :, None] - points[:, None, :], dim=-1)
        return torch.bucketize(distances, self.limits)
""",
        """
import numpy as np
import torch
def study(a, b, w):
    difference = a[:, None] - b[None]
    kept = difference.pow(2).sum(-1)
    moved = (a[:, None] - b[None] + w).pow(2).sum(-1)
    plain = (a - b).pow(2).sum(-1)
    scores = (a[:, None] * b[None]).sum(-1)
    over_pairs = (a[:, None] - b[None]).pow(2).sum(0)
    same_axis = (a[:, None] - b[:, None]).pow(2).sum(-1)
    return difference, kept, moved, plain, scores, over_pairs, same_axis, torch.cdist(a, b)
""",
        """
import torch
def outer(a, b):
    return (a[:, None] - b[None]).abs()
def angles(x):
    return x.norm(dim=-1), x.pow(2).sum(-1)
""",
    )

    def check(self, program: Program) -> Iterator[Finding]:
        for pairs in pairwise_distances(program):
            yield self.finding(
                pairs.distance.node,
                "The difference of each pair is made, and saved, for its distance only",
                holds="N * M * D numbers for N * M distances, until the backward",
                confidence=pairs.confidence,
                fixes=tuple(_fixes(pairs)),
                claim=Claim(
                    ClaimShape.SPIKE, "device", "N * M * D * E", held=pairs.distance.node, watch=Watch.ALLOCATED
                ),
            )
        for found in expanded_contractions(program):
            summed = ", ".join(f"`{index}`" for index in found.summed)
            yield self.finding(
                found.products.node,
                f"The products are made for every {summed}, and only summed over it: one "
                f'`einsum("{found.equation}", ...)` needs no such tensor',
                holds="the result times the size of the dimension that is summed",
                confidence=Confidence.LIKELY,
                claim=Claim(ClaimShape.SPIKE, "device", "D * result", held=found.products.node, watch=Watch.ALLOCATED),
            )


def _fixes(pairs: Pairwise) -> Iterator[Fix]:
    if pairs.rows is None or pairs.columns is None:
        return
    order = ", p=1" if pairs.power == 1 else ""
    squared = ".square()" if pairs.power is None else ""
    yield Fix(
        "replace_expression",
        "Compute the distances without the differences",
        Applicability.UNSAFE,
        {"expression": pairs.distance.node},
        {"code": f"torch.cdist({text(pairs.rows)}, {text(pairs.columns)}{order}){squared}", "import": "torch"},
    )
