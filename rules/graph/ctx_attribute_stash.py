"""MEM109."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import libcst as cst

from memlint.findings import Applicability, Claim, ClaimShape, Confidence, Finding, Fix, Severity
from memlint.model.autograd_functions import Origin, Stashed, is_autograd_function, saving, stashed
from memlint.model.program import Program
from memlint.model.scopes import Class, Function
from memlint.model.source_text import code
from memlint.rule import Rule

if TYPE_CHECKING:
    from memlint.findings import FixTarget


class CtxAttributeStash(Rule):
    """A custom autograd function keeps a tensor in an attribute of its context, where no backward frees it.

    ## What it does
    Finds `ctx.x = x` in `forward` or `setup_context` of a `torch.autograd.Function`, where `x` is an input, an output
    or a tensor computed there, and the backward does not drop it (`del ctx.x`, `ctx.x = None`). An output is found even
    if the backward drops it.

    ## Why is this bad?
    A backward drops what `ctx.save_for_backward` has saved, and nothing else. An attribute lives as long as the node of
    the graph: until the last reference to the loss is gone, which the next forward comes before. If anything keeps the
    loss or another result, every call's tensor stays on the device (in a measurement 0.25 MiB more for each step with
    the attribute, none with `save_for_backward`).

    An output on the context is a cycle: the output refers to its node, the node to the context, the context to the
    output. Without a backward that drops the attribute only Python's garbage collector frees it, which runs when many
    objects were made, not when memory is short: tensor and graph of every evaluation with gradients stay until then.

    ## Example
    ```python
    class Exp(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            y = x.exp()
            ctx.y = y
            return y

        @staticmethod
        def backward(ctx, grad):
            return grad * ctx.y
    ```

    ## Use instead
    ```python
    class Exp(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            y = x.exp()
            ctx.save_for_backward(y)
            return y

        @staticmethod
        def backward(ctx, grad):
            (y,) = ctx.saved_tensors
            return grad * y
    ```

    ## Fix safety
    Unsafe: what is saved is checked for changes in place, and a backward through the backward sees it with its graph.
    Where the backward drops an output itself, the fix keeps `y.detach()` instead.

    ## When to ignore
    When the tensor is small, or lives as long as the model in any case.

    ## References
    - [Extending PyTorch](https://docs.pytorch.org/docs/stable/notes/extending.html#how-to-use)
    - [RevTorch#1](https://github.com/RobinBruegger/RevTorch/issues/1)
    """

    code = "MEM109"
    name = "ctx-attribute-stash"
    severity = Severity.WARNING
    gate = frozenset({"Function", "InplaceFunction"})
    fixers = ("call_method", "save_for_backward")
    positive = (
        """
import torch
class Exp(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        y = x.exp()
        ctx.y = y  # MEM109: 17
        return y
    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.y
""",
        """
from torch.autograd import Function
class Scale(Function):
    @staticmethod
    def forward(ctx, x, weight, dim=0):
        ctx.dim = dim
        ctx.x, ctx.weight = x, weight  # MEM109 MEM109
        return (x * weight).sum(dim).contiguous()
    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.weight, (grad * ctx.x).sum(), None
def scale(x, weight):
    return Scale.apply(x.float(), weight.float(), 1)
""",
        """
import torch
from torch import nn
class Reversible(torch.autograd.function.Function):
    @staticmethod
    def forward(ctx, x, blocks):
        for block in blocks:
            x = block(x)
        ctx.y = x  # MEM109
        ctx.blocks = blocks
        return x
    @staticmethod
    def backward(ctx, grad):
        y = ctx.y
        del ctx.y
        return grad, None
""",
        """
import torch
from torch import Tensor
class Cube(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, power: int) -> Tensor:
        return x**power
    @staticmethod
    def setup_context(ctx, inputs, output):
        x, power = inputs
        ctx.square = x * x  # MEM109
        ctx.result = output  # MEM109
        ctx.power = power
    @staticmethod
    def backward(ctx, grad):
        return 3 * ctx.square * grad, None
""",
        """
import torch
class Clamp(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: torch.Tensor, low: float, high: float):
        ctx.shape = x.shape
        ctx.low = low
        ctx.mask = (x > low) & (x < high)  # MEM109
        return x.clamp(low, high)
    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.mask, None, None
""",
        """
import torch
class Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx, features, index, n: int):
        ctx.for_backward = (index, n)  # MEM109: 29
        return torch.gather(features, 1, index.expand(-1, n))
    @staticmethod
    def backward(ctx, grad):
        index, n = ctx.for_backward
        return grad.new_zeros(n).scatter(0, index, grad), None, None
""",
    )
    negative = (
        """
import torch
class Scale(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, dim, module, group=None):
        ctx.shape = x.shape
        ctx.size = x.size(0)
        ctx.dtype, ctx.device = x.dtype, x.device
        ctx.needs = x.requires_grad
        ctx.dim = dim
        ctx.module = module
        ctx.group = group
        ctx.state = torch.get_rng_state()
        ctx.autocast = torch.is_autocast_enabled()
        ctx.has_group = group is not None
        ctx.save_for_backward(x)
        ctx.mark_non_differentiable(x)
        return x.mul(2)
    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad * x, None, None, None
""",
        """
import torch
class Checkpoint(torch.autograd.Function):
    @staticmethod
    def forward(ctx, run, length, *args):
        ctx.run = run
        ctx.inputs = list(args[:length])
        ctx.hidden = args[0].exp()
        with torch.no_grad():
            return ctx.run(*ctx.inputs)
    @staticmethod
    def backward(ctx, *grads):
        with torch.enable_grad():
            outputs = ctx.run(*[x.detach().requires_grad_() for x in ctx.inputs])
        found = torch.autograd.grad(outputs, ctx.inputs, grads)
        del ctx.inputs
        ctx.hidden = None
        return (None, None, *found)
""",
        """
class Function:
    pass
class Step(Function):
    def forward(ctx, x):
        ctx.x = x.clone()
        return ctx.x
""",
        """
import torch
class Config:
    def forward(ctx, x):
        ctx.x = torch.ones(3)
""",
        """
import torch
class Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, eps):
        ctx.eps = eps
        ctx.scale = x.abs().max()
        ctx.count = x.numel()
        return x / (ctx.scale + eps)
    @staticmethod
    def backward(ctx, grad):
        return grad / (ctx.scale + ctx.eps), None
def norm(x):
    return Norm.apply(x, 1e-6)
""",
        """
import torch
from torch import nn
class Multiply(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight):
        ctx.weight = weight
        return x * weight.view(-1)
    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.weight, None
class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
    def forward(self, x):
        return Multiply.apply(x, self.weight)
""",
    )

    def check(self, program: Program) -> Iterator[Finding]:
        for owner in program.classes:
            if is_autograd_function(owner):
                for found in stashed(owner):
                    if found.origin is Origin.OUTPUT:
                        yield self._output(owner, found)
                    elif not found.cleared:
                        yield self._other(owner, found)

    def _output(self, owner: Class, found: Stashed) -> Finding:
        until = " where no backward runs" if found.cleared else ""
        return self.finding(
            found.member.node,
            f"`{code(found.store.target)}` holds an output of the function: a cycle through its own graph",
            holds=f"the output of every call, and its graph, on the device until the garbage collector runs{until}",
            confidence=Confidence.weakest(found.confidence, Confidence.LIKELY) if found.cleared else found.confidence,
            fixes=_detach(found) if found.cleared else _save(owner, found),
            claim=_claim(found),
        )

    def _other(self, owner: Class, found: Stashed) -> Finding:
        return self.finding(
            found.member.node,
            lambda: f"`{code(found.store.target)}` keeps a tensor that no backward frees",
            holds="the tensor of every call on the device, until nothing refers to the loss or another result any more",
            confidence=found.confidence,
            fixes=_save(owner, found),
            claim=_claim(found),
        )


def _claim(found: Stashed) -> Claim:
    return Claim(
        ClaimShape.PLATEAU,
        "device",
        "numel * itemsize",
        held=found.member.node,
        unobservable="the line runs inside of the forward pass, whose result decides how long the tensor lives",
    )


def _detach(found: Stashed) -> tuple[Fix, ...]:
    return (
        Fix(
            "call_method",
            f"Keep `{code(found.member.node)}` without its graph",
            Applicability.UNSAFE,
            {"expression": found.member.node},
            {"method": "detach"},
        ),
    )


def _save(owner: Class, found: Stashed) -> tuple[Fix, ...]:
    way, node = saving(found, owner), found.store.node
    if way is None or found.store.attribute is None or not isinstance(node, cst.Assign):
        return ()
    if [each.target for each in node.targets] != [found.store.target]:
        return ()  # ``ctx.x, ctx.y = x, y``
    targets: dict[str, FixTarget] = {
        "statement": node,
        "backward": way.backward.node,
        "reads": tuple(read.node for read in way.reads),
    }
    if way.call is not None and way.unpacking is not None:
        targets |= {"call": way.call.node, "unpacking": way.unpacking.node}
    return (_moved(found.store.attribute, targets, way.backward),)


def _moved(attribute: str, targets: Mapping[str, FixTarget], backward: Function) -> Fix:
    name = attribute if attribute not in backward.bindings else f"saved_{attribute}"
    return Fix(
        "save_for_backward",
        "Save it for the backward, which drops it then",
        Applicability.UNSAFE,
        targets,
        {"name": name},
    )
