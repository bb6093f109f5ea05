"""MEM509."""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from memlint.findings import Applicability, Claim, ClaimShape, Confidence, Finding, Fix, Severity, Watch
from memlint.model.broadcasting import Repeat, needless_repeats, repeated_heads
from memlint.model.program import Program
from memlint.model.source_text import code, text
from memlint.model.values import Call
from memlint.rule import Rule


class RepeatInsteadOfExpand(Rule):
    """A tensor is copied along a dimension of size one, though a view would do.

    ## What it does
    Off unless selected. Finds `x.unsqueeze(0).repeat(n, 1, 1)` and its like where nothing writes to the copies, and
    keys and values that `repeat_interleave` copies for each group of queries before `scaled_dot_product_attention`,
    unless the project pins a torch before 2.5.

    ## Why is this bad?
    `repeat` allocates n copies, `expand` none: 0.25 MiB in place of 16 MiB. Attention with `enable_gqa=True` reads each
    key for its whole group: 4.1 MiB in place of 12.1 MiB (both measured with torch 2.13 on a CPU).

    ## Example
    ```python
    queries = self.queries.unsqueeze(0).repeat(batch, 1, 1)
    ```

    ## Use instead
    ```python
    queries = self.queries.unsqueeze(0).expand(batch, -1, -1)
    ```

    ## Fix safety
    Unsafe: all rows of a view are the same memory, so that code out of sight which writes to one writes to all. Grouped
    attention is not rewritten, since where the copies are made may be shared with other code.

    ## When to ignore
    When an operation needs contiguous memory and would copy anyway.

    ## References
    - [Tensor.expand](https://docs.pytorch.org/docs/stable/generated/torch.Tensor.expand.html)
    - [scaled_dot_product_attention](https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.scaled_dot_product_attention.html)
    """

    code = "MEM509"
    name = "repeat-instead-of-expand"
    severity = Severity.NOTE
    gate = frozenset({"repeat", "repeat_interleave"})
    fixers = ("replace_expression",)
    default = False
    positive = (
        """
import torch
from torch import nn
class Decoder(nn.Module):
    def __init__(self, count, width):
        super().__init__()
        self.queries = nn.Parameter(torch.randn(count, width))
        self.token = nn.Parameter(torch.zeros(1, 1, width))
    def forward(self, x):
        queries = self.queries.unsqueeze(0).repeat(x.size(0), 1, 1)  # MEM509: 19
        token = self.token.repeat(len(x), 1, 1)  # MEM509
        x = torch.cat([token, x], dim=1)
        return x @ queries.transpose(1, 2), queries + 1
""",
        """
import torch.nn.functional as F
def attend(q, k, v, groups):
    k = k.repeat_interleave(groups, dim=1)  # MEM509: 9
    v = v.repeat_interleave(groups, dim=1)
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)
""",
    )
    negative = (
        """
import torch
def build(x, y, n, keep):
    written = x.unsqueeze(0).repeat(n, 1, 1)
    written[0] = 1
    added = x[None].repeat(n, 1, 1)
    added += y
    tiled = x.repeat(2, 3) + 1
    kept = keep(x.unsqueeze(0).repeat(n, 1, 1))
    text = "-".join(["a"] * n)
    view = x.unsqueeze(0).expand(n, -1, -1) * y
    returned = x.unsqueeze(0).repeat(n, 1, 1)
    return written, added, tiled, kept, text, view, returned
""",
        """
import torch.nn.functional as F
def attend(q, k, v, groups, cache):
    long = k.repeat_interleave(groups, dim=2)
    grouped = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
    return F.scaled_dot_product_attention(q, long, cache(v)), grouped
""",
    )

    def check(self, program: Program) -> Iterator[Finding]:
        for repeat in needless_repeats(program):
            yield self._repeated(repeat)
        for keys, _ in repeated_heads(program):
            yield self.finding(
                keys.node,
                "Keys and values are copied for each group of queries; `enable_gqa=True` reads them where they are",
                holds="a copy of the keys and the values for each query of a group",
                confidence=Confidence.LIKELY,
                claim=_claim(keys, "(groups - 1) * B * H * T * D * E"),
            )

    def _repeated(self, repeat: Repeat) -> Finding:
        function = repeat.call.node.func
        assert isinstance(function, cst.Attribute)
        return self.finding(
            repeat.call.node,
            f"`{code(function.value)}` is copied along a dimension of size one, and nothing writes to the copies",
            holds="the copies, until the backward",
            confidence=repeat.confidence,
            fixes=(
                Fix(
                    "replace_expression",
                    "Make a view of that shape",
                    Applicability.UNSAFE,
                    {"expression": repeat.call.node},
                    {"code": f"{text(function.value)}.expand({repeat.expanded})"},
                ),
            ),
            claim=_claim(repeat.call, "(n - 1) * numel * E"),
        )


def _claim(call: Call, size: str) -> Claim:
    return Claim(ClaimShape.SPIKE, "device", size, held=call.node, watch=Watch.ALLOCATED)
