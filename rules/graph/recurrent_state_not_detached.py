"""MEM107."""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from memlint.findings import Applicability, Claim, ClaimShape, Confidence, Finding, Fix, Severity
from memlint.model.attachment import certainty
from memlint.model.calls import callees
from memlint.model.program import Program
from memlint.model.recurrence import Layout, Recurrence, is_recurrent, layout, recurrences
from memlint.model.values import Value
from memlint.rule import Rule


class RecurrentStateNotDetached(Rule):
    """The state of a recurrent network crosses from one training step to the next with its graph.

    ## What it does
    Finds loops in which the result of one iteration is fed into a call of the next one without `.detach()`, while a
    backward runs over it in every iteration.

    ## Why is this bad?
    The graph of every step is linked to those of all steps before. Without `retain_graph` the second backward raises;
    with it, memory grows by one full unroll every step: 6.4 to 29.1 MiB in 6 steps of a small network, measured.

    ## Example
    ```python
    for x, y in loader:
        out, h = rnn(x, h)
        criterion(out, y).backward(retain_graph=True)
        optimizer.step()
    ```

    ## Use instead
    ```python
    for x, y in loader:
        out, h = rnn(x, h)
        criterion(out, y).backward()
        optimizer.step()
        h = h.detach()
    ```

    ## Fix safety
    Offered for states that are tensors or tuples of tensors, as `nn.GRU` and `nn.LSTM` return them and modules of the
    project hand them on. Safe: the value is kept, and gradients stop at the
    border of the step, as they do in truncated backpropagation through time. Dropping `retain_graph` is a second,
    unsafe edit.

    ## When to ignore
    When the loop unrolls time within one sample and one backward follows the loop; memlint does not speak of those.

    ## References
    - `repackage_hidden` in PyTorch's word language model example
    - [pymarl#73](https://github.com/oxwhirl/pymarl/pull/73)
    """

    code = "MEM107"
    name = "recurrent-state-not-detached"
    severity = Severity.ERROR
    gate = frozenset({"backward", "manual_backward", "torch"})
    fixers = ("insert_statement",)
    corrects = "gradients end at the border of a step, and no longer run through all steps before"
    positive = (
        """
import torch
from torch import nn

def train(loader, crit, opt):
    rnn = nn.GRU(4, 4)
    h = None
    for x, y in loader:
        out, h = rnn(x, h)  # MEM107: 25
        crit(out, y).backward(retain_graph=True)
        opt.step()
        opt.zero_grad()
""",
        """
import torch
from torch import nn

def train(batches, opt):
    lstm = nn.LSTM(4, 4)
    state = (torch.zeros(1, 1, 4), torch.zeros(1, 1, 4))
    for x, y in batches:
        out, state = lstm(x, state)  # MEM107
        loss = nn.functional.mse_loss(out, y)
        opt.zero_grad()
        loss.backward(retain_graph=True)
        opt.step()
""",
        """
from torch import nn

def train(batches, opt):
    cell = nn.LSTMCell(4, 4)
    h = c = None
    for x, y in batches:
        h, c = cell(x, (h, c))  # MEM107
        loss = nn.functional.mse_loss(h, y)
        loss.backward(retain_graph=True)
        opt.step()
        opt.zero_grad()
""",
        """
import torch
from torch import nn

class Memory(nn.Module):
    def __init__(self):
        super().__init__()
        self.write = nn.Linear(8, 4)

    def forward(self, x, memory):
        return torch.tanh(self.write(torch.cat([x, memory], -1)))

def train(batches, opt, memory):
    net = Memory()
    for x, y in batches:
        memory = net(x, memory)  # MEM107
        loss = (memory - y).pow(2).mean()
        opt.zero_grad()
        loss.backward(retain_graph=True)
        opt.step()
""",
    )
    negative = (
        """
import torch
from torch import nn

def train(loader, crit, opt):
    rnn = nn.LSTM(4, 4)
    state, other = None, (torch.zeros(1), torch.zeros(1))
    h, c = torch.zeros(1), torch.zeros(1)
    for x, y in loader:
        if state is not None:
            state[0].detach_()
            state[1].detach_()
        h.detach_()
        c.detach_()
        out, state = rnn(x, state)
        more, other = rnn(x, other)
        most, (h, c) = rnn(x, (h, c))
        (crit(out, y) + crit(more, y) + crit(most, y)).backward()
        opt.step()
        opt.zero_grad()
        for each in other:
            each.detach_()
""",
        """
from torch import nn

def train(loader, crit, opt):
    rnn = nn.GRU(4, 4)
    h = None
    for x, y in loader:
        if h is not None:
            h = h.detach()
        out, h = rnn(x, h)
        crit(out, y).backward()
        opt.step()
        opt.zero_grad()
""",
        """
import torch
from torch import nn

def repackage_hidden(h):
    if isinstance(h, torch.Tensor):
        return h.detach()
    return tuple(repackage_hidden(v) for v in h)

def train(loader, crit, opt, h):
    rnn = nn.LSTM(4, 4)
    for x, y in loader:
        h = repackage_hidden(h)
        out, h = rnn(x, h)
        crit(out, y).backward()
        opt.step()
        opt.zero_grad()
""",
        """
from torch import nn

def train(loader, crit, opt):
    rnn = nn.LSTM(4, 4)
    h = None
    for x, y in loader:
        out, h = rnn(x, h)
        crit(out, y).backward()
        opt.step()
        h = tuple(t.detach() for t in h)
""",
        """
from torch import nn

def train(loader, crit, opt, model):
    rnn = nn.GRU(4, 4)
    for x, y in loader:
        h = model.init_hidden(len(x))
        out, h = rnn(x, h)
        crit(out, y).backward()
        opt.step()
        opt.zero_grad()
""",
        """
from torch import nn

def train(loader, crit, opt):
    cell = nn.GRUCell(4, 4)
    for x, y in loader:
        h = None
        for t in range(x.shape[0]):
            h = cell(x[t], h)
        crit(h, y).backward()
        opt.step()
        opt.zero_grad()
""",
        """
from torch import nn

def train(loader, crit, opt):
    rnn = nn.GRU(4, 4)
    h = None
    for x, y in loader:
        out, h = rnn(x, h)
        crit(out, y).backward()
        opt.step()
        h = h.data
""",
    )

    def check(self, program: Program) -> Iterator[Finding]:
        for function in program.functions:
            for found in recurrences(function):
                confidence = self._confidence(found)
                if confidence is not None:
                    yield self._finding(found, confidence)

    def _confidence(self, found: Recurrence) -> Confidence | None:
        """Code that runs without ``retain_graph`` must detach somewhere, unless the whole step is in sight."""
        if found.retains:
            return certainty(found.carried[0])
        in_sight = is_recurrent(found.step.callee) or bool(callees(found.step))
        return certainty(found.carried[0]) if in_sight and found.retains is False else Confidence.POSSIBLE

    def _finding(self, found: Recurrence, confidence: Confidence) -> Finding:
        grows = "memory grows by one step's graph every iteration" if found.retains else "the next backward() raises"
        return self.finding(
            found.state.node,
            f"`{found.keys[0]}` enters the next iteration with the graph of this one, and {grows}",
            holds="the activations of every step so far, through the chain of states",
            confidence=confidence,
            fixes=self._fixes(found),
            claim=Claim(ClaimShape.GROWS, "device", "A per step", held=found.state.node),
        )

    def _fixes(self, found: Recurrence) -> tuple[Fix, ...]:
        detached = [_detached(key, carried) for key, carried in zip(found.keys, found.carried, strict=True)]
        if None in detached:
            return ()
        statement = f"{', '.join(found.keys)} = {', '.join(filter(None, detached))}"
        anchor: cst.CSTNode = found.backward.node
        return (
            Fix(
                "insert_statement",
                f"Detach the state after the step: `{statement}`",
                Applicability.SAFE,
                {"statement": anchor},
                {"code": statement, "where": "after"},
                reveals=frozenset({"MEM104"}),
            ),
        )


def _detached(key: str, state: Value) -> str | None:
    """The code that detaches the state; None if it cannot be named, or nobody knows what it is made of."""
    if not all(part.isidentifier() for part in key.split(".")):
        return None
    match layout(state):
        case Layout.TENSOR:
            return f"{key}.detach()"
        case Layout.TENSORS:
            return f"tuple(state.detach() for state in {key})"
    return None
