"""MEM105."""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from memlint.findings import Applicability, Claim, ClaimShape, Confidence, Finding, Fix, Severity, Watch
from memlint.model.effects import Backward, backward_of
from memlint.model.forwards import is_repeated
from memlint.model.gradient_graphs import (
    Leaf,
    drops_parameters,
    gradient_names,
    is_accumulated,
    is_leaf_dropped,
    leaves,
    reaches_parameters,
)
from memlint.model.program import Program
from memlint.model.source_text import code
from memlint.model.upstream import graph_sources
from memlint.rule import Rule


class BackwardCreateGraph(Rule):
    """A backward with `create_graph=True` leaves gradients in `.grad` that keep their own graph alive.

    ## What it does
    Finds `backward(create_graph=True)`, and its kin in Lightning, Accelerate and DeepSpeed, where the gradients that it
    writes are never dropped: those of parameters that nothing near clears with `zero_grad()` or `p.grad = None`, and
    that of an input which the function itself has made (`x.requires_grad_()`), which no optimizer clears.

    ## Why is this bad?
    The gradient in `x.grad` holds the graph that computed it, and that graph holds `x`: a cycle of objects that the
    garbage collector of Python does not see. The activations of the forward and of the backward pass stay after the
    last name for them is gone, for every call (6 MiB a step in a measurement on torch 2.13, for a network that keeps
    nothing after an ordinary backward). What ends the cycle is `x.grad = None`, `zero_grad()`, or a detached gradient;
    `x.grad.zero_()` and `x.grad.data.zero_()` keep the graph. The gradients are added to `.grad` of every parameter as
    well, needed or not.

    ## Example
    ```python
    mixed.requires_grad_()
    score = critic(mixed)
    score.backward(torch.ones_like(score), create_graph=True)
    gradient = mixed.grad
    penalty = ((gradient.norm(dim=1) - 1) ** 2).mean()
    ```

    ## Use instead
    ```python
    mixed.requires_grad_()
    score = critic(mixed)
    (gradient,) = torch.autograd.grad(score, mixed, torch.ones_like(score), create_graph=True)
    penalty = ((gradient.norm(dim=1) - 1) ** 2).mean()
    ```

    ## Fix safety
    Unsafe: `x.grad = None` is inserted where the gradient has got a name of its own. The numbers stay the same, but
    code out of sight that reads `x.grad` later finds nothing. Gradients of parameters have no fix: rewriting to
    `torch.autograd.grad` is for a person to do.

    ## When to ignore
    When code that is not part of the project drops the gradients after each call.

    ## References
    - [torch.Tensor.backward](https://docs.pytorch.org/docs/stable/generated/torch.Tensor.backward.html), the note on
      `create_graph`
    - [pytorch#4661](https://github.com/pytorch/pytorch/issues/4661),
      [pro_gan_pytorch#12](https://github.com/akanimax/pro_gan_pytorch/pull/12)
    """

    code = "MEM105"
    name = "backward-create-graph"
    severity = Severity.ERROR
    gate = frozenset({"create_graph"})
    fixers = ("insert_statement",)
    positive = (
        """
def train(model, loader, criterion, optimizer, curvature):
    for x, y in loader:
        loss = criterion(model(x), y)
        loss.backward(create_graph=True)  # MEM105: 9
        curvature.update(p.grad for p in model.parameters())
        optimizer.step()
""",
        """
import torch
def gradient_penalty(critic, real, fake):
    mixed = 0.5 * real + 0.5 * fake
    mixed.requires_grad = True
    score = critic(mixed)
    score.backward(gradient=torch.ones_like(score), create_graph=True)  # MEM105: 5
    gradient = mixed.grad
    return ((gradient.norm(dim=1) - 1) ** 2).mean()
""",
        """
import torch
from torch import nn
def smooth(loader, weight):
    model = nn.Linear(3, 3)
    optimizer = torch.optim.Adam(model.parameters())
    for batch in loader:
        x = batch.detach().clone().requires_grad_(True)
        out = model(x).sum()
        torch.autograd.backward(out, create_graph=True, inputs=[x])  # MEM105
        (out + weight * x.grad.pow(2).sum()).backward()
        optimizer.step()
        optimizer.zero_grad()
""",
        """
import torch
class Sharpness:
    def __init__(self, model):
        self.model = model
    def measure(self, loader, criterion):
        total = 0.0
        for x, y in loader:
            criterion(self.model(x), y).backward(create_graph=True)  # MEM105
            squares = sum(p.grad.pow(2).sum() for p in self.model.parameters())
            total += squares.item()
            for p in self.model.parameters():
                p.grad.data.zero_()
        return total
""",
        """
from accelerate import Accelerator
from torch import nn
accelerator = Accelerator()
def update(loss, optimizer):
    accelerator.backward(loss, create_graph=True)  # MEM105
    optimizer.step()
def train(loader, optimizer):
    model = nn.Linear(3, 3)
    for x in loader:
        update(model(x).sum(), optimizer)
""",
        """
import torch
def curvature(energy, positions):
    positions = torch.autograd.Variable(positions, requires_grad=True)
    energy(positions).sum().backward(retain_graph=True, create_graph=True)  # MEM105
    forces = -positions.grad
    return torch.stack([torch.autograd.grad(f, positions, retain_graph=True)[0] for f in forces.flatten()])
""",
        """
import torch
net = torch.nn.Linear(30000, 1).cuda()
data = torch.ones(10, 30000).cuda()
for repetition in range(1000):
    net(data).norm(2).backward(create_graph=True)  # MEM105
for p in net.parameters():
    p.grad = None
""",
    )
    negative = (
        """
import numpy as np
from dezero import Variable
x = Variable(np.array(2.0))
for i in range(10):
    y = x**4 - 2 * x**2
    x.cleargrad()
    y.backward(create_graph=True)
    gx = x.grad
    x.cleargrad()
    gx.backward()
    x.data -= gx.data / x.grad.data
""",
        """
import torch
def penalty(critic, mixed):
    mixed = mixed.detach().requires_grad_()
    score = critic(mixed)
    (gradient,) = torch.autograd.grad(score.sum(), mixed, create_graph=True)
    return ((gradient.norm(dim=1) - 1) ** 2).mean()
""",
        """
def train(model, loader, criterion, optimizer):
    for x, y in loader:
        optimizer.zero_grad()
        loss = criterion(model(x), y)
        loss.backward(create_graph=True)
        optimizer.step()
""",
        """
def hessian_trace(model, loader, criterion, probe):
    total = 0.0
    for x, y in loader:
        criterion(model(x), y).backward(create_graph=True)
        total += probe([p.grad for p in model.parameters()])
        for p in model.parameters():
            p.grad = None
    return total
""",
        """
def train(model, loader, criterion, optimizer, again):
    for x, y in loader:
        loss = criterion(model(x), y)
        loss.backward(create_graph=False)
        loss.backward(create_graph=again)
        optimizer.step()
""",
        """
import torch
def penalty(critic, real, fake):
    mixed = (0.5 * real + 0.5 * fake).requires_grad_()
    score = critic(mixed)
    score.sum().backward(create_graph=True, inputs=[mixed])
    gradient = mixed.grad
    mixed.grad = None
    return (gradient.norm(dim=1) - 1).pow(2).mean()
""",
        """
import torch
def attack(model, x, steps):
    delta = torch.zeros(3, 3, requires_grad=True)
    optimizer = torch.optim.SGD([delta], lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        model(x + delta).sum().backward(create_graph=True, inputs=[delta])
        optimizer.step()
""",
        """
class Learner:
    def __init__(self, model, optimizer):
        self.model = model
        self.optimizer = optimizer
    def inner(self, x, y, criterion):
        loss = criterion(self.model(x), y)
        loss.backward(create_graph=True)
        return [p.grad for p in self.model.parameters()]
    def outer(self, tasks, criterion):
        for x, y in tasks:
            self.optimizer.zero_grad()
            self.inner(x, y, criterion)
            self.optimizer.step()
""",
        """
import torch
x = torch.tensor(2.0, requires_grad=True)
y = x**3
y.backward(create_graph=True)
print(x.grad)
""",
        """
import lightning as L
class Net(L.LightningModule):
    def backward(self, loss):
        loss.backward(create_graph=True)
""",
        """
def train(model, loader, criterion, optimizer):
    for x, y in loader:
        def closure():
            optimizer.zero_grad(set_to_none=False)
            loss = criterion(model(x), y)
            loss.backward(create_graph=True)
            return loss
        optimizer.step(closure)
""",
        """
def train(model, loader, criterion, optimizer):
    for x, y in loader:
        criterion(model(x), y).backward(create_graph=True)
        optimizer.step()
        for p in model.parameters():
            p.grad.detach_()
            p.grad.zero_()
""",
    )

    def check(self, program: Program) -> Iterator[Finding]:
        for call in program.calls():
            backward = backward_of(call)
            if backward is None or not backward.creates_graph or not is_accumulated(backward):
                continue
            leaf = next((each for each in leaves(backward) if not is_leaf_dropped(each, call.function)), None)
            if leaf is not None:
                yield self._of_input(backward, leaf)
            elif reaches_parameters(backward) and not drops_parameters(call):
                yield self._of_parameters(backward)

    def _of_input(self, backward: Backward, leaf: Leaf) -> Finding:
        call = backward.call
        names = gradient_names(leaf, call)
        gradient = next((store.node.value for store in names or () if isinstance(store.node, cst.Assign)), None)
        written = f"`{code(gradient)}`" if gradient is not None else "the `.grad` of its input"
        least = Confidence.CERTAIN if leaf.made_here else Confidence.LIKELY
        return self.finding(
            call.node,
            f"`create_graph=True` leaves a gradient with its graph in {written}, which no optimizer clears",
            holds="the activations of the forward and of the backward pass of every call on the device: the input and "
            "its gradient keep each other alive",
            confidence=_confidence(call_confidence=least, backward=backward),
            fixes=self._drop(names[-1], gradient) if names and gradient is not None else (),
            claim=_claim(call.node),
        )

    def _drop(self, named: object, gradient: cst.BaseExpression) -> tuple[Fix, ...]:
        node = getattr(named, "node", None)
        assert isinstance(node, cst.Assign)
        text = code(gradient)
        return (
            Fix(
                "insert_statement",
                f"Drop `{text}` once the gradient has a name",
                Applicability.UNSAFE,
                {"statement": node},
                {"code": f"{text} = None"},
            ),
        )

    def _of_parameters(self, backward: Backward) -> Finding:
        call = backward.call
        proven = call.region.loop is not None and any(graph_sources(root) for root in backward.roots)
        return self.finding(
            call.node,
            "`create_graph=True` leaves gradients with their graph in `.grad`, and nothing drops them",
            holds="the activations of the forward and of the backward pass of every call on the device: parameters and "
            "gradients keep each other alive until `zero_grad()` or `p.grad = None`",
            confidence=_confidence(Confidence.CERTAIN if proven else Confidence.LIKELY, backward),
            claim=_claim(call.node),
        )


def _confidence(call_confidence: Confidence, backward: Backward) -> Confidence:
    """Once is no growth, and what a test runs is small."""
    call = backward.call
    once = is_repeated(call) is False
    return Confidence.POSSIBLE if once or call.function.module.is_test else call_confidence


def _claim(held: cst.CSTNode) -> Claim:
    """What each call leaves is in a cycle that no holder leads to: only what the line has allocated can show it."""
    return Claim(ClaimShape.PLATEAU, "device", "A + the graph of the backward", held=held, watch=Watch.ALLOCATED)
