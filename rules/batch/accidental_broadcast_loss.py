"""MEM305."""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from memlint.findings import Applicability, Claim, ClaimShape, Confidence, Finding, Fix, Severity
from memlint.model.aliases import qualified_names
from memlint.model.kinds import kinds
from memlint.model.layouts import Layout, broadcasts_to_square, layout
from memlint.model.program import Program
from memlint.model.source_text import code
from memlint.model.values import Call, Occurrence, Value, operand_occurrences
from memlint.rule import Rule


class AccidentalBroadcastLoss(Rule):
    """Predictions of the shape `[N, 1]` meet targets of the shape `[N]`, which makes a matrix of `[N, N]`.

    ## What it does
    Finds differences and products, and losses such as `mse_loss`, of two tensors of which one is known to be a column
    (what `nn.Linear(..., 1)` returns, or `unsqueeze(1)`) and the other a vector (`flatten()`, `squeeze(1)`,
    `max(1)[0]`, `x[:, 0]`).

    ## Why is this bad?
    Broadcasting compares each prediction with every target: the model learns the mean of the targets, and the matrix
    takes `N²` times the bytes of a number, 64 MiB for 4,096 samples (measured), instead of 16 KiB. `mse_loss` warns,
    and `(p - y) ** 2` does not.

    ## Example
    ```python
    prediction = model(x)  # ends in nn.Linear(64, 1)
    loss = (prediction - y.view(-1)).pow(2).mean()
    ```

    ## Use instead
    ```python
    prediction = model(x).squeeze(-1)
    loss = (prediction - y.view(-1)).pow(2).mean()
    ```

    ## Fix safety
    Unsafe: the loss becomes another one, as it must. The fix squeezes the column.

    ## When to ignore
    When the differences of all pairs are wanted, as in a ranking loss.

    ## References
    - [Broadcasting](https://docs.pytorch.org/docs/stable/notes/broadcasting.html)
    """

    code = "MEM305"
    name = "accidental-broadcast-loss"
    severity = Severity.ERROR
    default = False
    gate = frozenset({"Linear", "unsqueeze", "view", "reshape"})
    fixers = ("call_method",)
    corrects = "each prediction is compared with its own target, and no longer with those of the whole batch"
    positive = (
        """
import torch
from torch import nn
def train(loader, optimizer):
    model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 1)).cuda()
    for x, y in loader:
        loss = (model(x) - y.view(-1)).pow(2).mean()  # MEM305: 17
        loss.backward()
        optimizer.step()
""",
        """
import torch
import torch.nn.functional as F
from torch import nn
class Critic(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(8, 64), nn.Linear(64, 1)
    def forward(self, x):
        return self.head(torch.relu(self.body(x)))
class Agent:
    def __init__(self):
        self.critic = Critic()
    def loss(self, states, returns):
        return F.mse_loss(self.critic(states), returns.flatten())  # MEM305: 16
""",
        """
import torch
from torch import nn
class Learner:
    def __init__(self):
        self.online, self.target = nn.Linear(4, 2), nn.Linear(4, 2)
        self.criterion = nn.SmoothL1Loss()
    def loss(self, states, actions, following):
        values = self.online(states).gather(1, actions.view(-1, 1))
        wanted = 0.99 * self.target(following).max(1)[0].detach()
        return self.criterion(values, wanted)  # MEM305
""",
    )
    negative = (
        """
import torch
from torch import nn
def train(loader, optimizer):
    model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 1))
    for x, y in loader:
        loss = (model(x).squeeze(-1) - y.view(-1)).pow(2).mean()
        loss = loss + (model(x) - y.view(-1, 1)).pow(2).mean() + (model(x) - y).abs().mean()
        loss.backward()
        optimizer.step()
""",
        """
import torch
from torch import nn
def loss(x, y, model: nn.Module):
    return (model(x) - y.flatten()).pow(2).mean() + (nn.Linear(8, 4)(x) - y.flatten()).mean()
""",
        """
from torch import nn
def stacked(depth, x, y):
    net = nn.Linear(8, 1)
    for _ in range(depth):
        net = nn.Sequential(net, nn.ReLU())
    return (net(x) - y.view(-1, 1)).mean()
""",
        """
import torch
def pairwise(scores):
    flat = scores.view(-1)
    return (flat.unsqueeze(1) - flat).relu().mean() + (flat[:, None] - flat[None]).relu().mean()
""",
        """
import torch
from torch import nn
def scaled(x, weights):
    head = nn.Linear(8, 1)
    return head(x) * 2.0 - head(x).max(1, keepdim=True)[0] + head(x) / weights
""",
    )

    def check(self, program: Program) -> Iterator[Finding]:
        for function in program.functions:
            for value in function.sums:
                if value.operator in {"-", "*"} and not _is_pair_of_all(value.left, value.right):
                    yield from self._compared(value, operand_occurrences(value))
        for call in program.calls():
            if len(call.arguments) >= 2 and not call.is_open and _is_elementwise_loss(call):
                first, second = call.arguments[:2]
                given = (Occurrence(first.value, first.node.value), Occurrence(second.value, second.node.value))
                yield from self._compared(call, given)

    def _compared(self, value: Value, sides: tuple[Occurrence, ...]) -> Iterator[Finding]:
        one, other = sides
        if not broadcasts_to_square(one.value, other.value):
            return
        column, vector = (one, other) if layout(one.value) is Layout.COLUMN else (other, one)
        yield self.finding(
            value.node,
            f"`{code(column.node)}` is a column and `{code(vector.node)}` a vector: together they make a matrix, "
            "which compares each with every other",
            holds="a matrix with as many rows and columns as there are samples",
            confidence=Confidence.LIKELY,
            fixes=(
                Fix(
                    "call_method",
                    "Make the column a vector",
                    Applicability.UNSAFE,
                    {"expression": column.node},
                    {"method": "squeeze", "arguments": "-1"},
                ),
            ),
            claim=Claim(ClaimShape.SPIKE, "device", "N * N * E", held=value.node if _is_call(value) else None),
        )


def _is_call(value: Value) -> bool:
    return isinstance(value.node, cst.Call)


_LOSSES = frozenset({"mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss"})
_LOSS_MODULES = frozenset(f"torch.nn.{name}" for name in ("MSELoss", "L1Loss", "SmoothL1Loss", "HuberLoss"))


def _is_elementwise_loss(call: Call) -> bool:
    if call.name in _LOSSES:
        return f"torch.nn.functional.{call.name}" in qualified_names(call.callee)
    return any(kind.name in _LOSS_MODULES for kind in kinds(call.callee))


def _is_pair_of_all(one: Value, other: Value) -> bool:
    """Whether both sides are the same tensor, so that the differences of all pairs are meant: ``x[:, None] - x``."""
    return any(_base(side) is _base(rest) for side, rest in ((one, other), (other, one)) if _base(side) is not None)


def _base(value: Value) -> Value | None:
    """What a view of the other layout is one of: ``x`` in ``x.unsqueeze(1)``."""
    while isinstance(value, Call) and value.receiver is not None and value.method in {"unsqueeze", "view", "reshape"}:
        value = value.receiver
    return value
