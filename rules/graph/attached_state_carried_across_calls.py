"""MEM103."""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from memlint.findings import Claim, ClaimShape, Confidence, Finding, Severity
from memlint.model.accumulations import Accumulation, accumulations, concatenates, is_module_state, starts_anew
from memlint.model.attachment import Attachment, attachment, certainty
from memlint.model.detaching import attached_leaves, detach_fixes
from memlint.model.downstream import Reach, gradient_flow_within, reaches_gradient
from memlint.model.drain import Drain, drain
from memlint.model.gradmode import GradMode, grad_mode
from memlint.model.holding import holding
from memlint.model.knowledge.torch import GRAPH_WORDS
from memlint.model.program import Program
from memlint.model.resets import is_dropped_for_each_pass, starts_anew_on_request
from memlint.model.retention import depends_on_input
from memlint.model.scopes import Function
from memlint.model.source_text import code
from memlint.model.values import Branch, Occurrence
from memlint.rule import Rule


class AttachedStateCarriedAcrossCalls(Rule):
    """An attribute is updated from its own old value and a value with a graph, call after call.

    ## What it does
    Finds attributes (buffers, running statistics, queues) that a method computes from what they were before and from a
    value that carries its autograd graph: `self.mean = 0.9 * self.mean + 0.1 * x.mean(0)`,
    `self.queue = torch.cat([features, self.queue])`.

    ## Why is this bad?
    The new value links the graph of this call to those of all calls before, so the chain grows by one link a call.
    Where the branch is not part of the loss no backward frees it, and each link holds its activations: +1.0 MiB a step
    for a 1 MiB input, measured. Where it is, the autograd nodes stay in host memory, and often the next backward
    raises "trying to backward through the graph a second time".

    ## Example
    ```python
    def forward(self, x):
        mean = x.mean(0)
        self.running_mean = 0.9 * self.running_mean + 0.1 * mean
    ```

    ## Use instead
    ```python
        self.running_mean = 0.9 * self.running_mean + 0.1 * mean.detach()
    ```

    ## Fix safety
    Safe: `.detach()` on what is added keeps the numbers of the state.

    ## When to ignore
    When gradients are meant to flow through the state over several calls, and something detaches it now and then.

    ## References
    - [pytorch#20275](https://github.com/pytorch/pytorch/issues/20275),
      [d2l-en#1342](https://github.com/d2l-ai/d2l-en/pull/1342),
      [torch-sim#559](https://github.com/TorchSim/torch-sim/pull/559)
    """

    code = "MEM103"
    name = "attached-state-carried-across-calls"
    severity = Severity.ERROR
    gate = GRAPH_WORDS
    fixers = ("call_method",)
    positive = (
        """
import torch
from torch import nn

class Norm(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.scale = nn.Linear(dim, dim)
        self.register_buffer("running_mean", torch.zeros(dim))

    def forward(self, x):
        x = self.scale(x)
        mean = x.mean(0)
        self.running_mean = 0.9 * self.running_mean + 0.1 * mean  # MEM103: 55
        return x - self.running_mean
""",
        """
import torch
from torch import nn

class Queue(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.encoder = nn.Linear(dim, dim)
        self.queue = torch.zeros(1, dim)
        self.K = 64

    def forward(self, x):
        features = self.encoder(x)
        self.queue = torch.cat([features, self.queue])[: self.K]  # MEM103
        return features
""",
        """
import torch
from torch import nn

class InPlace(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(4, 4)
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, x):
        out = self.net(x)
        self.mean.mul_(0.9).add_(out.mean(0), alpha=0.1)  # MEM103
        return out
""",
        """
import torch
from torch import nn

class Centre(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(4, 4)
        self.centre = torch.zeros(4)

    def update_centre(self, features):
        self.centre = self.centre * 0.9 + features.mean(0) * 0.1  # MEM103

    def forward(self, x):
        out = self.net(x)
        self.update_centre(out)
        return out
""",
        """
import torch
from torch import nn

class Norm(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4))
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, x):
        if self.training:
            mean = x.mean(0)
            self.mean = 0.9 * self.mean + 0.1 * mean  # MEM103: 43
        else:
            mean = self.mean
        return self.scale * (x - mean)

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Linear(4, 4), Norm()

    def forward(self, x):
        return self.norm(self.first(x))

def train(loader, optimizer):
    net = Net()
    for x, y in loader:
        optimizer.zero_grad()
        nn.functional.mse_loss(net(x), y).backward()
        optimizer.step()
""",
        """
import torch
from torch import nn

class Memory(nn.Module):
    def __init__(self):
        super().__init__()
        self.project = nn.Linear(4, 4)
        self.last = None

    def reset(self):
        self.last = None

    def forward(self, x):
        x = self.project(x)  # MEM103
        if self.last is not None:
            x = torch.cat([self.last, x], 1)  # MEM103: 39
        self.last = x
        return x

def train(loader, optimizer, epochs):
    model = Memory()
    for _ in range(epochs):
        model.reset()
        for x in loader:
            model(x).mean().backward()
            optimizer.step()
            optimizer.zero_grad()
""",
    )
    negative = (
        """
import torch
from torch import nn

class CausalConv(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(4, 4, 3)
        self.last = None

    def forward(self, x):
        if self.last is not None:
            x = torch.cat([self.last, x], dim=2)
        self.last = x[:, :, -2:].clone()
        return self.conv(x)

class Smoothed(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Linear(4, 4)
        self.mean = None

    def forget(self):
        self.mean = None

    def forward(self, x):
        x = self.scale(x)
        self.mean = x if self.mean is None else 0.9 * self.mean + 0.1 * x
        return x

class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = CausalConv()
        self.smoothed = Smoothed()

    def encode(self, frames):
        for module in self.modules():
            if hasattr(module, "last"):
                module.last = None
        self.smoothed.forget()
        return torch.cat([self.smoothed(self.conv(chunk)) for chunk in frames.split(4)])

def train(loader, optimizer, epochs):
    encoder = Encoder()
    for _ in range(epochs):
        for frames in loader:
            encoder.encode(frames).mean().backward()
            optimizer.step()
            optimizer.zero_grad()
""",
        """
import torch
from torch import nn

class Noise(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.register_buffer("noise", torch.zeros(3))

    def fix(self, noise=None, trainable=False):
        noise = self.noise if noise is None else noise.to(self.weight) * self.weight
        if trainable:
            noise = nn.Parameter(noise)
        self.noise = noise
        return noise

    def forward(self, x):
        return x + self.weight * self.noise
""",
        """
import torch
from torch import nn

class Norm(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.scale = nn.Linear(dim, dim)
        self.running_mean = torch.zeros(dim)

    def forward(self, x):
        x = self.scale(x)
        mean = x.mean(0)
        self.running_mean = 0.9 * self.running_mean + 0.1 * mean.detach()
        with torch.no_grad():
            self.running_mean.lerp_(mean, 0.1)
        self.running_mean.mul_(0.9).add_(mean.data, alpha=0.1)
        return x
""",
        """
import torch
from torch import nn

class Overwritten(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(4, 4)
        self.gru = nn.GRU(4, 4)
        self.hidden = None

    def forward(self, x):
        self.last = self.net(x)
        self.hidden = self.hidden.detach()
        out, self.hidden = self.gru(x, self.hidden)
        return out
""",
        """
import torch
from torch import nn

class Cache(nn.Module):
    def __init__(self):
        super().__init__()
        self.key = nn.Linear(4, 4)
        self.cache = torch.zeros(1, 0, 4)

    @torch.no_grad()
    def generate_step(self, x):
        self.cache = torch.cat([self.cache, self.key(x)], 1)
        return self.cache
""",
        """
from torch import nn

class Counter(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(4, 4)
        self.seen = 0

    def forward(self, x):
        self.seen = self.seen + x.shape[0]
        self.steps = self.steps + 1
        return self.net(x)
""",
    )

    def check(self, program: Program) -> Iterator[Finding]:
        for function in program.functions:
            told: set[cst.CSTNode] = set()  # What two branches keep is joined to the old value once.
            for accumulation in accumulations(function):
                if function.name != "__init__" and accumulation.attribute is not None and self._is_state(accumulation):
                    yield from self._carried(function, accumulation, told)

    def _is_state(self, accumulation: Accumulation) -> bool:
        if starts_anew(accumulation):
            return False
        return is_module_state(accumulation.function, accumulation) or concatenates(accumulation)

    def _carried(self, function: Function, accumulation: Accumulation, told: set[cst.CSTNode]) -> Iterator[Finding]:
        for addend in accumulation.addends:
            confidence = self._confidence(function, accumulation, addend)
            if confidence is None or addend.node in told:
                continue
            told.add(addend.node)
            leaves = attached_leaves(addend)
            source = leaves[0] if len(leaves) == 1 else addend
            held = holding(addend.value, per="call")
            yield self.finding(
                addend.node,
                f"`{code(accumulation.holder)}` is updated with `{code(source.node)}` and its autograd graph, "
                "call after call",
                holds=held.phrase,
                confidence=confidence,
                fixes=detach_fixes(source),
                claim=Claim(ClaimShape.GROWS, held.memory, held.size, accumulation.holder, addend.node),
            )

    def _confidence(self, function: Function, accumulation: Accumulation, addend: Occurrence) -> Confidence | None:
        if grad_mode(accumulation.region) is GradMode.DISABLED:
            return None
        if _is_differentiated(accumulation) and drain(addend.value) is not Drain.DRAINED:
            return None
        found = certainty(addend.value) if attachment(addend.value) > Attachment.UNKNOWN else None
        if found is None and is_module_state(function, accumulation) and depends_on_input(addend.value, function):
            found = Confidence.LIKELY
        if found is None or accumulation.attribute is None:
            return found
        dropped = is_dropped_for_each_pass(function, accumulation.attribute)
        dropped = dropped or starts_anew_on_request(function, accumulation.attribute)
        return Confidence.POSSIBLE if dropped else found


def _is_differentiated(accumulation: Accumulation) -> bool:
    """Whether a backward runs over the state in calls that update it; those that do not are of the evaluation."""
    if reaches_gradient(accumulation.value) is not Reach.YES:
        return False
    others = [
        sibling
        for region in accumulation.region.ancestors()
        if isinstance(region, Branch)
        for sibling in region.siblings
        if sibling is not region
    ]
    return not others or gradient_flow_within(accumulation.value, others, ()).reach is Reach.YES
