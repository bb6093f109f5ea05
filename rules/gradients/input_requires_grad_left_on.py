"""MEM207."""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from memlint.findings import Applicability, Claim, ClaimShape, Confidence, Finding, Fix, Severity
from memlint.model.input_gradients import Requirement, requirements, training_loop, unread_gradient
from memlint.model.program import Program
from memlint.model.source_text import code, written
from memlint.model.values import Call
from memlint.rule import Rule


class InputRequiresGradLeftOn(Rule):
    """Training data are made to require a gradient that nothing reads.

    ## What it does
    Finds `x.requires_grad_()`, `x.requires_grad = True` and `Variable(x, requires_grad=True)` for what a training loop
    takes from its loader, where neither the loop nor what it calls reads `x.grad` or differentiates with respect to the
    input, and nothing is checkpointed.

    ## Why is this bad?
    Every backward computes and keeps `x.grad`, as large as the batch, and runs through the first layers, which would
    need it not. Where the first layers are frozen, their activations are saved for it as well: 9.0 MiB in place of
    2.0 MiB in a small model with a frozen trunk (measured). `Variable` has done nothing since PyTorch 0.4, but its
    `requires_grad=True` still counts.

    ## Example
    ```python
    for x, y in loader:
        x, y = Variable(x, requires_grad=True), Variable(y)
        criterion(model(x), y).backward()
    ```

    ## Use instead
    ```python
    for x, y in loader:
        criterion(model(x), y).backward()
    ```

    ## Fix safety
    Unsafe: code that memlint does not see may read the gradient, such as a hook.

    ## When to ignore
    When the gradient of the input is wanted: saliency, gradient penalties, adversarial examples, forces. The backward
    allocates the gradient, and not this line, so that `memlint verify` has nothing to watch here.

    ## References
    - [Autograd mechanics: setting requires_grad](https://docs.pytorch.org/docs/stable/notes/autograd.html)
    """

    code = "MEM207"
    name = "input-requires-grad-left-on"
    severity = Severity.NOTE
    gate = frozenset({"requires_grad_", "requires_grad"})
    fixers = ("remove_statement", "remove_argument", "replace_expression")
    positive = (
        """
import torch
from torch import nn
from torch.autograd import Variable
def train(loader, optimizer):
    model = nn.Linear(3, 1)
    for i, (x, y) in enumerate(loader):
        x = Variable(x.cuda(), requires_grad=True)  # MEM207: 13
        y = Variable(y.cuda())
        loss = nn.functional.mse_loss(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        for p in model.parameters():
            p.grad.clamp_(-1, 1)
        optimizer.step()
""",
        """
import torch
import torchvision
def train(loader, optimizer, criterion):
    model = torchvision.models.resnet18()
    for batch in loader:
        images = batch["image"].to("cuda", non_blocking=True).float()
        images.requires_grad_()  # MEM207: 9
        images.requires_grad = True  # MEM207: 9
        criterion(model(images), batch["label"]).backward()
        optimizer.step()
        optimizer.zero_grad()
""",
        """
import torch
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.ModuleList([torch.nn.Linear(2, 2)])
    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x
class Trainer:
    def __init__(self, optimizer):
        self.net, self.optimizer = Net(), optimizer
    def epoch(self, loader):
        for x in loader:
            loss = self.net(x.to("cuda").requires_grad_(True)).sum()  # MEM207: 29
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
""",
        """
from torch.autograd import Variable
def train(model, loader, optimizer, criterion):
    for x, y in loader:
        x = Variable(x, requires_grad=True)  # MEM207?
        criterion(model(x), y).backward()
        optimizer.step()
def forces(model, loader, optimizer, criterion):
    model.train()
    for x, y in loader:
        x.requires_grad_()  # MEM207?
        energy, force = model(x)
        criterion(force, y).backward()
        optimizer.step()
def classify(model, loader, optimizer, criterion):
    model.train()
    for x, y in loader:
        x = Variable(x, requires_grad=True).to("cuda")  # MEM207: 13
        criterion(model(x), y).backward()
        optimizer.step()
""",
    )
    negative = (
        """
import time
def profile(operations, inputs):
    for x in inputs:
        x.requires_grad = True
        for operation in operations:
            start = time.time()
            operation(x).sum().backward()
            print(time.time() - start)
""",
        """
import torch
from torch import nn
def saliency(loader):
    model = nn.Linear(3, 1)
    for x, y in loader:
        x.requires_grad_()
        model(x).sum().backward()
        print(x.grad.abs().max())
def penalty(loader, optimizer):
    critic = nn.Linear(3, 1)
    for x, _ in loader:
        x = x.cuda().requires_grad_()
        out = critic(x)
        (g,) = torch.autograd.grad(out.sum(), x, create_graph=True)
        (g.norm() - out.mean()).backward()
        optimizer.step()
""",
        """
import torch
class Energy(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Linear(3, 1)
    def forward(self, positions):
        energy = self.net(positions).sum()
        return torch.autograd.grad(energy, positions, create_graph=True)[0]
def train(loader, optimizer):
    model = Energy()
    for positions, forces in loader:
        positions.requires_grad_(True)
        (model(positions) - forces).pow(2).mean().backward()
        optimizer.step()
""",
        """
import torch
from torch.utils.checkpoint import checkpoint
def train(loader, optimizer):
    block, head = torch.nn.Linear(3, 3), torch.nn.Linear(3, 1)
    for x in loader:
        x.requires_grad_()
        head(checkpoint(block, x)).sum().backward()
        optimizer.step()
""",
        """
import torch
def attack(model, x, y, criterion):
    x = x.clone().requires_grad_()
    criterion(model(x), y).backward()
    return x + 0.1 * x.grad.sign()
def train(loader, optimizer, criterion):
    model = torch.nn.Linear(3, 3)
    for x, y in loader:
        x.requires_grad = True
        x = attack(model, x, y, criterion)
        criterion(model(x), y).backward()
        optimizer.step()
""",
        """
import torch
def fit(images, target, model):
    for image in images:
        image.requires_grad_()
        optimizer = torch.optim.Adam([image])
        for _ in range(10):
            (model(image) - target).pow(2).sum().backward()
            optimizer.step()
def freeze(model):
    for p in model.parameters():
        p.requires_grad = True
def evaluate(model, loader):
    for x in loader:
        x.requires_grad_()
        print(model(x).sum().item())
""",
        """
import torch
def train(loader, optimizer):
    model = torch.nn.Linear(3, 1)
    for x in loader:
        x.requires_grad_(False)
        model(x).sum().backward()
        optimizer.step()
        with torch.no_grad():
            x.requires_grad_()
""",
    )

    def check(self, program: Program) -> Iterator[Finding]:
        for function in program.functions:
            for requirement in requirements(function):
                loop = training_loop(requirement)
                confidence = unread_gradient(requirement, loop) if loop is not None else None
                if confidence is not None:
                    yield self._finding(requirement, confidence)

    def _finding(self, requirement: Requirement, confidence: Confidence) -> Finding:
        return self.finding(
            requirement.node,
            f"`{code(requirement.node)}` lets each backward compute a gradient of the data that nothing reads",
            holds="a gradient as large as the batch, and what the first layers save for it",
            confidence=confidence,
            fixes=(_fix(requirement),),
            claim=Claim(ClaimShape.SPIKE, "device", "the batch", unobservable="the backward allocates it"),
        )


def _fix(requirement: Requirement) -> Fix:
    place, message = requirement.place, "Take the data as they are"
    if requirement.argument is not None:
        return Fix("remove_argument", message, Applicability.UNSAFE, {"argument": requirement.argument.node})
    receiver = place.node.func if isinstance(place, Call) else None
    if isinstance(receiver, cst.Attribute) and isinstance(place, Call) and place not in place.function.statements:
        options = {"code": written(receiver.value)}
        return Fix("replace_expression", message, Applicability.UNSAFE, {"expression": place.node}, options)
    return Fix("remove_statement", message, Applicability.UNSAFE, {"statement": requirement.node})
