"""MEM202."""

from __future__ import annotations

from collections.abc import Iterator

from memlint.findings import Applicability, Confidence, Finding, Fix, Severity
from memlint.model.aliases import qualified_names, sources
from memlint.model.calls import callees
from memlint.model.identity import objects
from memlint.model.kinds import Role, role
from memlint.model.knowledge import torch
from memlint.model.optimization import (
    clears,
    gradient_owner,
    innermost_step,
    stepped_in,
    updates,
)
from memlint.model.program import Program
from memlint.model.values import Argument, Branch, Call, Constant, Element
from memlint.model.zeroing import bare_zero_grad, free_always, is_read_before_backward, zeroing_claim, zeroing_version
from memlint.rule import Rule


class ZeroGradKeepsBuffers(Rule):
    """Gradients are filled with zeros instead of being freed.

    ## What it does
    Finds `zero_grad(set_to_none=False)` (also positional, `zero_grad(False)`) and parameters whose `.grad.zero_()` is
    called in a training loop. In a project whose metadata hold it at a torch from before 2.0 (`torch>=1.7,<2`,
    `torch==1.13.1`), it finds `zero_grad()` as well, which did the same then, and for optimizers that Accelerate has
    prepared where the project holds it at a version from before 0.28, which asks for zeros itself. (MEM204 does so in
    projects that admit newer versions, too.)

    ## Why is this bad?
    The buffers stay allocated through the next forward pass, when the activations need the memory: the peak is higher
    by the size of all gradients (88 to 104 MiB in a measurement with 16 MiB of gradients). Since torch 2.0,
    `zero_grad()` drops them by default. The next backward then writes each gradient instead of adding to zeros.

    ## Example
    ```python
    optimizer.step()
    optimizer.zero_grad(set_to_none=False)
    ```

    ## Use instead
    ```python
    optimizer.step()
    optimizer.zero_grad()  # before torch 2.0: zero_grad(set_to_none=True)
    ```

    ## Fix safety
    Safe: the numbers are the same for every optimizer of `torch.optim`. One difference shows elsewhere: parameters that
    a step does not use have no gradient then, instead of zeros, so that their momentum and weight decay pause.

    ## When to ignore
    Where the buffers must stay where they are, such as in captured CUDA graphs (not reported in files that capture
    one), or where code reads `p.grad` before the next backward (not reported if that is in sight). When nobody runs the
    project with the old torch that it still names: raise the bound.

    ## References
    - [torch.optim.Optimizer.zero_grad](https://docs.pytorch.org/docs/stable/generated/torch.optim.Optimizer.zero_grad.html)
    - [Performance tuning guide](https://docs.pytorch.org/tutorials/recipes/recipes/tuning_guide.html)
    """

    code = "MEM202"
    name = "zero-grad-keeps-buffers"
    severity = Severity.NOTE
    gate = frozenset({"zero_grad", "zero_"})
    fixers = ("add_argument", "remove_argument")
    positive = (
        """
import torch
def train(model, loader):
    optimizer = torch.optim.AdamW(model.parameters())
    for x in loader:
        model(x).loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)  # MEM202: 9
""",
        """
def train(model, optimizers, loader):
    for x in loader:
        model.zero_grad(False)  # MEM202
        for optimizer in optimizers:
            optimizer.zero_grad(  # MEM202
                set_to_none=False,  # the default before torch 2.0
            )
        model(x).loss.backward()
""",
        """
import torch
def fit(weight, loader):
    for x, y in loader:
        ((x * weight - y) ** 2).mean().backward()
        with torch.no_grad():
            weight -= 0.1 * weight.grad
        weight.grad.zero_()  # MEM202: 9
""",
        """
class Trainer:
    def __init__(self, model, optimizer):
        self.model, self.optimizer = model, optimizer
    def fit(self, loader):
        for x in loader:
            for p in self.model.parameters():
                if p.grad is not None:
                    p.grad.data.zero_()  # MEM202
            self.model(x).sum().backward()
            print(max(p.grad.norm() for p in self.model.parameters()))
            self.optimizer.step()
""",
    )
    negative = (
        """
def train(model, optimizer, loader, keep):
    for x in loader:
        optimizer.zero_grad()
        model.zero_grad(set_to_none=True)
        optimizer.zero_grad(keep)
        model(x).loss.backward()
        optimizer.step()
""",
        """
import torch
def capture(model, optimizer, static_x):
    graph = torch.cuda.CUDAGraph()
    optimizer.zero_grad(set_to_none=False)
    with torch.cuda.graph(graph):
        model(static_x).sum().backward()
    return graph
""",
        """
import torch
def train(model, loader):
    optimizer = torch.optim.Adam(model.parameters(), capturable=True)
    for x in loader:
        optimizer.zero_grad(set_to_none=False)
        model(x).sum().backward()
        optimizer.step()
""",
        """
from torch.nn.parallel import DistributedDataParallel
def train(model, optimizer, loader, rank):
    model = DistributedDataParallel(model, device_ids=[rank], gradient_as_bucket_view=True)
    for x in loader:
        optimizer.zero_grad(set_to_none=False)
        model(x).sum().backward()
        optimizer.step()
""",
        """
def apply(model, optimizer, others):
    for p, g in zip(model.parameters(), others):
        p.grad += g
    optimizer.step()
    optimizer.zero_grad(set_to_none=False)
""",
        """
def train(model, optimizer, loader, log):
    for x in loader:
        log(sum(p.grad.norm() for p in model.parameters()))
        model(x).sum().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)
""",
        """
class Optimizer:
    def __init__(self, parameters):
        self.parameters = list(parameters)
    def zero_grad(self, set_to_none=True):
        for p in self.parameters:
            if p.grad is not None:
                if set_to_none:
                    p.grad = None
                else:
                    p.grad.zero_()
""",
        """
def attack(model, x, y, loss_fn, steps):
    delta = x.new_zeros(x.shape).requires_grad_()
    for _ in range(steps):
        loss_fn(model(x + delta), y).backward()
        delta.data = (delta + 0.01 * delta.grad.sign()).clamp(-0.1, 0.1)
        delta.grad.zero_()
    return delta.detach()
""",
        """
class Accumulator:
    def zero_grad(self, keep):
        self.kept = keep
def run(accumulator: Accumulator):
    accumulator.zero_grad(False)
""",
    )

    def check(self, program: Program) -> Iterator[Finding]:
        if any(map(_needs_buffers, program.calls())):
            return
        for call in program.calls("zero_grad"):
            argument = _keeping_argument(call)
            if argument is None:
                yield from self._kept_by_default(call)
            elif not is_read_before_backward(call):
                yield self._kept_on_request(call, argument)
        for call in program.calls("zero_"):
            if _zeroes_gradient_of_step(call) and not is_read_before_backward(call):
                yield self._finding(call, Confidence.LIKELY)

    def _kept_on_request(self, call: Call, argument: Argument) -> Finding:
        known = call.receiver is not None and role(call.receiver, Role.OPTIMIZER, Role.MODULE)
        fix = Fix(
            "remove_argument",
            "Free the gradients, as `zero_grad()` does by default",
            Applicability.SAFE,
            {"argument": argument.node},
        )
        return self._finding(call, known or Confidence.LIKELY, fix)

    def _kept_by_default(self, call: Call) -> Iterator[Finding]:
        """``zero_grad()`` in a project that is held at old versions of torch or Accelerate."""
        version = zeroing_version(call)
        confidence = bare_zero_grad(call) if version is not None and version.held else None
        if version is not None and confidence is not None and not is_read_before_backward(call):
            when = f"with {version.package} before {version.before}, as the project asks for, "
            yield self._finding(call, confidence, free_always(call), when=when)

    def _finding(self, call: Call, confidence: Confidence, *fixes: Fix, when: str = "") -> Finding:
        return self.finding(
            call.node,
            f"{when}the gradients are filled with zeros and stay allocated through the next forward",
            holds="the buffers of all gradients, as many bytes as the trained parameters, through every forward",
            confidence=confidence,
            fixes=fixes,
            claim=zeroing_claim(call),
        )


def _needs_buffers(call: Call) -> bool:
    """Whether a call captures a CUDA graph, or makes DDP's buckets the gradients, which then stay in any case."""
    if qualified_names(call.callee) & torch.GRAPH_CAPTURES:
        return True
    return any(
        argument.keyword in {"capturable", "gradient_as_bucket_view"}
        and isinstance(argument.value, Constant)
        and argument.value.constant is True
        for argument in call.arguments
    )


def _keeping_argument(call: Call) -> Argument | None:
    """The ``False`` in ``zero_grad(set_to_none=False)``."""
    if call.receiver is None or len(call.arguments) != 1:
        return None
    argument = call.arguments[0]
    if argument.star or argument.keyword not in {None, "set_to_none"}:
        return None
    if argument.keyword is None and callees(call):
        return None
    return argument if isinstance(argument.value, Constant) and argument.value.constant is False else None


def _zeroes_gradient_of_step(call: Call) -> bool:
    """Whether ``p.grad.zero_()`` belongs to a loop that updates ``p`` and runs a backward."""
    owner = gradient_owner(call.receiver) if call.receiver is not None else None
    step = innermost_step(call.region)
    if owner is None or step is None or _frees_elsewhere(call):
        return False
    if any(isinstance(source, Element) and role(source.iterable, Role.PARAMETERS) for source in sources(owner)):
        return True
    stepped = [*stepped_in(step), *(u.objects for u in updates(step.function) if u.region.within(step))]
    return any(clears(objects(owner), optimizer) for optimizer in stepped)


def _frees_elsewhere(call: Call) -> bool:
    """Whether another branch of the same ``if`` sets the gradient to None: then the user has the choice."""
    stores = [s for s in call.function.stores if s.attribute == "grad" and isinstance(s.value, Constant)]
    branches = [region for region in call.region.ancestors() if isinstance(region, Branch)]
    others = [sibling for branch in branches for sibling in branch.siblings if sibling is not branch]
    return any(store.region.within(branch) for store in stores for branch in others)
