"""MEM510."""

from __future__ import annotations

from collections.abc import Iterator

from memlint.findings import Applicability, Claim, ClaimShape, Confidence, Finding, Fix, Severity, Watch
from memlint.model.decomposed import Decomposed, decomposed_activations
from memlint.model.program import Program
from memlint.model.source_text import text
from memlint.rule import Rule


class DecomposedActivationOrNorm(Rule):
    """An activation is written out of smaller operations, each of which saves its own tensors.

    ## What it does
    Off unless selected. Finds `x * torch.sigmoid(x)`, which is `F.silu(x)`, and both ways of writing GELU out, with
    `tanh` and with `erf`, in functions that nothing compiles. Normalization that is written out is left alone: with
    `F.rms_norm` the same is saved (measured).

    ## Why is this bad?
    Autograd saves what each operation needs: two tensors of the size of `x` for SiLU that is written out, four for GELU
    with `tanh`, one for `F.silu` and `F.gelu` (16 MiB in place of 4 MiB, measured with torch 2.13 on a CPU).

    ## Example
    ```python
    x = x * torch.sigmoid(x)
    ```

    ## Use instead
    ```python
    x = F.silu(x)
    ```

    ## Fix safety
    Unsafe: the results differ in the last digits.

    ## When to ignore
    When the model is compiled in another file: compilers fuse such operations.

    ## References
    - [silu](https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.silu.html),
      [gelu](https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.gelu.html)
    """

    code = "MEM510"
    name = "decomposed-activation-or-norm"
    severity = Severity.NOTE
    gate = frozenset({"sigmoid", "tanh", "erf"})
    fixers = ("replace_expression",)
    default = False
    positive = (
        """
import torch
from torch import nn
class Swish(nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(x)  # MEM510: 16
def swish(x):
    return x.sigmoid() * x  # MEM510
""",
        """
import math
import torch
def gelu(x):
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * torch.pow(x, 3))))  # MEM510: 12
def exact(x):
    return x * 0.5 * (1.0 + torch.erf(x / math.sqrt(2.0)))  # MEM510
""",
    )
    negative = (
        """
import torch
import torch.nn.functional as F
def gate(x, y):
    gated = y * torch.sigmoid(x)
    chances = torch.sigmoid(x)
    both = x * chances
    return gated, both, chances, F.silu(x), x * (1 + torch.tanh(y))
""",
        """
import torch
@torch.jit.script
def swish(x):
    return x * torch.sigmoid(x)
@torch.compile
def fused(x):
    return x * x.sigmoid()
""",
        """
import torch
class Swish(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * torch.sigmoid(x)
@torch.no_grad()
def evaluate(x):
    return x * torch.sigmoid(x)
""",
        """
import torch
from torch import nn
class Block(nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(x)
model = torch.compile(Block())
""",
    )

    def check(self, program: Program) -> Iterator[Finding]:
        for found in decomposed_activations(program):
            yield self._finding(found)

    def _finding(self, found: Decomposed) -> Finding:
        replaced = f"F.{found.fused}({', '.join(filter(None, [text(found.argument), found.options]))})"
        return self.finding(
            found.expression.node,
            f"The operations of `{replaced}` are written out, and each saves its own tensors",
            holds="one to three tensors of the size of the input more, until the backward",
            confidence=Confidence.LIKELY,
            fixes=(
                Fix(
                    "replace_expression",
                    f"Use `F.{found.fused}`",
                    Applicability.UNSAFE,
                    {"expression": found.expression.node},
                    {"code": replaced, "import": "torch.nn.functional as F"},
                ),
            ),
            claim=Claim(
                ClaimShape.SPIKE, "device", "(1 to 3) * numel * E", held=found.expression.node, watch=Watch.ALLOCATED
            ),
        )
